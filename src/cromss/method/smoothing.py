"""Soft targets: what the labels of the neighbourhood and of the other seasons say about a pixel.

In: hard labels, of one season (B, H, W) or of all (B, T, H, W), or soft ones: the probability of each class,
(B, C, H, W) or (B, T, C, H, W). Out: class distributions (B, C, H, W), float32.

    M_s = G * onehot(y of this season)          M_t = G * mean over seasons of onehot(y)          M = (M_s + M_t) / 2
    Z   = (1 - a - b) onehot(y) + a M + b / C   a = 0.15, b = 0.05

Soft labels stand where onehot(y) stands.

G is a Gaussian of 3 px, cut at 4 sigma (25 x 25), edges mirrored with the edge pixel repeated (scipy's "reflect").

A convolution is linear and both Gaussians are equal, so M is one filter over (season frequency + one-hot) / 2, in place
of two filters for each class. Edges are mirrored in the labels, before anything is counted. The filter is separable: on
the CPU it goes over the rows of each class that occurs (`_plane_filter`); elsewhere it is two products,
M = G_H X G_W^T, where G_H (H, H + 2 R) holds the kernel on its band.

Legend of shapes: B batch, T seasons, C classes, H height, W width, R pixels that the kernel reaches, P = H + 2 R and
Q = W + 2 R the tile with its surroundings.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method._checks import (
    LabelIndex,
    SoftLabels,
    check_choice,
    check_fraction,
    check_labels,
    check_pixels,
    index_labels,
    read_soft_labels,
    values_are_visible,
)

__all__ = ["PRIORS", "label_prior", "prior_reach", "smooth_labels"]

PRIORS = ("ts", "t", "s")


def label_prior(
    labels: Tensor,
    season: Tensor,
    num_classes: int,
    kind: str = "ts",
    sigma: float = 3.0,
    truncate: float = 4.0,
    ignore_index: int = 255,
    *,
    surrounded: bool = False,
) -> Tensor:
    """Class distribution around each pixel, over space, seasons or both.

    labels (B, T, H, W), any integer dtype, 0 to num_classes - 1 or `ignore_index`, or soft labels (B, T, C, H, W),
    floating point, that sum to 1 over the classes and are all 0 at ignored pixels; season (B,) integer, the drawn
    season of each sample, 0 to T - 1; kind "ts", "t" or "s"; sigma in pixels; truncate in sigmas. Returns float32
    (B, C, H, W) that sums to 1 over the classes. Raises ArgumentError. Paper: M.

    T counts label maps: several annotators of a season are several entries of it.

    surrounded: the labels (..., H + 2 R, W + 2 R) are those of a window and of the R = `prior_reach` pixels around it,
    instead of a tile whose edges are to be mirrored.

    Ignored pixels have no mass: the rest of the window is renormalised over the classes ("ts" then weighs both parts
    by their mass). Where the whole window is ignored the prior is uniform. On the CPU only the classes that occur are
    filtered; elsewhere all are, because the host would have to wait to know them.
    """
    check_choice(kind, PRIORS, "prior kind")
    if labels.ndim not in (4, 5) or labels.shape[1] < 1:
        expected = "(B, T, H, W), or soft labels (B, T, C, H, W)"
        raise ArgumentError("labels have the wrong shape.", got=tuple(labels.shape), expected=expected)
    if not (sigma > 0 and truncate > 0):
        raise ArgumentError("the Gaussian is empty.", got=f"sigma {sigma}, truncate {truncate}", expected="both > 0")
    _check_season(season, labels)
    reach = prior_reach(sigma, truncate)
    if surrounded and min(labels.shape[-2:]) <= 2 * reach:
        expected = f"H and W above {2 * reach}: a window and {reach} pixels around it"
        raise ArgumentError("labels have no window inside.", got=tuple(labels.shape), expected=expected)
    weight_BT = _season_weights(labels.shape[1], kind).to(labels.device)[season.to(labels.device).long()]
    margin = 0 if surrounded else reach
    if not values_are_visible(labels):
        return _prior_by_products(labels, weight_BT, num_classes, ignore_index, margin, sigma, truncate)
    return _prior_by_rows(labels, weight_BT, num_classes, ignore_index, margin, _half_kernel(sigma, truncate).float())


def prior_reach(sigma: float = 3.0, truncate: float = 4.0) -> int:
    """How many pixels around a window its prior depends on, a multiple of 4: 12 by default."""
    radius = int(truncate * sigma + 0.5)  # as scipy.ndimage.gaussian_filter1d
    return radius + -radius % 4  # the compiled filter takes four taps at once; those beyond the radius are 0


def smooth_labels(
    labels: Tensor,
    num_classes: int,
    prior: Tensor | None = None,
    prior_weight: float = 0.15,
    uniform_weight: float = 0.05,
    ignore_index: int = 255,
) -> Tensor:
    """Soft target of each pixel: its own label, mixed with a prior and a uniform distribution.

    labels (B, H, W), any integer dtype, 0 to num_classes - 1 or `ignore_index`, or soft labels (B, C, H, W), floating
    point, that sum to 1 over the classes and are all 0 at ignored pixels; prior (B, C, H, W) that sums to 1 over the
    classes, or None for the uniform one; weights in [0, 1] that sum to at most 1; both 0 gives the labels themselves,
    one-hot where they are hard. Returns float32 (B, C, H, W) that sums to 1 over the classes and is all 0 at ignored
    pixels. Raises ArgumentError. Paper: Z.
    """
    check_fraction(prior_weight, "prior weight")
    check_fraction(uniform_weight, "uniform weight")
    check_fraction(prior_weight + uniform_weight, "sum of prior and uniform weight")
    if labels.ndim not in (3, 4):
        expected = "(B, H, W), or soft labels (B, C, H, W)"
        raise ArgumentError("labels have the wrong shape.", got=tuple(labels.shape), expected=expected)
    batch, height, width = len(labels), *labels.shape[-2:]
    if prior is not None:
        check_pixels(prior, (batch, num_classes, height, width), "prior")
        if prior.device != labels.device:
            raise ArgumentError("labels and prior lie on two devices.", got=f"{labels.device} and {prior.device}")
        if labels.ndim == 3 and values_are_visible(labels) and not prior.requires_grad:
            return _mix_in_one_pass(labels, prior, prior_weight, uniform_weight, ignore_index)
    known: LabelIndex | SoftLabels
    known = (
        read_soft_labels(labels, num_classes) if labels.ndim == 4 else index_labels(labels, num_classes, ignore_index)
    )
    if prior is None:
        uniform = (prior_weight + uniform_weight) / num_classes
        target = torch.full((batch, num_classes, height, width), uniform, device=labels.device)
    else:
        share_of_each = torch.full((), uniform_weight / num_classes, device=prior.device)
        target = torch.add(share_of_each, prior.float(), alpha=prior_weight)
    own_weight = 1.0 - prior_weight - uniform_weight
    if isinstance(known, SoftLabels):
        target.add_(known.share_BCHW, alpha=own_weight)
    else:
        target.scatter_add_(1, known.class_BHW.unsqueeze(1), torch.full_like(target[:, :1], own_weight))
    return target if known.complete else target.mul_(known.valid_BHW.unsqueeze(1))


def _mix_in_one_pass(
    labels_BHW: Tensor, prior_BCHW: Tensor, prior_weight: float, uniform_weight: float, ignore_index: int
) -> Tensor:
    """The target of hard labels in host memory: as PyTorch calls it is written three times."""
    from cromss.method._plane_filter import mix_targets  # the compiler is loaded where it is needed

    complete = check_labels(labels_BHW, prior_BCHW.shape[1], ignore_index)
    prior_BCHW = prior_BCHW.float().contiguous()
    target_BCHW = torch.empty_like(prior_BCHW)
    own_weight, of_each = 1.0 - prior_weight - uniform_weight, uniform_weight / prior_BCHW.shape[1]
    mix_targets(
        labels_BHW.contiguous().numpy(),
        prior_BCHW.numpy(),
        None if complete else ignore_index,
        np.array([own_weight, prior_weight, of_each], np.float32),
        target_BCHW.numpy(),
    )
    return target_BCHW


@functools.lru_cache(maxsize=64)
def _season_weights(seasons: int, kind: str) -> Tensor:
    """Share of each season in the mass by the season drawn, (T, T): 1 / T for time, 1 if drawn for space, or both."""
    of_all, of_drawn = {"t": (1.0, 0.0), "s": (0.0, 1.0), "ts": (0.5, 0.5)}[kind]
    return of_all / seasons + of_drawn * torch.eye(seasons)


@functools.lru_cache(maxsize=64)
def _mirrored(size: int, margin: int) -> Tensor:
    """... 1 0 | 0 1 2 ...: the edge pixel is repeated, and small tiles are mirrored as often as needed."""
    position = torch.arange(-margin, size + margin).remainder(2 * size)
    return torch.minimum(position, 2 * size - 1 - position)


def _mirror_edges(planes: Tensor, margin: int) -> Tensor:
    """Planes (..., H, W) with their surroundings, (..., H + 2 margin, W + 2 margin)."""
    for axis in (-2, -1) if margin else ():
        planes = planes.index_select(axis, _mirrored(planes.shape[axis], margin).to(planes.device))
    return planes


def _class_mass(labels: LabelIndex | SoftLabels, weight_BT: Tensor, num_classes: int) -> Tensor:
    """Weighted count of each class over the seasons, (B, C, P, Q); ignored pixels add nothing."""
    if isinstance(labels, SoftLabels):
        return torch.einsum("bt,btcpq->bcpq", weight_BT, labels.share_BCHW)
    batch, _, height, width = labels.class_BHW.shape
    source_BTPQ = weight_BT[:, :, None, None].expand(labels.class_BHW.shape)
    if not labels.complete:
        source_BTPQ = source_BTPQ * labels.valid_BHW
    return source_BTPQ.new_zeros(batch, num_classes, height, width).scatter_add_(1, labels.class_BHW, source_BTPQ)


def _normalise(mass_CHW: Tensor) -> Tensor:
    """Shares of the classes, (..., C, H, W); uniform where there is no mass."""
    total_1HW = mass_CHW.sum(dim=-3, keepdim=True)
    return torch.where(total_1HW > 0, mass_CHW / total_1HW, 1.0 / mass_CHW.shape[-3])


def _prior_by_rows(
    labels: Tensor, weight_BT: Tensor, num_classes: int, ignore_index: int, margin: int, taps: Tensor
) -> Tensor:
    """The prior (B, C, H, W) in host memory, sample by sample, so that none depends on its batch."""
    from cromss.method._plane_filter import filter_labels, filter_shares  # the compiler is loaded where it is needed

    row_P, column_Q = (_mirrored(length, margin).numpy() for length in labels.shape[-2:])
    inner = (len(places) - 2 * (len(taps) - 1) for places in (row_P, column_Q))
    prior_BCHW = torch.empty(len(labels), num_classes, *inner)
    if labels.ndim == 5:
        known = read_soft_labels(labels, num_classes)
        complete_B = known.valid_BHW.flatten(1).all(dim=1).tolist()
        for share_TCHW, weight_T, prior_CHW in zip(known.share_BCHW, weight_BT, prior_BCHW, strict=True):
            mass_CPW = torch.einsum("t,tchw->chw", weight_T, share_TCHW)[:, row_P].contiguous()
            filter_shares(mass_CPW.numpy(), column_Q, taps.numpy(), prior_CHW.numpy())
    else:
        complete = check_labels(labels, num_classes, ignore_index)
        complete_B = [complete or not bool((maps_THW == ignore_index).any()) for maps_THW in labels]
        samples = zip(labels.contiguous().numpy(), weight_BT.numpy(), prior_BCHW.numpy(), strict=True)
        for labels_THW, weight_T, prior_CHW in samples:
            filter_labels(labels_THW, weight_T, ignore_index, row_P, column_Q, taps.numpy(), prior_CHW)
    for complete, prior_CHW in zip(complete_B, prior_BCHW, strict=True):
        if not complete:
            prior_CHW.copy_(_normalise(prior_CHW))
    return prior_BCHW


def _prior_by_products(
    labels: Tensor,
    weight_BT: Tensor,
    num_classes: int,
    ignore_index: int,
    margin: int,
    sigma: float,
    truncate: float,
) -> Tensor:
    """The prior (B, C, H, W) on any device, of all classes at once."""
    labels = _mirror_edges(labels, margin)
    known: LabelIndex | SoftLabels
    if labels.ndim == 5:
        known = read_soft_labels(labels, num_classes)
    else:
        known = index_labels(labels, num_classes, ignore_index)
    return _normalise(_filter_planes(_class_mass(known, weight_BT, num_classes), sigma, truncate))


def _filter_planes(planes_BCPQ: Tensor, sigma: float, truncate: float) -> Tensor:
    """G * each plane, (B, C, H, W), on any device: two large matrix products."""
    matrix_HP, matrix_WQ = (_gaussian_matrix(size, sigma, truncate) for size in planes_BCPQ.shape[2:])
    return matrix_HP.to(planes_BCPQ.device) @ planes_BCPQ @ matrix_WQ.to(planes_BCPQ.device).T


@functools.lru_cache(maxsize=16)
def _half_kernel(sigma: float, truncate: float) -> Tensor:
    """The kernel from its middle outwards, (R + 1,), float64; the whole of it sums to 1."""
    offset_R = torch.arange(prior_reach(sigma, truncate) + 1)
    half_R = torch.exp(-0.5 * (offset_R.double() / sigma) ** 2) * (offset_R <= int(truncate * sigma + 0.5))
    return half_R / (2 * half_R.sum() - half_R[0])


@functools.lru_cache(maxsize=16)
def _gaussian_matrix(size: int, sigma: float, truncate: float) -> Tensor:
    """The filter along one axis of `size` pixels, surroundings included, as a matrix (size - 2 R, size)."""
    half_R = _half_kernel(sigma, truncate).float()
    kernel_K = torch.cat([half_R.flip(0)[:-1], half_R])
    matrix = torch.zeros(size + 1 - len(kernel_K), size)
    for row, taps_of_row in enumerate(matrix):
        taps_of_row[row : row + len(kernel_K)] = kernel_K
    return matrix


def _check_season(season: Tensor, labels: Tensor) -> None:
    batch, seasons = labels.shape[:2]
    if tuple(season.shape) != (batch,) or season.is_floating_point() or season.dtype == torch.bool:
        got = f"{season.dtype} {tuple(season.shape)}"
        raise ArgumentError("season has the wrong shape or dtype.", got=got, expected=f"integers ({batch},)")
    if not values_are_visible(season):
        return
    for drawn in season.tolist():
        if not 0 <= drawn < seasons:
            raise ArgumentError("season is out of range.", got=drawn, expected=f"0 to {seasons - 1}")
