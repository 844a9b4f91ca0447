"""Small scenes written as GeoTIFFs, for tests of everything that reads somebody's files.

They are written with the raster library alone: `write_raster` waits for the disk, which tests have no need of.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from cromss.config import PrepareConfig
from cromss.geo.bands import SENSORS
from cromss.geo.raster import Grid

S2_BANDS = SENSORS["s2"].bands


def grid(side: int = 16, **changes: Any) -> Grid:
    """A square grid of 10 m pixels in UTM 33N."""
    fields = {
        "height": side,
        "width": side,
        "transform": Affine(10, 0, 340800, 0, -10, 5314800),
        "crs": CRS.from_epsg(32633),
    }
    return Grid(**{**fields, **changes})


def s1_values(rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Plausible backscatter, dB."""
    return rng.normal([[[-10]], [[-17]]], 2, (2, side, side)).astype(np.float32)


def s2_values(rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Plausible L1C digital numbers."""
    return rng.integers(300, 4000, (13, side, side)).astype(np.uint16)


def write(path: Path, values: np.ndarray, where: Grid, *, nodata=None, band_names=(), tags=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to a file that must not change
    bands = values[None] if values.ndim == 2 else values
    profile = {"height": where.height, "width": where.width, "crs": where.crs, "transform": where.transform}
    profile |= {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype, "nodata": nodata, "compress": "deflate"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(bands)
            dataset.update_tags(**(tags or {}))
            for band, name in enumerate(band_names, start=1):
                dataset.set_band_description(band, name)


def write_s1(path: Path, values: np.ndarray, where: Grid | None = None, **options: Any) -> None:
    options = {"nodata": float("nan"), "band_names": ("VV", "VH"), "tags": {"UNITS": "dB"}, **options}
    write(path, values, where or grid(values.shape[-1]), **options)


def write_s2(path: Path, values: np.ndarray, where: Grid | None = None, **options: Any) -> None:
    options = {"nodata": 0, "band_names": S2_BANDS, "tags": {"LEVEL": "L1C"}, **options}
    write(path, values, where or grid(values.shape[-1]), **options)


def write_labels(path: Path, values: np.ndarray, where: Grid | None = None, **options: Any) -> None:
    write(path, values, where or grid(values.shape[-1]), **{"nodata": 255, **options})


DEM_SECTION = {
    "dem": {"files": "dem/{id}.tif", "unit": "m", "bands": ["elevation", "slope"], "valid_min": -500, "valid_max": 9000}
}
"""A section `sensors` of prepare for the files that `write_dem` writes."""


def dem_values(rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Plausible heights in m and slopes in degrees."""
    return rng.normal([[[300]], [[8]]], [[[40]], [[2]]], (2, side, side)).astype(np.float32)


def write_dem(path: Path, values: np.ndarray, where: Grid | None = None, **options: Any) -> None:
    write(path, values, where or grid(values.shape[-1]), **{"nodata": -9999, **options})


def write_scene(root: Path, name: str, seed: int, side: int = 16) -> None:
    """One scene as s1/NAME.tif, s2/NAME.tif, labels/NAME.tif; the contents follow from the seed."""
    rng = np.random.default_rng(seed)
    write_s1(root / "s1" / f"{name}.tif", s1_values(rng, side))
    write_s2(root / "s2" / f"{name}.tif", s2_values(rng, side))
    write_labels(root / "labels" / f"{name}.tif", rng.integers(0, 9, (side, side)).astype(np.uint8))


def settings(root: Path, out: Path, **changes: Any) -> PrepareConfig:
    return PrepareConfig(root=str(root), out=str(out), **changes)
