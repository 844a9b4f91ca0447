"""Pixels brought from one spacing to another over the same ground: cubic for measurements, nearest for classes.

In: one band, or one map of classes, that covers a square of ground. Out: the same ground in another number of pixels.
Both take the two arrays to share their outer edges, so a pixel of 20 m covers just four of 10 m.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["resample_cubic", "resample_nearest"]


def resample_cubic(values_HW: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Cubic convolution (a = -1/2) to `shape`, in the same type; whole numbers that are not below 0 stay so.

    The kernel is that of Keys (1981), which the SSL4EO-S12 authors resize with.
    """
    height, width = shape
    image = Image.fromarray(np.ascontiguousarray(values_HW, np.float32))
    resampled = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if np.issubdtype(values_HW.dtype, np.integer):
        limits = np.iinfo(values_HW.dtype)
        least = min(0, int(values_HW.min()))
        resampled = np.rint(resampled).clip(least, limits.max)
    result: NDArray[Any] = resampled.astype(values_HW.dtype)
    return result


def resample_nearest(values_HW: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The nearest pixel's value, by pixel centres; no value appears that the input does not hold."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, values_HW.shape, strict=True)
    )
    result: NDArray[Any] = values_HW[rows[:, None], columns[None, :]]
    return result
