"""What was labelled, in sums that add up over images, however many processes made them and in how many runs.

In: a `LabelMap`, or the files of one that an interrupted run has written. Out: a `Tally`, the same of both: the notes
of a map are kept in the tag NOTES of its labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.data.labelling.soft import LabelMap
from cromss.errors import DamagedFileError
from cromss.geo.legend import IGNORE
from cromss.geo.raster import open_raster, read_raster

__all__ = ["NOTES", "Tally", "tally_files", "tally_map"]

NOTES = "NOTES"
"""The tag of a label map that holds its notes, as JSON."""


@dataclass(kw_only=True)
class Tally:
    """Sums over images. pixels: of each label 0..255; percent: the sum of confidences; sure: pixels with one."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    percent: int = 0
    sure: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Tally) -> None:
        """Add the sums of other images."""
        self.pixels += other.pixels
        self.percent += other.percent
        self.sure += other.sure
        self.notes.update(other.notes)


def tally_map(labelled: LabelMap) -> Tally:
    """The sums of one image."""
    return _tally(labelled.labels_HW, labelled.confidence_HW, labelled.notes)


def tally_files(paths: Mapping[str, Path]) -> Tally:
    """The sums of one image from its files, by kind. Raises DamagedFileError for files of another origin."""
    with open_raster(paths["labels"]) as dataset:
        text = dataset.tags().get(NOTES, "")
    try:
        notes = Counter({str(name): int(count) for name, count in json.loads(text).items()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DamagedFileError(
            "a label map is there that this command did not write",
            got=f"tag {NOTES} {text!r}",
            where=paths["labels"],
            do="delete that file, or choose another out",
        ) from None
    confidence = read_raster(paths["confidence"]).values_BHW[0] if paths["confidence"].exists() else None
    return _tally(read_raster(paths["labels"]).values_BHW[0], confidence, notes)


def _tally(labels_HW: NDArray[np.uint8], confidence_HW: NDArray[np.uint8] | None, notes: Counter[str]) -> Tally:
    tally = Tally(pixels=np.bincount(labels_HW.ravel(), minlength=256), notes=Counter(notes))
    if confidence_HW is not None:
        known = confidence_HW[confidence_HW != IGNORE]
        tally.percent, tally.sure = int(known.sum(dtype=np.int64)), known.size
    return tally
