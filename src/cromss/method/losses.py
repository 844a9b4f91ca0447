"""What the networks learn from: segmentation losses on selected labels, and consistency between the sensors.

In: logits (B, C, H, W) of each branch (sensor), soft targets Z (B, C, H, W), weights (B, H, W). Out: scalars.

    L_s^d = sum W_l CE(Q, Z) / sum W_l  +  Dice
    Dice  = mean over the classes c that occur in Z of  1 - 2 sum(W Q_c Z_c) / sum(W (Q_c + Z_c))
    L_c   = sum W_e^2 CE(P^2 -> Q^1) / sum W_e^2  +  sum W_e^1 CE(P^1 -> Q^2) / sum W_e^1
    L     = L_s^1 + L_s^2 + L_c                 with Q = softmax(logits), P = Q without gradient

Every loss is a sum over pixels and a count, divided once. A pixel whose target is all 0 is ignored, whatever its
weight; a batch of ignored pixels only has loss 0 and gradient 0.

Legend of shapes: B batch, C classes, H height, W width.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method._checks import Prediction, check_choice, check_logits, check_pixels, predict, widen

__all__ = ["CONSISTENCIES", "DICES", "LOSSES", "consistency_loss", "focal_loss", "soft_cross_entropy", "soft_dice_loss"]

LOSSES = ("ce", "dice", "focal")
DICES = ("paper", "calibrated")
CONSISTENCIES = ("ce", "kl", "mse", "none")


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over the pixels of the cross-entropy between prediction and soft target, in nats.

    logits (B, C, H, W); target (B, C, H, W), sums to 1 over the classes, or all 0 at ignored pixels; weight (B, H, W)
    >= 0, or None for 1. Returns a scalar with gradient to the logits, 0 if all weights are 0. Raises ArgumentError.
    """
    weight_BHW = _checked_weight(logits, target, weight)
    with _full_precision(logits):
        weighted_BCHW = widen(target) * weight_BHW.unsqueeze(1)
        return cross_entropy_ratio(predict(logits), weighted_BCHW, weight_BHW).divide()


def soft_dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None, kind: str = "paper") -> Tensor:
    """Weighted soft Dice loss, mean over the classes that occur in the target, sums over the whole batch.

    logits, target, weight as in `soft_cross_entropy`. kind "paper" is 1 - 2 sum(W Q Z) / sum(W (Q + Z)); on soft
    targets its minimum is not at Q = Z. "calibrated" is sum(W |Q - Z|) / sum(W (Q + Z)): the same on one-hot targets,
    and 0 exactly at Q = Z (Wang et al., Dice semimetric losses, MICCAI 2023, arXiv 2303.16296). Returns a scalar in
    [0, 1] with gradient to the logits, 0 if all weights are 0. Raises ArgumentError.
    """
    check_choice(kind, DICES, "dice")
    weight_BHW = _checked_weight(logits, target, weight)
    with _full_precision(logits):
        weighted_BCHW = widen(target) * weight_BHW.unsqueeze(1)
        return dice_ratio(predict(logits), weighted_BCHW, weight_BHW, occurring(target), kind).divide()


