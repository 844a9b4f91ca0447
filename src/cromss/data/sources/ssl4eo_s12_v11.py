"""SSL4EO-S12 v1.1: shards of 64 places as zipped Zarr, four times each, images and places registered anew.

In: `{train,val}/{S1GRD,S2L1C,S2L2A}/ssl4eos12_{train,val}_seasonal_data_<6 digits>.zarr.zip`, each with
    bands (sample, time, band, 264, 264)    S1GRD float16 dB; S2 int16 DN + 1000
    sample, band                            ids of 7 digits; B01 .. B12, or vv, vh
    crs, x_, y_ (sample ...)                EPSG code; coordinates of columns and rows, taken as pixel centres
    center_lat, center_lon, time_           of each sample; a centre outside its own grid is refused
Out: a `PlaceRecord` a sample; folder val is the published validation split.

    DN = value - 1000; a value from 1 to 999 is refused: such a file is of another edition, without the offset

All bands 0, or all 1000, is no data, and so is NaN in s1 where the array declares it. Masks of clouds are not used.
Grids of the two sensors of a sample may be half a pixel apart. Scenes come shard by shard, and a whole chunk of samples
is held in memory, because it can only be unpacked in one piece: `prepare` took 1.0 GB for a shard of 64 samples.
Seen: the publisher's description of this edition, with names, types and sizes, and his reading script. Not seen: a
shard. Assumed: Zarr version 2 as xarray writes it. The later edition as tar files of single samples is not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.data.sources.ssl4eo_bands import SIDE
from cromss.data.sources.usable import require_usable
from cromss.data.sources.zarr_shard import ZarrShard, decode_times
from cromss.errors import BandError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.geo.bands import band_name, check_values, get_sensor, require_product_bands
from cromss.geo.raster import Grid, require_same_grid

__all__ = ["MODALITIES", "OFFSET", "SPLIT_FOLDERS", "Ssl4eoS12V11"]

MODALITIES: Mapping[str, str] = {"GRD": "S1GRD", "L1C": "S2L1C", "L2A": "S2L2A"}
SPLIT_FOLDERS: Mapping[str, str] = {"train": "train", "val": "validation"}

OFFSET = 1000
"""What the publisher added to every DN of this edition, as processing baseline 04.00 does."""

_TIMES = 4
_SHARD = re.compile(r"ssl4eos12_(train|val)_seasonal_data_\d{6}\.zarr\.zip")
_TOLERANCE_PX = 0.5
_DTYPES = {"s1": ("<f2", "<f4"), "s2": ("<i2", "<u2")}


class Ssl4eoS12V11:
    """Reads places of SSL4EO-S12 v1.1 in its Zarr edition.

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
        self._open: dict[str, _Block] = {}
        self._folders: dict[str, str] = {}
        self.scenes: list[Scene] = []
        self.orphans: list[Orphan] = []
        for folder in SPLIT_FOLDERS:
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
        images: dict[str, NDArray[Any]] = {}
        valid = np.ones((_TIMES, SIDE, SIDE), bool)
        grids, notes = [], {}
        for sensor in self.sensors:
            block = self._block(sensor, scene)
            images[sensor], valid_THW = block.image(scene.id, self._bands[sensor], tally)
            valid &= valid_THW
            grids.append(block.grid(scene.id))
            notes[f"{sensor}_date"] = ",".join(block.days(scene.id))
        names = [f"{scene.files[sensor][0]}, sample {scene.id}" for sensor in self.sensors]
        require_same_grid(grids[0], grids[-1], names[0], names[-1], _TOLERANCE_PX)
        require_usable(valid, valid, names[:1] * _TIMES, ())
        yield PlaceRecord(
            id=scene.id,
            seasons=scene.seasons,
            images=images,
            products=self._products,
            valid=valid,
            split=self.split(scene),
            grid=grids[0],
            notes=notes,
        )

    def split(self, scene: Scene) -> str:
        """The published split; the training places may be parted further."""
        published = SPLIT_FOLDERS[self._folders[scene.id]]
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
                if (match := _SHARD.fullmatch(path.name)) and match.group(1) == folder
            }
            for sensor, product in self._products.items()
        }
        for name in sorted(set().union(*shards.values())):
            there = {sensor: shards[sensor][name] for sensor in self.sensors if name in shards[sensor]}
            samples = {sensor: _samples(path) for sensor, path in there.items()}
            for place in sorted(set().union(*samples.values())):
                missing = tuple(s for s in self.sensors if place not in samples.get(s, ()))
                if missing:
                    found = tuple(str(path) for sensor, path in there.items() if place in samples[sensor])
                    self.orphans.append(Orphan(id=place, season=None, missing=missing, found=found))
                else:
                    self._add(place, folder, there)

    def _add(self, place: str, folder: str, shards: Mapping[str, Path]) -> None:
        if place in self._folders:
            raise DamagedFileError(
                "a sample stands in two shards", got=place, expected="one", where=next(iter(shards.values()))
            )
        self._folders[place] = folder
        files = {sensor: (shards[sensor],) * _TIMES for sensor in self.sensors}
        self.scenes.append(Scene(id=place, seasons=tuple(str(time) for time in range(_TIMES)), files=files))

    def _block(self, sensor: str, scene: Scene) -> _Block:
        """The open shard of a scene; one a sensor is kept open."""
        path = scene.files[sensor][0]
        if sensor not in self._open or self._open[sensor].shard.path != path:
            if sensor in self._open:
                self._open.pop(sensor).shard.close()
            self._open[sensor] = _Block(path, sensor, self._products[sensor])
        return self._open[sensor]


