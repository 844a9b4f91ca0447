"""SSL4EO-S12 v1.1: places with four seasons, images and places registered anew, in shards of either edition.

In: `{train,val}/{S1GRD,S2L1C,S2L2A}/<shard>`, the shards of one edition: tar files (`ssl4eo_v11_tar`), as the data set
is published today, or zipped Zarr (`ssl4eo_v11_zarr`), as it was before. Names tell which; both in one root is refused.
Out: a `PlaceRecord` a sample; folder val is the published validation split.

The sensors of a sample stand in shards of the same name, and are paired by the id of the sample; what has no partner is
an orphan. Their grids may be half a pixel apart, and their days 60: seasons lie about 90 days apart, so more would be
images of different seasons. Scenes come shard by shard.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.data.sources.ssl4eo_v11_sample import SPLITS, TIMES, Edition, SensorImage, Shard
from cromss.data.sources.ssl4eo_v11_tar import TAR_EDITION
from cromss.data.sources.ssl4eo_v11_zarr import ZARR_EDITION
from cromss.data.sources.usable import require_usable
from cromss.data.survey.clouds import CloudValues
from cromss.errors import DamagedFileError, DataError, MissingDataError
from cromss.geo.bands import require_product_bands
from cromss.geo.raster import require_same_grid

__all__ = ["MODALITIES", "Ssl4eoS12V11"]

MODALITIES: Mapping[str, str] = {"GRD": "S1GRD", "L1C": "S2L1C", "L2A": "S2L2A"}

_EDITIONS = (ZARR_EDITION, TAR_EDITION)
_TOLERANCE_PX = 0.5
_MAX_DAYS = 60


class Ssl4eoS12V11:
    """Reads places of SSL4EO-S12 v1.1.

    bands: sensor -> the bands to keep, by name. product: of s2, L1C or L2A. train_split: place -> split of a place in
    the folder train. clouds: what the values of the masks of clouds mean; None leaves the masks alone.
    Raises MissingDataError for a root without the layout, DataError for one with both editions, DamagedFileError for
    shards that are not whole, ConfigError without the package zarr, BandError for bands that the product does not have.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        bands: Mapping[str, Sequence[str]],
        product: str = "L1C",
        train_split: Callable[[str], str] | None = None,
        clouds: CloudValues | None = None,
    ) -> None:
        self.sensors, self._clouds = tuple(bands), clouds
        self._root, self._bands, self._train_split = Path(root), bands, train_split
        self._products = {sensor: "GRD" if sensor == "s1" else product for sensor in bands}
        for sensor, names in bands.items():
            require_product_bands(sensor, self._products[sensor], names)
        self._edition = _edition(self._root)
        self._open: dict[str, Shard] = {}
        self._folders: dict[str, str] = {}
        self.scenes: list[Scene] = []
        self.orphans: list[Orphan] = []
        for folder in SPLITS:
            self._find(folder)
        if not self.scenes:
            raise MissingDataError(
                "no sample of SSL4EO-S12 v1.1 is there in all sensors",
                got=f"{len(self.orphans)} samples without partners",
                expected="the same shards in " + ", ".join(MODALITIES[p] for p in self._products.values()),
                where=self._root,
                do="fetch the other folders, or leave a sensor out (s1 or s2 null)",
            )

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of a sample. Raises DataError of the fitting kind for anything that makes it unusable."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        found = {
            sensor: self._shard(sensor, scene).read(scene.id, self._bands[sensor], tally) for sensor in self.sensors
        }
        first, last = found[self.sensors[0]], found[self.sensors[-1]]
        require_same_grid(first.grid, last.grid, first.where, last.where, _TOLERANCE_PX)
        _require_same_place(first, last)
        valid = np.logical_and.reduce([image.valid for image in found.values()])
        require_usable(valid, valid, [first.where] * TIMES, ())
        yield PlaceRecord(
            id=scene.id,
            seasons=scene.seasons,
            images={sensor: image.image for sensor, image in found.items()},
            products=self._products,
            valid=valid,
            split=self.split(scene),
            grid=first.grid,
            notes=_notes(found),
            clouds=self._cover(scene),
        )

    def _cover(self, scene: Scene) -> NDArray[np.uint8] | None:
        """What the masks of a sample say of clouds (T, H, W). Raises MissingDataError, GridError, RangeError."""
        if self._clouds is None:
            return None
        shard = self._shard("s2", scene)
        values_THW = shard.clouds(scene.id)
        return self._clouds.cover(values_THW, np.zeros(values_THW.shape, bool), f"{shard.path}, sample {scene.id}")

    def split(self, scene: Scene) -> str:
        """The published split; the training places may be parted further."""
        published = SPLITS[self._folders[scene.id]]
        return self._train_split(scene.id) if published == "train" and self._train_split else published

    def files(self, scene: Scene) -> Iterator[Path]:
        """The shards of a sample."""
        return (scene.files[sensor][0] for sensor in self.sensors)

    def _find(self, folder: str) -> None:
        """Note the scenes of one folder of splits, and what has no partner."""
        shards = {
            sensor: {path.name: path for path in self._listed(folder, MODALITIES[product])}
            for sensor, product in self._products.items()
        }
        for name in sorted(set().union(*shards.values())):
            there = {sensor: shards[sensor][name] for sensor in self.sensors if name in shards[sensor]}
            samples = {sensor: frozenset(self._edition.samples(path)) for sensor, path in there.items()}
            for place in sorted(frozenset().union(*samples.values())):
                missing = tuple(s for s in self.sensors if place not in samples.get(s, ()))
                if missing:
                    paths = tuple(str(path) for sensor, path in there.items() if place in samples[sensor])
                    self.orphans.append(Orphan(id=place, season=None, missing=missing, found=paths))
                else:
                    self._add(place, folder, there)

    def _listed(self, folder: str, modality: str) -> list[Path]:
        """The shards of one folder. Raises DamagedFileError for one of another name."""
        paths = sorted((self._root / folder / modality).glob(f"*{self._edition.ending}"))
        for path in paths:
            match = self._edition.pattern.fullmatch(path.name)
            if match is None or match.groupdict().get("split", folder) != folder:
                raise DamagedFileError(
                    "a shard is not named as the layout says",
                    got=path.name,
                    expected=f"names like {self._edition.example.format(split=folder)}",
                    where=path,
                    do="put files of other data sets elsewhere",
                )
        return paths

    def _add(self, place: str, folder: str, shards: Mapping[str, Path]) -> None:
        if place in self._folders:
            raise DamagedFileError(
                "a sample stands in two shards", got=place, expected="one", where=next(iter(shards.values()))
            )
        self._folders[place] = folder
        files = {sensor: (shards[sensor],) * TIMES for sensor in self.sensors}
        self.scenes.append(Scene(id=place, seasons=tuple(str(time) for time in range(TIMES)), files=files))

    def _shard(self, sensor: str, scene: Scene) -> Shard:
        """The open shard of a scene; one a sensor is kept open."""
        path = scene.files[sensor][0]
        if sensor not in self._open or self._open[sensor].path != path:
            if sensor in self._open:
                self._open.pop(sensor).close()
            self._open[sensor] = self._edition.open(path, sensor, self._products[sensor])
        return self._open[sensor]


