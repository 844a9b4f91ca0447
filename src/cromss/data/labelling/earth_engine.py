"""Dynamic World for an image's grid and days, composited and delivered by Google Earth Engine.

In: a grid, first and last day. Out: a `LabelMap`, computed on the servers and fetched in blocks on exactly that grid:

    label = the most frequent band `label` over the days,    p_c = the mean of probability band c over them
    confidence = p of the label, in percent;    255 where no scene of these days has a clear pixel

The library (`ee`, package earthengine-api) is imported when asked for only; signing in is its own matter
(`earthengine authenticate`). Nearest neighbour from the product's own 10 m grid to the image's.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.labelling.catalog import footprint
from cromss.data.labelling.soft import LabelMap
from cromss.data.stac_catalogue import day
from cromss.errors import ConfigError, DataError, MissingDataError
from cromss.geo.legend import IGNORE
from cromss.geo.raster import Grid

__all__ = ["COLLECTION", "connect", "dynamic_world", "period"]

COLLECTION = "GOOGLE/DYNAMICWORLD/V1"
_PROBABILITIES = (
    "water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare", "snow_and_ice",
)  # fmt: skip
_BLOCK = 1024  # pixels a side: ten bytes a pixel, well below the 48 MB that one request may give

Period = tuple[datetime.date, datetime.date]


def connect(project: str | None) -> Any:
    """The library, signed in. Raises ConfigError where it is absent or refuses."""
    try:
        import ee
    except ImportError as error:
        raise ConfigError(
            "Earth Engine needs one more library", got=str(error), do="pip install 'cromss[earthengine]'"
        ) from None
    try:
        ee.Initialize(project=project)
    except _failures(ee) as error:
        raise ConfigError(
            "Earth Engine does not let you in",
            got=" ".join(str(error).split())[:300],
            expected="credentials and a project registered for Earth Engine",
            do="run `earthengine authenticate`, and give --project",
        ) from None
    return ee


def period(date: datetime.date | None, start: str | None, end: str | None, days: int, where: str | Path) -> Period:
    """First and last day: `start` and `end` where given, else `days` before and after the image's own date.

    Raises ConfigError for days that are none or out of order, MissingDataError where the image has no date to go by.
    """
    around = date if date is not None else datetime.date.min
    if date is None and (start is None or end is None):
        raise MissingDataError(
            "an image does not say its date", expected="a tag DATE such as 2021-06-30", where=where,
            do="give --start and --end, or set the tag (gdal_edit.py -mo DATE=2021-06-30 FILE)",
        )  # fmt: skip
    span = datetime.timedelta(days=days)
    first = day(start) if start is not None else around - span
    last = day(end) if end is not None else around + span
    if last < first:
        raise ConfigError("the days are out of order", got=f"{first} to {last}", expected="start before end")
    return first, last


def dynamic_world(ee: Any, grid: Grid, days: Period, where: str | Path) -> LabelMap:
    """Labels, confidences and probabilities of a grid over some days, first and last included.

    Raises MissingDataError where no scene of these days touches the grid, DataError for what the servers refuse.
    """
    west, south, east, north = footprint(grid)
    after = days[1] + datetime.timedelta(days=1)  # the filter leaves its end out
    with _asking(ee, where):
        area = ee.Geometry.Rectangle([west, south, east, north], "EPSG:4326", False)
        scenes = ee.ImageCollection(COLLECTION).filterBounds(area).filterDate(str(days[0]), str(after))
        count = int(scenes.size().getInfo())
    if count == 0:
        raise MissingDataError(
            "Dynamic World has no scene here in these days", got=f"{days[0]} to {days[1]}", where=where,
            do="widen the days (Dynamic World begins on 2015-06-27)",
        )  # fmt: skip
    with _asking(ee, where):
        label = scenes.select("label").mode()
        percent = scenes.select(list(_PROBABILITIES)).mean().multiply(100).round()
        composite = label.addBands(percent).toByte().unmask(IGNORE, False)
        layers_LHW = np.empty((1 + len(_PROBABILITIES), *grid.shape), np.uint8)
        for row in range(0, grid.height, _BLOCK):
            for column in range(0, grid.width, _BLOCK):
                size = (min(_BLOCK, grid.height - row), min(_BLOCK, grid.width - column))
                block = grid.window(row, column, *size)
                layers_LHW[:, row : row + size[0], column : column + size[1]] = _fetch(ee, composite, block, where)
    labelled = _checked(layers_LHW, where)
    labelled.notes["scenes composited"] = count
    return labelled


def _fetch(ee: Any, image: Any, grid: Grid, where: str | Path) -> NDArray[np.uint8]:
    """The label and the percentages of one block (10, H, W)."""
    epsg = None if grid.crs is None else grid.crs.to_epsg()
    crs = {"crsCode": f"EPSG:{epsg}"} if epsg is not None else {"crsWkt": grid.crs.to_wkt() if grid.crs else ""}
    t = grid.transform
    affine = {
        "scaleX": t.a, "shearX": t.b, "translateX": t.c, "shearY": t.d, "scaleY": t.e, "translateY": t.f,
    }  # fmt: skip
    pixels = ee.data.computePixels(
        {
            "expression": image,
            "fileFormat": "NUMPY_NDARRAY",
            "grid": {"dimensions": {"width": grid.width, "height": grid.height}, "affineTransform": affine, **crs},
        }
    )
    names = ("label", *_PROBABILITIES)
    if pixels.shape != grid.shape or any(name not in (pixels.dtype.names or ()) for name in names):
        raise DataError(
            "Earth Engine gave something else than was asked for",
            got=f"{pixels.shape} with bands {pixels.dtype.names}",
            expected=f"{grid.shape} with bands {names}",
            where=where,
        )
    return np.stack([pixels[name] for name in names]).astype(np.uint8)


def _checked(layers_LHW: NDArray[np.uint8], where: str | Path) -> LabelMap:
    labels_HW, percent_CHW = layers_LHW[0], layers_LHW[1:].copy()
    known_HW = labels_HW != IGNORE
    classes = len(_PROBABILITIES)
    if (labels_HW[known_HW] >= classes).any() or (percent_CHW[:, known_HW] > 100).any():
        raise DataError(
            "Earth Engine gave numbers that are no Dynamic World",
            got=f"labels {np.unique(labels_HW).tolist()[:12]}, percent up to {percent_CHW[:, known_HW].max()}",
            expected=f"labels 0..{classes - 1} or {IGNORE}, percent 0..100",
            where=where,
        )
    percent_CHW[:, ~known_HW] = IGNORE
    chosen = np.take_along_axis(percent_CHW, np.where(known_HW, labels_HW, 0)[None].astype(np.int64), axis=0)[0]
    return LabelMap(labels_HW=labels_HW, confidence_HW=chosen, percent_CHW=percent_CHW)


@contextmanager
def _asking(ee: Any, where: str | Path) -> Iterator[None]:
    try:
        yield
    except _failures(ee) as error:
        raise DataError(
            "Earth Engine refused a request",
            got=" ".join(str(error).split())[:300],
            where=where,
            do="try again later with on_existing=keep, which goes on where this stopped",
        ) from None


def _failures(ee: Any) -> tuple[type[Exception], ...]:
    """What the library raises, of itself and of the library that signs in."""
    try:
        from google.auth.exceptions import GoogleAuthError
    except ImportError:
        return (ee.EEException,)
    return (ee.EEException, GoogleAuthError)
