"""Overlapping windows over a scene, blended without seams, in the memory of one strip.

In: a function that reads rows of the scene, and one that turns windows into class probabilities.
Out: the scene's probabilities from top to bottom, in strips that are final.

    p(y, x) = sum_i u_i(y) v_i(x) p_i(y, x),    u_i(y) = b(y - top_i) / sum_j b(y - top_j),    v_i(x) alike
    b(k) = sin^2(pi (k + 1/2) / n)    for k = 0..n-1 in a window of n rows or columns

The raised cosines b are divided by their sum beforehand, so the weights add up to 1 at every pixel, and a pixel that
only one window covers keeps that window's value bit for bit. Nothing here knows about files or networks.

Shapes: B bands, C classes, H x W rows and columns of the scene, h x w of a window, N windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Strip", "blend_weights", "blended_strips", "count_windows", "window_starts"]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Part of a scene: each sensor's values (B, rows, columns) as stored, and where all of them are valid."""

    images: dict[str, NDArray[np.generic]]
    valid: NDArray[np.bool_]

    def crop(self, left: int, width: int) -> Strip:
        columns = slice(left, left + width)
        images = {sensor: values[..., columns] for sensor, values in self.images.items()}
        return Strip(images=images, valid=self.valid[..., columns])

    def advance(self, rows: int, below: Strip) -> Strip:
        """The strip `rows` further down, `below` being the rows that come in."""
        images = {
            sensor: np.concatenate([values[:, rows:], below.images[sensor]], axis=1)
            for sensor, values in self.images.items()
        }
        return Strip(images=images, valid=np.concatenate([self.valid[rows:], below.valid]))


def window_starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """First pixels of the windows along one axis: evenly spread, flush at both ends, at least `overlap` shared."""
    if length <= window:
        return (0,)
    stride = max(1, int(window * (1 - overlap)))
    gaps = math.ceil((length - window) / stride)
    return tuple(index * (length - window) // gaps for index in range(gaps + 1))


def blend_weights(length: int, window: int, starts: Sequence[int]) -> NDArray[np.float32]:
    """One row of weights a window along one axis, (windows, min(window, length)); at each pixel they add up to 1."""
    size = min(window, length)
    bell = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += bell
    return np.stack([bell / total[start : start + size] for start in starts]).astype(np.float32)


def count_windows(height: int, width: int, window: int, overlap: float) -> int:
    """How many windows `blended_strips` visits."""
    return len(window_starts(height, window, overlap)) * len(window_starts(width, window, overlap))


def blended_strips(
    read: Callable[[int, int], Strip],
    classify: Callable[[list[Strip]], NDArray[np.float32]],
    *,
    height: int,
    width: int,
    num_classes: int,
    window: int,
    overlap: float,
    batch_size: int,
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield (first row, probabilities (C, rows, W), valid (rows, W)) from top to bottom, each row once.

    `read(top, bottom)` is asked for each row of the scene once, in order. `classify` gets equally large windows and
    gives (N, C, h, w); windows without a valid pixel are not shown to it, and their part stays 0. The yielded
    arrays are views that hold until the next step. Memory: one strip of `window` rows of the images and of C float32.
    """
    tops, lefts = window_starts(height, window, overlap), window_starts(width, window, overlap)
    weights_down, weights_across = blend_weights(height, window, tops), blend_weights(width, window, lefts)
    rows, columns = weights_down.shape[1], weights_across.shape[1]
    strip = read(0, rows)
    total_CHW = np.zeros((num_classes, rows, width), np.float32)
    for index, top in enumerate(tops):
        windows = [(place, strip.crop(left, columns)) for place, left in enumerate(lefts)]
        windows = [(place, crop) for place, crop in windows if crop.valid.any()]
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            for (place, _), probability_CHW in zip(batch, classify([crop for _, crop in batch]), strict=True):
                weight_HW = weights_down[index][:, None] * weights_across[place]
                total_CHW[:, :, lefts[place] : lefts[place] + columns] += weight_HW * probability_CHW
        following = tops[index + 1] if index + 1 < len(tops) else height
        done = following - top
        yield top, total_CHW[:, :done], strip.valid[:done]
        if following < height:
            strip = strip.advance(done, read(top + rows, following + rows))
            total_CHW[:, : rows - done] = total_CHW[:, done:]
            total_CHW[:, rows - done :] = 0
