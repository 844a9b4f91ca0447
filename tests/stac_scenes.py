"""A static STAC catalogue of scenes that are GeoTIFFs on disk, written as its publishers do."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pystac
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from small_scenes import write


def catalogue(folder: Path, items: dict[str, list[pystac.Item]]) -> Path:
    """Write collections of items below a folder; return the catalogue's path."""
    root = pystac.Catalog("test", "scenes of a test")
    for name, members in items.items():
        extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
        collection = pystac.Collection(name, "items", extent, license="CC-BY-4.0")
        collection.add_items(members)
        root.add_child(collection)
    root.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"


def item(name: str, assets: dict[str, Path | pystac.Asset], properties=None, day="2021-06-15") -> pystac.Item:
    """An item over the ground of its first asset."""
    made = {key: pystac.Asset(str(value)) if isinstance(value, Path) else value for key, value in assets.items()}
    with rasterio.open(next(iter(made.values())).href) as dataset:
        west, south, east, north = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    moment = datetime.datetime.fromisoformat(f"{day}T10:00:00+00:00")
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return pystac.Item(name, geometry, [west, south, east, north], moment, properties or {}, assets=made)


def band_files(source: Path, folder: Path, coarse=("B11",), added=0) -> dict[str, Path]:
    """The bands of a Sentinel-2 GeoTIFF as one file each, those of `coarse` as means of 2 x 2 pixels, as published."""
    paths = {}
    with rasterio.open(source) as dataset:
        for band, name in enumerate(dataset.descriptions, start=1):
            values = dataset.read(band).astype(np.uint32)
            transform = dataset.transform
            if name in coarse:
                height, width = values.shape
                values = values.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)).round()
                transform = transform @ Affine.scale(2)
            where = _grid(values, transform, dataset.crs)
            paths[name] = folder / f"{name}.tif"
            write(paths[name], np.where(values > 0, values + added, 0).astype(np.uint16), where, nodata=0)
    return paths


def _grid(values, transform, crs):
    from cromss.geo.raster import Grid

    return Grid(height=values.shape[0], width=values.shape[1], transform=transform, crs=crs)
