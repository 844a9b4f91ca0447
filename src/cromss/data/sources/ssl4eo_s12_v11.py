"""SSL4EO-S12 v1.1: places with four seasons, images and places registered anew, in shards of either edition.

In: `{train,val}/{S1GRD,S2L1C,S2L2A}/<shard>`, the shards of one edition (`ssl4eo_v11_zarr`).
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

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.data.sources.ssl4eo_v11_sample import SPLITS, TIMES, SensorImage, Shard
from cromss.data.sources.ssl4eo_v11_zarr import ZARR_EDITION
from cromss.data.sources.usable import require_usable
from cromss.errors import DamagedFileError, MissingDataError
from cromss.geo.bands import require_product_bands
from cromss.geo.raster import require_same_grid

__all__ = ["MODALITIES", "Ssl4eoS12V11"]

MODALITIES: Mapping[str, str] = {"GRD": "S1GRD", "L1C": "S2L1C", "L2A": "S2L2A"}

_TOLERANCE_PX = 0.5
_MAX_DAYS = 60


class Ssl4eoS12V11:
    """Reads places of SSL4EO-S12 v1.1.

    bands: sensor -> the bands to keep, by name. product: of s2, L1C or L2A. train_split: place -> split of a place in
    the folder train.
    Raises MissingDataError for a root without the layout, DamagedFileError for shards that are not whole, ConfigError
    without the package zarr, BandError for bands that the product does not have.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        bands: Mapping[str, Sequence[str]],
        product: str = "L1C",
        train_split: Callable[[str], str] | None = None,
    ) -> None:
        self.sensors = tuple(bands)
        self._root, self._bands, self._train_split = Path(root), bands, train_split
        self._products = {sensor: "GRD" if sensor == "s1" else product for sensor in bands}
        for sensor, names in bands.items():
            require_product_bands(sensor, self._products[sensor], names)
        self._edition = ZARR_EDITION
        self._open: dict[str, Shard] = {}
        self._folders: dict[str, str] = {}
        self.scenes: list[Scene] = []
        self.orphans: list[Orphan] = []
        for folder in SPLITS:
            self._find(folder)
        if not self.scenes:
            raise MissingDataError(
                "there are no shards of SSL4EO-S12 v1.1",
                got=sorted(p.name for p in self._root.iterdir())[:10] if self._root.is_dir() else "no folder",
                expected=f"{{train,val}}/{{{','.join(MODALITIES[p] for p in self._products.values())}}}/"
                "ssl4eos12_*_seasonal_data_*.zarr.zip with the same samples",
                where=self._root,
                do="correct root; the edition as tar files is another layout, which is not read",
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
        _require_near(first, last)
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
        )

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
            sensor: {
                path.name: path
                for path in (self._root / folder / MODALITIES[product]).glob("*")
                if (match := self._edition.pattern.fullmatch(path.name))
                and match.groupdict().get("split", folder) == folder
            }
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


def _require_near(first: SensorImage, last: SensorImage) -> None:
    for one, other in zip(first.days, last.days, strict=True):
        apart = abs((datetime.date.fromisoformat(one) - datetime.date.fromisoformat(other)).days)
        if apart > _MAX_DAYS:
            raise DamagedFileError(
                "the two sensors saw a place in different seasons",
                got=f"{one} and {other}, {apart} days apart",
                expected=f"at most {_MAX_DAYS} days",
                where=f"{first.where}\n      and {last.where}",
                do="leave the place out",
            )


def _notes(found: Mapping[str, SensorImage]) -> dict[str, str]:
    return {f"{sensor}_date": ",".join(image.days) for sensor, image in found.items()}
