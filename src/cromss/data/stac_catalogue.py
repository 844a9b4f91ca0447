"""What a STAC catalogue lists: a folder of JSON on disk, a static catalogue at an address, or an API that searches.

In: the address of a catalogue, a collection, a box in degrees and days. Out: its items, and where their assets are.
"""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cromss.errors import ConfigError, DamagedFileError, MissingDataError
from cromss.files import read_json

__all__ = ["Box", "Catalogue", "asset_address", "day", "open_catalogue"]

Box = tuple[float, float, float, float]  # west, south, east, north in degrees


@dataclass(frozen=True, eq=False)
class Catalogue:
    """An open catalogue. where: its address. searches: whether it is an API, which is asked anew for each box."""

    where: str
    searches: bool
    opened: Any
    library: Any

    def items(self, collection: str | None, box: Box | None, start: str | None, end: str | None) -> list[Any]:
        """The items of a collection that touch a box within days, each as pystac gives it; None is no limit.

        A static catalogue is read once. Items that name a period instead of a moment are within any days.
        Raises MissingDataError for a collection without items, ConfigError for an API asked without a collection, and
        for days that are none; DamagedFileError for what cannot be read.
        """
        first, last = (None if text is None else day(text) for text in (start, end))
        self.require_collection(collection)
        if not self.searches:
            every = [item for name, items in self._every.items() if collection in (None, name) for item in items]
            if not every:
                raise self._without_items(collection)
        with _reading(self.library, self.where):
            found = self._search(collection, box, start, end) if self.searches else iter(every)
            return [
                item for item in found if (box is None or _touches(item, box)) and _within(item.datetime, first, last)
            ]

    def require_collection(self, collection: str | None) -> None:
        """Raise ConfigError where an API is to be asked without a collection."""
        if self.searches and collection is None:
            raise ConfigError("a STAC API needs the name of a collection", where=self.where, do="give --collection")

    @cached_property
    def _every(self) -> dict[str | None, list[Any]]:
        """Collection -> every item of a static catalogue."""
        found: dict[str | None, list[Any]] = {}
        with _reading(self.library, self.where):
            for item in self.opened.get_items(recursive=True):
                found.setdefault(item.collection_id, []).append(item)
        return found

    def _search(self, collection: str | None, box: Box | None, start: str | None, end: str | None) -> Iterator[Any]:
        period = None if start is None and end is None else f"{start or '..'}/{end or '..'}"
        found: Iterator[Any] = self.opened.search(collections=[collection], bbox=box, datetime=period).items()
        return found

    def _without_items(self, collection: str | None) -> MissingDataError:
        return MissingDataError(
            "a STAC catalogue has no items" + ("" if collection is None else f" of collection {collection}"),
            got=f"collections {sorted(str(name) for name in self._every)}",
            where=self.where,
            do="check the address and the collection",
        )


def open_catalogue(where: str) -> Catalogue:
    """Open a catalogue. Raises ConfigError (library absent), MissingDataError, DamagedFileError."""
    library = _library()
    if "://" in where:
        with _reading(library, where):
            client = library.Client.open(where)
            return Catalogue(where, bool(client.conforms_to("ITEM_SEARCH")), client, library)
    if not Path(where).is_file():
        raise MissingDataError("the STAC catalogue is absent", where=where, do="give its catalog.json or address")
    content = read_json(where)
    if not isinstance(content, dict):
        raise _no_catalogue(type(content).__name__, where)
    import pystac

    with _reading(library, where):
        opened = pystac.read_file(str(Path(where).resolve()))
    if not isinstance(opened, pystac.Catalog):
        raise _no_catalogue(type(opened).__name__, where)
    return Catalogue(where, False, opened, library)


def day(text: str) -> datetime.date:
    """A date from "2021-06-30" or what begins so. Raises ConfigError."""
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        raise ConfigError("this is not a date", got=text, expected="YEAR-MONTH-DAY, such as 2021-06-30") from None


def asset_address(item: Any, asset: str, where: str) -> str:
    """The path or address of an asset of an item. Raises MissingDataError for an item without it."""
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
        with warnings.catch_warnings():
            for category in (stac.warnings.NoConformsTo, stac.warnings.FallbackToPystac):
                warnings.simplefilter("ignore", category)  # a static catalogue at an address can not search
            yield
    except (*kinds, OSError, ValueError, KeyError) as error:
        raise DamagedFileError(
            "a STAC catalogue can not be read",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            expected="a STAC catalogue, collection or API",
            where=where,
            do="check the address, and whether it needs signing in (which is not supported)",
        ) from None


def _no_catalogue(got: str, where: str) -> DamagedFileError:
    return DamagedFileError(
        "this is no STAC catalogue",
        got=got,
        expected="a catalogue or collection",
        where=where,
        do="give the catalog.json or collection.json at its top",
    )


def _touches(item: Any, box: Box) -> bool:
    own = item.bbox
    if own is None:
        return False
    west, south, east, north = (own[0], own[1], own[2], own[3]) if len(own) == 4 else (own[0], own[1], own[3], own[4])
    return bool(west < box[2] and box[0] < east and south < box[3] and box[1] < north)


def _within(moment: datetime.datetime | None, first: datetime.date | None, last: datetime.date | None) -> bool:
    if moment is None:
        return True
    return (first is None or moment.date() >= first) and (last is None or moment.date() <= last)