class _Block:
    """One shard of one sensor, with the chunk of samples that was read last."""

    def __init__(self, path: Path, sensor: str, product: str) -> None:
        self.shard, self._sensor, self._product = ZarrShard(path), sensor, product
        names = [band_name(sensor, str(name)) for name in self.shard.read("band")]
        expected = get_sensor(sensor).products[product]
        if sorted(map(str, names)) != sorted(expected):
            raise BandError(
                f"a shard of {product} holds other bands", got=names, expected=", ".join(expected), where=path
            )
        self._names = [str(name) for name in names]
        self._rows = {str(place): row for row, place in enumerate(self.shard.read("sample"))}
        shape = (len(self._rows), _TIMES, len(expected), SIDE, SIDE)
        if self.shard.shape("bands") != shape or self.shard.dtype("bands") not in _DTYPES[sensor]:
            raise GridError(
                "the images of a shard have another shape or type than the layout says",
                got=f"{self.shard.shape('bands')} {self.shard.dtype('bands')}",
                expected=f"{shape} (sample, time, band, y, x) {' or '.join(_DTYPES[sensor])}",
                where=path,
            )
        self._first, self._values = -1, np.empty(0)

    def image(self, place: str, bands: Sequence[str], tally: Tally) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(T, B, H, W) in the sensor's type, and validity (T, H, W)."""
        where = f"{self.shard.path}, sample {place}"
        values = self._read(self._rows[place])
        valid_THW = self._valid(values)
        chosen = values[:, [self._names.index(name) for name in bands]]
        if self._sensor == "s2":
            chosen = _without_offset(chosen, valid_THW, where)
            tally.changed[f"s2 band images less the publisher's offset of {OFFSET} DN"] += _TIMES * len(bands)
        for time in range(_TIMES):
            check_values(self._sensor, chosen[time], valid_THW[time], bands, where)
        return chosen.astype(get_sensor(self._sensor).dtype), valid_THW

    def grid(self, place: str) -> Grid:
        """The grid of a sample. Raises GridError unless it is north up, 10 m, and around the stated centre."""
        row = self._rows[place]
        x, y = (self.shard.read(name, row, row + 1)[0].astype(np.float64) for name in ("x_", "y_"))
        lon, lat = (float(self.shard.read(name, row, row + 1)[0]) for name in ("center_lon", "center_lat"))
        where = f"{self.shard.path}, sample {place}"
        even = np.abs(np.diff(x) - 10).max() < 0.1 and np.abs(np.diff(y) + 10).max() < 0.1
        if len(x) != SIDE or len(y) != SIDE or not even:
            raise GridError("a sample is not on a north-up grid of 10 m", got=f"x {x[:3]}, y {y[:3]}", where=where)
        code = int(self.shard.read("crs", row, row + 1)[0])
        try:
            crs = CRS.from_epsg(code)
        except CRSError:
            raise GridError("a sample has an unknown CRS", got=code, expected="an EPSG code", where=where) from None
        (east,), (north,) = transform_points(CRS.from_epsg(4326), crs, [lon], [lat])
        if not (x[0] <= east <= x[-1] and y[-1] <= north <= y[0]):
            raise GridError(
                "the centre of a sample lies outside its grid",
                got=f"{lat:.4f}, {lon:.4f}, so {east:.0f}, {north:.0f}",
                expected=f"x {x[0]:.0f} to {x[-1]:.0f}, y {y[-1]:.0f} to {y[0]:.0f}",
                where=where,
            )
        return Grid(height=SIDE, width=SIDE, transform=Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5), crs=crs)

    def days(self, place: str) -> list[str]:
        """The days of the four times."""
        row = self._rows[place]
        return decode_times(
            self.shard.read("time_", row, row + 1)[0], self.shard.attributes("time_"), self.shard.path / "time_"
        )

    def _read(self, row: int) -> NDArray[Any]:
        """All values of a row; the chunk of rows around it is kept."""
        size = self.shard.chunk("bands")[0]
        first = row - row % size
        if first != self._first:
            self._values = np.empty(0)  # let go of one chunk before the next is read
            self._values, self._first = self.shard.read("bands", first, first + size), first
        return np.asarray(self._values[row - first])

    def _valid(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        missing = (values == 0).all(axis=1)
        if self._sensor == "s2":
            missing |= (values == OFFSET).all(axis=1)
        elif self.shard.fill_is_nan("bands"):
            missing |= np.isnan(values).any(axis=1)
        result: NDArray[np.bool_] = ~missing
        return result


def _samples(path: Path) -> list[str]:
    shard = ZarrShard(path)
    try:
        places = [str(place) for place in shard.read("sample")]
    finally:
        shard.close()
    strange = [place for place in places if not re.fullmatch(r"\d{7}", place)]
    if strange or len(set(places)) != len(places):
        raise DamagedFileError(
            "the samples of a shard are not named as the layout says",
            got=strange[:3] or "a name twice",
            expected="ids of 7 digits that differ",
            where=path,
        )
    return places


def _without_offset(values: NDArray[Any], valid_THW: NDArray[np.bool_], where: str) -> NDArray[Any]:
    """DN of pixels with data, 0 elsewhere."""
    native = np.where(valid_THW[:, None], values.astype(np.int32) - OFFSET, 0)
    below = int((native < 0).any(axis=1).sum())
    if below:
        raise RangeError(
            f"Sentinel-2 values lie below the offset of {OFFSET} that this edition has",
            got=f"{below} pixels, down to {int(native.min()) + OFFSET}",
            expected=f"at least {OFFSET} where there is data",
            where=where,
            do="check which edition this is: without the offset it is another layout; or leave the place out",
        )
    return native
