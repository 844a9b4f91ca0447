"""Where the tiles of a label map are, by a STAC catalogue: a folder of JSON on disk, a static catalogue, or an API.

In: a catalogue, a collection, an asset and dates. Out: for a grid, the addresses of the tiles whose footprint touches
it, the newest first, which win where tiles overlap. Pixels are read later, and only those on the grid.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rasterio.warp import transform_bounds

from cromss.errors import ConfigError, DamagedFileError, GridError, MissingDataError
from cromss.files import read_json
from cromss.geo.raster import Grid

__all__ = ["day", "footprint", "tile_finder"]

Box = tuple[float, float, float, float]  # west, south, east, north in degrees


def tile_finder(
    where: str, collection: str | None, asset: str, start: str | None, end: str | None
) -> Callable[[Grid], list[str]]:
    """A function from a grid to the tiles that touch it; a static catalogue is read once, an API asked for each grid.

    Raises ConfigError (library absent, a date that is none, an API without a collection), MissingDataError,
    DamagedFileError; the function raises MissingDataError for items without the asset, GridError for no CRS.
    """
    stac = _library()
    first, last = (None if text is None else day(text) for text in (start, end))
    opened, searches = _open(stac, where)
    if searches and collection is None:
        raise ConfigError("a STAC API needs the name of a collection", where=where, do="give --collection")
    static = None if searches else _items(stac, opened, collection, where)

    def find(grid: Grid) -> list[str]:
        box = footprint(grid)
        with _reading(stac, where):
            items = _search(opened, collection, box, start, end) if static is None else static
            touching = [i for i in items if _touches(i, box) and _within(i.datetime, first, last)]
        touching.sort(key=lambda item: (-_seconds(item.datetime), item.id))
        return [_address(item, asset, where) for item in touching]

    return find


def footprint(grid: Grid) -> Box:
    """The box of a grid in degrees: west, south, east, north. Raises GridError where it has no CRS."""
    if grid.crs is None:
        raise GridError("an image without a CRS has no place on the globe", do="give the image its CRS")
    west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    return west, south, east, north


def day(text: str) -> datetime.date:
    """A date from "2021-06-30" or what begins so. Raises ConfigError."""
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        raise ConfigError("this is not a date", got=text, expected="YEAR-MONTH-DAY, such as 2021-06-30") from None


def _library() -> Any:
    try:
        import pystac_client
    except ImportError as error:
        raise ConfigError("STAC needs one more library", got=str(error), do="pip install 'cromss[stac]'") from None
    return pystac_client


@contextmanager
def _reading(stac: Any, where: str) -> Iterator[None]:
    """Turn what the library raises for a bad catalogue or address into an error that names it."""
    import pystac
    import requests

    kinds = (stac.exceptions.APIError, pystac.STACError, pystac.STACTypeError, requests.RequestException)
    try:
        yield
    except (*kinds, OSError, ValueError, KeyError) as error:
        raise DamagedFileError(
            "a STAC catalogue can not be read",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            expected="a STAC catalogue, collection or API",
            where=where,
            do="check the address, and whether it needs signing in (which is not supported)",
        ) from None


def _open(stac: Any, where: str) -> tuple[Any, bool]:
    """The catalogue, and whether it can search."""
    import pystac

    if "://" not in where:
        if not Path(where).is_file():
            raise MissingDataError("the STAC catalogue is absent", where=where, do="give its catalog.json or address")
        content = read_json(where)
        if not isinstance(content, dict):
            raise _no_catalogue(type(content).__name__, where)
        with _reading(stac, where):
            opened = pystac.read_file(str(Path(where).resolve()))
        if not isinstance(opened, pystac.Catalog):
            raise _no_catalogue(type(opened).__name__, where)
        return opened, False
    with _reading(stac, where):
        client = stac.Client.open(where)
        return client, bool(client.conforms_to("ITEM_SEARCH"))


def _no_catalogue(got: str, where: str) -> DamagedFileError:
    return DamagedFileError(
        "this is no STAC catalogue",
        got=got,
        expected="a catalogue or collection",
        where=where,
        do="give the catalog.json or collection.json at its top",
    )


def _items(stac: Any, opened: Any, collection: str | None, where: str) -> Sequence[Any]:
    """Every item of a static catalogue, or of one collection of it."""
    with _reading(stac, where):
        items = [
            item for item in opened.get_items(recursive=True) if collection is None or item.collection_id == collection
        ]
    if not items:
        raise MissingDataError(
            "a STAC catalogue has no items" + ("" if collection is None else f" of collection {collection}"),
            where=where,
            do="check the address and the collection",
        )
    return items


def _search(client: Any, collection: str | None, box: Box, start: str | None, end: str | None) -> Iterator[Any]:
    period = None if start is None and end is None else f"{start or '..'}/{end or '..'}"
    found: Iterator[Any] = client.search(collections=[collection], bbox=box, datetime=period).items()
    return found


def _touches(item: Any, box: Box) -> bool:
    own = item.bbox
    if own is None:
        return False
    west, south, east, north = (own[0], own[1], own[2], own[3]) if len(own) == 4 else (own[0], own[1], own[3], own[4])
    return bool(west < box[2] and box[0] < east and south < box[3] and box[1] < north)


def _within(moment: datetime.datetime | None, first: datetime.date | None, last: datetime.date | None) -> bool:
    """Items that name a period instead of a moment are always within."""
    if moment is None:
        return True
    return (first is None or moment.date() >= first) and (last is None or moment.date() <= last)


def _seconds(moment: datetime.datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()


def _address(item: Any, asset: str, where: str) -> str:
    if asset not in item.assets:
        raise MissingDataError(
            "a STAC item has no such asset",
            got=asset,
            expected=f"one of {', '.join(item.assets)}",
            where=f"{where}, item {item.id}",
            do="name it with --asset",
        )
    address = str(item.assets[asset].get_absolute_href() or item.assets[asset].href)
    return re.sub(r"^file://", "", address)
