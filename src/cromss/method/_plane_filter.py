"""The Gaussian of the label prior on the CPU: class by class, row by row, so that what a row needs stays in the cache.

In: the label maps of one sample (T, H, W), the weight of each season, the row and the column that each place of the
mirrored surroundings repeats, one half of the kernel. Out: the filtered mass of each class, in its plane (C, H, W);
and the targets that it is mixed into.

    down    v_i = g_0 m_i + sum_d g_d (m_{i-d} + m_{i+d})      rows m_i of the mass of one class
    across  the same with v_i shifted by d

It is compiled: 25 taps as PyTorch or NumPy calls move every plane through the memory dozens of times. On other devices,
and inside torch.compile, `smoothing` multiplies with matrices instead; tests hold both ways to one another.

Legend of shapes: T seasons, C classes, H height, W width, R pixels that the kernel reaches, P rows and Q columns of the
labels with their surroundings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cromss.compiled import compiled

__all__ = ["TAPS_AT_ONCE", "filter_labels", "filter_shares", "mix_targets"]

TAPS_AT_ONCE = 4
"""Pairs of taps in one go: least traffic of the sum, and few enough arrays for the compiler to use wide registers."""

PIECE = 4096
"""Pixels looked through in one go for a class."""


@compiled()
def filter_labels(
    labels_THW: NDArray[np.integer],
    weight_T: NDArray[np.float32],
    ignore_index: int,
    row_P: NDArray[np.int64],
    column_Q: NDArray[np.int64],
    taps: NDArray[np.float32],
    out_CHW: NDArray[np.float32],
) -> None:
    """Filter the weighted count of each class over the seasons into its plane.

    labels: contiguous, 0 to C - 1, or ignore_index, which counts nowhere. row_P, column_Q: the row and the column of
    the labels that each place shows; as many are mirrored on one side as on the other, so the middle ones are the
    labels' own. taps (R + 1,): the kernel from its middle outwards, R a multiple of `TAPS_AT_ONCE`.
    """
    seasons, height, width = labels_THW.shape
    label_TX = labels_THW.reshape(seasons, height * width)
    margin = (len(row_P) - height) // 2
    mass_PW = np.empty((len(row_P), width), np.float32)  # of one class after the other, so that it stays in the cache
    own_HW = mass_PW[margin : margin + height]
    for name in range(len(out_CHW)):
        if name == ignore_index or not _sees(label_TX, name):
            out_CHW[name] = 0
            continue
        own_HW[:] = 0
        for season in range(seasons):
            if weight_T[season] != 0:
                _count(own_HW.ravel(), label_TX[season], name, weight_T[season])
        for above in range(margin):
            below = margin + height + above
            mass_PW[above], mass_PW[below] = own_HW[row_P[above]], own_HW[row_P[below]]
        _filter(mass_PW, column_Q, taps, out_CHW[name])


@compiled()
def filter_shares(
    mass_CPW: NDArray[np.float32],
    column_Q: NDArray[np.int64],
    taps: NDArray[np.float32],
    out_CHW: NDArray[np.float32],
) -> None:
    """Filter the mass of each class, whose rows are mirrored already, into its plane."""
    for name in range(len(out_CHW)):
        if mass_CPW[name].any():
            _filter(mass_CPW[name], column_Q, taps, out_CHW[name])
        else:
            out_CHW[name] = 0


@compiled()
def mix_targets(
    labels_BHW: NDArray[np.integer],
    prior_BCHW: NDArray[np.float32],
    ignore_index: int | None,
    weights: NDArray[np.float32],
    out_BCHW: NDArray[np.float32],
) -> None:
    """Soft targets of hard labels, all contiguous. weights (3,): of the own label, of the prior, of each class.

    ignore_index: a value of the labels' type, or None where no pixel is ignored.
    """
    batch, classes = prior_BCHW.shape[:2]
    for sample in range(batch):
        label_X = labels_BHW[sample].ravel()
        for name in range(classes):
            out_X = out_BCHW[sample, name].ravel()
            _mix(label_X, name, weights, prior_BCHW[sample, name].ravel(), out_X)
            if ignore_index is not None:
                _blank(label_X, ignore_index, out_X)


@compiled()
def _mix(
    label_X: NDArray[np.integer],
    name: int,
    weights: NDArray[np.float32],
    prior_X: NDArray[np.float32],
    out_X: NDArray[np.float32],
) -> None:
    own, of_prior, of_each = weights[0], weights[1], weights[2]
    same = label_X.dtype.type(name)
    for x in range(out_X.size):
        out_X[x] = of_prior * prior_X[x] + of_each + (own if label_X[x] == same else np.float32(0))


@compiled()
def _blank(label_X: NDArray[np.integer], ignore_index: int, out_X: NDArray[np.float32]) -> None:
    ignored = label_X.dtype.type(ignore_index)
    for x in range(out_X.size):
        out_X[x] = np.float32(0) if label_X[x] == ignored else out_X[x]


@compiled()
def _sees(label_TX: NDArray[np.integer], name: int) -> bool:
    """Whether a class occurs: one that does is mostly found in the first piece."""
    same = label_TX.dtype.type(name)  # as narrow as the labels: more of them in a register
    if same != name:  # beyond what the labels can hold
        return False
    for season in range(len(label_TX)):
        for start in range(0, label_TX.shape[1], PIECE):
            piece_X = label_TX[season, start : start + PIECE]
            number = 0
            for x in range(piece_X.size):
                number += piece_X[x] == same
            if number > 0:
                return True
    return False


@compiled()
def _count(mass_X: NDArray[np.float32], label_X: NDArray[np.integer], name: int, weight: float) -> None:
    same = label_X.dtype.type(name)
    for x in range(mass_X.size):
        mass_X[x] += weight if label_X[x] == same else np.float32(0)


@compiled(any_order=True)
def _filter(
    mass_PW: NDArray[np.float32],
    column_Q: NDArray[np.int64],
    taps: NDArray[np.float32],
    out_HW: NDArray[np.float32],
) -> None:
    """One class, down and across."""
    width, reach = mass_PW.shape[1], len(taps) - 1
    margin = (len(column_Q) - width) // 2
    down_Q = np.empty(len(column_Q), np.float32)
    own_W = down_Q[margin : margin + width]
    for row in range(len(out_HW)):
        _down(own_W, mass_PW, row + reach, taps)
        for left in range(margin):
            right = margin + width + left
            down_Q[left], down_Q[right] = own_W[column_Q[left]], own_W[column_Q[right]]
        _across(out_HW[row], down_Q, taps)


@compiled(any_order=True)
def _down(out_W: NDArray[np.float32], mass_PW: NDArray[np.float32], middle: int, taps: NDArray[np.float32]) -> None:
    _scale(out_W, taps[0], mass_PW[middle])
    for d in range(1, len(taps), TAPS_AT_ONCE):
        above, below = middle - d - TAPS_AT_ONCE + 1, middle + d
        _add_rows(out_W, taps[d:], mass_PW[above : above + TAPS_AT_ONCE], mass_PW[below : below + TAPS_AT_ONCE])


@compiled(any_order=True)
def _across(out_W: NDArray[np.float32], row_Q: NDArray[np.float32], taps: NDArray[np.float32]) -> None:
    reach = len(taps) - 1
    _scale(out_W, taps[0], row_Q[reach:])
    for d in range(1, len(taps), TAPS_AT_ONCE):
        _add_shifted(out_W, taps[d:], row_Q[reach - d - TAPS_AT_ONCE + 1 :], row_Q[reach + d :])


@compiled(any_order=True)
def _scale(out_X: NDArray[np.float32], factor: float, values_X: NDArray[np.float32]) -> None:
    for x in range(out_X.size):
        out_X[x] = factor * values_X[x]


@compiled(any_order=True)
def _add_rows(
    out_X: NDArray[np.float32],
    taps: NDArray[np.float32],
    above_4X: NDArray[np.float32],
    below_4X: NDArray[np.float32],
) -> None:
    one, two, three, four = taps[0], taps[1], taps[2], taps[3]
    for x in range(out_X.size):
        near = one * (above_4X[3, x] + below_4X[0, x]) + two * (above_4X[2, x] + below_4X[1, x])
        far = three * (above_4X[1, x] + below_4X[2, x]) + four * (above_4X[0, x] + below_4X[3, x])
        out_X[x] += near + far


@compiled(any_order=True)
def _add_shifted(
    out_X: NDArray[np.float32], taps: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32]
) -> None:
    one, two, three, four = taps[0], taps[1], taps[2], taps[3]
    for x in range(out_X.size):
        near = one * (left[x + 3] + right[x]) + two * (left[x + 2] + right[x + 1])
        far = three * (left[x + 1] + right[x + 2]) + four * (left[x] + right[x + 3])
        out_X[x] += near + far
