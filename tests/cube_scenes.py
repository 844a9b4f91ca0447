"""Zarr cubes of scenes, written as xarray's to_zarr does: dimensions, coordinates, spatial_ref, _FillValue."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cromss.geo.raster import Grid


class CubeWriter:
    """Writes variables of one grid into a new store."""

    def __init__(self, path: Path, grid: Grid, *, version: int = 3, days=(), chunk: int = 40) -> None:
        self.group = zarr.open_group(str(path), mode="w", zarr_format=version)
        self.version, self.grid, self.chunk = version, grid, chunk
        a, _, c, _, e, f = grid.transform[:6]
        self.add("x", c + a * (np.arange(grid.width) + 0.5), ("x",))
        self.add("y", f + e * (np.arange(grid.height) + 0.5), ("y",))
        facts = {"crs_wkt": grid.crs.to_wkt(), "GeoTransform": " ".join(map(repr, grid.transform.to_gdal()))}
        self.add("spatial_ref", np.array(0), (), attributes=facts)
        if days:
            since = np.array(days, "datetime64[D]") - np.datetime64("2021-01-01")
            self.add("time", since.astype(np.int64), ("time",), attributes={"units": "days since 2021-01-01"})

    def add(self, name: str, values: np.ndarray, dimensions, *, fill=None, attributes: dict[str, Any] | None = None):
        attributes, options = dict(attributes or {}), {}
        if self.version == 2:
            attributes["_ARRAY_DIMENSIONS"] = list(dimensions)
            options["fill_value"] = fill
        else:
            options["dimension_names"] = list(dimensions)
            if fill is not None:
                options["fill_value"] = fill
                code = base64.standard_b64encode(struct.pack("<d", fill)).decode()
                attributes["_FillValue"] = code if values.dtype.kind == "f" else fill
        chunks = tuple(min(size, self.chunk) if dimension in ("x", "y") and len(dimensions) > 1 else size
                       for size, dimension in zip(values.shape, dimensions, strict=True))  # fmt: skip
        array = self.group.create_array(
            name, shape=values.shape, chunks=chunks or "auto", dtype=values.dtype, attributes=attributes, **options
        )
        array[...] = values

    def add_bands(self, names, dimension="band"):
        options = {"dimension_names": [dimension]} if self.version == 3 else {}
        attributes = {"_ARRAY_DIMENSIONS": [dimension]} if self.version == 2 else {}
        array = self.group.create_array(
            dimension, shape=(len(names),), chunks=(len(names),), dtype=str, attributes=attributes, **options
        )
        array[...] = np.array(names, dtype=object)
