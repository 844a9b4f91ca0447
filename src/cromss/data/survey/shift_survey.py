"""By how much the images and maps of a set lie off each other: a keyed sample of its places, measured.

In: the records of places. Out: for each kind of pair ("s2-s1": Sentinel-1 off Sentinel-2; "s2-labels": the map off the
image) the shift of each measured place, the median with its interval, the 95th percentile of the length,
and the one shift that all places show together, which may be measurable where no single place is.

    interval of a median of n: the order statistics n/2 -+ 0.98 sqrt(n), which hold it in at least 95 of 100 samples
    together: the maximum of the mean over places of s(d) / median s, see cromss.geo.shifts
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.survey.keyed_sample import KeyedSample, key_bound, sample_key
from cromss.errors import ConfigError
from cromss.geo.shifts import REACH_PX, Planes, Shift, class_planes, find_peak, image_planes, shift_surface

__all__ = ["ALARM_PX", "PlaceShift", "ShiftSurvey", "require_limit"]

ALARM_PX = 1.4
"""From this length on a place is said to be shifted: between what measuring errs by where nothing is shifted (up to
1.3 px in 55 places of benchmarks/shifts.py) and the 2 px that are to be found."""

_LARGEST_PX = 192  # of a place, its middle part of this side is measured; a part of 100 px shows most shifts already


def require_limit(limit: float | None) -> None:
    """Raise ConfigError for a largest shift that is less than measuring errs by, or more than is looked for."""
    if limit is not None and not ALARM_PX <= limit <= REACH_PX:
        raise ConfigError(
            "shifts can not be held to this limit",
            got=f"max_shift {limit:g}",
            expected=f"{ALARM_PX:g} to {REACH_PX} px: less is within the error of measuring, more is not looked for",
            do="give max_shift=3, or leave it out",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceShift:
    """One measurement. pair: as "s2-s1". surface: s(d), None where there was too little to compare."""

    pair: str
    id: str
    season: str
    shift: Shift
    surface: NDArray[np.float32] | None


@dataclass(kw_only=True)
class ShiftSurvey:
    """The measurements of a set, of at most `samples` seasons of places.

    seasons: how many the set has at least, so that the first ones are not measured in vain; 0 where that is not known.
    everything: measure all seasons, also those that the sample does not keep.
    """

    bands: Mapping[str, Sequence[str]]
    samples: int
    seasons: int = 0
    everything: bool = False
    found: dict[str, KeyedSample[PlaceShift]] = field(default_factory=dict)

    def part(self) -> ShiftSurvey:
        """An empty survey for one scene, to be merged into this one."""
        return dataclasses.replace(self, found={kind: sample.part() for kind, sample in self.found.items()})

    def add(self, record: PlaceRecord) -> list[PlaceShift]:
        """Measure the seasons of a place that are in the sample, or all; return what was measured."""
        measured = []
        kinds = _kinds(record)
        for index, season in enumerate(record.seasons):
            key = sample_key(f"{record.id}/{season}")
            wanted = [kind for kind in kinds if self.everything or self._sample(kind).wants(key)]
            if not wanted:
                continue
            planes = {role: self._planes(record, index, role) for role in {r for kind in wanted for r in kind}}
            for kind in wanted:
                surface = shift_surface(planes[kind[0]], planes[kind[1]], with_values=kind[1] == "labels")
                one = PlaceShift(
                    pair="-".join(kind), id=record.id, season=season, shift=find_peak(surface), surface=surface
                )
                self._sample(kind).add(key, one)
                measured.append(one)
        return measured

    def _sample(self, kind: tuple[str, str]) -> KeyedSample[PlaceShift]:
        return self.found.setdefault("-".join(kind), self._empty())

    def _empty(self) -> KeyedSample[PlaceShift]:
        return KeyedSample(size=self.samples, below=key_bound(self.samples, self.seasons))

    def _planes(self, record: PlaceRecord, season: int, role: str) -> Planes:
        middle = tuple(_middle(side) for side in record.valid.shape[1:])
        valid_HW = record.valid[season][middle]
        if role == "labels" and record.labels is not None:
            labels_HW = np.where(valid_HW, record.labels[season][middle], np.uint8(255))
            return class_planes(labels_HW)
        return image_planes(role, record.images[role][season][:, *middle], valid_HW, self.bands[role])

    def merge(self, other: ShiftSurvey) -> None:
        """Take over the measurements of another part of the set that are in the sample."""
        for kind, sample in other.found.items():
            self.found.setdefault(kind, self._empty()).merge(sample)

    def summary(self) -> dict[str, Any]:
        """Kind of pair -> its figures, JSON types, px down and right."""
        return {kind: _summarize(sample.things()) for kind, sample in sorted(self.found.items()) if sample.kept}

    def shifted_places(self) -> list[dict[str, Any]]:
        """The measured places that lie off by `ALARM_PX` or more, the farthest first."""
        rows = [
            _row(one)
            for _, sample in sorted(self.found.items())
            for one in sample.things()
            if one.shift.measurable and one.shift.length >= ALARM_PX
        ]
        return sorted(rows, key=lambda row: -row["length"])


def _kinds(record: PlaceRecord) -> list[tuple[str, str]]:
    """Which pairs a record holds: all else is compared with one image, with s2 where there is one, else with s1."""
    first = next((name for name in ("s2", "s1") if name in record.images), next(iter(record.images)))
    others = [name for name in record.images if name != first]
    return [(first, name) for name in others + ["labels"] * (record.labels is not None)]


def _middle(side: int) -> slice:
    start = max(0, side - _LARGEST_PX) // 2
    return slice(start, min(side, start + _LARGEST_PX))


def _row(one: PlaceShift) -> dict[str, Any]:
    shift = one.shift
    return {
        "pair": one.pair,
        "id": one.id,
        "season": one.season,
        "rows": round(shift.rows, 2),
        "columns": round(shift.columns, 2),
        "length": round(shift.length, 2),
        "confidence": round(shift.confidence, 1),
    }


def _summarize(measured: Sequence[PlaceShift]) -> dict[str, Any]:
    known = [one.shift for one in measured if one.shift.measurable]
    rows, columns, lengths = (
        np.array([getattr(shift, name) for shift in known]) for name in ("rows", "columns", "length")
    )
    together = _together(measured)
    return {
        "measured": len(measured),
        "measurable": len(known),
        "rows": _median(rows),
        "columns": _median(columns),
        "length_median": float(np.median(lengths)) if known else None,
        "length_percentile_95": float(np.percentile(lengths, 95)) if known else None,
        "shifted": int((lengths >= ALARM_PX).sum()),
        "together": {"rows": together.rows, "columns": together.columns, "confidence": together.confidence}
        if together.measurable
        else None,
        "places": [[round(shift.rows, 2), round(shift.columns, 2)] for shift in known],
    }


def _median(values: NDArray[np.float64]) -> dict[str, float | None]:
    """The median and its 95 % interval; no interval for fewer than six values, which can not hold it so often."""
    if not values.size:
        return {"median": None, "low": None, "high": None}
    ordered, count = np.sort(values), values.size
    reach = 0.98 * np.sqrt(count)
    low, high = int(np.floor(count / 2 - reach)), int(np.ceil(count / 2 + reach))
    enough = count >= 6
    return {
        "median": float(np.median(ordered)),
        "low": float(ordered[max(low, 1) - 1]) if enough else None,
        "high": float(ordered[min(high, count - 1)]) if enough else None,
    }


def _together(measured: Sequence[PlaceShift]) -> Shift:
    levels = [(one.surface, float(np.median(one.surface))) for one in measured if one.surface is not None]
    relative = [surface / level for surface, level in levels if level > 0]
    return find_peak(np.mean(relative, axis=0) if relative else None)
