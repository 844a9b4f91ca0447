"""What a data source hands on: one place, all its seasons, every array checked against the others.

In: arrays of one place as a source read them, in their native types. Out: a `PlaceRecord`, which the store writes.
A place is a spot on the ground; its seasons are acquisitions of that spot on one grid.

Shapes: T seasons, B bands, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.survey.value_counts import value_counts
from cromss.errors import ArgumentError
from cromss.geo.legend import IGNORE
from cromss.geo.raster import Grid

__all__ = ["SPLITS", "PlaceRecord"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceRecord:
    """One place with all its seasons.

    images: sensor -> (T, B, H, W) in the native type: s1 float32 dB, s2 uint16 DN (reflectance * 10000).
    products: sensor -> "GRD", "L1C" or "L2A".
    labels, truth: (T, H, W) uint8, 0..C-1 or 255 = ignored; None where there is none. `truth` is exact, `labels` may
        be wrong; of several annotators they are the first one's.
    further_labels: annotator -> (T, H, W) of those after the first that have labels here.
    clouds: (T, H, W) uint8, 1 cloud, 0 clear, 255 unknown; None where no mask says it. It is counted, not stored.
    probabilities: (T, C, H, W) uint8, levels of `soft_labels`, all 0 exactly where `labels` are 255; or None.
    further_probabilities: annotator -> likewise, beside its map in `further_labels`, for those that have them.
    valid: (T, H, W) bool, False where any sensor has no data. Values of `images` there mean nothing (s1 may be NaN).
    split: "train", "validation", "test", or "" where nothing was decided.
    notes: facts worth keeping, such as dates. Raises ArgumentError when the parts do not fit together.
    """

    id: str
    seasons: tuple[str, ...]
    images: Mapping[str, NDArray[Any]]
    products: Mapping[str, str]
    valid: NDArray[np.bool_]
    labels: NDArray[np.uint8] | None = None
    truth: NDArray[np.uint8] | None = None
    further_labels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    probabilities: NDArray[np.uint8] | None = None
    further_probabilities: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    clouds: NDArray[np.uint8] | None = None
    split: str = ""
    grid: Grid | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._require(bool(self.id) and "/" not in self.id, "an id must be a name without a slash", self.id)
        self._require(bool(self.seasons), "a place needs a season", self.seasons)
        self._require(len(set(self.seasons)) == len(self.seasons), "season names must differ", self.seasons)
        self._require(not any("/" in season or not season for season in self.seasons), "bad season name", self.seasons)
        self._require(self.split in ("", *SPLITS), "an unknown split", self.split)
        self._require(bool(self.images), "a place needs an image", "none")
        self._require(set(self.images) == set(self.products), "sensors differ between parts", "")
        self._require(
            self.valid.ndim == 3 and self.valid.dtype == bool, "valid must be (T, H, W) bool", self.valid.dtype
        )
        self._require(len(self.seasons) == self.valid.shape[0], "valid needs one layer a season", self.valid.shape)
        for sensor, image in self.images.items():
            seasons, height, width = self.valid.shape
            fits = image.ndim == 4 and image.shape[0] == seasons and image.shape[2:] == (height, width)
            self._require(fits, f"{sensor} must be ({seasons}, B, {height}, {width})", image.shape)
        layers = {**self.label_maps, "truth": self.truth, "clouds": self.clouds}
        for name, layer in layers.items():
            if layer is not None:
                self._require(layer.dtype == np.uint8, f"{name} must be uint8", layer.dtype)
                self._require(layer.shape == self.valid.shape, f"{name} must be {self.valid.shape}", layer.shape)
        for name, levels in self.soft_maps.items():
            self._require_probabilities(levels, self.label_maps.get(name))
        if self.grid is not None:
            self._require(
                self.grid.shape == self.valid.shape[1:], f"grid must be {self.valid.shape[1:]}", self.grid.shape
            )

    @property
    def label_maps(self) -> dict[str, NDArray[np.uint8]]:
        """Name of the layer -> (T, H, W) of each annotator that has labels here."""
        first = {} if self.labels is None else {"labels": self.labels}
        return first | {f"labels.{name}": layer for name, layer in self.further_labels.items()}

    @cached_property
    def label_counts(self) -> dict[str, dict[int, int]]:
        """Name of the layer of each annotator -> value -> pixels, of the values that occur."""
        return {name: value_counts(layer) for name, layer in self.label_maps.items()}

    @property
    def soft_maps(self) -> dict[str, NDArray[np.uint8]]:
        """Name of the layer of labels -> (T, C, H, W), the probabilities beside it."""
        first = {} if self.probabilities is None else {"labels": self.probabilities}
        return first | {f"labels.{name}": levels for name, levels in self.further_probabilities.items()}

    def _require_probabilities(self, level_TCHW: NDArray[np.uint8], labels: NDArray[np.uint8] | None) -> None:
        seasons, height, width = self.valid.shape
        fits = level_TCHW.ndim == 4 and level_TCHW.shape[0] == seasons and level_TCHW.shape[2:] == (height, width)
        self._require(fits, f"probabilities must be ({seasons}, C, {height}, {width})", level_TCHW.shape)
        self._require(level_TCHW.dtype == np.uint8, "probabilities must be uint8", level_TCHW.dtype)
        same = labels is not None and bool(((labels != IGNORE) == level_TCHW.any(axis=1)).all())
        self._require(same, "probabilities and labels must be at the same pixels", "differing pixels")

    def _require(self, condition: bool, what: str, got: object) -> None:
        if not condition:
            raise ArgumentError(f"a place record does not fit together: {what}", got=got, where=self.id)
