"""What a set of scenes holds, found by reading all of it: the figures of the prepare report, and what must be refused.

In: a source. Out: a `Survey` a scene: ids, counts by split, or the error that makes it unusable.
Besides the errors of single scenes, a scene is refused when its files list other bands than most files of that product:
that is how a band that went missing in one file shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Scene, Source, Tally
from cromss.data.survey.annotator_counts import AnnotatorCounts
from cromss.data.survey.clouds import CloudCounts
from cromss.data.survey.set_statistics import SetStatistics
from cromss.data.survey.shift_survey import PlaceShift
from cromss.errors import BandError, DataError, GridError
from cromss.geo.legend import IGNORE, Legend

__all__ = ["Survey", "refusal", "refusal_row", "refuse_other_bands", "summarize", "survey_scene"]

_SHOWN = 20  # refusals printed in full


@dataclass(kw_only=True)
class Count:
    """Sums over the places of one split. labels: value -> pixels, of values that occur; pixels counts each season."""

    places: int = 0
    samples: int = 0
    pixels: int = 0
    no_data: int = 0
    with_truth: int = 0
    labels: Counter[int] = field(default_factory=Counter)

    def add(self, record: PlaceRecord) -> None:
        self.places += 1
        self.samples += len(record.seasons)
        self.pixels += record.valid.size
        self.no_data += int(record.valid.size - np.count_nonzero(record.valid))
        self.with_truth += record.truth is not None
        self.labels.update(record.label_counts.get("labels", {}))

    def merge(self, other: Count) -> None:
        for name in ("places", "samples", "pixels", "no_data", "with_truth"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.labels.update(other.labels)


@dataclass(kw_only=True)
class Survey:
    """One scene: its records, their sums by split, and the error if it can not be used.

    ids: those of its records, in their order.
    """

    scene: Scene
    tally: Tally = field(default_factory=Tally)
    ids: list[str] = field(default_factory=list)
    counts: dict[str, Count] = field(default_factory=dict)
    annotators: AnnotatorCounts = field(default_factory=AnnotatorCounts)
    clouds: CloudCounts = field(default_factory=CloudCounts)
    error: DataError | None = None

    @property
    def listing(self) -> frozenset[tuple[tuple[str, str], tuple[str, ...]]]:
        """The bands that the scene's files list: scenes alike in this are used or refused together."""
        return frozenset((key, bands) for key, listed in self.tally.listed.items() for bands in listed)


def survey_scene(
    source: Source, scene: Scene, statistics: SetStatistics, take: Callable[[PlaceRecord], object]
) -> Survey:
    """Read all of a scene, and hand on its records; what makes it unusable is kept, not raised.

    statistics: the scene is counted in them, too; of one with an error they mean nothing, nor do its records.
    """
    survey = Survey(scene=scene)
    try:
        for record in source.records(scene, survey.tally):
            survey.ids.append(record.id)
            survey.counts.setdefault(record.split, Count()).add(record)
            survey.annotators.add(record)
            survey.clouds.add(record, statistics.bands)
            _require_in_place(scene, record, statistics.add(record), statistics.max_shift)
            take(record)
    except DataError as error:
        survey.error = error
    return survey


def _require_in_place(scene: Scene, record: PlaceRecord, measured: Sequence[PlaceShift], limit: float | None) -> None:
    """Raise GridError where the content of two rasters of one place is measured to lie farther apart than the limit."""
    far = [one for one in measured if limit is not None and one.shift.measurable and one.shift.length > limit]
    if not far:
        return
    worst = max(far, key=lambda one: one.shift.length)
    first, second = worst.pair.split("-")
    shift, season = worst.shift, record.seasons.index(worst.season)
    files = [paths[min(season, len(paths) - 1)] for role in (second, first) if (paths := scene.files.get(role))]
    raise GridError(
        f"{second} shows the ground elsewhere than {first}, although their grids agree",
        got=f"{shift.rows:+.1f} rows and {shift.columns:+.1f} columns, so {shift.length:.1f} px, in {record.id}",
        expected=f"at most {limit:g} px (max_shift)",
        where="\n      and ".join(map(str, files)) or f"{record.id}, {worst.season}",
        do="register the place again, or leave it out with on_bad=skip; without max_shift it is only reported",
    )


