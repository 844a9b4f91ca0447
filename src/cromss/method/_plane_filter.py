"""The Gaussian of the label prior on the CPU: class by class, row by row, so that what a row needs stays in the cache.

In: the label maps of one sample (T, H, W), the weight of each season, the row and the column that each place of the
mirrored surroundings repeats, one half of the kernel. Out: the filtered mass of each class, in its plane (C, H, W);
and the targets that it is mixed into.

    across  v_j = g_0 m_j + sum_d g_d (m_{j-d} + m_{j+d})      places m_j of a row of the mass of one class
    down    the same with the rows v of all places

It is compiled: 25 taps as PyTorch or NumPy calls move every plane through the memory dozens of times. Rows that a class
does not occur in, most rows of most classes, cost a look at their labels. On other devices, and inside torch.compile,
`smoothing` multiplies with matrices instead; tests hold both ways to one another.

Legend of shapes: T seasons, C classes, H height, W width, R pixels that the kernel reaches, P rows and Q columns of the
labels with their surroundings, X any number of pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cromss.compiled import compiled

__all__ = ["TAPS_AT_ONCE", "filter_labels", "filter_shares", "mix_targets"]

TAPS_AT_ONCE = 4
"""Pairs of taps in one go: least traffic of the sum, and few enough arrays for the compiler to use wide registers."""


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
    height, width = labels_THW.shape[1:]
    margin, beside = (len(row_P) - height) // 2, (len(column_Q) - width) // 2
    mass_Q = np.empty(len(column_Q), np.float32)
    own_W = mass_Q[beside : beside + width]
    across_PW, filled_P = _room_for(len(row_P), out_CHW.shape[2])
    for name in range(len(out_CHW)):
        for row in range(height):
            place = margin + row
            filled_P[place] = name != ignore_index and _count(own_W, labels_THW, row, name, weight_T)
            if filled_P[place]:
                for left in range(beside):
                    right = beside + width + left
                    mass_Q[left], mass_Q[right] = own_W[column_Q[left]], own_W[column_Q[right]]
                _across(across_PW[place], mass_Q, taps)
            else:
                across_PW[place] = 0
        for above in range(margin):
            for place in (above, margin + height + above):
                across_PW[place], filled_P[place] = across_PW[margin + row_P[place]], filled_P[margin + row_P[place]]
        _down(out_CHW[name], across_PW, filled_P, taps)


@compiled()
def filter_shares(
    mass_CPW: NDArray[np.float32],
    column_Q: NDArray[np.int64],
    taps: NDArray[np.float32],
    out_CHW: NDArray[np.float32],
) -> None:
    """Filter the mass of each class, whose rows are mirrored already, into its plane."""
    across_PW, filled_P = _room_for(mass_CPW.shape[1], out_CHW.shape[2])
    for name in range(len(out_CHW)):
        for place in range(mass_CPW.shape[1]):
            mass_W = mass_CPW[name, place]
            filled_P[place] = mass_W.any()
            if filled_P[place]:
                _across(across_PW[place], mass_W[column_Q], taps)
            else:
                across_PW[place] = 0
        _down(out_CHW[name], across_PW, filled_P, taps)


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
def _room_for(rows: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows of one class, filtered across, and which of them are not all 0; one more, empty, to make their number even.

    The classes use it one after the other, so that it stays in the cache.
    """
    return np.zeros((rows + 1, width), np.float32), np.zeros(rows + 1, np.bool_)


@compiled()
def _count(
    mass_W: NDArray[np.float32],
    labels_THW: NDArray[np.integer],
    row: int,
    name: int,
    weight_T: NDArray[np.float32],
) -> bool:
    """The mass of a class in one row; False, and nothing is written, where it does not occur."""
    same = labels_THW.dtype.type(name)  # as narrow as the labels: more of them in a register
    if same != name:  # beyond what the labels can hold
        return False
    found = False
    for season in range(len(labels_THW)):
        label_W = labels_THW[season, row]
        if weight_T[season] == 0 or not _occurs(label_W, same):
            continue
        if not found:
            mass_W[:] = 0
        found = True
        _add_where(mass_W, label_W, same, weight_T[season])
    return found


