"""Images that lie in a Zarr cube, as xarray writes it: times are seasons, variables or their bands are bands.

    cube:
      path: cube.zarr                                    a folder, from root
      s2: {variable: s2, bands: {B02: B2, B03: B3}}      dimensions (time, band, y, x); bands: names of the coordinate
      s1: {variables: {vv: VV, vh: VH}}                  or one variable a band, (time, y, x)
      dem: {variables: {height: elevation}}              another sensor, of the section sensors
      labels: {variable: map, path: labels.zarr}         (time, y, x) or (y, x); path: another cube
      annotators: {dw: {variable: dw}}                   several, in the place of labels; further ones by their setting
      probabilities: {variable: soft}                    (time, class, y, x), or one variable a class
      clouds: {variable: SCL}                            what its values mean: cloud_values; truth as labels

In: that section. Out: one scene, named like the folder, and its records. The grid is that of x, y and spatial_ref of
each cube. Without time there is one season; maps and other sensors without time serve all. s1 may say `unit: power`.
Windows are read as pixels are needed; a chunk is decoded for each patch that touches it.

`scale_factor` 0.0001 with `add_offset` says, for Sentinel-2, which DN were added: -add_offset / scale_factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from cromss.data.sources.file_patterns import Found
from cromss.data.sources.own_images import OwnImages
from cromss.data.sources.role_sections import NO_NAMES, Entry, Known, is_map, role_entries
from cromss.data.sources.zarr_folder import ZarrArray, ZarrFolder
from cromss.data.sources.zarr_shard import decode_times
from cromss.data.store.layout import is_soft_layer
from cromss.errors import BandError, ConfigError, DamagedFileError, GridError, RangeError
from cromss.geo.raster import Grid
from cromss.geo.virtual import VirtualRaster, power_to_db

__all__ = ["cube_entries", "cube_images"]

_LINES = ("variable", "variables", "bands", "path", "unit")
_DIMENSIONS = (
    ("time", "t"),
    ("band", "bands", "variable", "class", "classes"),
    ("y", "lat", "latitude"),
    ("x", "lon", "longitude"),
)
_TOLERANCE_PX = 0.01
Window = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Variable:
    """A variable with its dimensions found. names: of its bands. axes: dimension -> its place, for those it has."""

    array: ZarrArray
    names: tuple[str, ...]
    times: tuple[str | None, ...]
    grid: Grid
    axes: tuple[str, ...]

    def read(self, season: int, band: int | slice, window: Window) -> NDArray[Any]:
        """Values (B, H, W) of bands, or (H, W) of one."""
        row, column, height, width = window
        wanted = {"time": season, "band": band, "y": slice(row, row + height), "x": slice(column, column + width)}
        return self.array.read(*(wanted[axis] for axis in self.axes))


def cube_entries(section: Any, known: Known = NO_NAMES) -> dict[str, Entry]:
    """Role -> what the section says of it, once its keys are known to be right. Raises ConfigError."""
    example = "{path: cube.zarr, s2: {variable: s2}}"
    entries = role_entries(section, known, title="cube", own=("path",), lines=_LINES, example=example)
    for role, entry in entries.items():
        _require_one_way(role, entry.lines, entry.where)
    return entries


def _require_one_way(role: str, lines: Mapping[str, Any], where: str) -> None:
    one, several, bands = (lines.get(name) for name in ("variable", "variables", "bands"))
    named = (several, bands) if is_map(role) else ()
    sound = (one is None) != (several is None) and (several is None or bands is None)
    sound = sound and all(isinstance(part or {}, Mapping) for part in (several, bands))
    if not sound or any(part is not None for part in named):
        raise ConfigError(
            "the variables of a role need one way to their bands",
            got=dict(lines),
            expected="variable: NAME" + ("" if is_map(role) else ", with bands, or variables: {NAME: BAND, ...}"),
            where=where,
        )
    if "unit" in lines and (role != "s1" or lines["unit"] not in ("dB", "power")):
        raise ConfigError("only s1 has a unit to choose", got=lines["unit"], expected="dB or power", where=where)


def cube_images(
    section: Mapping[str, Any], root: Path, patterns: Mapping[str, str], *, roles: Mapping[str, Entry], **options: Any
) -> OwnImages:
    """The scene of a cube. roles: as `cube_entries` gives them; patterns, options: as `OwnImages` takes them.

    Raises ConfigError, MissingDataError, BandError, GridError, RangeError and DamagedFileError at once.
    """
    entries: dict[str, Found] = {}
    openers: dict[Path, Callable[[], VirtualRaster]] = {}
    arrays: dict[Path, list[ZarrArray]] = {}
    path = root / str(section["path"])
    for role, entry in roles.items():
        lines = entry.lines
        store = ZarrFolder(root / str(lines["path"]) if lines.get("path") else path)
        names = {str(k): str(v) for k, v in (lines.get("variables") or {lines.get("variable"): ""}).items()}
        found = [_variable(store, name, role) for name in names]
        _require_alike(found, store.path)
        entries[role] = {}
        for season, time in enumerate(found[0].times):
            key = store.path / role / (time or "0")
            entries[role][path.stem, time] = key
            openers[key] = partial(_opened, role, lines, found, tuple(names.values()), season, str(key))
            arrays[key] = [variable.array for variable in found] if season == 0 else []  # its files hold all times

    def files_of(key: Path) -> Iterator[Path]:
        return (file for array in arrays[key] for file in array.files())

    return OwnImages(patterns, entries=entries, open_entry=lambda key: openers[key](), files_of=files_of, **options)


def _variable(store: ZarrFolder, name: str, role: str) -> _Variable:
    array = store.array(name)
    array.require_whole()
    axes = _axes(array)
    coordinates = dict(zip(axes, array.dimensions, strict=True))
    bands: tuple[str, ...] = ("",)
    if "band" in coordinates:
        if coordinates["band"] not in store.names:
            raise BandError(
                "a cube does not name its bands", got=f"no variable {coordinates['band']}",
                expected="a coordinate of that name", where=array.folder, do="write one variable a band instead",
            )  # fmt: skip
        bands = tuple(str(text) for text in store.array(coordinates["band"]).read(slice(None)))
    times: tuple[str | None, ...] = (None,)
    if "time" in coordinates:
        times = _times(store, coordinates["time"], array)
    if is_map(role) and "band" in coordinates:
        raise BandError(
            "a map of classes must have one band", got=array.dimensions, expected="y, x", where=array.folder
        )
    grid = _grid(store, array, coordinates["y"], coordinates["x"])
    return _Variable(array=array, names=bands, times=times, grid=grid, axes=axes)


def _axes(array: ZarrArray) -> tuple[str, ...]:
    known = {name: names[0] for names in _DIMENSIONS for name in names}
    axes = tuple(known.get(name, "") for name in array.dimensions)
    order = [names[0] for names in _DIMENSIONS]
    if (
        axes[-2:] != ("y", "x")
        or list(axes) != [name for name in order if name in axes]
        or len(axes) != len(array.shape)
    ):
        raise GridError(
            "a variable of a cube has other dimensions than an image",
            got=f"{array.dimensions or 'none named'}, {array.shape}",
            expected="time, band, y, x in that order; time and band may be absent",
            where=array.folder,
            do="transpose it, and name its dimensions as xarray does",
        )
    return axes


def _times(store: ZarrFolder, name: str, array: ZarrArray) -> tuple[str, ...]:
    if name not in store.names:
        return tuple(f"{index:04d}" for index in range(array.shape[0]))
    coordinate = store.array(name)
    days = decode_times(coordinate.read(slice(None)), dict(coordinate.attributes), coordinate.folder)
    if len(set(days)) != len(days) or len(days) != array.shape[0]:
        raise DamagedFileError(
            "the times of a cube do not name its seasons",
            got=f"{len(days)} times, {len(set(days))} days",
            expected=f"{array.shape[0]} days that differ",
            where=coordinate.folder,
            do="keep one image a day",
        )
    return tuple(days)


def _grid(store: ZarrFolder, array: ZarrArray, y: str, x: str) -> Grid:
    """From the coordinates of pixel centres, and the CRS of the variable that `grid_mapping` names."""
    reference = str(array.attributes.get("grid_mapping", "spatial_ref"))
    facts = dict(store.array(reference).attributes) if reference in store.names else {}
    wkt = facts.get("crs_wkt", facts.get("spatial_ref"))
    try:
        crs = None if wkt is None else CRS.from_wkt(str(wkt))
        parts = [float(number) for number in str(facts.get("GeoTransform", "")).split()]
    except (CRSError, ValueError) as error:
        raise GridError("the CRS of a cube does not parse", got=error, where=store.path / reference) from None
    declared = Affine.from_gdal(*parts) if len(parts) == 6 else None
    height, width = array.shape[-2:]
    if not {x, y} <= set(store.names):
        return Grid(height=height, width=width, transform=declared or Affine.identity(), crs=crs)
    (left, across), (top, down) = (_line(store.array(name), size) for name, size in ((x, width), (y, height)))
    found = Grid(height=height, width=width, transform=Affine(across, 0, left, 0, down, top), crs=crs)
    if declared is not None:
        other = Grid(height=height, width=width, transform=declared, crs=crs)
        difference = found.difference(other, _TOLERANCE_PX)
        if difference:
            raise GridError(
                "a cube says two places for its pixels",
                got=difference,
                expected="x and y at pixel centres, as GeoTransform says",
                where=store.path,
                do="correct GeoTransform, or remove it",
            )
    return found


def _line(array: ZarrArray, length: int) -> tuple[float, float]:
    """The outer edge of the first pixel, and the step, of evenly spaced centres."""
    centres = array.read(slice(None)).astype(np.float64)
    step = float(centres[-1] - centres[0]) / (length - 1) if centres.size == length > 1 else 0.0
    if not step or np.abs(centres - centres[0] - step * np.arange(length)).max() > _TOLERANCE_PX * abs(step):
        raise GridError(
            "the pixels of a cube are not evenly spaced",
            got=f"{centres.size} positions from {centres[:1]} to {centres[-1:]}",
            expected=f"{length} centres of pixels, at least 2, each one step on",
            where=array.folder,
        )
    return float(centres[0]) - step / 2, step


def _require_alike(found: Sequence[_Variable], where: Path) -> None:
    first = found[0]
    for other in found[1:]:
        difference = first.grid.difference(other.grid)
        if difference or first.times != other.times or first.array.dtype != other.array.dtype or "band" in other.axes:
            raise BandError(
                "the variables of a sensor do not fit together",
                got=f"{first.array.folder.name} {first.array.dimensions} {first.array.dtype}, "
                f"{other.array.folder.name} {other.array.dimensions} {other.array.dtype}",
                expected="one type, one grid, (time, y, x)",
                where=where,
            )


def _opened(
    role: str, lines: Mapping[str, Any], found: Sequence[_Variable], bands: Sequence[str], season: int, name: str
) -> VirtualRaster:
    """One time of a role as a raster."""
    first = found[0]
    renamed = {str(key): str(value) for key, value in (lines.get("bands") or {}).items()}
    names = bands if len(found) > 1 or bands[0] else tuple(renamed.get(text, text) for text in first.names)
    power = lines.get("unit") == "power"
    nodata = float("nan") if power else first.array.nodata
    if is_soft_layer(role) and nodata == 0:
        nodata = None  # 0 in one class is a probability; 0 in all says that there are none

    def read(window: Window) -> NDArray[Any]:
        parts = [variable.read(season, slice(None), window) for variable in found]
        values_BHW = np.concatenate([part if part.ndim == 3 else part[None] for part in parts])
        if not power:
            return values_BHW
        none = np.nan if first.array.nodata is None else first.array.nodata
        return power_to_db(np.where(values_BHW == none, np.nan, values_BHW.astype(np.float64)), name)

    tags = {} if first.times[season] is None else {"DATE": str(first.times[season])}
    if not is_map(role):
        tags |= _scaling(role, found)
    if role == "s2" and "level" in first.array.attributes:
        tags["LEVEL"] = str(first.array.attributes["level"])
    return VirtualRaster(
        name=name,
        grid=first.grid,
        descriptions=tuple(names),
        dtype="float32" if power else first.array.dtype,
        nodata=nodata,
        read_window=read,
        block=(first.array.chunks[-2], first.array.chunks[-1]),
        file_tags=tags,
        changes={f"{role} band images turned from power into dB": len(names)} if power else {},
    )


def _scaling(role: str, found: Sequence[_Variable]) -> dict[str, str]:
    said = {
        (float(v.array.attributes.get("scale_factor", 1)), float(v.array.attributes.get("add_offset", 0)))
        for v in found
    }
    scale, offset = said.pop()
    if not said and (scale, offset) == (1.0, 0.0):
        return {}
    if said or role != "s2" or abs(scale / 1e-4 - 1) > 1e-6:
        raise RangeError(
            "a variable of a cube has a scale or an offset that can not be used",
            got=f"scale_factor {scale:g}, add_offset {offset:g}" + (" and others" if said else ""),
            expected="for s2 scale_factor 0.0001 in all variables, DN = reflectance * 10000; for others none",
            where=found[0].array.folder,
            do="write the values in DN, in dB or in their own unit, without them",
        )
    return {"BOA_ADD_OFFSET": str(round(offset / scale))}
