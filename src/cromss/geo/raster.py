"""GeoTIFFs with their place on the ground, their bands by name, and which pixels hold data.

In: paths. Out: a `Raster`: values, a validity mask, band names, and a `Grid`; or an error that names the file.
A `Grid` is shape, transform and CRS as one value; two rasters go together only when their grids are equal.

    displacement of a corner in pixels = A1^-1 (A2 c) - c    for the corners c of the grid, A1, A2 the two transforms
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.env import env_ctx_if_needed, get_gdal_config, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from cromss.errors import BandError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.files import commit
from cromss.geo.nodata import NoData
from cromss.geo.tiff import MAX_BYTES, check_tiff

__all__ = [
    "MAX_BYTES",
    "Grid",
    "Raster",
    "block_cache",
    "create_raster",
    "grid_of",
    "many_rasters",
    "open_raster",
    "read_pixels",
    "read_raster",
    "require_same_grid",
    "write_raster",
]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where pixels are: rows, columns, the affine transform (column, row) -> CRS units, the CRS (None: unknown)."""

    height: int
    width: int
    transform: Affine
    crs: CRS | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return (self.height, self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The box around all corners in CRS units: least x and y, largest x and y."""
        a, b, c, d, e, f = self.transform[:6]
        corners = [(column, row) for column in (0, self.width) for row in (0, self.height)]
        xs, ys = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of a part of this one; may reach beyond it."""
        a, b, c, d, e, f = self.transform[:6]
        transform = Affine(a, b, a * column + b * row + c, d, e, d * column + e * row + f)
        return Grid(height=height, width=width, transform=transform, crs=self.crs)

    def difference(self, other: Grid, tolerance_px: float = 0.01) -> str | None:
        """What differs, in words, or None if no corner is farther apart than `tolerance_px` pixels."""
        if self.shape != other.shape:
            return f"size {self.height} x {self.width} and {other.height} x {other.width} px"
        if self.crs != other.crs:
            return f"CRS {_crs_text(self.crs)} and {_crs_text(other.crs)}"
        if self.transform == other.transform:
            return None
        if self.transform.is_degenerate:
            return "a transform without area"
        corners = np.array([(x, y, 1.0) for x in (0, self.width) for y in (0, self.height)]).T
        first, second = (np.array(grid.transform, np.float64).reshape(3, 3) for grid in (self, other))
        offsets = (np.linalg.solve(first, second @ corners) - corners)[:2].T
        if np.abs(offsets).max() <= tolerance_px:
            return None
        return _describe(self.transform, other.transform, offsets)


def _crs_text(crs: CRS | None) -> str:
    return "missing" if crs is None else crs.to_string()[:60]


def _describe(first: Affine, second: Affine, offsets: NDArray[np.float64]) -> str:
    """Name the kind of difference; `offsets` (4, 2) are the displacements of the corners in pixels, x then y."""
    if np.ptp(offsets, axis=0).max() < 1e-6 * max(1.0, float(np.abs(offsets).max())):
        x, y = np.round(offsets[0], 6) + 0.0  # no "-0"
        return f"shifted by {x:g} px in x and {y:g} px in y"
    if first.a * second.a < 0 or first.e * second.e < 0:
        return f"flipped: pixel size {first.a:g}, {first.e:g} and {second.a:g}, {second.e:g}"
    if (first.b, first.d) != (second.b, second.d):
        return f"rotated or sheared: {first.b:g}, {first.d:g} and {second.b:g}, {second.d:g}"
    far = np.abs(offsets).max()
    return f"pixel size {first.a:g}, {first.e:g} and {second.a:g}, {second.e:g}; corners up to {far:g} px apart"


def require_same_grid(a: Grid, b: Grid, name_a: str | Path, name_b: str | Path, tolerance_px: float = 0.01) -> None:
    """Raise GridError, naming both files and the difference, unless the two grids are equal within `tolerance_px`."""
    difference = a.difference(b, tolerance_px)
    if difference is not None:
        raise GridError(
            "two rasters of one place are not on the same grid",
            got=difference,
            expected=f"the same size, CRS and transform, within {tolerance_px:g} px",
            where=f"{name_a}\n      and {name_b}",
            do="bring both to one grid (images: gdalwarp -r bilinear; labels: gdalwarp -r near)",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """Pixels of a file. values_BHW in the file's type; valid_HW False where the file declares no data.

    band_names: one a band, "" where the file names none. tags: the file's own. nodata: the declared value, if any.
    clipped_bands: bands in which values were raised to 0 when an offset was taken off (`cromss.geo.offsets`).
    """

    values_BHW: NDArray[Any]
    valid_HW: NDArray[np.bool_]
    band_names: tuple[str, ...]
    grid: Grid
    tags: Mapping[str, str]
    nodata: float | None
    clipped_bands: int = 0


def open_raster(path: str | Path) -> rasterio.DatasetReader:
    """Open a GeoTIFF for windowed reading (a context manager), after checking that all its parts are there.

    Raises MissingDataError; DamagedFileError for a file that is no GeoTIFF, is cut short, or has blocks missing;
    RangeError for one whose header claims far more than the file can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError("a raster is absent", where=path, do="check the path; it must be a GeoTIFF file")
    with _damage(path), warnings.catch_warnings(), env_ctx_if_needed():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a missing CRS shows in the grid
        check_tiff(path)
        return DatasetReader(path, driver="GTiff")  # rasterio.open would set up the library once more for each file


def many_rasters() -> rasterio.Env:
    """A context in which many rasters are opened one after the other, a third faster.

    The raster library is set up once, not at each of them, and looks for what may lie beside a file (.aux.xml, .msk,
    .ovr) by name, without listing its folder.
    """
    return rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=True)


@contextlib.contextmanager
def block_cache(size: int) -> Iterator[None]:
    """Keep at most `size` bytes of decoded blocks in memory; the limit holds for the process, and is put back."""
    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", size)
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)  # an Env would leave its own behind


@contextlib.contextmanager
def _damage(path: str | Path) -> Iterator[None]:
    """Turn what the raster library or the disk raises for a bad file into an error that names the file."""
    try:
        yield
    except (RasterioError, OSError) as error:
        raise DamagedFileError(
            "a raster can not be read",
            got=" ".join(str(error.__cause__ or error).split()),
            expected="a whole GeoTIFF",
            where=path,
            do="fetch or write the file again",
        ) from None


def grid_of(dataset: rasterio.DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(height=dataset.height, width=dataset.width, transform=dataset.transform, crs=dataset.crs)


def read_raster(source: str | Path | rasterio.DatasetReader, window: tuple[int, int, int, int] | None = None) -> Raster:
    """Read all bands of a file, or of an open raster, wholly or in a window (row, column, height, width).

    A pixel is invalid where any band holds its no-data value or the file's mask says so.
    Raises MissingDataError, DamagedFileError, RangeError for more than `MAX_BYTES`, GridError for a window outside.
    """
    if isinstance(source, str | Path):
        with open_raster(source) as dataset:
            return read_raster(dataset, window)
    values_BHW, missing, grid = read_pixels(source, window)
    return Raster(
        values_BHW=values_BHW,
        valid_HW=np.logical_not(missing.in_any(range(source.count))),
        band_names=tuple(text or "" for text in source.descriptions),
        grid=grid,
        tags=source.tags(),
        nodata=source.nodata,
    )


def read_pixels(
    source: rasterio.DatasetReader, window: tuple[int, int, int, int] | None = None
) -> tuple[NDArray[Any], NoData, Grid]:
    """All bands of an open raster (B, H, W), where they hold declared no-data, and the window's grid."""
    row, column, height, width = window or (0, 0, source.height, source.width)
    _check_request(source, row, column, height, width)
    part = Window(column, row, width, height)
    with _damage(source.name):
        values_BHW = source.read(window=part)
        masked = MaskFlags.per_dataset in source.mask_flag_enums[0]
        masked_HW = source.dataset_mask(window=part) == 0 if masked else None
    missing = NoData(values_BHW=values_BHW, declared_B=source.nodatavals, masked_HW=masked_HW)
    return values_BHW, missing, grid_of(source).window(row, column, height, width)


def _check_request(dataset: rasterio.DatasetReader, row: int, column: int, height: int, width: int) -> None:
    inside = 0 <= row < row + height <= dataset.height and 0 <= column < column + width <= dataset.width
    if not inside:
        raise GridError(
            "a window reaches outside its raster",
            got=f"row {row}, column {column}, {height} x {width}",
            expected=f"inside {dataset.height} x {dataset.width}",
            where=dataset.name,
        )
    block_height, block_width = max(dataset.block_shapes)
    pixels = max(height * width, block_height * block_width)
    needed = pixels * dataset.count * max(np.dtype(name).itemsize for name in set(dataset.dtypes))
    if needed > MAX_BYTES:
        raise RangeError(
            "a raster is too large to be read in one piece",
            got=f"{dataset.count} x {height} x {width} px in blocks of {block_height} x {block_width}: {needed} bytes",
            expected=f"at most {MAX_BYTES} bytes",
            where=dataset.name,
            do="cut the scene into patches (tile), or store it in blocks of 256 x 256",
        )


@contextlib.contextmanager
def create_raster(
    path: str | Path,
    grid: Grid,
    *,
    bands: int,
    dtype: str,
    nodata: float | None = None,
    band_names: Sequence[str] = (),
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[rasterio.io.DatasetWriter]:
    """Open a new GeoTIFF for writing in windows; it takes its name, durably, when the block ends without error.

    Raises DamagedFileError where not every block reached the disk.
    """
    tiled = max(grid.shape) > 256
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256} if tiled else {}
    if colormap is not None:
        layout["photometric"] = "palette"  # else overviews get no colours
    profile = {
        **layout,
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": bands,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
        "compress": "deflate",
        "predictor": 3 if np.dtype(dtype).kind == "f" else 2,
        "BIGTIFF": "IF_SAFER",
    }
    with commit(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(temporary, "w", **profile) as dataset:
            for band, name in enumerate(band_names, start=1):
                dataset.set_band_description(band, name)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            if tags:
                dataset.update_tags(**tags)
            yield dataset
            overviews = dataset.overviews(1)
        _require_written(temporary, overviews, Path(path))


def _require_written(temporary: Path, overviews: Sequence[int], final: Path) -> None:
    """Read back every block and overview: the raster library reports no error when a full disk cuts a file short."""
    try:
        check_tiff(temporary, gaps_allowed=False)
        for level in range(-1, len(overviews)):  # -1 is the full size
            with rasterio.open(temporary, **({"overview_level": level} if level >= 0 else {})) as dataset:
                for _, window in dataset.block_windows(1):
                    dataset.read(window=window)
    except (RasterioError, DamagedFileError) as error:
        raise DamagedFileError(
            "a raster could not be written; nothing was saved",
            got=getattr(error, "got", None) or " ".join(str(error.__cause__ or error).split()),
            expected="a whole file",
            where=final,
            do="check free space and permissions",
        ) from None


def write_raster(
    path: str | Path,
    values_BHW: NDArray[Any],
    grid: Grid,
    *,
    nodata: float | None = None,
    band_names: Sequence[str] = (),
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write (B, H, W) or (H, W) as a GeoTIFF on `grid`. Raises GridError for other shapes, BandError for the names."""
    values = values_BHW[None] if values_BHW.ndim == 2 else values_BHW
    if values.shape[1:] != grid.shape:
        raise GridError("values do not fit their grid", got=values.shape, expected=f"(B, {grid.height}, {grid.width})")
    if band_names and len(band_names) != values.shape[0]:
        raise BandError(
            "one name a band is needed", got=list(band_names), expected=f"{values.shape[0]} names", where=path
        )
    with create_raster(
        path,
        grid,
        bands=values.shape[0],
        dtype=str(values.dtype),
        nodata=nodata,
        band_names=band_names,
        colormap=colormap,
        tags=tags,
    ) as dataset:
        dataset.write(values)