def refuse_other_bands(surveys: Sequence[Survey], titles: Mapping[str, str]) -> list[Survey]:
    """Give an error to each scene with a file that lists other bands than most files of its sensor and product.

    titles: sensor -> its name for people. Returns the surveys that have an error now and had none.
    """
    refused = []
    usual: dict[tuple[str, str], Counter[tuple[str, ...]]] = {}
    for survey in surveys:
        for key, listed in survey.tally.listed.items():
            usual.setdefault(key, Counter()).update(listed.keys())
    for survey in surveys:
        for (sensor, product), listed in survey.tally.listed.items():
            (most, number), *_ = usual[sensor, product].most_common(1)
            for bands, path in listed.items():
                if bands != most and survey.error is None:
                    survey.error = BandError(
                        f"a {titles[sensor]} file lists other bands than the other {product} files of the set",
                        got=f"{len(bands)}: {', '.join(bands)}",
                        expected=f"{len(most)}: {', '.join(most)} (as in {number} scenes)",
                        where=path,
                        do="write the file again like the others, or prepare it as a set of its own",
                    )
                    refused.append(survey)
    return refused


def refusal(refused: Sequence[Survey], total: int) -> DataError:
    """One error for all scenes that can not be used: the only one, or the first twenty in full and the number."""
    errors = [survey.error for survey in refused if survey.error is not None]
    if len(errors) == 1:
        return errors[0]
    rows = [f"{survey.scene.id}: {survey.error}".replace("\n", "\n    ") for survey in refused[:_SHOWN]]
    more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
    return DataError(
        f"{len(refused)} of {total} scenes can not be used",
        got="\n    ".join(["", *rows, *more]),
        expected="no refusals",
        do="correct these files, or leave such scenes out with on_bad=skip (they are counted and listed)",
    )


def refusal_row(survey: Survey) -> dict[str, str]:
    """A refusal as JSON types."""
    error = survey.error
    if error is None:
        return {}
    parts = {"what": error.what, "got": error.got, "expected": error.expected, "where": error.where, "do": error.do}
    return {"id": survey.scene.id, "error": type(error).__name__} | {
        name: str(text) for name, text in parts.items() if text is not None
    }


def summarize(surveys: Iterable[Survey], legend: Legend) -> dict[str, Any]:
    """Counts of places, seasons and what was left out; shares of classes and no-data by split. JSON types."""
    surveys = list(surveys)
    splits: dict[str, Count] = {}
    left_out: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for survey in surveys:
        left_out.update(survey.tally.left_out)
        changed.update(survey.tally.changed)
        for split, count in survey.counts.items():
            splits.setdefault(split, Count()).merge(count)
    total = Count()
    for count in splits.values():
        total.merge(count)
    return {
        "scenes": len(surveys),
        "places": total.places,
        "samples": total.samples,
        "no_data_share": _share(total.no_data, total.pixels),
        "places_with_truth": total.with_truth,
        "splits": {split: _describe(splits[split], legend) for split in sorted(splits)},
        "patches_left_out": dict(sorted(left_out.items())),
        "changed": dict(sorted(changed.items())),
        "pixels_left_over": sum(survey.tally.pixels_left_over for survey in surveys),
        "labels_outside_split": sum(survey.tally.labels_outside_split for survey in surveys),
        "scenes_without_georeference": sum(not survey.tally.georeferenced for survey in surveys),
    }


def _describe(count: Count, legend: Legend) -> dict[str, Any]:
    labelled = count.labels.total() - count.labels[IGNORE]
    return {
        "places": count.places,
        "samples": count.samples,
        "pixels": count.pixels,
        "no_data_share": _share(count.no_data, count.pixels),
        "labelled_share": _share(labelled, count.pixels),
        "class_shares": {name: _share(count.labels[index], labelled) for index, name in enumerate(legend.names)},
    }


def _share(part: int, whole: int) -> float | None:
    """None where there is nothing to take a share of."""
    return part / whole if whole else None
