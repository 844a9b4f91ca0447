"""Histogram, sum and sum of squares of each band of an image, in one pass over its pixels.

In: values (B, N) of any real type, and equal bins. Out: counts (B, K), sums and sums of squares (B,), in float64.
Values below the first or above the last bin count in it. As NumPy calls the same takes several passes and copies.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.compiled import compiled

__all__ = ["pixel_sums"]

Sums = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def pixel_sums(values_BN: NDArray[Any], low: float, step: float, bins: int) -> Sums:
    """Counts of the bins from `low` in steps of `step`, sums, sums of squares; values must be finite."""
    if values_BN.dtype in (np.uint8, np.uint16):
        return _whole_sums(values_BN, _bins_of(values_BN.dtype, low, step, bins), bins)  # type: ignore[no-any-return]
    return _real_sums(values_BN, low, step, bins)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=16)
def _bins_of(kind: np.dtype[Any], low: float, step: float, bins: int) -> NDArray[np.uint16]:
    """The bin of every value that an unsigned type has."""
    place_V = (np.arange(np.iinfo(kind).max + 1) - low) / step
    return place_V.clip(0, bins - 1).astype(np.uint16)


@compiled()
def _whole_sums(values_BN: NDArray[Any], bin_of_V: NDArray[np.uint16], bins: int) -> Sums:
    """Sums of whole numbers below 2^16, exact up to 2^32 pixels; bins from a table.

    Four histograms take turns: neighbours are mostly in one bin, and each count would wait for the one before.
    """
    bands, pixels = values_BN.shape
    histogram_BK = np.zeros((bands, bins), np.int64)
    total_B, squares_B = np.zeros(bands), np.zeros(bands)
    for band in range(bands):
        total = squares = np.uint64(0)
        for pixel in range(pixels):
            value = np.uint64(values_BN[band, pixel])
            total += value
            squares += value * value
        total_B[band], squares_B[band] = total, squares
        turns_4K = np.zeros((4, bins), np.int64)
        rest = pixels % 4
        for pixel in range(0, pixels - rest, 4):
            turns_4K[0, bin_of_V[values_BN[band, pixel]]] += 1
            turns_4K[1, bin_of_V[values_BN[band, pixel + 1]]] += 1
            turns_4K[2, bin_of_V[values_BN[band, pixel + 2]]] += 1
            turns_4K[3, bin_of_V[values_BN[band, pixel + 3]]] += 1
        for pixel in range(pixels - rest, pixels):
            turns_4K[0, bin_of_V[values_BN[band, pixel]]] += 1
        histogram_BK[band] = turns_4K.sum(axis=0)
    return histogram_BK, total_B, squares_B


@compiled()
def _real_sums(values_BN: NDArray[Any], low: float, step: float, bins: int) -> Sums:
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
