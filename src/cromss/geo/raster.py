"""GeoTIFFs with their place on the ground, their bands by name, and which pixels hold data.

In: paths. Out: a `Raster`: values, a validity mask, band names, and a `Grid`; or an error that names the file.
A `Grid` is shape, transform and CRS as one value; two rasters go together only when their grids are equal.

    displacement of a corner in pixels = A1^-1 (A2 c) - c    for the corners c of the grid, A1, A2 the two transforms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from cromss.errors import GridError

__all__ = ["Grid", "Raster", "require_same_grid"]

MAX_BYTES = 2 * 1024**3
"""The most that one read may hold, in bytes: a guard against files whose header claims a huge size."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where pixels are: rows, columns, the affine transform from (column, row) to CRS units, the CRS (None: unknown)."""

    height: int
    width: int
    transform: Affine
    crs: CRS | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return (self.height, self.width)

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of a part of this one; may reach beyond it."""
        transform = self.transform * Affine.translation(column, row)
        return Grid(height=height, width=width, transform=transform, crs=self.crs)

    def difference(self, other: Grid, tolerance_px: float = 0.01) -> str | None:
        """What differs, in words, or None if no corner is farther apart than `tolerance_px` pixels."""
        if self.shape != other.shape:
            return f"size {self.height} x {self.width} and {other.height} x {other.width} px"
        if self.crs != other.crs:
            return f"CRS {_crs_text(self.crs)} and {_crs_text(other.crs)}"
        corners = [(x, y) for x in (0, self.width) for y in (0, self.height)]
        if self.transform.is_degenerate:
            return None if self.transform == other.transform else "one transform is degenerate"
        moved = [~self.transform * (other.transform * corner) for corner in corners]
        offsets = np.array(moved) - np.array(corners)
        if np.abs(offsets).max() <= tolerance_px:
            return None
        return _describe(self.transform, other.transform, offsets)


def _crs_text(crs: CRS | None) -> str:
    return "missing" if crs is None else crs.to_string()[:60]


def _describe(first: Affine, second: Affine, offsets: NDArray[np.float64]) -> str:
    """Name the kind of difference; `offsets` (4, 2) are the displacements of the corners in pixels, x then y."""
    if np.ptp(offsets, axis=0).max() < 1e-6 * max(1.0, float(np.abs(offsets).max())):
        return f"shifted by {offsets[0, 0]:g} px in x and {offsets[0, 1]:g} px in y"
    if first.a * second.a < 0 or first.e * second.e < 0:
        return f"flipped: pixel size {first.a:g}, {first.e:g} and {second.a:g}, {second.e:g}"
    if (first.b, first.d) != (second.b, second.d):
        return f"rotated or sheared: {first.b:g}, {first.d:g} and {second.b:g}, {second.d:g}"
    far = np.abs(offsets).max()
    return f"pixel size {first.a:g}, {first.e:g} and {second.a:g}, {second.e:g}; corners up to {far:g} px apart"


def require_same_grid(a: Grid, b: Grid, name_a: str | Path, name_b: str | Path) -> None:
    """Raise GridError, naming both files and the difference, unless the two grids are equal within 0.01 px."""
    difference = a.difference(b)
    if difference is not None:
        raise GridError(
            "two rasters of one place are not on the same grid",
            got=difference,
            expected="the same size, CRS and transform, within 0.01 px",
            where=f"{name_a}\n      and {name_b}",
            do="bring both to one grid (images: gdalwarp -r bilinear; labels: gdalwarp -r near)",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """Pixels of a file. values_BHW in the file's type; valid_HW False where the file declares no data.

    band_names: one a band, "" where the file names none. tags: the file's own. nodata: the declared value, if any.
    """

    values_BHW: NDArray[Any]
    valid_HW: NDArray[np.bool_]
    band_names: tuple[str, ...]
    grid: Grid
    tags: Mapping[str, str]
    nodata: float | None