def _edition(root: Path) -> Edition:
    """The edition whose shards are there. Raises MissingDataError, or DataError for both."""
    found = {
        edition.ending: [
            path
            for folder in SPLITS
            for modality in MODALITIES.values()
            for path in (root / folder / modality).glob(f"*{edition.ending}")
        ]
        for edition in _EDITIONS
    }
    there = [edition for edition in _EDITIONS if found[edition.ending]]
    if len(there) > 1:
        raise DataError(
            "both editions of SSL4EO-S12 v1.1 are there",
            got=", ".join(f"{len(found[edition.ending])} shards *{edition.ending}" for edition in there),
            expected="one of them: they hold the same places, under other ids and with other values",
            where=root,
            do="move one to a root of its own",
        )
    if not there:
        raise MissingDataError(
            "there are no shards of SSL4EO-S12 v1.1",
            got=(sorted(p.name for p in root.iterdir())[:10] or "an empty folder") if root.is_dir() else "no folder",
            expected=f"{{{','.join(SPLITS)}}}/{{{','.join(MODALITIES.values())}}}/ with "
            + " or ".join(edition.example.format(split="train") for edition in reversed(_EDITIONS)),
            where=root,
            do="correct root",
        )
    return there[0]


def _require_same_place(first: SensorImage, last: SensorImage) -> None:
    """Raise DamagedFileError unless the publisher's number is the same, and each time of one season."""
    where = f"{first.where}\n      and {last.where}"
    if first.number != last.number:
        raise DamagedFileError(
            "two sensors hold different places under one name",
            got=f"{first.number} and {last.number}",
            expected="the same number",
            where=where,
            do="fetch both shards again",
        )
    for one, other in zip(first.days, last.days, strict=True):
        apart = abs((datetime.date.fromisoformat(one) - datetime.date.fromisoformat(other)).days)
        if apart > _MAX_DAYS:
            raise DamagedFileError(
                "the two sensors saw a place in different seasons",
                got=f"{one} and {other}, {apart} days apart",
                expected=f"at most {_MAX_DAYS} days",
                where=where,
                do="leave the place out",
            )


def _notes(found: Mapping[str, SensorImage]) -> dict[str, str]:
    (number, *_) = {image.number for image in found.values()}
    return {"sample": number} | {f"{sensor}_date": ",".join(image.days) for sensor, image in found.items()}
