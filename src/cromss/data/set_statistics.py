"""What the pixels of a set show as a whole: bands, products, seasons, shifts, and a few places to look at.

In: the records of places, one at a time. Out: figures in JSON types, and places to draw.
Memory does not grow with the set: sums, histograms, and samples of a fixed number of places.

Scenes are refused one by one, some of them only when all have been read (their files list other bands than most). So
each scene is counted apart, and the sums of scenes whose files list the same bands are kept together: such scenes are
used or refused together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.band_statistics import BandCounts
from cromss.data.keyed_sample import KeyedSample, sample_key
from cromss.data.record import PlaceRecord
from cromss.data.season_changes import SeasonChanges
from cromss.data.shift_survey import PlaceShift, ShiftSurvey
from cromss.geo.legend import Legend

__all__ = ["Example", "SetStatistics", "StatisticsByListing"]

EXAMPLES = 6
"""Places drawn as examples; as many more of those that lie farthest off."""

_PICTURE_PX = 256
_PICTURE_BANDS = {"s1": ("VV", "VH"), "s2": ("B4", "B3", "B2")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """The middle part, at most 256 px, of one season of a place. images: sensor -> bands to draw, (B, H, W)."""

    id: str
    season: str
    split: str
    bands: Mapping[str, tuple[str, ...]]
    images: Mapping[str, NDArray[Any]]
    valid_HW: NDArray[np.bool_]
    labels_HW: NDArray[np.uint8] | None
    truth_HW: NDArray[np.uint8] | None
    shift: PlaceShift | None = None


@dataclass(kw_only=True)
class SetStatistics:
    """Sums and samples over the places of a set, or of a part of it."""

    bands: Mapping[str, tuple[str, ...]]
    legend: Legend
    shift_samples: int
    counts: dict[tuple[str, str], BandCounts] = field(default_factory=dict)
    changes: SeasonChanges = field(init=False)
    shifts: ShiftSurvey = field(init=False)
    examples: KeyedSample[Example] = field(default_factory=lambda: KeyedSample(size=EXAMPLES))
    farthest: KeyedSample[Example] = field(default_factory=lambda: KeyedSample(size=EXAMPLES))

    def __post_init__(self) -> None:
        self.changes = SeasonChanges(num_classes=self.legend.num_classes)
        self.shifts = ShiftSurvey(bands=self.bands, samples=self.shift_samples)

    @property
    def images(self) -> int:
        """How many images were counted."""
        return sum(counts.images for counts in self.counts.values())

    def part(self) -> SetStatistics:
        """Empty statistics for one scene, to be merged into these."""
        part = SetStatistics(bands=self.bands, legend=self.legend, shift_samples=self.shift_samples)
        part.shifts = self.shifts.part()
        part.examples, part.farthest = self.examples.part(), self.farthest.part()
        return part

    def add(self, record: PlaceRecord) -> None:
        """Count all seasons of a place."""
        for sensor, images in record.images.items():
            counts = self._counts(sensor, record.products[sensor])
            for season, image, valid in zip(record.seasons, images, record.valid, strict=True):
                counts.add(f"{record.id}/{season}", image, valid)
        if record.labels is not None:
            self.changes.add(record.labels)
        for one in self.shifts.add(record):
            key = -one.shift.length
            if one.shift.measurable and self.farthest.wants(key):
                self.farthest.add(key, self._example(record, record.seasons.index(one.season), one))
        for index, season in enumerate(record.seasons):
            key = sample_key(f"example {record.id}/{season}")
            if self.examples.wants(key):
                self.examples.add(key, self._example(record, index))

    def merge(self, other: SetStatistics) -> None:
        """Add another part of the set."""
        for (sensor, product), counts in other.counts.items():
            self._counts(sensor, product).merge(counts)
        self.changes.merge(other.changes)
        self.shifts.merge(other.shifts)
        self.examples.merge(other.examples)
        self.farthest.merge(other.farthest)

    def _counts(self, sensor: str, product: str) -> BandCounts:
        if (sensor, product) not in self.counts:
            self.counts[sensor, product] = BandCounts(sensor=sensor, product=product, bands=self.bands[sensor])
        return self.counts[sensor, product]

    def _example(self, record: PlaceRecord, season: int, shift: PlaceShift | None = None) -> Example:
        """Copies of what is drawn, so that the record can go."""
        middle = tuple(
            slice((side - min(side, _PICTURE_PX)) // 2, (side + min(side, _PICTURE_PX)) // 2)
            for side in record.valid.shape[1:]
        )
        bands = {
            sensor: tuple(name for name in _PICTURE_BANDS[sensor] if name in self.bands[sensor])
            for sensor in record.images
        }
        rows = {sensor: [self.bands[sensor].index(name) for name in names] for sensor, names in bands.items()}
        return Example(
            id=record.id,
            season=record.seasons[season],
            split=record.split,
            bands=bands,
            images={sensor: images[season][rows[sensor]][:, *middle] for sensor, images in record.images.items()},
            valid_HW=record.valid[season][middle].copy(),
            labels_HW=None if record.labels is None else record.labels[season][middle].copy(),
            truth_HW=None if record.truth is None else record.truth[season][middle].copy(),
            shift=shift,
        )

    def summary(self) -> dict[str, Any]:
        """The figures, JSON types."""
        return {
            "images": [counts.summary() for _, counts in sorted(self.counts.items()) if counts.pixels],
            "season_changes": self.changes.summary(self.legend),
            "shifts": self.shifts.summary(),
            "shifted_places": self.shifts.shifted_places(),
        }


@dataclass(kw_only=True)
class StatisticsByListing:
    """Statistics of scenes, kept apart by the bands that their files list."""

    empty: SetStatistics
    sets: dict[Hashable, SetStatistics] = field(default_factory=dict)

    def part(self) -> SetStatistics:
        """Empty statistics for the next scene.

        What the samples of the largest set would not keep is not computed: should that set be refused in the end, the
        samples of the others are a little smaller, and as fair.
        """
        return max(self.sets.values(), key=lambda one: one.images, default=self.empty).part()

    def add(self, listing: Hashable, part: SetStatistics) -> None:
        """Add a scene without errors."""
        self.sets.setdefault(listing, self.empty.part()).merge(part)

    def of(self, listings: Iterable[Hashable]) -> SetStatistics:
        """The statistics of all scenes with these listings."""
        whole = self.empty.part()
        for listing in dict.fromkeys(listings):
            whole.merge(self.sets[listing])
        return whole
