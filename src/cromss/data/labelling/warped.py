"""Label maps of any grid, brought onto the grid of an image: nearest neighbour, so no class is ever invented.

In: GeoTIFFs with the codes of a legend (tiles of one map, on disk or at an address), and a grid. Out: the source's
class ids on that grid, 255 where no tile has a class, and how many pixels each tile gave. Earlier tiles win.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from cromss.errors import DamagedFileError, GridError, LabelError, MissingDataError
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, open_raster

__all__ = ["warp_labels"]

_TOLERANCE = 0.01  # pixels of the map by which positions may be off; the raster library cannot do without any


def warp_labels(tiles: Sequence[str | Path], grid: Grid, legend: Legend) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Class ids of `legend` (H, W) on `grid`, and the pixels that each used tile gave.

    tiles: paths, or addresses with a scheme such as https. Raises MissingDataError where none is given, GridError for a
    missing CRS, LabelError for a value that the legend does not know, DamagedFileError.
    """
    if not tiles:
        raise MissingDataError("no tile of a label map is given", expected="at least one GeoTIFF")
    if grid.crs is None:
        raise GridError("an image without a CRS cannot be joined with a map", do="give the image its CRS")
    labels = np.full(grid.shape, IGNORE, np.uint8)
    given: dict[str, int] = {}
    for tile in tiles:
        part = _warp(tile, grid, legend)
        fresh = (labels == IGNORE) & (part != IGNORE)
        labels[fresh] = part[fresh]
        if fresh.any():
            given[str(tile)] = int(fresh.sum())
        if not (labels == IGNORE).any():
            break
    return labels, given


def _warp(tile: str | Path, grid: Grid, legend: Legend) -> NDArray[np.uint8]:
    try:
        with _open(tile) as dataset:
            if dataset.crs is None:
                raise GridError("a label map does not say its CRS", where=tile, do="write it with a CRS")
            _require_codes(dataset, tile)
            with WarpedVRT(
                dataset,
                crs=grid.crs,
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling.nearest,
                add_alpha=dataset.nodata is None,
                tolerance=_TOLERANCE,
            ) as warped:
                values_HW = warped.read(1)
                inside_HW = warped.read_masks(1) != 0
            nodata, codes = dataset.nodata, legend.of_file(dataset.tags(), tile)
    except (RasterioError, CPLE_BaseError) as error:
        raise DamagedFileError(
            "a label map can not be read",
            got=" ".join(str(error.__cause__ or error).split()),
            expected="a whole GeoTIFF",
            where=tile,
            do="check the address, or fetch the file again",
        ) from None
    labels = np.full(grid.shape, IGNORE, np.uint8)
    labels[inside_HW] = codes.encode(values_HW[inside_HW], tile, nodata)
    return labels


def _open(tile: str | Path) -> rasterio.DatasetReader:
    return rasterio.open(tile) if "://" in str(tile) else open_raster(tile)


def _require_codes(dataset: rasterio.DatasetReader, tile: str | Path) -> None:
    """Refuse what cannot hold class codes before anything is read."""
    if dataset.count != 1 or not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer):
        raise LabelError(
            "a label map must hold one band of class codes",
            got=f"{dataset.count} bands of {dataset.dtypes[0]}",
            expected="1 band of an integer type such as uint8",
            where=tile,
            do="give the band of classes alone (gdal_translate -b N)",
        )
