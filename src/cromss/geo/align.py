"""Rasters warped onto the grid of another: only where that was asked for, and never over missing pixels.

In: the grids of two rasters, and a function that reads windows of the first. Out: its values on windows of the second
grid, and where they are valid. Measurements are interpolated (`bilinear`, `cubic`), classes take the `nearest` pixel.

    pixel of the target -> CRS of the target -> CRS of the source -> pixel of the source, within 0.01 px

An interpolated pixel is valid only where every pixel that its kernel touches is there and valid; of `cubic` the four
by four pixels around it count, also where some weights are 0. Where the target is coarser, kernels widen with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject, transform
from scipy.ndimage import maximum_filter

from cromss.errors import GridError
from cromss.geo.raster import Grid
from cromss.geo.sensor import Sensor

__all__ = ["Alignment", "Method", "Read", "align", "as_measured", "read_nearest"]

Method = Literal["nearest", "bilinear", "cubic"]
Window = tuple[int, int, int, int]
Read = Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]]

_TOLERANCE_PX = 0.01  # error of positions
_RADIUS_PX = {"nearest": 1, "bilinear": 1, "cubic": 2}  # of the kernels, in pixels of the coarser grid
_TOUCH = 1e-3  # weight from which on a pixel counts as touched; positions are not exact
_SAME_SIZE = 0.98  # pixels that differ less in size are interpolated as if they were alike
_POINTS = 33  # along each side of a window, to see where it lies in another CRS


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How one raster is brought onto the grid of another. steps: columns and rows of it to a pixel of the target."""

    source: Grid
    target: Grid
    steps: tuple[float, float]

    def read(self, window: Window, method: Method, read: Read) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (B, H, W) in float32 and validity (H, W) of a window (row, column, height, width) of the target.

        read: window of the source -> values (B, H, W) and validity (H, W); it is asked for no more than is needed.
        Values are NaN where they are not valid.
        """
        target = self.target.window(*window)
        margin = math.ceil(_RADIUS_PX[method] * max(1.0, *self.steps)) + 2
        wanted = _window(self.source, target, margin)
        inside = _inside(wanted, self.source)
        if inside is None:
            bands = read((0, 0, 1, 1))[0].shape[0]
            return np.full((bands, *target.shape), np.nan, np.float32), np.zeros(target.shape, bool)
        values_BHW, valid_HW = read(inside)
        padded_BHW = np.full((values_BHW.shape[0], *wanted[2:]), np.nan, np.float32)
        (top, left), (height, width) = (inside[0] - wanted[0], inside[1] - wanted[1]), inside[2:]
        padded_BHW[:, top : top + height, left : left + width] = np.where(valid_HW, values_BHW, np.float32(np.nan))
        grid = self.source.window(*wanted)
        warped_BHW = self._warp(padded_BHW, grid, target, method)
        lacking_HW = np.isnan(padded_BHW[0])
        valid_HW = np.logical_and.reduce(np.isfinite(warped_BHW))
        if method != "nearest" and lacking_HW.any():
            valid_HW &= ~self._touched(lacking_HW, grid, target, method)
        warped_BHW[:, ~valid_HW] = np.nan
        return warped_BHW, valid_HW

    def _touched(self, lacking_HW: NDArray[np.bool_], grid: Grid, target: Grid, method: Method) -> NDArray[np.bool_]:
        """Where a kernel reaches pixels that are missing: a mask of them, interpolated, is above 0."""
        missing_HW = lacking_HW.astype(np.float32)
        if method == "cubic":  # twice as wide as bilinear, and its weights may cancel
            reach = tuple(2 * math.ceil(max(1.0, step)) + 1 for step in reversed(self.steps))
            missing_HW = maximum_filter(missing_HW, size=reach, mode="nearest")
        touched_HW: NDArray[np.bool_] = self._warp(missing_HW[None], grid, target, "bilinear")[0] > _TOUCH
        return touched_HW

    def _warp(self, values_BHW: NDArray[np.float32], grid: Grid, target: Grid, method: Method) -> NDArray[np.float32]:
        warped_BHW = np.full((values_BHW.shape[0], *target.shape), np.nan, np.float32)
        scales = [1.0 if 1 / step > _SAME_SIZE else 1 / step for step in self.steps]
        reproject(
            values_BHW,
            warped_BHW,
            src_transform=grid.transform,
            src_crs=grid.crs,
            src_nodata=np.nan,
            dst_transform=target.transform,
            dst_crs=target.crs,
            dst_nodata=np.nan,
            resampling=Resampling[method],
            tolerance=_TOLERANCE_PX,
            XSCALE=scales[0],
            YSCALE=scales[1],
        )
        return warped_BHW


def align(source: Grid, target: Grid, source_name: str | Path, target_name: str | Path) -> Alignment | None:
    """How `source` is warped onto `target`; None where the two are one grid.

    Raises GridError, naming both files, for a missing CRS, a transform without area, and grids that share no ground.
    """
    if source.difference(target) is None:
        return None
    names = f"{source_name}\n      and {target_name}"
    if source.crs is None or target.crs is None or source.transform.is_degenerate or target.transform.is_degenerate:
        raise GridError(
            "a raster can not be warped without a georeference",
            got=f"CRS {source.crs} and {target.crs}",
            expected="a CRS and a transform in both",
            where=names,
            do="give both files their CRS and transform",
        )
    try:
        wanted = _window(source, target, 0)
        steps = _steps(source, target)
    except (RasterioError, ValueError) as error:
        raise GridError("two rasters have no common CRS", got=error, where=names, do="correct their CRS") from None
    if _inside(wanted, source) is None:
        raise GridError(
            "two rasters of one place share no ground",
            got=f"{source.bounds} in {source.crs}, {target.bounds} in {target.crs}",
            expected="areas that overlap",
            where=names,
            do="check their ids and their georeference",
        )
    return Alignment(source=source, target=target, steps=steps)


def read_nearest(alignment: Alignment | None, window: Window, read: Read) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Numbers (H, W) of the only band on a window, 0 where they mean nothing, and where they do; none is rounded."""
    values_BHW, valid_HW = read(window) if alignment is None else alignment.read(window, "nearest", read)
    return np.where(valid_HW, values_BHW[0], 0), valid_HW


