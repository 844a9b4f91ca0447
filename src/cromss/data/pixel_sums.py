"""Histogram, sum and sum of squares of each band of an image, in one pass over its pixels.

In: values (B, N) of any real type, and equal bins. Out: counts (B, K), sums and sums of squares (B,), in float64.
Values below the first or above the last bin count in it. As NumPy calls the same takes several passes and copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.compiled import compiled

__all__ = ["pixel_sums"]


@compiled()
def pixel_sums(
    values_BN: NDArray[Any], low: float, step: float, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Counts of the bins from `low` in steps of `step`, sums, sums of squares; values must be finite."""
    bands, pixels = values_BN.shape
    histogram_BK = np.zeros((bands, bins), np.int64)
    total_B, squares_B = np.zeros(bands), np.zeros(bands)
    for band in range(bands):
        total = squares = 0.0
        for pixel in range(pixels):
            value = np.float64(values_BN[band, pixel])
            total += value
            squares += value * value
            place = (value - low) / step
            histogram_BK[band, int(min(max(place, 0.0), bins - 1.0))] += 1
        total_B[band], squares_B[band] = total, squares
    return histogram_BK, total_B, squares_B
