"""Bands that come from several files, or from no file, with the face that an open GeoTIFF shows to its readers.

In: a grid, band names, and a function that reads windows. Out: a `VirtualRaster`, which `read_pixels`, `read_image` and
all that stands on them take like an open raster. What was done to values on the way is listed in `changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from cromss.errors import RangeError
from cromss.geo.raster import Grid

__all__ = ["VirtualRaster", "changes_of", "power_to_db"]


@dataclass(kw_only=True)
class VirtualRaster:
    """An open raster that is put together. name: for messages. descriptions: the names of its bands.

    read_window: (row, column, height, width) -> values (B, H, W) of type `dtype`, `nodata` where there are none.
    block: rows and columns that are read together. file_tags: as a GeoTIFF has them. changes: what is done to values
    -> how many band images. stack: what is closed with it.
    """

    name: str
    grid: Grid
    descriptions: tuple[str, ...]
    dtype: str
    nodata: float | None
    read_window: Callable[[tuple[int, int, int, int]], NDArray[Any]]
    block: tuple[int, int] = (256, 256)
    file_tags: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def count(self) -> int:
        return len(self.descriptions)

    @property
    def height(self) -> int:
        return self.grid.height

    @property
    def width(self) -> int:
        return self.grid.width

    @property
    def transform(self) -> Affine:
        return self.grid.transform

    @property
    def crs(self) -> CRS | None:
        return self.grid.crs

    @property
    def dtypes(self) -> tuple[str, ...]:
        return (self.dtype,) * self.count

    @property
    def nodatavals(self) -> tuple[float | None, ...]:
        return (self.nodata,) * self.count

    @property
    def scales(self) -> tuple[float, ...]:
        return (1.0,) * self.count

    @property
    def offsets(self) -> tuple[float, ...]:
        return (0.0,) * self.count

    @property
    def block_shapes(self) -> list[tuple[int, int]]:
        return [self.block] * self.count

    @property
    def mask_flag_enums(self) -> list[list[MaskFlags]]:
        """Missing pixels show by their value alone."""
        return [[MaskFlags.all_valid if self.nodata is None else MaskFlags.nodata]] * self.count

    def tags(self) -> dict[str, str]:
        return dict(self.file_tags)

    def read(self, window: Window) -> NDArray[Any]:
        """Values (B, H, W) of a window."""
        part = (int(window.row_off), int(window.col_off), int(window.height), int(window.width))
        return self.read_window(part)


def changes_of(dataset: Any) -> Mapping[str, int]:
    """What was done to the values of an open raster on their way: nothing, where it is one file."""
    return dataset.changes if isinstance(dataset, VirtualRaster) else {}


def power_to_db(power: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Backscatter in dB of linear power, NaN where that is NaN. Raises RangeError for values that no power has."""
    if (power < 0).any():
        raise RangeError(
            "backscatter that is said to be linear power is negative",
            got=f"{int((power < 0).sum())} pixels, down to {float(np.nanmin(power)):g}",
            expected="power, 0 and above",
            where=where,
            do="say `unit: dB` in the section, where the values are decibels already",
        )
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(power)
    return np.where(np.isneginf(decibels), np.nan, decibels).astype(np.float32)  # 0 is no echo at all: no data
