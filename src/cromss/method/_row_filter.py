"""The Gaussian of the label prior on the CPU: one row of all classes at a time, which stays in the processor's cache.

In: the label maps of one sample (T, H, W), the weight of each season, one half of the kernel. Out: the filtered mass of
each class that occurs, written into its plane of an array (C, H, W).

    down    v_i = g_0 m_i + sum_d g_d (m_{i-d} + m_{i+d})      rows m_i hold all classes side by side
    across  the same with v_i shifted by d: each class has a margin of R mirrored pixels on both sides

The one part of the package that is compiled, by Numba on first use (three seconds, then kept on disk where that can be
written): 25 taps as PyTorch or NumPy calls move every plane through the memory dozens of times. On other devices, and
inside torch.compile, `smoothing` multiplies with matrices instead; tests hold both ways to one another.

Legend of shapes: T seasons, C classes, K classes that occur, H height, W width, R pixels that the kernel reaches,
X = K (W + 2 R), one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["blur_rows", "class_rows"]

# sums may be taken in another order, and a b + c rounded once; NaN and infinity keep their meaning
_ANY_ORDER = {"reassoc", "contract", "nsz"}


def _compiled(**options: Any) -> Callable[[Any], Any]:
    def compile_or_load(function: Any) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # no folder that a cache could be written to
            return numba.njit(nogil=True, **options)(function)

    return compile_or_load


@_compiled()
def class_rows(
    labels_THW: NDArray[np.int64], weight_T: NDArray[np.float32], num_classes: int, reach: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Weighted count over the seasons of each class that occurs, as rows (H, X), and the numbers of those classes (K,).

    labels 0 to num_classes - 1; any larger number counts nowhere. The margins are left 0.
    """
    seasons, height, width = labels_THW.shape
    occurs_C = np.zeros(num_classes + 1, np.bool_)
    for label in labels_THW.flat:
        occurs_C[min(int(label), num_classes)] = True
    class_K = np.nonzero(occurs_C[:num_classes])[0]
    start_C = np.full(num_classes + 1, -1)
    for number, name in enumerate(class_K):
        start_C[name] = number * (width + 2 * reach) + reach
    mass_HX = np.zeros((height, len(class_K) * (width + 2 * reach)), np.float32)
    for season in range(seasons):
        if weight_T[season] == 0:
            continue
        for row in range(height):
            for column in range(width):
                start = start_C[min(labels_THW[season, row, column], num_classes)]
                if start >= 0:
                    mass_HX[row, start + column] += weight_T[season]
    return mass_HX, class_K


@_compiled(fastmath=_ANY_ORDER)
def blur_rows(
    mass_HX: NDArray[np.float32], class_K: NDArray[np.int64], taps: NDArray[np.float32], out_CHW: NDArray[np.float32]
) -> None:
    """Filter rows as `class_rows` gives them, down and across, into the planes of their classes.

    taps (R + 1,): the kernel from its middle outwards, R even; edges are mirrored with the edge pixel repeated.
    """
    height, width = out_CHW.shape[1:]
    reach, size = len(taps) - 1, mass_HX.shape[1]
    across_X = np.empty(size, np.float32)
    margin_X = np.zeros(size + 2 * reach, np.float32)
    down_X = margin_X[reach : reach + size]
    for row in range(height):
        _scale(down_X, taps[0], mass_HX[row])
        for d in range(1, reach, 2):
            above, below = mass_HX[_mirrored(row - d, height)], mass_HX[_mirrored(row + d, height)]
            farther_above, farther_below = (
                mass_HX[_mirrored(row - d - 1, height)],
                mass_HX[_mirrored(row + d + 1, height)],
            )
            _add_taps(down_X, taps[d], above, below, taps[d + 1], farther_above, farther_below)
        for number in range(len(class_K)):
            first = number * (width + 2 * reach) + reach
            for d in range(reach):
                down_X[first - 1 - d] = down_X[first + _mirrored(d, width)]
                down_X[first + width + d] = down_X[first + _mirrored(width + d, width)]
        _scale(across_X, taps[0], down_X)
        for d in range(1, reach, 2):
            left, right = margin_X[reach - d :][:size], margin_X[reach + d :][:size]
            farther_left, farther_right = margin_X[reach - d - 1 :][:size], margin_X[reach + d + 1 :][:size]
            _add_taps(across_X, taps[d], left, right, taps[d + 1], farther_left, farther_right)
        for number, name in enumerate(class_K):
            first = number * (width + 2 * reach) + reach
            out_CHW[name, row] = across_X[first : first + width]


@numba.njit(inline="always")
def _mirrored(position: int, length: int) -> int:
    """... 1 0 | 0 1 2 ...: the pixel that stands for one beyond the edge."""
    position %= 2 * length
    return min(position, 2 * length - 1 - position)


@_compiled(fastmath=_ANY_ORDER)
def _scale(out_X: NDArray[np.float32], factor: float, values_X: NDArray[np.float32]) -> None:
    for x in range(out_X.size):
        out_X[x] = factor * values_X[x]


@_compiled(fastmath=_ANY_ORDER)
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
