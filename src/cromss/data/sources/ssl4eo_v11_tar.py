"""The tar edition of SSL4EO-S12 v1.1: shards of 512 places, each a zipped Zarr store of its own.

In: `ssl4eos12_shard_<6 digits>.tar` with members `ssl4eos12_{train,val}_<name>.zarr.zip`, each with
    bands (time, band, 264, 264)    S1GRD float16 dB; S2 int16 DN
    sample, band                    the publisher's number of the place, 7 digits; B01 .. B12, or vv, vh
    crs, x, y                       EPSG code of UTM; coordinates of columns and rows
    center_lat, center_lon
    time, file_id (time)            nanoseconds since 1970; the ids of the products that the images come from
    cloud_mask (time, 264, 264)     of S2; read where cloud_values says what its values mean
Out: a `SensorImage` a member; the id of a place is the name of its members without the ending, one for all sensors.

    DN = value; where all values of a sample are 1000 or more, the publisher's +1000 is taken to be still there: refused

All bands 0 is no data, and so is NaN in s1 where the array declares it. One sample at a
time is in memory: reading 64 took 0.1 GB.
Seen: the publisher's description and reading script of this edition, which name the paths, `bands`, `center_lat`,
`center_lon`, `time` in ns, the order (time, band, y, x) and the pairing by name; his note in the script of the Zarr
edition that the offset was taken off in this one, and his statistics of both, which differ by exactly 1000; what users
wrote of members that they opened: names in train, Zarr version 2, `bands` of s2 int16, and the other arrays above. Not
seen: a shard. Assumed: the type of s1, and of `x` and `y`, as in the Zarr edition; names in val; no data as 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

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
from cromss.data.sources.tar_shard import TarShard
from cromss.data.sources.zarr_shard import ZarrShard, decode_times
from cromss.errors import DamagedFileError, RangeError

__all__ = ["TAR_EDITION", "TarSamples"]

_MEMBER = re.compile(r"(?P<id>ssl4eos12_(train|val)_\w{1,80})\.zarr\.zip", re.ASCII)
_LARGEST = 64 * 1024**2
"""The most that a member, or one array in it, may hold, in bytes; the images of a sample of 13 bands have 7.2 MB."""


class TarSamples:
    """One shard of one sensor."""

    def __init__(self, path: Path, sensor: str, product: str) -> None:
        self._sensor, self._product = sensor, product
        self._tar = TarShard(path, pattern=_MEMBER, largest=_LARGEST)

    @property
    def path(self) -> Path:
        """The file that it was opened from."""
        return self._tar.path

    def close(self) -> None:
        """Nothing is kept open."""

    def read(self, sample: str, bands: Sequence[str], tally: Tally) -> SensorImage:
        """A sample, with the bands of these names. Raises DataError of the fitting kind."""
        with closing(self._member(sample)) as store:
            return self._image(store, bands)

    def clouds(self, sample: str) -> NDArray[np.uint8]:
        """The mask of clouds of a sample (T, H, W). Raises DataError of the fitting kind."""
        with closing(self._member(sample)) as store:
            require_mask(store)
            return store.read(CLOUD_MASK).astype(np.uint8, copy=False)

    def _member(self, sample: str) -> ZarrShard:
        return ZarrShard(self.path / f"{sample}.zarr.zip", content=self._tar.read(sample), largest=_LARGEST)

    def _image(self, store: ZarrShard, bands: Sequence[str]) -> SensorImage:
        where = str(store.path)
        require_arrays(store, self._sensor, self._product)
        rows = band_rows(self._sensor, self._product, store.read("band"), where)
        values = store.read("bands")
        valid_THW = valid_pixels(values, (0,), nan=self._sensor == "s1" and store.fill_is_nan("bands"))
        if self._sensor == "s2":
            _require_no_offset(values, valid_THW, where)
        lat, lon, code, number = (store.read(name).item() for name in ("center_lat", "center_lon", "crs", "sample"))
        require_numbers([str(number)], where)
        days = decode_times(store.read("time"), store.attributes("time"), store.path / "time")
        return SensorImage(
            image=in_unit(self._sensor, values[:, [rows[name] for name in bands]], valid_THW, bands, where),
            valid=valid_THW,
            grid=sample_grid(store.read("x"), store.read("y"), centre=(lat, lon), code=code, where=where),
            days=product_days(self._sensor, days, store.read("file_id"), where),
            number=str(number),
            where=where,
        )


def _require_no_offset(values_TBHW: NDArray[np.integer], valid_THW: NDArray[np.bool_], where: str) -> None:
    """Raise RangeError where nothing of a sample is darker than the offset: real scenes have shadows and water."""
    lowest = int(values_TBHW.min(axis=1)[valid_THW].min(initial=np.iinfo(values_TBHW.dtype).max))
    if valid_THW.any() and lowest >= OFFSET:
        raise RangeError(
            f"Sentinel-2 values look as if the publisher's offset of {OFFSET} were still in them",
            got=f"none below {lowest} in {TIMES} times and {values_TBHW.shape[1]} bands",
            expected=f"some below {OFFSET}: this edition has none",
            where=where,
            do="leave the place out; if all are so, these shards are not the published ones",
        )


def _samples(path: Path) -> Sequence[str]:
    tar = TarShard(path, pattern=_MEMBER, largest=_LARGEST)
    folder = path.parent.parent.name
    strange = [sample for sample in tar.ids if not sample.startswith(f"ssl4eos12_{folder}_")]
    if strange:
        raise DamagedFileError(
            "a shard holds samples of another split than its folder",
            got=f"{len(strange)}, such as {strange[0]}",
            expected=f"names with ssl4eos12_{folder}_",
            where=path,
        )
    return tar.ids


TAR_EDITION = Edition(
    ending=".tar",
    example="ssl4eos12_shard_000001.tar",
    pattern=re.compile(r"ssl4eos12_shard_\d{6}\.tar", re.ASCII),
    samples=_samples,
    open=TarSamples,
)
