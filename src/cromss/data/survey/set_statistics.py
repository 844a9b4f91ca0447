"""What the pixels of a set show as a whole: bands, products, seasons, shifts, and a few places to look at.

In: the records of places, one at a time. Out: figures in JSON types, and places to draw.
Memory does not grow with the set: sums, histograms, and samples of a fixed number of places.

Scenes are refused one by one, some of them only when all have been read (their files list other bands than most). So
each scene is counted apart, and the sums of scenes whose files list the same bands are kept together: such scenes are
used or refused together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.survey.band_moments import BandMoments
from cromss.data.survey.band_statistics import BandCounts
from cromss.data.survey.keyed_sample import KeyedSample, sample_key
from cromss.data.survey.season_changes import SeasonChanges
from cromss.data.survey.shift_survey import PlaceShift, ShiftSurvey
from cromss.errors import RangeError
from cromss.geo.legend import Legend
from cromss.geo.sensor import SENSORS, Sensor

__all__ = ["Example", "SetStatistics", "StatisticsByListing", "picture_bands"]

EXAMPLES = 6
"""Places drawn as examples; as many more of those that lie farthest off."""

_PICTURE_PX = 256
_PICTURE_BANDS = {"s1": ("VV", "VH"), "s2": ("B4", "B3", "B2")}


def picture_bands(sensor: str, bands: Sequence[str]) -> tuple[str, ...]:
    """The bands of a sensor that a picture shows: the usual ones of s1 and s2, else the first three, or the first."""
    usual = _PICTURE_BANDS.get(sensor, ())
    return usual if usual and set(usual) <= set(bands) else tuple(bands[:3] if len(bands) >= 3 else bands[:1])


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
    """Sums and samples over the places of a set, or of a part of it.

    seasons: of all places, at least. max_shift: the limit that places are held to, px, so that all are measured; None
    measures a sample. definitions: what each sensor measures. training: moments of the training split,
    of sensors that are neither s1 nor s2 and have no statistics yet.
    """

    bands: Mapping[str, tuple[str, ...]]
    legend: Legend
    shift_samples: int
    seasons: int = 0
    max_shift: float | None = None
    definitions: Mapping[str, Sensor] = field(default_factory=lambda: SENSORS)
    training: dict[str, BandMoments] = field(default_factory=dict)
    counts: dict[tuple[str, str], BandCounts] = field(default_factory=dict)
    changes: SeasonChanges = field(init=False)
    shifts: ShiftSurvey = field(init=False)
    examples: KeyedSample[Example] = field(default_factory=lambda: KeyedSample(size=EXAMPLES))
    farthest: KeyedSample[Example] = field(default_factory=lambda: KeyedSample(size=EXAMPLES))

    def __post_init__(self) -> None:
        self.changes = SeasonChanges(num_classes=self.legend.num_classes)
        self.shifts = ShiftSurvey(
            bands=self.bands,
            samples=self.shift_samples,
            seasons=self.seasons,
            everything=self.max_shift is not None,
        )

    @property
    def images(self) -> int:
        """How many images were counted."""
        return sum(counts.images for counts in self.counts.values())

    def part(self) -> SetStatistics:
        """Empty statistics for one scene, of which a season is a file, to be merged into these."""
        part = dataclasses.replace(
            self, training={}, counts={}, examples=self.examples.part(), farthest=self.farthest.part()
        )
        part.shifts = self.shifts.part()
        return part

    def add(self, record: PlaceRecord) -> list[PlaceShift]:
        """Count all seasons of a place; return the shifts that were measured."""
        for sensor, images in record.images.items():
            counts = self._counts(sensor, record.products[sensor])
            for season, image, valid in zip(record.seasons, images, record.valid, strict=True):
                counts.add(f"{record.id}/{season}", image, valid, file=season)
                if record.split == "train" and not self.definitions[sensor].statistics:
                    self._moments(sensor).add(image, valid)
        if record.labels is not None:
            self.changes.add(record.labels)
        measured = self.shifts.add(record)
        for one in measured:
            key = -one.shift.length
            if one.shift.measurable and self.farthest.wants(key):
                self.farthest.add(key, self._example(record, record.seasons.index(one.season), one))
        for index, season in enumerate(record.seasons):
            key = sample_key(f"example {record.id}/{season}")
            if self.examples.wants(key):
                self.examples.add(key, self._example(record, index))
        return measured

    def merge(self, other: SetStatistics) -> None:
        """Add another part of the set."""
        for (sensor, product), counts in other.counts.items():
            self._counts(sensor, product).merge(counts)
        for sensor, moments in other.training.items():
            self._moments(sensor).merge(moments)
        self.changes.merge(other.changes)
        self.shifts.merge(other.shifts)
        self.examples.merge(other.examples)
        self.farthest.merge(other.farthest)

    def _counts(self, sensor: str, product: str) -> BandCounts:
        if (sensor, product) not in self.counts:
            known = self.definitions[sensor]
            self.counts[sensor, product] = BandCounts(sensor=known, product=product, bands=self.bands[sensor])
        return self.counts[sensor, product]

    def _moments(self, sensor: str) -> BandMoments:
        return self.training.setdefault(sensor, BandMoments(bands=self.bands[sensor]))

    def scaling(self) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
        """Sensor -> product -> band -> (mean, std): what sensors other than s1 and s2 are scaled with, as given, or as
        measured over the training split; a sensor that no training pixel shows is absent.

        Raises RangeError for a band that is the same everywhere: nothing can be learnt from it, nor can it be scaled.
        """
        found = {}
        for sensor in self.bands:
            known = self.definitions[sensor]
            if sensor in SENSORS or not (known.statistics or sensor in self.training):
                continue
            tables = known.statistics or dict.fromkeys(known.products, self.training[sensor].table())
            flat = [band for table in tables.values() for band, (_, std) in table.items() if not std > 0]
            if flat:
                raise RangeError(
                    f"bands of {known.title} have one value in all of the training split",
                    got=", ".join(flat),
                    expected="values that differ",
                    do=f"leave these bands out with keep, or give mean and std of {sensor} in the section sensors",
                )
            found[sensor] = {product: dict(table) for product, table in tables.items()}
        return found

    def _example(self, record: PlaceRecord, season: int, shift: PlaceShift | None = None) -> Example:
        """Copies of what is drawn, so that the record can go."""
        middle = tuple(
            slice((side - min(side, _PICTURE_PX)) // 2, (side + min(side, _PICTURE_PX)) // 2)
            for side in record.valid.shape[1:]
        )
        bands = {sensor: picture_bands(sensor, self.bands[sensor]) for sensor in record.images}
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
            "scaling": self.scaling(),
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
        if listing not in self.sets:
            self.sets[listing] = self.empty.part()
        self.sets[listing].merge(part)

    def merge(self, other: StatisticsByListing) -> None:
        """Add the statistics of further scenes."""
        for listing, part in other.sets.items():
            self.add(listing, part)

    def of(self, listings: Iterable[Hashable]) -> SetStatistics:
        """The statistics of all scenes with these listings."""
        whole = self.empty.part()
        for listing in dict.fromkeys(listings):
            whole.merge(self.sets[listing])
        return whole
