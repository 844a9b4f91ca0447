"""One sample of SSL4EO-S12 v1.1 as one sensor saw it: what both editions hold, and what is checked of it in both.

In: arrays of a sample as a shard of either edition has them. Out: a `SensorImage`: four times of 264 x 264 px of 10 m,
which pixels hold data, the grid, and the days.

Coordinates of columns and rows are taken as pixel centres; a centre of the sample outside its own grid is refused.
Each acquisition has a time and the id of its product, which holds its day, too. Where the two differ, the images may
lie in another order than their times, as Sentinel-1 did in the publisher's first release, and are refused.

Shapes: T = 4 times, B bands, H = W = 264.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_bands import SIDE
from cromss.data.sources.ssl4eo_s12 import product_date
from cromss.data.sources.zarr_shard import ZarrShard
from cromss.errors import BandError, DamagedFileError, GridError
from cromss.geo.bands import band_name, check_values, get_sensor
from cromss.geo.raster import Grid

__all__ = [
    "CLOUD_MASK",
    "OFFSET",
    "SPLITS",
    "TIMES",
    "Edition",
    "SensorImage",
    "Shard",
    "band_rows",
    "in_unit",
    "product_days",
    "require_arrays",
    "require_mask",
    "require_numbers",
    "sample_grid",
    "valid_pixels",
]

SPLITS: Mapping[str, str] = {"train": "train", "val": "validation"}
"""Folder -> the published split of all that it holds."""

TIMES = 4
OFFSET = 1000
"""What the publisher added to every DN of the Zarr edition, as processing baseline 04.00 does, and later took off."""

CLOUD_MASK = "cloud_mask"

_TYPES: Mapping[str, tuple[str, ...]] = {
    "s1": ("<f2", "<f4"),
    "s2": ("<i2", "<u2"),
    "coordinate": ("<f8",),
    "code": ("<i4", "<i8"),
    "time": ("<i8", "<f8", "<M8*"),
    "text": ("<U*", "|O"),
    "mask": ("|u1",),
}
"""What an array holds -> patterns of the types that it may have, as Zarr writes them."""

_UTM = re.compile(r"32[67](0[1-9]|[1-5]\d|60)", re.ASCII)
_MAX_DEGREES = 12
"""How far, in longitude, a centre may be from the middle of its zone: zones reach 3, in Norway 6."""

_ARRAYS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "sample": ("text", ()),
    "x": ("coordinate", (SIDE,)),
    "y": ("coordinate", (SIDE,)),
    "center_lat": ("coordinate", ()),
    "center_lon": ("coordinate", ()),
    "crs": ("code", ()),
    "time": ("time", (TIMES,)),
    "file_id": ("text", (TIMES,)),
}
"""Name -> what it holds, and the shape of one sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SensorImage:
    """image: (T, B, H, W) in the sensor's type and unit. valid: (T, H, W), False where there is no data.

    days: YYYY-MM-DD of each time. number: the publisher's number of the place. where: shard and sample, for messages.
    """

    image: NDArray[Any]
    valid: NDArray[np.bool_]
    grid: Grid
    days: tuple[str, ...]
    number: str
    where: str


class Shard(Protocol):
    """An open shard of one sensor."""

    @property
    def path(self) -> Path:
        """The file that it was opened from."""
        ...

    def read(self, sample: str, bands: Sequence[str], tally: Tally) -> SensorImage:
        """A sample, with the bands of these names. Raises DataError of the fitting kind."""
        ...

    def clouds(self, sample: str) -> NDArray[np.uint8]:
        """The mask of clouds of a sample (T, H, W), as published. Raises DataError of the fitting kind."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Edition:
    """How an edition is packed.

    ending: of the names of its shards. example: such a name, where {split} stands for the folder. pattern: of such
    names; the group `split`, where there is one, must be the folder's. samples: the ids of a shard.
    open: (path, sensor, product) -> the shard.
    """

    ending: str
    example: str
    pattern: re.Pattern[str]
    samples: Callable[[Path], Sequence[str]]
    open: Callable[[Path, str, str], Shard]


def require_arrays(
    store: ZarrShard, sensor: str, product: str, *, rows: tuple[int, ...] = (), names: Mapping[str, str] | None = None
) -> None:
    """Raise GridError unless images, bands and all that belongs to a sample have the shapes and types of the layout.

    rows: the number of samples that are stacked; () for one that is not. names: what the store calls some arrays.
    Raises MissingDataError, DamagedFileError as the store does.
    """
    count = len(get_sensor(sensor).products[product])
    store.require("band", (count,), _TYPES["text"])
    store.require("bands", (*rows, TIMES, count, SIDE, SIDE), _TYPES[sensor])
    for name, (kind, shape) in _ARRAYS.items():
        store.require((names or {}).get(name, name), (*rows, *shape), _TYPES[kind])


def require_mask(store: ZarrShard, *, rows: tuple[int, ...] = ()) -> None:
    """Raise GridError unless the mask of clouds has the shape and type of the layout; rows as of `require_arrays`."""
    store.require(CLOUD_MASK, (*rows, TIMES, SIDE, SIDE), _TYPES["mask"])


def band_rows(sensor: str, product: str, found: Iterable[object], where: str | Path) -> dict[str, int]:
    """Band -> its row in an image. Raises BandError unless exactly the product's bands are there."""
    names = [str(band_name(sensor, str(name))) for name in found]
    expected = get_sensor(sensor).products[product]
    if sorted(names) != sorted(expected):
        raise BandError(
            f"a sample of {product} holds other bands", got=names, expected=", ".join(expected), where=where
        )
    return {name: row for row, name in enumerate(names)}


