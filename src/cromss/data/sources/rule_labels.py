"""Labels by spectral rules for places that have none: images alone become a set to pretrain on, offline.

In: a source without labels, opened with the bands that the rules look at besides those asked for. Out: the same
records, with the labels that `cromss labels rules` gives to each season's Sentinel-2 image.

Only the day and the place of an L1C image are needed besides: they say how high the sun stood.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.data.labelling.catalog import footprint
from cromss.data.labelling.soft import from_memberships
from cromss.data.labelling.spectral import BANDS, CLOUD, spectral_memberships, sun_zenith
from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Orphan, Scene, Source, Tally
from cromss.errors import ConfigError, MissingDataError
from cromss.geo.legend import Legend
from cromss.geo.legends import get_legend
from cromss.geo.remap import remap, remap_table

__all__ = ["RuleLabels", "with_bands_of_rules"]


def with_bands_of_rules(bands: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Sensor -> bands to read, so that the rules can be applied; those that nobody asked for are last.

    Raises ConfigError where there is no Sentinel-2.
    """
    if "s2" not in bands:
        raise ConfigError(
            "label_rules look at Sentinel-2, which this set leaves out",
            got=", ".join(bands),
            expected="s2",
            do="give s2, or leave label_rules out",
        )
    return {**bands, "s2": (*bands["s2"], *(band for band in BANDS if band not in bands["s2"]))}


class RuleLabels:
    """A source whose records get labels. kept: how many of its Sentinel-2 bands are handed on, the first ones.

    Raises ConfigError for a set that is split pixel by pixel: labels of one split would get into patches of another.
    """

    def __init__(self, source: Source, *, bands: Sequence[str], kept: int, legend: Legend) -> None:
        if any("split" in scene.files for scene in source.scenes):
            raise ConfigError(
                "label_rules and rasters of splits do not go together",
                got="a pattern of rasters as split",
                do="split by a table or by blocks, or write the labels with cromss labels rules and prepare with them",
            )
        self._source, self._bands, self._kept = source, tuple(bands), kept
        self._table = _table_to(legend)

    @property
    def sensors(self) -> tuple[str, ...]:
        return self._source.sensors

    @property
    def scenes(self) -> Sequence[Scene]:
        return self._source.scenes

    @property
    def orphans(self) -> Sequence[Orphan]:
        return self._source.orphans

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of a scene, with labels. Raises ConfigError where they have some, MissingDataError for no sun."""
        for record in self._source.records(scene, tally, only):
            if record.label_maps:
                raise ConfigError(
                    "label_rules are for images without labels",
                    got=f"{record.id} has labels",
                    do="leave label_rules out, or the labels of the files (labels=null)",
                )
            if tally is not None:
                tally.changed["s2 images labelled by spectral rules"] += len(record.seasons)
            labels = np.stack([self._labels(record, season) for season in range(len(record.seasons))])
            kept = np.ascontiguousarray(record.images["s2"][:, : self._kept])
            yield dataclasses.replace(record, labels=labels, images={**record.images, "s2": kept})

    def split(self, scene: Scene) -> str | None:
        return self._source.split(scene)

    def files(self, scene: Scene) -> Iterable[Path]:
        return self._source.files(scene)

    def _labels(self, record: PlaceRecord, season: int) -> NDArray[np.uint8]:
        product = record.products["s2"]
        sun = _sun(record, season) if product == "L1C" else None
        membership_KHW = spectral_memberships(record.images["s2"][season], self._bands, product, sun)
        labels_HW = from_memberships(membership_KHW, record.valid[season], CLOUD).labels_HW
        return labels_HW if self._table is None else remap(labels_HW, self._table)


def _table_to(legend: Legend) -> NDArray[np.uint8] | None:
    """From the classes of the rules to those of a legend; None where they are the same."""
    rules = get_legend("dynamic_world")
    if legend.name == rules.name:
        return None
    try:
        return remap_table(rules, legend)
    except ConfigError as error:
        do = "choose legend dynamic_world, or write the labels with cromss labels rules --remap FILE"
        raise ConfigError(error.what, got=error.got, expected=error.expected, do=do) from None


def _sun(record: PlaceRecord, season: int) -> float:
    """Degrees between sun and zenith over one season, by its day and the place's latitude."""
    days = record.notes.get("s2_date", "").split(",")
    text = days[season] if season < len(days) else ""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or record.grid is None or record.grid.crs is None:
        raise MissingDataError(
            "nothing says how high the sun stood over an L1C image",
            got=f"date {text or None}, CRS {record.grid and record.grid.crs}",
            expected="a day such as 2021-06-30 and a CRS",
            where=f"{record.id}/{record.seasons[season]}",
            do="set the tag DATE of the file, or label it with cromss labels rules --sun_zenith",
        )
    _, south, _, north = footprint(record.grid)
    return sun_zenith(day, (south + north) / 2)
