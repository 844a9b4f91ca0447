"""The label prior of a training window: which labels it is made of, and the prior made of them.

In: the label maps of all seasons (and annotators) of a place (T, H, W), or the levels of its class probabilities
(T, C, H, W), and a geometry. Out: the part that the prior of its window depends on, mirrored at the edges of the place
and turned like the images, (T, h + 2 m, w + 2 m) or (T, C, h + 2 m, w + 2 m); and the prior of it.

m is the reach of the Gaussian, so that the border of a crop sees its true surroundings: the result is the prior of the
whole place, cut out. It is the same wherever it is made: by the worker that reads the labels, or on the device that
trains, which then receives T (or T C) bytes a pixel in place of 4 C.

Legend of shapes: B batch, T seasons, C classes, H and W the place, h and w the window, m margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cromss.data.augment import Geometry
from cromss.data.soft_labels import ONE
from cromss.errors import ArgumentError
from cromss.geo.legend import IGNORE
from cromss.method.smoothing import PRIORS, label_prior, prior_reach

__all__ = ["PriorMaker", "shares_of"]


@dataclass(frozen=True, kw_only=True)
class PriorMaker:
    """How priors are made. kind: "ts", "t" or "s"; sigma in pixels; truncate in sigmas. Raises ArgumentError."""

    num_classes: int
    kind: str = "ts"
    sigma: float = 3.0
    truncate: float = 4.0

    def __post_init__(self) -> None:
        if self.kind not in PRIORS:
            raise ArgumentError("unknown label prior", got=self.kind, expected=[*PRIORS, None])

    @property
    def margin(self) -> int:
        """Pixels that the Gaussian reaches."""
        return prior_reach(self.sigma, self.truncate)

    def window(self, labels_THW: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        """The labels (T, [C,] H, W) that the prior of a window depends on, (T, [C,] h + 2 m, w + 2 m), contiguous."""
        margin, (height, width) = self.margin, labels_THW.shape[-2:]
        rows = _mirrored(geometry.top - margin, geometry.top + geometry.height + margin, height)
        left, right = geometry.left - margin, geometry.left + geometry.width + margin
        first, last = max(0, left), min(width, right)  # the columns within the place, copied at once
        tall = labels_THW.take(rows, axis=-2)
        window = np.empty((*tall.shape[:-1], right - left), tall.dtype)
        window[..., first - left : last - left] = tall[..., first:last]
        window[..., : first - left] = tall[..., _mirrored(left, first, width)]
        window[..., last - left :] = tall[..., _mirrored(last, right, width)]
        return geometry.turn(window)

    def prior(self, window_BTHW: Tensor, season_B: Tensor) -> Tensor:
        """The prior (B, C, h, w) of windows as `window` gives them, and of the entry of T that was drawn for each."""
        known = shares_of(window_BTHW) if window_BTHW.ndim == 5 else window_BTHW
        return label_prior(
            known, season_B, self.num_classes, self.kind, self.sigma, self.truncate, IGNORE, surrounded=True
        )

    def prior_of_one(self, window_THW: NDArray[Any], season: int) -> Tensor:
        """The prior (C, h, w) of one window."""
        return self.prior(torch.from_numpy(window_THW)[None], torch.tensor([season]))[0]


def shares_of(levels: Tensor) -> Tensor:
    """Probabilities, float32 in 0..1, of levels as a store keeps them."""
    return levels.float().div_(ONE)


def _mirrored(start: int, stop: int, size: int) -> NDArray[np.int64]:
    """Which of `size` pixels each place shows, edges mirrored with the edge pixel repeated: 1 0 | 0 1 2 ... | ..."""
    position = np.arange(start, stop) % (2 * size)
    return np.minimum(position, 2 * size - 1 - position)
