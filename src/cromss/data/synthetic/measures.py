"""How labels err: the figures by which synthetic noise is held against Dynamic World.

In: labels and truth (T, H, W) of many places. Out: error rate, persistence, change, precision and recall by class, and
how well the agreement of the seasons tells right labels from wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cromss.errors import ArgumentError

__all__ = ["LabelTally"]

Counts = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class LabelTally:
    """Counts over places, of which every figure is a ratio. `add` each place, then `figures`."""

    names: Sequence[str]
    confusion: Counts = field(init=False)  # rows truth, columns labels
    agreement: Counts = field(init=False)  # rows wrong or right, columns the number of other seasons that agree
    pairs: Counts = field(init=False)  # pixels wrong in one season, in both, of all ordered pairs of seasons
    pixels: int = 0
    changing: int = 0

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)
        self.agreement = np.zeros((2, 12), np.int64)
        self.pairs = np.zeros(2, np.int64)

    def add(self, labels: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> None:
        """Count one place, labels and truth (T, H, W) of 0..C-1."""
        if labels.shape != truth.shape:
            raise ArgumentError("labels and truth must have one shape", got=labels.shape, expected=truth.shape)
        size = len(self.names)
        self.confusion += np.bincount(truth.ravel() * np.int64(size) + labels.ravel(), minlength=size * size).reshape(
            size, size
        )
        self.changing += int((truth != truth[:1]).any(0).sum())
        self.pixels += truth[0].size
        wrong = labels != truth
        errors = wrong.sum(0)
        self.pairs += np.array([errors.sum() * (len(labels) - 1), (errors * (errors - 1)).sum()])
        for season, layer in enumerate(labels):
            agree = (labels == layer).sum(0) - 1
            self.agreement += np.bincount(
                12 * (~wrong[season]).astype(np.int64).ravel() + agree.ravel(), minlength=24
            ).reshape(2, 12)

    def figures(self) -> dict[str, object]:
        """The figures as plain numbers, each a share from 0 to 1; None where nothing was counted.

        persistence: of the pixels wrong in one season, how many are wrong in another one, on average over the others.
        agreement_auroc: chance that a right label has more agreeing seasons than a wrong one (ties count half).
        """
        right = np.diagonal(self.confusion)
        return {
            "error_rate": _share(self.confusion.sum() - right.sum(), self.confusion.sum()),
            "persistence": _share(self.pairs[1], self.pairs[0]),
            "changing": _share(self.changing, self.pixels),
            "agreement_auroc": _auroc(*self.agreement),
            "class_share": {
                n: _share(c, self.confusion.sum()) for n, c in zip(self.names, self.confusion.sum(1), strict=True)
            },
            "precision": {n: _share(r, c) for n, r, c in zip(self.names, right, self.confusion.sum(0), strict=True)},
            "recall": {n: _share(r, c) for n, r, c in zip(self.names, right, self.confusion.sum(1), strict=True)},
        }


def _share(part: int, whole: int) -> float | None:
    return round(float(part) / float(whole), 4) if whole else None


def _auroc(wrong: Counts, right: Counts) -> float | None:
    """Area under the curve from counts of wrong and right labels at each score."""
    pairs = int(wrong.sum()) * int(right.sum())
    below = np.cumsum(wrong) - wrong
    return round(float((right * (below + 0.5 * wrong)).sum()) / pairs, 4) if pairs else None