def require_numbers(samples: Iterable[str], where: str | Path) -> None:
    """Raise DamagedFileError unless all are numbers of places as the publisher gives them, and differ."""
    samples = list(samples)
    strange = [sample[:100] for sample in samples if not re.fullmatch(r"\d{7}", sample, re.ASCII)]
    if strange or len(set(samples)) != len(samples):
        raise DamagedFileError(
            "samples are not numbered as the layout says",
            got=strange[:3] or "a number twice",
            expected="7 digits, each number once",
            where=where,
        )


def product_days(sensor: str, days: Sequence[str], products: Iterable[object], where: str) -> tuple[str, ...]:
    """The days of a sample, by its times. products: the ids of the acquisitions that its images come from.

    Raises DamagedFileError unless both say the same.
    """
    names = [str(name)[:100] for name in products]
    said = [str(product_date(name, sensor)) for name in names]
    if said != list(days):
        raise DamagedFileError(
            "the images of a sample are not those of its times, or lie in another order",
            got=f"times {', '.join(days)}, but products {', '.join(names)}",
            expected="the same days in the same order",
            where=where,
            do="leave the place out, or fetch the shard again: Sentinel-1 was first released out of order",
        )
    return tuple(days)


def valid_pixels(values_TBHW: NDArray[Any], empty: Sequence[int], *, nan: bool) -> NDArray[np.bool_]:
    """(T, H, W), False where all bands have one of the values `empty`, or a band is NaN and `nan` means no data."""
    missing_THW = np.logical_or.reduce([(values_TBHW == value).all(axis=1) for value in empty])
    if nan:
        missing_THW |= np.isnan(values_TBHW).any(axis=1)
    valid_THW: NDArray[np.bool_] = ~missing_THW
    return valid_THW


def in_unit(
    sensor: str, values_TBHW: NDArray[Any], valid_THW: NDArray[np.bool_], bands: Sequence[str], where: str
) -> NDArray[Any]:
    """The values in the sensor's type. Raises RangeError for pixels with data that cannot be in its unit."""
    for values_BHW, valid_HW in zip(values_TBHW, valid_THW, strict=True):
        check_values(sensor, values_BHW, valid_HW, bands, where)
    return values_TBHW.astype(get_sensor(sensor).dtype)


def sample_grid(
    x_W: NDArray[Any], y_H: NDArray[Any], *, centre: tuple[float, float], code: int, where: str | Path
) -> Grid:
    """The grid of a sample. centre: (lat, lon). code: of the CRS, by EPSG.

    Raises GridError unless it is north up, 10 m, and around the centre.
    """
    x, y = x_W.astype(np.float64), y_H.astype(np.float64)
    even = len(x) == len(y) == SIDE and np.abs(np.diff(x) - 10).max() < 0.1 and np.abs(np.diff(y) + 10).max() < 0.1
    if not even:
        raise GridError("a sample is not on a north-up grid of 10 m", got=f"x {x[:3]}, y {y[:3]}", where=where)
    lat, lon = centre
    zone = code % 100 if _UTM.fullmatch(str(code)) else None
    if zone is None or not (abs(lat) < 85 and abs((lon + 363 - 6 * zone) % 360 - 180) <= _MAX_DEGREES):
        raise GridError(
            "a sample is not in a zone of UTM, or its centre is not",
            got=f"EPSG {code}, centre {lat:.4f}, {lon:.4f}",
            expected="EPSG 32601 to 32660 or 32701 to 32760, and a centre in or near that zone",
            where=where,
        )
    crs = CRS.from_epsg(code)
    (east,), (north,) = transform_points(CRS.from_epsg(4326), crs, [lon], [lat])
    if not (x[0] <= east <= x[-1] and y[-1] <= north <= y[0]):
        raise GridError(
            "the centre of a sample lies outside its grid",
            got=f"{lat:.4f}, {lon:.4f}, so {east:.0f}, {north:.0f}",
            expected=f"x {x[0]:.0f} to {x[-1]:.0f}, y {y[-1]:.0f} to {y[0]:.0f}",
            where=where,
        )
    return Grid(height=SIDE, width=SIDE, transform=Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5), crs=crs)
