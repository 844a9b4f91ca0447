"""One acquisition of SSL4EO-S12 v1.0: a folder with one GeoTIFF a band, brought to one grid of 264 x 264 px of 10 m.

In: the folder of a season, its sensor and product. Out: the asked bands in the sensor's type and unit, validity, grid.

    native edition   s1 float dB, s2 whole DN; 264, 132 or 44 px a side as the band has 10, 20 or 60 m; the coarser
                     bands are resampled by cubic convolution
    8-bit edition    v = floor((x - (mean - 2 std)) / (4 std) * 255), clipped by the publisher; turned back by
                     x = (min(v + 1/2, 255) / 255) 4 std + mean - 2 std, rounded to whole DN and not below 0 for s2

Each band carries a lat/lon box of its own: in the published sample those of 20 and 60 m lie half a pixel of the band
minus half a pixel of 10 m to the north-west. The pixels do not follow the boxes: B7 and B8A fit B8 best
at 0 to 0.5 px of 10 m, B9 at about 4 px in the other direction. So, like the authors, all bands are taken to cover the
same ground; boxes may be off by half a pixel of their band, and anything farther apart is refused.
DN 0, or 0 dB, in every band is no data; so is, for s2, what cubic convolution of such pixels reaches. The 8-bit edition
keeps no trace of missing pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points
from scipy.ndimage import binary_dilation

from cromss.data.sources.source import Tally
from cromss.errors import BandError, GridError, MissingDataError, RangeError
from cromss.geo.bands import check_values, get_sensor, published_normalization
from cromss.geo.raster import Grid, grid_of, open_raster, read_pixels
from cromss.geo.resample import resample_cubic, resample_nearest

__all__ = ["PIXEL_M", "SIDE", "SeasonImage", "box_distance", "read_season"]

SIDE = 264
"""Pixels of 10 m on a side of every place."""

PIXEL_M: Mapping[str, int] = {
    **dict.fromkeys(("VV", "VH", "B2", "B3", "B4", "B8"), 10),
    **dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B1", "B9", "B10"), 60),
}
"""Pixel size of each band in m (Sentinel-2 MSI technical guide; S1 GRD of Earth Engine has 10 m)."""

_DTYPES = {"s1": ("float32", "float64", "uint8"), "s2": ("uint16", "int16", "int32", "uint32", "uint8")}
_CUBIC_REACH = 2  # pixels of the coarse band that cubic convolution looks at to each side


@dataclass(frozen=True, kw_only=True)
class SeasonImage:
    """values_BHW: s1 float32 dB or s2 uint16 DN. valid_HW: bool. grid: of the first 10 m band, as its file says."""

    values_BHW: NDArray[Any]
    valid_HW: NDArray[np.bool_]
    grid: Grid


def read_season(folder: Path, sensor: str, product: str, bands: Sequence[str], tally: Tally) -> SeasonImage:
    """Read `bands` of one acquisition; `tally` counts what was resampled or turned back from 8 bits.

    Raises MissingDataError for absent bands, BandError, GridError for sizes or boxes, RangeError for types or values.
    """
    present = get_sensor(sensor).products[product]
    absent = [name for name in present if not (folder / f"{name}.tif").is_file()]
    if absent:
        raise MissingDataError(
            f"a season of {product} lacks bands",
            got=sorted(path.name for path in folder.glob("*.tif")),
            expected=f"{', '.join(f'{name}.tif' for name in present)}; no {', '.join(absent)}",
            where=folder,
            do="fetch the place again, or leave it out",
        )
    reference = next(name for name in present if PIXEL_M[name] == 10)
    grids: dict[str, Grid] = {}
    read = {name: _read_band(folder / f"{name}.tif", name, sensor, grids) for name in present}
    _require_one_ground(grids, reference, folder)
    eight_bit = _is_eight_bit(read, folder)
    valid_HW = np.ones((SIDE, SIDE), bool) if eight_bit else _valid(read, sensor)
    if eight_bit:
        read = {name: _from_eight_bit(values, sensor, product, name) for name, values in read.items() if name in bands}
        tally.changed[f"{sensor} band images turned back from 8 bits"] += len(bands)
    values_BHW = np.stack([_to_side(read[name], sensor, name, tally) for name in bands])
    check_values(sensor, values_BHW, valid_HW, bands, folder)
    return SeasonImage(
        values_BHW=values_BHW.astype(get_sensor(sensor).dtype, copy=False), valid_HW=valid_HW, grid=grids[reference]
    )


def box_distance(a: Grid, b: Grid) -> float:
    """How far apart the farthest corners of two boxes are, px of `a`; the CRS may differ. Inf where one has none."""
    if a.crs is None or b.crs is None:
        return np.inf
    own, others = (np.array(grid.transform, np.float64).reshape(3, 3) for grid in (a, b))
    x, y, ones = others @ _corners(b)
    if a.crs != b.crs:
        x, y = (np.asarray(part) for part in transform_points(b.crs, a.crs, x, y))
    offsets = np.linalg.solve(own, np.stack([x, y, ones])) - _corners(a)
    return float(np.abs(offsets[:2]).max())


def _corners(grid: Grid) -> NDArray[np.float64]:
    """Columns, rows and ones of the four corners (3, 4), px."""
    return np.array([(x, y, 1.0) for x in (0, grid.width) for y in (0, grid.height)]).T


def _read_band(path: Path, name: str, sensor: str, grids: dict[str, Grid]) -> NDArray[Any]:
    """The pixels of a band (h, w) in the file's type, its grid noted in `grids`."""
    side = SIDE * 10 // PIXEL_M[name]
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.shape != (side, side):
            raise GridError(
                f"a file of band {name} has another size than the layout says",
                got=f"{dataset.count} x {dataset.height} x {dataset.width} px",
                expected=f"1 x {side} x {side} px of {PIXEL_M[name]} m",
                where=path,
                do="if these are images of another layout, choose that one",
            )
        if dataset.dtypes[0] not in _DTYPES[sensor]:
            raise RangeError(
                f"a file of band {name} has the wrong type",
                got=dataset.dtypes[0],
                expected=" or ".join(_DTYPES[sensor]),
                where=path,
            )
        grids[name] = grid_of(dataset)
        values_BHW, missing, _ = read_pixels(dataset)
    return np.where(missing.in_band(0), 0, values_BHW[0]).astype(values_BHW.dtype)


