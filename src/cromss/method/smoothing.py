"""Soft targets: what the labels of the neighbourhood and of the other seasons say about a pixel.

In: hard labels, of one season (B, H, W) or of all (B, T, H, W). Out: class distributions (B, C, H, W), float32.

    M_s = G * onehot(y of this season)          M_t = G * mean over seasons of onehot(y)          M = (M_s + M_t) / 2
    Z   = (1 - a - b) onehot(y) + a M + b / C   a = 0.15, b = 0.05

G is a Gaussian of 3 px, cut at 4 sigma (25 x 25), edges mirrored with the edge pixel repeated (scipy's "reflect").

A convolution is linear and both Gaussians are equal, so M is one filter over (season frequency + one-hot) / 2 of the
classes that occur, in place of two filters for each class. The filter is separable: M = G_H X G_W^T, where G_H holds
the kernel on its band and the mirrored edges are folded in.

Legend of shapes: B batch, T seasons, C classes, K classes that occur, H height, W width.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

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
)

__all__ = ["PRIORS", "label_prior", "smooth_labels"]

PRIORS = ("ts", "t", "s")

_BLOCK = 32
"""Pixels. Rows of the filter's matrix that are multiplied at a time; 32 is the fastest measured with 25 taps."""


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
    mass_BCHW = _class_mass(index, weight_BT, num_classes)
    planes_NHW = mass_BCHW.flatten(0, 1)
    if not values_are_visible(labels):
        return _normalise(_gaussian(planes_NHW, sigma, truncate).view_as(mass_BCHW))
    present_K = (planes_NHW.amax(dim=(1, 2)) > 0).nonzero().squeeze(1)
    if len(present_K) == len(planes_NHW):
        mass_BCHW = _gaussian(planes_NHW, sigma, truncate).view_as(mass_BCHW)
    else:
        planes_NHW.index_copy_(0, present_K, _gaussian(planes_NHW[present_K], sigma, truncate))
    return mass_BCHW if index.complete else _normalise(mass_BCHW)


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
        target = prior.float() * prior_weight + uniform_weight / num_classes
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


def _gaussian(planes_NHW: Tensor, sigma: float, truncate: float) -> Tensor:
    """G * each plane, as two products with banded matrices, block by block: a block reads only the band it touches."""
    planes, height, width = planes_NHW.shape
    radius = _radius(sigma, truncate)
    matrix_HH = _gaussian_matrix(height, sigma, truncate).to(planes_NHW.device)
    matrix_WW = _gaussian_matrix(width, sigma, truncate).to(planes_NHW.device)
    if not values_are_visible(planes_NHW):
        return matrix_HH @ planes_NHW @ matrix_WW.T  # an accelerator prefers two large products to many small ones
    upright_NHW, result_NHW = torch.empty_like(planes_NHW), torch.empty_like(planes_NHW)
    for rows, band in _blocks(height, radius):
        torch.bmm(matrix_HH[rows, band].expand(planes, -1, -1), planes_NHW[:, band], out=upright_NHW[:, rows])
    upright_XW, result_XW = upright_NHW.flatten(0, 1), result_NHW.view(-1, width)
    for columns, band in _blocks(width, radius):
        torch.mm(upright_XW[:, band], matrix_WW[columns, band].T, out=result_XW[:, columns])
    return result_NHW


def _blocks(length: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of an axis, each with the band of pixels that its filter reads."""
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        yield slice(start, stop), slice(max(0, start - radius), min(stop + radius, length))


def _radius(sigma: float, truncate: float) -> int:
    return int(truncate * sigma + 0.5)  # as scipy.ndimage.gaussian_filter1d


@functools.lru_cache(maxsize=16)
def _gaussian_matrix(size: int, sigma: float, truncate: float) -> Tensor:
    """The filter along one axis of `size` pixels as a matrix (size, size), with the mirrored edges folded in."""
    radius = _radius(sigma, truncate)
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    source = (torch.arange(size).unsqueeze(1) + offset).remainder(2 * size)
    source = torch.minimum(source, 2 * size - 1 - source)  # ... 1 0 | 0 1 2 ... : the edge pixel is repeated
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(size, -1)).float()


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
