"""Which labels and predictions a sensor learns from: confidences become weights, more selective with every epoch.

In: confidences (B, H, W) in [0, 1], hard labels (B, H, W), the epoch. Out: weights (B, H, W) in [0, 1], no gradient.

    r(t)     = exp(-5 (1 - t/T)^2) for t <= T, then 1  ("exp");   t/T, then 1  ("linear");   1  ("none")
    alpha(t) = 1 - r(t) (1 - final)
    W_l      = min(1, f_l / theta_y),   theta_c = the floor(alpha n_c)-th largest f_l among the n_c pixels of class c
    W_e      = (1 - r) + r f_e

Legend of shapes: B batch, H height, W width, N = B H W pixels, G groups of pixels that share a threshold.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method._checks import (
    LabelIndex,
    check_choice,
    check_fraction,
    check_pixels,
    index_labels,
    values_are_visible,
    widen,
)

__all__ = ["RAMPS", "label_weights", "prediction_weights", "ramp", "selection_ratio"]

RAMPS = ("exp", "linear", "none")

_SMALLEST_WEIGHT = 1e-12
"""Without unit. W_e of a pixel without any confidence: far below every tolerance, yet W_e / sum W_e stays defined."""

_BITS = 31
"""Bits of a non-negative float32 without its sign. Read as an integer they keep the order of the numbers (IEEE 754)."""


def ramp(epoch: float, length: float = 80, shape: str = "exp") -> float:
    """How far selection has come at an epoch, from nearly 0 (or 0) to 1.

    epoch >= 0, counted from 0; length > 0 in epochs; shape "exp", "linear" or "none" (1 from the start). Returns a
    number in [0, 1]. Raises ArgumentError. Paper: r(t), T = 80.
    """
    check_choice(shape, RAMPS, "ramp shape")
    if not epoch >= 0:
        raise ArgumentError("epoch is out of range.", got=epoch, expected=">= 0")
    if not length > 0:
        raise ArgumentError("ramp length is out of range.", got=length, expected="> 0 epochs")
    if shape == "none" or epoch >= length:
        return 1.0
    progress = epoch / length
    return progress if shape == "linear" else math.exp(-5.0 * (1.0 - progress) ** 2)


def selection_ratio(epoch: float, length: float = 80, final: float = 0.5, shape: str = "exp") -> float:
    """Share of the pixels of each class that count in full at an epoch.

    epoch, length, shape as in `ramp`; final in (0, 1]. Returns a number in [final, 1]. Raises ArgumentError.
    Paper: alpha(t), 0.997 at epoch 0, 0.857 at 40, 0.634 at 60 and 0.5 from 80 on.
    """
    check_fraction(final, "final ratio", above_zero=True)
    return 1.0 - ramp(epoch, length, shape) * (1.0 - final)


def label_weights(
    confidence: Tensor,
    labels: Tensor,
    ratio: float,
    num_classes: int,
    class_balanced: bool = True,
    ignore_index: int = 255,
) -> Tensor:
    """Weight of each noisy label: 1 for the most confident share of its class, less for the rest, in proportion.

    confidence (B, H, W) in [0, 1]; labels (B, H, W), 0 to num_classes - 1 or `ignore_index`; ratio in (0, 1];
    class_balanced=False takes one threshold over all pixels. Returns float32 (B, H, W) in [0, 1], 0 at ignored pixels,
    without gradient. Raises ArgumentError. Paper: W_l.

    Two cases that the equation leaves open: the most confident pixel of every class that occurs has weight 1, even
    where floor(ratio n_c) is 0; and if the threshold is 0, the pixels of confidence 0 have weight 0, not 0 / 0.
    """
    check_fraction(ratio, "selection ratio", above_zero=True)
    index = index_labels(labels, num_classes, ignore_index)
    check_pixels(confidence, labels.shape, "confidence")
    _check_range(confidence)
    return weigh_labels(confidence, index, ratio, num_classes, class_balanced)


def prediction_weights(confidence: Tensor, ramp_value: float) -> Tensor:
    """Weight of each pixel's prediction as a target for the other sensor: (1 - r) + r f_e.

    confidence (B, H, W) in [0, 1]; ramp_value r in [0, 1]. Returns (B, H, W) in [1e-12, 1]; half precision gives
    float32. It is never 0, so that a batch without any confidence keeps its consistency loss: the weights are
    normalised by their sum. Raises ArgumentError. Paper: W_e.
    """
    check_fraction(ramp_value, "ramp value")
    check_pixels(confidence, confidence.shape, "confidence")
    return widen(confidence).mul(ramp_value).add(1.0 - ramp_value).clamp_min(_SMALLEST_WEIGHT)


@torch.no_grad()
def weigh_labels(
    confidence_BHW: Tensor, labels: LabelIndex, ratio: float, num_classes: int, class_balanced: bool
) -> Tensor:
    """W_l for labels that are checked already."""
    # with ratio 1 every pixel is selected; the equation would divide 0 by 0 where the confidence is 0
    if ratio == 1.0 or confidence_BHW.numel() == 0:
        return labels.valid_BHW.float()
    groups = num_classes if class_balanced else 1
    group_BHW = labels.class_BHW if class_balanced else torch.zeros_like(labels.class_BHW)
    group_N = group_BHW.masked_fill(~labels.valid_BHW, groups).flatten()
    confidence_N = confidence_BHW.float().flatten()
    theta_G, top_G, present_G = _thresholds(confidence_N, group_N, groups, ratio)
    # 0 / 0 at a zero threshold: the clamp makes it 0, and a positive confidence above the threshold still weighs 1
    theta_G = theta_G.clamp_min(torch.finfo(torch.float32).tiny)
    theta_N = torch.cat([theta_G, theta_G.new_full((1,), torch.inf)])[group_N]
    weight_N = (confidence_N / theta_N).clamp_max(1.0)
    weight_N.scatter_reduce_(0, top_G, present_G.float(), "amax")
    return weight_N.view_as(confidence_BHW)


def _thresholds(confidence_N: Tensor, group_N: Tensor, groups: int, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """theta, the position of the most confident pixel, and whether there is any, for each group below `groups`.

    One sort of integer keys (group, falling confidence) puts every group in a row, so that the k-th largest is one
    look-up: no loop over classes, no value read by the host. On a CPU integers are sorted by radix, five times as fast
    as floats.
    """
    top = (1 << _BITS) - 1
    bits_N = confidence_N.abs().view(torch.int32).long()  # abs() turns -0.0, whose bits are negative, into 0.0
    key_N, position_N = torch.sort((group_N << _BITS) + (top - bits_N), stable=True)
    borders = torch.arange(groups + 1, device=key_N.device) << _BITS
    start_G1 = torch.searchsorted(key_N, borders)
    start_G, count_G = start_G1[:-1], start_G1.diff()
    # float64, because the authors floor the product of Python numbers: 0.7 * 10 is 7, not 6.9999
    rank_G = count_G.double().mul(ratio).floor().long().clamp_min(1) - 1
    last = key_N.numel() - 1
    theta_bits_G = top - (key_N[(start_G + rank_G).clamp_max(last)] & top)
    theta_G = theta_bits_G.int().view(torch.float32)
    return theta_G, position_N[start_G.clamp_max(last)], count_G > 0


def _check_range(confidence: Tensor) -> None:
    if not values_are_visible(confidence):
        return
    low, high = (float(value) for value in torch.aminmax(confidence))
    if not (low >= 0.0 and high <= 1.0):
        raise ArgumentError("confidence is out of range.", got=f"{low:g} to {high:g}", expected="0 to 1, finite")
