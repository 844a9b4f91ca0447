"""How often the label of a pixel differs between the seasons of its place: a hint at wrong labels, not a proof.

In: the labels of places with several seasons. Out: a matrix of pixel pairs, and for each class the share that changes.
Land changes little within a year, so much of what differs is error; crops, snow and floods change in truth.

    n(c, k) = pairs of seasons (each unordered pair once, both ways) where a pixel is c in one and k in the other
    changing share of c = 1 - n(c, c) / sum_k n(c, k)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.geo.legend import IGNORE, Legend

__all__ = ["SeasonChanges"]


@dataclass(kw_only=True)
class SeasonChanges:
    """Sums over places. pairs_CC: symmetric; a pixel labelled in one season alone does not count."""

    num_classes: int
    places: int = 0
    pairs_CC: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs_CC = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, labels_THW: NDArray[np.uint8]) -> None:
        """Compare all seasons of one place, 0..C-1 or 255."""
        if len(labels_THW) < 2:
            return
        self.places += 1
        for first, second in itertools.combinations(labels_THW, 2):
            both = (first != IGNORE) & (second != IGNORE)
            joint = first[both].astype(np.intp) * self.num_classes + second[both]
            counts_CC = np.bincount(joint, minlength=self.num_classes**2).reshape(self.pairs_CC.shape)
            self.pairs_CC += counts_CC + counts_CC.T

    def merge(self, other: SeasonChanges) -> None:
        """Add the sums of another part of the set."""
        self.places += other.places
        self.pairs_CC += other.pairs_CC

    def summary(self, legend: Legend) -> dict[str, Any] | None:
        """JSON types: the changing share of each class and the class it changes to most; None without such places."""
        total = int(self.pairs_CC.sum())
        if not total:
            return None
        return {
            "places": self.places,
            "changing_share": 1 - int(self.pairs_CC.trace()) / total,
            "classes": {name: self._of_class(index, legend) for index, name in enumerate(legend.names)},
        }

    def _of_class(self, index: int, legend: Legend) -> dict[str, Any]:
        row_C = self.pairs_CC[index].copy()
        total, row_C[index] = int(row_C.sum()), 0
        changed = int(row_C.sum())
        return {
            "changing_share": changed / total if total else None,
            "mostly_to": legend.names[int(row_C.argmax())] if changed else None,
        }