def _require_one_ground(grids: Mapping[str, Grid], reference: str, folder: Path) -> None:
    """The boxes of all bands lie within half a pixel of their band; a set without any georeference passes, too."""
    located = [name for name, grid in grids.items() if grid.crs is not None]
    if not located:
        return
    for name, grid in grids.items():
        allowed = PIXEL_M[name] / 10 / 2
        far = box_distance(grids[reference], grid)
        if far > allowed:
            raise GridError(
                "two bands of one season do not cover the same ground",
                got=f"boxes of {reference} and {name} up to {far:.1f} px of 10 m apart",
                expected=f"at most {allowed:g} px (half a pixel of {name})",
                where=folder,
                do="fetch the place again, or leave it out",
            )


def _is_eight_bit(read: Mapping[str, NDArray[Any]], folder: Path) -> bool:
    kinds = {values.dtype == np.uint8 for values in read.values()}
    if len(kinds) > 1:
        raise BandError(
            "a season mixes the native and the 8-bit edition",
            got=", ".join(f"{name} {values.dtype}" for name, values in read.items()),
            expected="one edition",
            where=folder,
        )
    return kinds.pop()


def _valid(read: Mapping[str, NDArray[Any]], sensor: str) -> NDArray[np.bool_]:
    """False where every band is 0, and where cubic convolution mixes such pixels in."""
    full = (SIDE, SIDE)
    missing_HW = np.logical_and.reduce([resample_nearest(values == 0, full) for values in read.values()])
    valid_HW: NDArray[np.bool_] = ~missing_HW
    if sensor == "s2" and missing_HW.any():
        for values in read.values():
            side = values.shape[0]
            if side != SIDE:
                coarse = missing_HW.reshape(side, SIDE // side, side, SIDE // side).any(axis=(1, 3))
                reached = binary_dilation(coarse, np.ones((3, 3), bool), _CUBIC_REACH)
                valid_HW &= ~resample_nearest(reached, full)
    return valid_HW


def _from_eight_bit(values: NDArray[Any], sensor: str, product: str, name: str) -> NDArray[Any]:
    """8-bit values as dB or DN, at the middle of their steps."""
    scaled = np.minimum(values.astype(np.float64) + 0.5, 255) / 255
    native = published_normalization(sensor, (name,)).undo(scaled[None], product)[0]
    result: NDArray[Any] = native if sensor == "s1" else np.rint(np.maximum(native, 0)).astype(np.uint16)
    return result


def _to_side(values: NDArray[Any], sensor: str, name: str, tally: Tally) -> NDArray[Any]:
    if values.shape == (SIDE, SIDE):
        return values
    tally.changed[f"{sensor} band images of {PIXEL_M[name]} m resampled to 10 m (cubic)"] += 1
    return resample_cubic(values, (SIDE, SIDE))
