"""Soft targets: what the labels of the neighbourhood and of the other seasons say about a pixel.

In: hard labels, of one season (B, H, W) or of all (B, T, H, W). Out: class distributions (B, C, H, W), float32.

    M_s = G * onehot(y of this season)          M_t = G * mean over seasons of onehot(y)          M = (M_s + M_t) / 2
    Z   = (1 - a - b) onehot(y) + a M + b / C   a = 0.15, b = 0.05

G is a Gaussian of 3 px, cut at 4 sigma (25 x 25), edges mirrored with the edge pixel repeated (scipy's "reflect").

A convolution is linear and both Gaussians are equal, so M is one filter over (season frequency + one-hot) / 2, in place
of two filters for each class. The filter is separable. On the CPU it goes over the rows of the classes that occur
(`_row_filter`); elsewhere it is two products, M = G_H X G_W^T, where G_H holds the kernel on its band and the mirrored
edges are folded in.

Legend of shapes: B batch, T seasons, C classes, H height, W width, N planes, R pixels that the kernel reaches.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method._checks import (
    LabelIndex,
    check_choice,
    check_fraction,
    check_pixels,
    index_labels,
    values_are_visible,
)

__all__ = ["PRIORS", "label_prior", "smooth_labels"]

PRIORS = ("ts", "t", "s")


def label_prior(
    labels: Tensor,
    season: Tensor,
    num_classes: int,
    kind: str = "ts",
    sigma: float = 3.0,
    truncate: float = 4.0,
    ignore_index: int = 255,
) -> Tensor:
    """Class distribution around each pixel, over space, seasons or both.

    labels (B, T, H, W), any integer dtype, 0 to num_classes - 1 or `ignore_index`; season (B,) integer, the drawn
    season of each sample, 0 to T - 1; kind "ts", "t" or "s"; sigma in pixels; truncate in sigmas. Returns float32
    (B, C, H, W) that sums to 1 over the classes. Raises ArgumentError. Paper: M.

    Ignored pixels have no mass: the rest of the window is renormalised over the classes ("ts" then weighs both parts
    by their mass). Where the whole window is ignored the prior is uniform. On the CPU only the classes that occur are
    filtered; elsewhere all are, because the host would have to wait to know them.
    """
    check_choice(kind, PRIORS, "prior kind")
    if labels.ndim != 4 or labels.shape[1] < 1:
        raise ArgumentError("labels have the wrong shape.", got=tuple(labels.shape), expected="(B, T, H, W)")
    if not (sigma > 0 and truncate > 0):
        raise ArgumentError("the Gaussian is empty.", got=f"sigma {sigma}, truncate {truncate}", expected="both > 0")
    _check_season(season, labels)
    index = index_labels(labels, num_classes, ignore_index)
    weight_BT = _season_weights(season.to(labels.device), labels.shape[1], kind)
    if values_are_visible(labels):
        prior_BCHW = _filter_rows(index, weight_BT, num_classes, sigma, truncate)
    else:
        prior_BCHW = _filter_planes(_class_mass(index, weight_BT, num_classes), sigma, truncate)
    return prior_BCHW if index.complete else _normalise(prior_BCHW)


def smooth_labels(
    labels: Tensor,
    num_classes: int,
    prior: Tensor | None = None,
    prior_weight: float = 0.15,
    uniform_weight: float = 0.05,
    ignore_index: int = 255,
) -> Tensor:
    """Soft target of each pixel: its own label, mixed with a prior and a uniform distribution.

    labels (B, H, W), any integer dtype, 0 to num_classes - 1 or `ignore_index`; prior (B, C, H, W) that sums to 1 over
    the classes, or None for the uniform one; weights in [0, 1] that sum to at most 1; both 0 gives one-hot labels.
    Returns float32 (B, C, H, W) that sums to 1 over the classes and is all 0 at ignored pixels. Raises ArgumentError.
    Paper: Z.
    """
    check_fraction(prior_weight, "prior weight")
    check_fraction(uniform_weight, "uniform weight")
    check_fraction(prior_weight + uniform_weight, "sum of prior and uniform weight")
    if labels.ndim != 3:
        raise ArgumentError("labels have the wrong shape.", got=tuple(labels.shape), expected="(B, H, W)")
    index = index_labels(labels, num_classes, ignore_index)
    batch, height, width = labels.shape
    if prior is None:
        uniform = (prior_weight + uniform_weight) / num_classes
        target = torch.full((batch, num_classes, height, width), uniform, device=labels.device)
    else:
        check_pixels(prior, (batch, num_classes, height, width), "prior")
        target = (prior.float() * prior_weight).add_(uniform_weight / num_classes)
    own_B1HW = torch.full_like(target[:, :1], 1.0 - prior_weight - uniform_weight)
    target.scatter_add_(1, index.class_BHW.unsqueeze(1), own_B1HW)
    return target if index.complete else target.mul_(index.valid_BHW.unsqueeze(1))


def _season_weights(season_B: Tensor, seasons: int, kind: str) -> Tensor:
    """Share of each season in the mass, (B, T): 1 / T for time, 1 at the drawn season for space, half of each."""
    drawn_BT = (season_B.long().unsqueeze(1) == torch.arange(seasons, device=season_B.device)).float()
    if kind == "s":
        return drawn_BT
    mean_BT = torch.full_like(drawn_BT, 1.0 / seasons)
    return mean_BT if kind == "t" else (mean_BT + drawn_BT) / 2


def _class_mass(labels: LabelIndex, weight_BT: Tensor, num_classes: int) -> Tensor:
    """Weighted count of each class over the seasons, (B, C, H, W); ignored pixels add nothing."""
    batch, _, height, width = labels.class_BHW.shape
    source_BTHW = weight_BT[:, :, None, None].expand(labels.class_BHW.shape)
    if not labels.complete:
        source_BTHW = source_BTHW * labels.valid_BHW
    return source_BTHW.new_zeros(batch, num_classes, height, width).scatter_add_(1, labels.class_BHW, source_BTHW)


def _normalise(mass_BCHW: Tensor) -> Tensor:
    """Shares of the classes; uniform where there is no mass."""
    total_B1HW = mass_BCHW.sum(dim=1, keepdim=True)
    return torch.where(total_B1HW > 0, mass_BCHW / total_B1HW, 1.0 / mass_BCHW.shape[1])


def _filter_rows(labels: LabelIndex, weight_BT: Tensor, num_classes: int, sigma: float, truncate: float) -> Tensor:
    """G * class mass in host memory, (B, C, H, W), sample by sample; only the classes that occur are filtered."""
    from cromss.method._row_filter import blur_rows, class_rows  # the compiler is loaded where it is needed

    class_BTHW = labels.class_BHW if labels.complete else labels.class_BHW.masked_fill(~labels.valid_BHW, num_classes)
    batch, _, height, width = class_BTHW.shape
    half_R = _half_kernel(sigma, truncate)
    taps = F.pad(half_R, (0, (len(half_R) - 1) % 2)).float().numpy()  # an even reach, for pairs of taps
    filtered_BCHW = torch.zeros(batch, num_classes, height, width)
    for labels_THW, weight_T, out_CHW in zip(class_BTHW.numpy(), weight_BT.numpy(), filtered_BCHW.numpy(), strict=True):
        mass_HX, class_K = class_rows(labels_THW, weight_T, num_classes, len(taps) - 1)
        blur_rows(mass_HX, class_K, taps, out_CHW)
    return filtered_BCHW


def _filter_planes(planes_BCHW: Tensor, sigma: float, truncate: float) -> Tensor:
    """G * each plane (..., H, W) on any device: two large matrix products."""
    height, width = planes_BCHW.shape[-2:]
    matrix_HH = _gaussian_matrix(height, sigma, truncate).to(planes_BCHW.device)
    matrix_WW = _gaussian_matrix(width, sigma, truncate).to(planes_BCHW.device)
    return matrix_HH @ planes_BCHW @ matrix_WW.T


def _half_kernel(sigma: float, truncate: float) -> Tensor:
    """The kernel of scipy.ndimage.gaussian_filter1d from its middle outwards, (R + 1,), float64."""
    offset_R = torch.arange(int(truncate * sigma + 0.5) + 1)
    half_R = torch.exp(-0.5 * (offset_R.double() / sigma) ** 2)
    return half_R / (2 * half_R.sum() - half_R[0])


@functools.lru_cache(maxsize=16)
def _gaussian_matrix(size: int, sigma: float, truncate: float) -> Tensor:
    """The filter along one axis of `size` pixels as a matrix (size, size), with the mirrored edges folded in."""
    half = _half_kernel(sigma, truncate)
    kernel, radius = torch.cat([half.flip(0)[:-1], half]), len(half) - 1
    offset = torch.arange(-radius, radius + 1)
    source = (torch.arange(size).unsqueeze(1) + offset).remainder(2 * size)
    source = torch.minimum(source, 2 * size - 1 - source)  # ... 1 0 | 0 1 2 ... : the edge pixel is repeated
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(size, -1)).float()


def _check_season(season: Tensor, labels: Tensor) -> None:
    batch, seasons = labels.shape[:2]
    if tuple(season.shape) != (batch,) or season.is_floating_point() or season.dtype == torch.bool:
        got = f"{season.dtype} {tuple(season.shape)}"
        raise ArgumentError("season has the wrong shape or dtype.", got=got, expected=f"integers ({batch},)")
    if not values_are_visible(season):
        return
    low, high = (int(value) for value in torch.aminmax(season))
    if low < 0 or high >= seasons:
        raise ArgumentError("season is out of range.", got=low if low < 0 else high, expected=f"0 to {seasons - 1}")
