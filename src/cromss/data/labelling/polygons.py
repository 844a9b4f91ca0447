"""Polygons with a class, burnt onto the grid of an image.

In: a file of areas in any vector format and CRS, and a grid. Out: class ids (H, W), 255 outside all polygons.
A pixel belongs to a polygon when its centre does. Borders are brought to the CRS of the grid as lines, with points
added so that they bend as the CRS bends; nothing is resampled.

Where polygons of several classes overlap, `smallest` lets the smallest win (a pond within a wood), `ignore` says 255.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from cromss.data.labelling.tags import value_text
from cromss.errors import ArgumentError, ConfigError, DamagedFileError, GridError, MissingDataError
from cromss.geo.legend import IGNORE
from cromss.geo.raster import Grid

__all__ = ["Polygons", "burn_polygons", "read_polygons"]

_DENSITY = 64  # points along the longer side of the image's box, at least, on every border
_FAR = 20  # image boxes; what is larger is cut before it moves: its far ends may have no place in the image's CRS
_AREAS = (3, 6)  # shapely's types Polygon and MultiPolygon


@dataclass(frozen=True, kw_only=True)
class Polygons:
    """Areas in the CRS of a grid, their attributes by column as text, and how many features were no areas.

    sizes: the area of each, whole, in the units of the file: they order polygons, nothing else.
    """

    shapes: NDArray[Any]
    sizes: NDArray[np.float64]
    columns: dict[str, list[str | None]]
    not_areas: int

    def __len__(self) -> int:
        return len(self.shapes)


def read_polygons(path: str | Path, grid: Grid, columns: Iterable[str], layer: str | None = None) -> Polygons:
    """The areas of a vector file that touch the grid's box, in its CRS; `columns` are read where the file has them.

    layer: None takes the only layer, or `multipolygons` of an OpenStreetMap extract.
    Raises MissingDataError (no file, no feature in it), DamagedFileError, ConfigError (no such layer or column),
    GridError (a CRS is missing on either side).
    """
    pyogrio, shapely = _libraries()
    path = Path(path)
    if not path.exists():
        raise MissingDataError("the file of polygons is absent", where=path, do="check the path given to polygons")
    if grid.crs is None:
        raise GridError(
            "an image without a CRS cannot be joined with polygons", where=path, do="give the image its CRS"
        )
    try:
        layer = _layer(pyogrio, path, layer)
        info = pyogrio.read_info(path, layer=layer)
        crs = _crs(info["crs"], path)
        wanted = [name for name in info["fields"] if name in {*columns, "other_tags"}]
        box = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=21)
        meta, _, geometry, fields = pyogrio.raw.read(path, layer=layer, columns=wanted, bbox=box)
        shapes = shapely.from_wkb(geometry)
    except (*_failures(pyogrio, shapely), RasterioError) as error:
        raise DamagedFileError(
            "a file of polygons can not be read",
            got=" ".join(str(error).split()),
            expected="GeoPackage, Shapefile, GeoJSON, FlatGeobuf or .osm.pbf",
            where=path,
            do="fetch or write the file again",
        ) from None
    _require_columns(wanted, columns, info, path)
    areas = np.isin(shapely.get_type_id(shapes), _AREAS) & ~shapely.is_empty(shapes)
    text = {name: [_text(v) for v in values[areas]] for name, values in zip(meta["fields"], fields, strict=True)}
    moved = _to_crs(shapely, shapes[areas], crs, grid, box)
    return Polygons(shapes=moved, sizes=shapely.area(shapes[areas]), columns=text, not_areas=int((~areas).sum()))


def burn_polygons(
    shapes: Any,
    classes: Sequence[int],
    grid: Grid,
    overlap: str = "smallest",
    sizes: Sequence[float] | NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.uint8], int]:
    """Class ids (H, W) of polygons in the grid's CRS, 255 outside all; and the pixels that two or more classes claim.

    shapes: a sequence of shapely areas; classes: a class id for each; sizes: what tells which is the smaller, None for
    their areas. overlap: `smallest` or `ignore`, as in the head of the module. Of equally small ones the last wins.
    """
    if overlap not in ("smallest", "ignore") or len(shapes) != len(classes):
        raise ArgumentError(
            "polygons cannot be burnt", got=f"{overlap}, {len(shapes)} shapes, {len(classes)} classes",
            expected="smallest or ignore, and a class for each shape",
        )  # fmt: skip
    drawn = [index for index, shape in enumerate(shapes) if not shape.is_empty]
    claims = np.zeros(grid.shape, np.uint8)
    for number in sorted({classes[index] for index in drawn}):
        chosen = [(shapes[index], 1) for index in drawn if classes[index] == number]
        claims += rasterize(chosen, out_shape=grid.shape, transform=grid.transform, dtype="uint8")
    order = sorted(drawn, key=lambda index: -(shapes[index].area if sizes is None else sizes[index]))
    labels = np.full(grid.shape, IGNORE, np.uint8)
    if order:  # later ones are drawn over earlier ones
        pairs = [(shapes[index], int(classes[index])) for index in order]
        rasterize(pairs, out=labels, transform=grid.transform)
    contested = claims > 1
    if overlap == "ignore":
        labels[contested] = IGNORE
    return labels, int(contested.sum())


def _libraries() -> tuple[Any, Any]:
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise ConfigError(
            "polygons need two more libraries", got=str(error), do="pip install 'cromss[polygons]'"
        ) from None
    return pyogrio, shapely


def _failures(pyogrio: Any, shapely: Any) -> tuple[type[Exception], ...]:
    """What the libraries raise for a bad file."""
    errors = pyogrio.errors
    return (errors.DataSourceError, errors.DataLayerError, errors.FeatureError, shapely.errors.ShapelyError)


def _layer(pyogrio: Any, path: Path, asked: str | None) -> str:
    names = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
    if asked is None and "multipolygons" in names:
        return "multipolygons"
    if asked is None and len(names) == 1:
        return names[0]
    if asked in names:
        return str(asked)
    raise ConfigError(
        "a file of polygons has several layers" if asked is None else "a file of polygons has no such layer",
        got=asked,
        expected=f"one of {', '.join(names)}",
        where=path,
        do="name it with layer",
    )


def _crs(text: str | None, path: Path) -> CRS:
    if text is None:
        raise GridError(
            "a file of polygons does not say its CRS", where=path, do="write it with a CRS (ogr2ogr -a_srs EPSG:...)"
        )
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise GridError("a file of polygons has an unknown CRS", got=str(error), where=path) from None


def _require_columns(found: Sequence[str], wanted: Iterable[str], info: Any, path: Path) -> None:
    if not info["features"]:
        raise MissingDataError("a file of polygons holds no feature", got="0 features", where=path, do="check the file")
    if not found:
        raise ConfigError(
            "a file of polygons has none of the columns that the table of tags reads",
            got=", ".join(info["fields"]) or "no column",
            expected=f"one of {', '.join(wanted)}",
            where=path,
            do="choose another layer, or give a YAML file of `column: {value: class}` lines as tags",
        )


def _to_crs(shapely: Any, shapes: NDArray[Any], crs: CRS, grid: Grid, box: Sequence[float]) -> NDArray[Any]:
    """Shapes in the grid's CRS. Straight borders bend between CRSs, so points are added before they move."""
    if crs == grid.crs or not len(shapes):
        return shapes
    longest = max(box[2] - box[0], box[3] - box[1])
    left, bottom, right, top = shapely.bounds(shapes).T
    far = np.maximum(right - left, top - bottom) > _FAR * longest
    near = (box[0] - longest, box[1] - longest, box[2] + longest, box[3] + longest)
    cut = shapes.copy()
    cut[far] = shapely.intersection(shapely.make_valid(shapes[far]), shapely.box(*near))
    dense = shapely.segmentize(cut, longest / _DENSITY)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transform_points(crs, grid.crs, points[:, 0], points[:, 1]))

    return np.asarray(shapely.transform(dense, move))


def _text(value: Any) -> str | None:
    return None if value is None or value != value else value_text(value)  # NaN is a number's "none"
