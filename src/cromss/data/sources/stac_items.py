"""Items of a STAC catalogue as places and seasons, found once: plain values that any process can be sent.

In: a plan of the section stac. Out: role -> items, each with its place, season, day, the addresses of its bands and
what it says of its values; and the items that another of the same place and season took the place of.

    added to Sentinel-2 values, DN = -offset / scale of `raster:bands` (scale 0.0001)
                                     0 where `earthsearch:boa_offset_applied` is true
                                     1000 where only `s2:processing_baseline` speaks, from 04.00 on

Of several items of one role, place and season the one with the least `eo:cloud_cover` is used, then the earliest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cromss.data.sources.source import Orphan
from cromss.data.sources.stac_section import ItemRule, StacPlan
from cromss.data.stac_catalogue import asset_address, open_catalogue
from cromss.errors import DataError, MissingDataError, RangeError

__all__ = ["FoundItems", "StacItem", "find_items"]

_FIRST_OFFSET_BASELINE = 4.0
_ADDED_SINCE = 1000  # DN, Sentinel-2 Products Specification Document
_SCALE = 1e-4  # reflectance a DN


@dataclass(frozen=True, kw_only=True)
class StacItem:
    """One acquisition. addresses: band -> path or address; "" -> the file that holds all. tags: as a GeoTIFF has them.

    origin: catalogue and item, for messages.
    """

    id: str
    origin: str
    place: str
    season: str | None
    addresses: Mapping[str, str]
    tags: Mapping[str, str]
    power: bool = False


@dataclass(frozen=True, kw_only=True)
class FoundItems:
    """items: role -> (place, season) -> item. orphans: items without the assets, or that another is used for."""

    items: Mapping[str, Mapping[tuple[str, str | None], StacItem]]
    orphans: tuple[Orphan, ...]


def find_items(plan: StacPlan, where: str) -> FoundItems:
    """Search the catalogue at `where`. Raises ConfigError, MissingDataError, DamagedFileError, DataError."""
    catalogue = open_catalogue(where)
    orphans: list[Orphan] = []
    items = {}
    for role, rule in plan.rules.items():
        found = catalogue.items(rule.collection, plan.bbox, plan.start, plan.end)
        items[role] = _by_place(role, rule, plan, found, where, orphans)
        if not items[role]:
            raise MissingDataError(
                f"no item of {role} can be used",
                got=f"{len(found)} items of {rule.collection or 'any collection'} in that box and time",
                expected=f"items with {', '.join(rule.assets)}",
                where=where,
                do="correct bbox, start and end, the collection or the names of the assets",
            )
    return FoundItems(items=items, orphans=tuple(orphans))


def _by_place(
    role: str, rule: ItemRule, plan: StacPlan, found: Sequence[Any], where: str, orphans: list[Orphan]
) -> dict[tuple[str, str | None], StacItem]:
    chosen: dict[tuple[str, str | None], StacItem] = {}
    for item in sorted(found, key=_clearest_first):
        place, season = _name(item, plan.place, where), _season(item, rule.season, where)
        lacking = tuple(name for name in rule.assets if name not in item.assets)
        first = chosen.get((place, season))
        if lacking or first is not None:
            missing = tuple(f"asset {name} of {role}" for name in lacking) or (
                f"a season of its own: {role} {first and first.id} is clearer",
            )
            orphans.append(Orphan(id=place, season=season, missing=missing, found=(f"item {item.id}",)))
            continue
        chosen[place, season] = StacItem(
            id=item.id,
            origin=f"{where}, item {item.id}",
            place=place,
            season=season,
            addresses={band: asset_address(item, name, where) for name, band in rule.assets.items()},
            tags=_tags(item, role, rule, where),
            power=rule.power,
        )
    return dict(sorted(chosen.items(), key=lambda entry: (entry[0][0], entry[0][1] or "")))


def _clearest_first(item: Any) -> tuple[float, str, str]:
    return float(item.properties.get("eo:cloud_cover", 100.0)), _day(item), item.id


def _day(item: Any) -> str:
    moment = item.datetime.isoformat() if item.datetime else item.properties.get("start_datetime")
    return str(moment or "")[:10]


def _name(item: Any, prop: str | None, where: str) -> str:
    """A word of an item that names a place or a season: its id, or a property."""
    value = item.id if prop is None else item.properties.get(prop)
    if value in (None, ""):
        raise MissingDataError(
            "a STAC item lacks the property that names its place or season",
            got=sorted(item.properties),
            expected=prop,
            where=f"{where}, item {item.id}",
            do="correct place or season in the section stac",
        )
    return re.sub(r"[/\\]", "_", str(value))


def _season(item: Any, season: str | None, where: str) -> str | None:
    if season is None:
        return None
    if season in ("date", "month"):
        day = _day(item)
        if not day:
            raise MissingDataError("a STAC item has no day", where=f"{where}, item {item.id}", do="leave season out")
        return day if season == "date" else day[:7]
    return _name(item, season, where)


def _tags(item: Any, role: str, rule: ItemRule, where: str) -> dict[str, str]:
    tags = {"DATE": _day(item)}
    if role == "s2":
        tags |= _offset(item, rule, where)
        level = _level(item)
        if level:
            tags["LEVEL"] = level
    return tags


def _level(item: Any) -> str | None:
    """L1C or L2A, from whatever says it first."""
    own = item.properties
    for text in (own.get("processing:level"), own.get("s2:product_type"), item.collection_id, item.id):
        match = re.search(r"(?:L|LEVEL-|MSI)(1C|2A)", str(text or "").upper())
        if match:
            return f"L{match.group(1)}"
    return None


def _offset(item: Any, rule: ItemRule, where: str) -> dict[str, str]:
    declared = {_declared(item.assets[name], f"{where}, item {item.id}, asset {name}") for name in rule.assets}
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return {"BOA_ADD_OFFSET": "0"}
    if len(declared) > 1:
        got, at = sorted(map(str, declared)), f"{where}, item {item.id}"
        raise DataError("the bands of an item declare different offsets", got=got, expected="one", where=at)
    said = declared.pop()
    if said is not None:
        return {"BOA_ADD_OFFSET": str(said)}
    baseline = item.properties.get("s2:processing_baseline", item.properties.get("processing:version"))
    match = re.fullmatch(r"0?(\d{1,2}\.\d+)", str(baseline or ""))
    since = match is not None and float(match.group(1)) >= _FIRST_OFFSET_BASELINE
    return {"BOA_ADD_OFFSET": str(-_ADDED_SINCE)} if since else {}


def _declared(asset: Any, where: str) -> int | None:
    """The offset in DN that an asset declares, with its sign; None where it declares neither scale nor offset."""
    extra = asset.extra_fields
    bands = [*(extra.get("raster:bands") or ()), *(extra.get("bands") or ()), extra]
    said = set()
    for band in bands:
        scale, offset = (band.get(name, band.get(f"raster:{name}")) for name in ("scale", "offset"))
        if scale is None and offset is None:
            continue
        scale, offset = float(1.0 if scale is None else scale), float(offset or 0.0)
        if scale == 1 and offset == 0:
            continue
        if abs(scale / _SCALE - 1) > 1e-6:
            raise RangeError(
                "an asset of Sentinel-2 is in another unit",
                got=f"scale {scale:g}, offset {offset:g}",
                expected="scale 0.0001: DN = reflectance * 10000",
                where=where,
                do="take assets in DN, or convert the values",
            )
        said.add(round(offset / scale))
    if len(said) > 1:
        raise DataError("an asset declares different offsets", got=sorted(said), where=where)
    return said.pop() if said else None