def focal_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Weighted mean over the pixels of the focal loss, one class against all others, summed over the classes.

    logits, target, weight as in `soft_cross_entropy`; gamma >= 0 turns down the easy pixels. With b the binary
    cross-entropy of sigmoid(logit) and target, a class adds (1 - exp(-b))^gamma b: on one-hot targets this is
    segmentation_models_pytorch's multi-class FocalLoss (times C in its later releases, which take the mean over the
    classes), and it is defined on soft targets too. Returns a scalar with
    gradient to the logits, 0 if all weights are 0. Raises ArgumentError.
    """
    if not gamma >= 0:
        raise ArgumentError("gamma is out of range.", got=gamma, expected=">= 0")
    weight_BHW = _checked_weight(logits, target, weight)
    with _full_precision(logits):
        return focal_ratio(predict(logits), widen(target), weight_BHW, gamma).divide()


def consistency_loss(logits: Tensor, other_logits: Tensor, weight: Tensor | None, kind: str = "ce") -> Tensor:
    """Weighted mean over the pixels of the distance from this sensor's prediction to the other's.

    logits, other_logits (B, C, H, W); weight (B, H, W) >= 0 of the other's predictions, or None for 1; kind "ce"
    (-sum P ln Q), "kl" (sum P ln(P / Q)), "mse" (sum (P - Q)^2) or "none" (0). Returns a scalar with gradient to
    `logits` only, 0 if all weights are 0. Raises ArgumentError.
    """
    check_choice(kind, CONSISTENCIES, "consistency")
    check_logits(logits)
    check_logits(other_logits, "other logits")
    if logits.shape != other_logits.shape:
        raise ArgumentError(
            "the logits of the two sensors differ in shape.",
            got=tuple(other_logits.shape),
            expected=tuple(logits.shape),
        )
    batch, _, height, width = logits.shape
    if weight is not None:
        check_pixels(weight, (batch, height, width), "weight")
    with _full_precision(logits):
        own, other = predict(logits), predict(other_logits.detach())
        weight_BHW = own.logits_BCHW.new_ones(batch, height, width) if weight is None else widen(weight.detach())
        if kind == "none":
            return own.logits_BCHW.sum() * 0.0
        return consistency_ratio(own, other, weight_BHW, kind).divide()


class Ratio(NamedTuple):
    """A mean before its division: a sum over pixels (or classes) and the weight it stands for, both scalars."""

    numerator: Tensor
    denominator: Tensor

    def divide(self) -> Tensor:
        """The mean; 0 with gradient 0 where nothing was counted, not 0 / 0."""
        return self.numerator / torch.where(self.denominator > 0, self.denominator, 1.0)


def occurring(target_BCHW: Tensor) -> Tensor:
    """Which classes have any mass in the target, (C,)."""
    return target_BCHW.detach().sum(dim=(0, 2, 3)) > 0


def cross_entropy_ratio(prediction: Prediction, weighted_target_BCHW: Tensor, weight_BHW: Tensor) -> Ratio:
    """sum W CE, sum W; the target comes multiplied by W."""
    return Ratio((prediction.log_probs_BCHW * weighted_target_BCHW).sum().neg(), weight_BHW.sum())


def dice_ratio(
    prediction: Prediction, weighted_target_BCHW: Tensor, weight_BHW: Tensor, occurs_C: Tensor, kind: str
) -> Ratio:
    """Sum of the Dice losses of the classes that occur, their number; the target comes multiplied by W."""
    weighted_probs_BCHW = prediction.probs_BCHW * weight_BHW.unsqueeze(1)
    pixels = (0, 2, 3)
    mass_C = weighted_probs_BCHW.sum(dim=pixels) + weighted_target_BCHW.sum(dim=pixels)
    if kind == "paper":
        distance_C = mass_C - 2.0 * (prediction.probs_BCHW * weighted_target_BCHW).sum(dim=pixels)
    else:
        distance_C = (weighted_probs_BCHW - weighted_target_BCHW).abs().sum(dim=pixels)
    counts_C = occurs_C & (mass_C > 0)
    loss_C = torch.where(counts_C, distance_C / torch.where(counts_C, mass_C, 1.0), 0.0)
    return Ratio(loss_C.sum(), counts_C.sum().to(loss_C.dtype))


def focal_ratio(prediction: Prediction, target_BCHW: Tensor, weight_BHW: Tensor, gamma: float) -> Ratio:
    """sum W focal, sum W."""
    binary_BCHW = F.binary_cross_entropy_with_logits(prediction.logits_BCHW, target_BCHW, reduction="none")
    # a root (gamma < 1) has no slope at 0, where saturated logits are
    missed_BCHW = torch.expm1(-binary_BCHW).neg().clamp_min(torch.finfo(binary_BCHW.dtype).tiny)
    focal_BHW = (missed_BCHW.pow(gamma) * binary_BCHW).sum(dim=1)
    return Ratio((focal_BHW * weight_BHW).sum(), weight_BHW.sum())


def consistency_ratio(own: Prediction, other: Prediction, weight_BHW: Tensor, kind: str) -> Ratio:
    """sum W distance, sum W; the other prediction gives no gradient."""
    other = other.detach()
    if kind == "mse":
        distance_BHW = (own.probs_BCHW - other.probs_BCHW).square().sum(dim=1)
        return Ratio((distance_BHW * weight_BHW).sum(), weight_BHW.sum())
    weighted_probs_BCHW = other.probs_BCHW * weight_BHW.unsqueeze(1)
    log_ratio_BCHW = own.log_probs_BCHW - other.log_probs_BCHW if kind == "kl" else own.log_probs_BCHW
    return Ratio((weighted_probs_BCHW * log_ratio_BCHW).sum().neg(), weight_BHW.sum())


def segmentation_ratios(
    prediction: Prediction,
    target_BCHW: Tensor,
    weight_BHW: Tensor,
    occurs_C: Tensor,
    losses: Sequence[str],
    dice: str,
) -> list[Ratio]:
    """The chosen segmentation losses of one branch, in the order of their names."""
    weighted_BCHW = target_BCHW * weight_BHW.unsqueeze(1)
    choices = {
        "ce": lambda: cross_entropy_ratio(prediction, weighted_BCHW, weight_BHW),
        "dice": lambda: dice_ratio(prediction, weighted_BCHW, weight_BHW, occurs_C, dice),
        "focal": lambda: focal_ratio(prediction, target_BCHW, weight_BHW, gamma=2.0),
    }
    return [choices[name]() for name in losses]


def _checked_weight(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    check_logits(logits)
    check_pixels(target, logits.shape, "target")
    labelled_BHW = (target.detach().sum(dim=1) > 0).to(widen(target).dtype)
    if weight is None:
        return labelled_BHW
    check_pixels(weight, labelled_BHW.shape, "weight")
    return widen(weight.detach()) * labelled_BHW


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
