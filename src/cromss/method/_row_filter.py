"""The Gaussian of the label prior on the CPU: one row of all classes at a time, which stays in the processor's cache.

In: the label maps of one sample with their surroundings (T, P, Q), the weight of each season, one half of the kernel.
Out: the filtered mass of each class that occurs, written into its plane of an array (C, H, W).

    down    v_i = g_0 m_i + sum_d g_d (m_{i-d} + m_{i+d})      rows m_i hold all classes side by side
    across  the same with v_i shifted by d; what mixes neighbouring classes lies in the surroundings, and is not kept

It is compiled: 25 taps as PyTorch or NumPy calls move every plane through the memory dozens of times. On other devices,
and inside torch.compile, `smoothing` multiplies with matrices instead; tests hold both ways to one another.

Legend of shapes: T seasons, C classes, K classes that occur, H height, W width, R pixels that the kernel reaches,
P = H + 2 R, Q = W + 2 R, X = K Q, one row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cromss.compiled import compiled

__all__ = ["blur_rows", "class_rows"]


@compiled()
def class_rows(
    labels_TPQ: NDArray[np.int64], weight_T: NDArray[np.float32], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], bool]:
    """Weighted count over the seasons of each class that occurs, as rows (P, X), and the numbers of those classes (K,).

    labels 0 to num_classes - 1; any larger number counts nowhere, and makes the third answer, "complete", False.
    """
    seasons, height, width = labels_TPQ.shape
    occurs_C = np.zeros(num_classes + 1, np.bool_)
    for label in labels_TPQ.flat:
        occurs_C[min(int(label), num_classes)] = True
    class_K = np.nonzero(occurs_C[:num_classes])[0]
    start_C = np.full(num_classes + 1, -1)
    for number, name in enumerate(class_K):
        start_C[name] = number * width
    mass_PX = np.zeros((height, len(class_K) * width), np.float32)
    for season in range(seasons):
        if weight_T[season] == 0:
            continue
        for row in range(height):
            for column in range(width):
                start = start_C[min(labels_TPQ[season, row, column], num_classes)]
                if start >= 0:
                    mass_PX[row, start + column] += weight_T[season]
    return mass_PX, class_K, not occurs_C[num_classes]


@compiled(any_order=True)
def blur_rows(
    mass_PX: NDArray[np.float32], class_K: NDArray[np.int64], taps: NDArray[np.float32], out_CHW: NDArray[np.float32]
) -> None:
    """Filter rows as `class_rows` gives them, down and across, into the planes of their classes.

    taps (R + 1,): the kernel from its middle outwards, R even.
    """
    height, width = out_CHW.shape[1:]
    reach = len(taps) - 1
    down_X = np.empty(mass_PX.shape[1], np.float32)
    across_X = np.empty(mass_PX.shape[1] - 2 * reach, np.float32)
    inner = len(across_X)
    for row in range(height):
        middle = row + reach
        _scale(down_X, taps[0], mass_PX[middle])
        for d in range(1, reach, 2):
            above, farther_above = mass_PX[middle - d], mass_PX[middle - d - 1]
            below, farther_below = mass_PX[middle + d], mass_PX[middle + d + 1]
            _add_taps(down_X, taps[d], above, below, taps[d + 1], farther_above, farther_below)
        _scale(across_X, taps[0], down_X[reach:][:inner])
        for d in range(1, reach, 2):
            left, farther_left = down_X[reach - d :][:inner], down_X[reach - d - 1 :][:inner]
            right, farther_right = down_X[reach + d :][:inner], down_X[reach + d + 1 :][:inner]
            _add_taps(across_X, taps[d], left, right, taps[d + 1], farther_left, farther_right)
        for number, name in enumerate(class_K):
            first = number * (width + 2 * reach)
            out_CHW[name, row] = across_X[first : first + width]


@compiled(any_order=True)
def _scale(out_X: NDArray[np.float32], factor: float, values_X: NDArray[np.float32]) -> None:
    for x in range(out_X.size):
        out_X[x] = factor * values_X[x]


@compiled(any_order=True)
def _add_taps(
    out_X: NDArray[np.float32],
    near: float,
    one_X: NDArray[np.float32],
    other_X: NDArray[np.float32],
    far: float,
    farther_one_X: NDArray[np.float32],
    farther_other_X: NDArray[np.float32],
) -> None:
    """Two taps in one go: half the traffic of the sum, and few enough arrays for the compiler to use wide registers."""
    for x in range(out_X.size):
        out_X[x] += near * (one_X[x] + other_X[x]) + far * (farther_one_X[x] + farther_other_X[x])