@compiled()
def _add_where(mass_W: NDArray[np.float32], label_W: NDArray[np.integer], same: np.integer, weight: float) -> None:
    for x in range(mass_W.size):
        mass_W[x] += weight if label_W[x] == same else np.float32(0)


@compiled()
def _occurs(label_W: NDArray[np.integer], same: np.integer) -> bool:
    found = np.uint8(0)  # a byte, and no early end: 32 labels at a time
    for x in range(label_W.size):
        found = np.uint8(found | np.uint8(label_W[x] == same))
    return bool(found)


@compiled(any_order=True)
def _across(out_W: NDArray[np.float32], mass_Q: NDArray[np.float32], taps: NDArray[np.float32]) -> None:
    reach = len(taps) - 1
    _scale(out_W, taps[0], mass_Q[reach:])
    for d in range(1, len(taps), TAPS_AT_ONCE):
        _add_shifted(out_W, taps[d:], mass_Q[reach - d - TAPS_AT_ONCE + 1 :], mass_Q[reach + d :])


@compiled(any_order=True)
def _down(
    out_HW: NDArray[np.float32],
    across_PW: NDArray[np.float32],
    filled_P: NDArray[np.bool_],
    taps: NDArray[np.float32],
) -> None:
    """Two rows at a time: what they share, nearly all, is loaded once. Loads are what bounds the filter."""
    reach, beyond_W = len(taps) - 1, np.empty(out_HW.shape[1], np.float32)
    for row in range(0, len(out_HW), 2):
        upper_W, lower_W = out_HW[row], out_HW[row + 1] if row + 1 < len(out_HW) else beyond_W
        if not filled_P[row : row + 2 * reach + 2].any():
            upper_W[:], lower_W[:] = 0, 0
            continue
        middle = row + reach
        _scale(upper_W, taps[0], across_PW[middle])
        _scale(lower_W, taps[0], across_PW[middle + 1])
        for d in range(1, len(taps), TAPS_AT_ONCE):
            above_5W = across_PW[middle - d - TAPS_AT_ONCE + 1 : middle - d + 2]
            below_5W = across_PW[middle + d : middle + d + TAPS_AT_ONCE + 1]
            _add_rows(upper_W, lower_W, taps[d:], above_5W, below_5W)


@compiled(any_order=True)
def _scale(out_X: NDArray[np.float32], factor: float, values_X: NDArray[np.float32]) -> None:
    for x in range(out_X.size):
        out_X[x] = factor * values_X[x]


@compiled(any_order=True)
def _add_rows(
    upper_W: NDArray[np.float32],
    lower_W: NDArray[np.float32],
    taps: NDArray[np.float32],
    above_5W: NDArray[np.float32],
    below_5W: NDArray[np.float32],
) -> None:
    one, two, three, four = taps[0], taps[1], taps[2], taps[3]
    for x in range(upper_W.size):
        a0, a1, a2, a3, a4 = above_5W[0, x], above_5W[1, x], above_5W[2, x], above_5W[3, x], above_5W[4, x]
        b0, b1, b2, b3, b4 = below_5W[0, x], below_5W[1, x], below_5W[2, x], below_5W[3, x], below_5W[4, x]
        upper = (one * (a3 + b0) + two * (a2 + b1)) + (three * (a1 + b2) + four * (a0 + b3))
        lower = (one * (a4 + b1) + two * (a3 + b2)) + (three * (a2 + b3) + four * (a1 + b4))
        upper_W[x] += upper
        lower_W[x] += lower


@compiled(any_order=True)
def _add_shifted(
    out_X: NDArray[np.float32], taps: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32]
) -> None:
    one, two, three, four = taps[0], taps[1], taps[2], taps[3]
    for x in range(out_X.size):
        near = one * (left[x + 3] + right[x]) + two * (left[x + 2] + right[x + 1])
        far = three * (left[x + 1] + right[x + 2]) + four * (left[x] + right[x + 3])
        out_X[x] += near + far
