"""Images that a STAC catalogue lists: items become scenes, their assets bands of one grid.

In: items by role, place and season, and patterns of label maps. Out: scenes, joined by place, and their records.

The grid of an item is that of its finest band. Coarser bands are brought onto it by `resampling`, counted; a pixel has
no data where one of them touches missing pixels. Addresses are read in windows, as pixels are needed. Sentinel-2 values
of 0 are no data, as the product says; other sensors than s1 and s2 are read as float32, NaN where a file declares no
data. Nothing is signed in to.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cromss.data.sources.own_images import OwnImages
from cromss.data.sources.role_sections import is_map
from cromss.data.sources.stac_items import FoundItems, StacItem
from cromss.data.store.layout import is_soft_layer
from cromss.errors import DamagedFileError, DataError, RangeError
from cromss.geo.align import Alignment, Method, align
from cromss.geo.raster import grid_of, open_raster, read_pixels, require_same_grid
from cromss.geo.virtual import VirtualRaster, power_to_db

__all__ = ["stac_images"]

_OFFSETS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
_PATIENCE = {  # of the raster library with addresses: seconds, tries; folders there are not listed
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}
Window = tuple[int, int, int, int]
Part = tuple[rasterio.DatasetReader, Alignment | None]


def stac_images(found: FoundItems, patterns: Mapping[str, str], *, resampling: Method, **options: Any) -> OwnImages:
    """The scenes of items. patterns, options: as `OwnImages` takes them.

    resampling: of bands that are coarser than the finest of their item. Raises ConfigError and MissingDataError.
    """
    items = {_path(role, item): (role, item) for role, items in found.items.items() for item in items.values()}

    def open_item(path: Path) -> Any:
        role, item = items[path]
        if is_map(role):
            return _open_address(next(iter(item.addresses.values())), item.origin)
        with ExitStack() as stack:
            raster = _stacked(role, item, stack, resampling)
            raster.stack.enter_context(stack.pop_all())
        return raster

    def files_of(path: Path) -> Iterator[Path]:
        paths = (Path(address) for address in items[path][1].addresses.values() if "://" not in address)
        return (file for file in paths if file.is_file())  # that one is absent shows when it is read

    entries = {
        role: {key: _path(role, item) for key, item in by_place.items()} for role, by_place in found.items.items()
    }
    return OwnImages(
        patterns,
        entries=entries,
        open_entry=open_item,
        files_of=files_of,
        orphans=found.orphans,
        resampling=resampling,
        **options,
    )


def _path(role: str, item: StacItem) -> Path:
    """What an item is called among scenes; ids alone may come twice in a catalogue."""
    return Path(role, item.place, item.season or "", item.id)


def _open_address(address: str, origin: str) -> rasterio.DatasetReader:
    """Open a file, or an address for reading in windows. Raises MissingDataError, DamagedFileError."""
    if "://" not in address:
        return open_raster(address)
    try:
        with rasterio.Env(**_PATIENCE), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a missing CRS shows in the grid
            return rasterio.open(address)
    except RasterioError as error:
        raise DamagedFileError(
            "an asset can not be opened",
            got=" ".join(str(error.__cause__ or error).split())[:300],
            expected="a GeoTIFF",
            where=f"{origin}: {address}",
            do="check the address, and whether it needs signing in (which is not supported)",
        ) from None


def _stacked(role: str, item: StacItem, stack: ExitStack, resampling: Method) -> VirtualRaster:
    """The assets of an item as one raster on the grid of the finest."""
    files = {band: stack.enter_context(_open_address(path, item.origin)) for band, path in item.addresses.items()}
    finest = min(files.values(), key=lambda dataset: abs(dataset.transform.determinant))
    grid = grid_of(finest)
    soft = is_soft_layer(role)
    if soft:  # which are never interpolated
        for dataset in files.values():
            require_same_grid(grid, grid_of(dataset), finest.name, dataset.name)
    parts = [(dataset, align(grid_of(dataset), grid, dataset.name, finest.name)) for dataset in files.values()]
    names = _band_names(files, item)
    kinds = {kind for dataset in files.values() for kind in dataset.dtypes}
    if len(kinds) > 1:
        raise RangeError("the assets of an item have different types", got=sorted(kinds), where=item.origin)
    filling = 0.0 if soft or role == "s2" else float("nan")  # 0 in all classes: no probabilities
    dtype = kinds.pop() if soft or role == "s2" else "float32"
    changes = {}
    if coarse := sum(dataset.count for dataset, alignment in parts if alignment is not None):
        changes[f"{role} bands brought onto the grid of the finest band of their item, {resampling}"] = coarse
    if item.power:
        changes[f"{role} band images turned from power into dB"] = len(names)

    def read(window: Window) -> NDArray[Any]:
        values_BHW = _read(parts, window, resampling, filling, dtype if role != "s1" else "float64")
        return power_to_db(values_BHW, item.origin) if item.power else values_BHW.astype(dtype)

    return VirtualRaster(
        name=item.origin,
        grid=grid,
        descriptions=names,
        dtype=dtype,
        nodata=None if soft else filling,
        read_window=read,
        block=max(finest.block_shapes),
        file_tags=_tags(role, files.values(), item),
        changes=changes,
    )


def _band_names(files: Mapping[str, rasterio.DatasetReader], item: StacItem) -> tuple[str, ...]:
    names: list[str] = []
    for band, dataset in files.items():
        if band and dataset.count != 1:
            raise RangeError(
                "an asset that is one band holds several",
                got=dataset.count,
                expected=f"1 band, for {band}",
                where=f"{item.origin}: {dataset.name}",
                do="give it as asset, so that its file names the bands",
            )
        named = [text or "" for text in dataset.descriptions]
        order = dataset.tags().get("BAND_ORDER")
        names += [band] if band else order.replace(",", " ").split() if order and not any(named) else named
    return tuple(names)


def _tags(role: str, files: Iterable[rasterio.DatasetReader], item: StacItem) -> dict[str, str]:
    """What the item says and, where that is nothing, its files.

    Raises DataError where they differ on an offset, RangeError for a scale that can not be used.
    """
    own = [{**dataset.tags(), **_declared(role, dataset, item)} for dataset in files]
    merged = {**own[0], **item.tags}
    if "" not in item.addresses:
        merged.pop("BAND_ORDER", None)  # of one band alone
    offsets = {tags[name] for tags in (*own, item.tags) for name in _OFFSETS if name in tags}
    if len(offsets) > 1:
        raise DataError(
            "an item and its files say different offsets of their values",
            got=sorted(offsets),
            expected="one",
            where=item.origin,
            do="correct the catalogue or the tags of the files",
        )
    return merged


def _declared(role: str, dataset: rasterio.DatasetReader, item: StacItem) -> dict[str, str]:
    """The offset that scale and offset in the header of a file stand for; nothing where values are as they stand."""
    scales = set(zip(dataset.scales, dataset.offsets, strict=True)) - {(1.0, 0.0)}
    if not scales:
        return {}
    scale, offset = scales.pop()
    if role != "s2" or scales or abs(scale / 1e-4 - 1) > 1e-6:
        raise RangeError(
            "an asset carries a scale or an offset that can not be used",
            got=f"scale {scale:g}, offset {offset:g}" + (" and others" if scales else ""),
            expected="for s2 scale 0.0001, DN = reflectance * 10000; for others none",
            where=f"{item.origin}: {dataset.name}",
        )
    return {"BOA_ADD_OFFSET": str(round(offset / scale))} if offset else {}


def _read(parts: Sequence[Part], window: Window, method: Method, nodata: float, dtype: str) -> NDArray[Any]:
    """Values (B, H, W) of all parts on one window; `nodata` where a part has none or was warped over missing pixels."""
    read: list[NDArray[Any]] = []
    sound_HW = np.ones(window[2:], bool)
    for dataset, alignment in parts:
        if alignment is None:
            values_BHW, missing, _ = read_pixels(dataset, window)
            read.append(np.where(missing.in_each(), nodata, values_BHW).astype(dtype))
            continue
        warped_BHW, valid_HW = alignment.read(window, method, partial(_present, dataset, nodata))
        if np.dtype(dtype).kind != "f":
            limits = np.iinfo(dtype)
            warped_BHW = np.rint(warped_BHW).clip(max(1, limits.min), limits.max)  # 0 is no data
        sound_HW &= valid_HW
        read.append(np.where(valid_HW, warped_BHW, nodata).astype(dtype))
    values_BHW = np.concatenate(read)
    values_BHW[:, ~sound_HW] = nodata
    return values_BHW


def _present(dataset: rasterio.DatasetReader, nodata: float, part: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """All bands of a window, and where every one of them has data."""
    values_BHW, missing, _ = read_pixels(dataset, part)
    lacking = missing.in_each() | (np.isnan(values_BHW) if np.isnan(nodata) else values_BHW == nodata)
    return values_BHW, np.logical_not(lacking.any(axis=0))