def as_measured(
    sensor: Sensor, warped_BHW: NDArray[np.float32], valid_HW: NDArray[np.bool_]
) -> tuple[NDArray[Any], int]:
    """Warped values in the type of their sensor, whole where it is, and in how many bands some left its valid range.

    Those are set to the end of the range: `cubic` swings beyond the values that it stands between.
    """
    beyond_BHW = ((warped_BHW < sensor.valid_min) | (warped_BHW > sensor.valid_max)) & valid_HW
    held_BHW = np.clip(warped_BHW, sensor.valid_min, sensor.valid_max)
    clipped = int(beyond_BHW.any(axis=(1, 2)).sum())
    if np.dtype(sensor.dtype).kind == "f":
        return held_BHW.astype(sensor.dtype), clipped
    return np.where(valid_HW, np.rint(held_BHW), 0).astype(sensor.dtype), clipped


def _positions(source: Grid, target: Grid, columns: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Columns and rows (2, N) of the source at positions of the target, in pixels. Raises ValueError, RasterioError."""
    a, b, c, d, e, f = target.transform[:6]
    xs, ys = a * columns + b * rows + c, d * columns + e * rows + f
    if source.crs != target.crs:
        xs, ys = (np.asarray(axis) for axis in transform(target.crs, source.crs, xs, ys))
    a, b, c, d, e, f = (~source.transform)[:6]
    found = np.stack([a * xs + b * ys + c, d * xs + e * ys + f])
    if not np.isfinite(found).all():
        raise ValueError("positions that the other CRS can not express")
    return found


def _window(source: Grid, target: Grid, margin: int) -> Window:
    """The pixels of the source under the target and `margin` px around it, at most that far beyond the source."""
    along = np.linspace(0.0, 1.0, _POINTS)
    columns, rows = (axis.ravel() for axis in np.meshgrid(along * target.width, along * target.height))
    positions = _positions(source, target, columns, rows)
    (left, top), (right, bottom) = np.floor(positions.min(axis=1)) - margin, np.ceil(positions.max(axis=1)) + margin
    first_column, last_column = _limit(left, right, source.width, margin)
    first_row, last_row = _limit(top, bottom, source.height, margin)
    return first_row, first_column, last_row - first_row, last_column - first_column


def _limit(first: float, last: float, length: int, margin: int) -> tuple[int, int]:
    first = min(max(first, -margin - 1), length + margin)
    return int(first), int(max(min(last, length + margin + 1), first + 1))


def _inside(window: Window, grid: Grid) -> Window | None:
    """The part of a window inside a grid; None where there is none."""
    row, column, height, width = window
    top, left, bottom, right = (
        max(row, 0),
        max(column, 0),
        min(row + height, grid.height),
        min(column + width, grid.width),
    )
    return (top, left, bottom - top, right - left) if top < bottom and left < right else None


def _steps(source: Grid, target: Grid) -> tuple[float, float]:
    """Columns and rows of the source that a step of one pixel of the target leads over, at its middle."""
    column, row = target.width / 2, target.height / 2
    here, right, down = _positions(
        source, target, np.array([column, column + 1, column]), np.array([row, row, row + 1])
    ).T
    columns, rows = np.hypot(right - here, down - here)
    return float(columns), float(rows)
