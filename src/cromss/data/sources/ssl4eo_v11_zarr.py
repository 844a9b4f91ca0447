"""The Zarr edition of SSL4EO-S12 v1.1: shards of 64 places as zipped Zarr.

In: `ssl4eos12_{train,val}_seasonal_data_<6 digits>.zarr.zip`, each with
    bands (sample, time, band, 264, 264)    S1GRD float16 dB; S2 int16 DN + 1000
    sample, band                            ids of 7 digits; B01 .. B12, or vv, vh
    crs, x_, y_ (sample ...)                EPSG code of UTM; coordinates of columns and rows
    center_lat, center_lon (sample)
    time_, file_id (sample, time)           and the ids of the products that the images come from
    cloud_mask (sample, time, 264, 264)     of S2; read where cloud_values says what its values mean
Out: a `SensorImage` a sample.

    DN = value - 1000; a value from 1 to 999 is refused: such a file is of another edition, without the offset

All bands 0, or all 1000, is no data, and so is NaN in s1 where the array declares it.
A whole chunk of samples is held in memory, because it can only be unpacked in one piece: `prepare` took 1.3 GB for a
shard of 64 samples.
Seen: the publisher's description of this edition, with names, types and sizes, and his reading script. Not seen: a
shard. Assumed: Zarr version 2 as xarray writes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_v11_sample import (
    CLOUD_MASK,
    OFFSET,
    TIMES,
    Edition,
    SensorImage,
    band_rows,
    in_unit,
    product_days,
    require_arrays,
    require_mask,
    require_numbers,
    sample_grid,
    valid_pixels,
)
from cromss.data.sources.zarr_shard import ZarrShard, decode_times
from cromss.errors import RangeError
from cromss.geo.raster import Grid

__all__ = ["ZARR_EDITION", "ZarrSamples"]

_NAMES = {"x": "x_", "y": "y_", "time": "time_"}
"""Arrays whose names without the stroke are taken by the dimensions of the shard."""


class ZarrSamples:
    """One shard of one sensor, with the chunk of samples that was read last."""

    def __init__(self, path: Path, sensor: str, product: str) -> None:
        self._shard, self._sensor = ZarrShard(path), sensor
        self._bands = band_rows(sensor, product, self._shard.read("band"), path)
        self._rows = {str(sample): row for row, sample in enumerate(self._shard.read("sample"))}
        require_arrays(self._shard, sensor, product, rows=(len(self._rows),), names=_NAMES)
        self._held: dict[str, tuple[int, NDArray[Any]]] = {}

    @property
    def path(self) -> Path:
        """The file that it was opened from."""
        return self._shard.path

    def close(self) -> None:
        """Let go of the file."""
        self._shard.close()

    def read(self, sample: str, bands: Sequence[str], tally: Tally) -> SensorImage:
        """A sample, with the bands of these names. Raises RangeError, GridError, DamagedFileError."""
        where, row = f"{self.path}, sample {sample}", self._rows[sample]
        values = self._read("bands", row)
        empty = (0, OFFSET) if self._sensor == "s2" else (0,)
        valid_THW = valid_pixels(values, empty, nan=self._sensor == "s1" and self._shard.fill_is_nan("bands"))
        chosen = values[:, [self._bands[name] for name in bands]]
        if self._sensor == "s2":
            chosen = _without_offset(chosen, valid_THW, where)
            tally.changed[f"s2 band images less the publisher's offset of {OFFSET} DN"] += TIMES * len(bands)
        return SensorImage(
            image=in_unit(self._sensor, chosen, valid_THW, bands, where),
            valid=valid_THW,
            grid=self._grid(row, where),
            days=self._days(row, where),
            number=sample,
            where=where,
        )

    def clouds(self, sample: str) -> NDArray[np.uint8]:
        """The mask of clouds of a sample (T, H, W). Raises MissingDataError, GridError, DamagedFileError."""
        require_mask(self._shard, rows=(len(self._rows),))
        return self._read(CLOUD_MASK, self._rows[sample]).astype(np.uint8, copy=False)

    def _grid(self, row: int, where: str) -> Grid:
        x, y, lat, lon, code = (
            self._shard.read(name, row, row + 1)[0] for name in ("x_", "y_", "center_lat", "center_lon", "crs")
        )
        return sample_grid(x, y, centre=(float(lat), float(lon)), code=int(code), where=where)

    def _days(self, row: int, where: str) -> tuple[str, ...]:
        times, products = (self._shard.read(name, row, row + 1)[0] for name in ("time_", "file_id"))
        days = decode_times(times, self._shard.attributes("time_"), self.path / "time_")
        return product_days(self._sensor, days, products, where)

    def _read(self, name: str, row: int) -> NDArray[Any]:
        """All values of a row of an array; the chunk of rows around it is kept."""
        size = self._shard.chunk(name)[0]
        first = row - row % size
        if name not in self._held or self._held[name][0] != first:
            self._held.pop(name, None)  # let go of one chunk before the next is read
            self._held[name] = first, self._shard.read(name, first, first + size)
        return np.asarray(self._held[name][1][row - first])


def _samples(path: Path) -> list[str]:
    shard = ZarrShard(path)
    try:
        samples = [str(sample) for sample in shard.read("sample")]
    finally:
        shard.close()
    require_numbers(samples, path)
    return samples


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


ZARR_EDITION = Edition(
    ending=".zarr.zip",
    example="ssl4eos12_{split}_seasonal_data_000001.zarr.zip",
    pattern=re.compile(r"ssl4eos12_(?P<split>train|val)_seasonal_data_\d{6}\.zarr\.zip", re.ASCII),
    samples=_samples,
    open=ZarrSamples,
)
