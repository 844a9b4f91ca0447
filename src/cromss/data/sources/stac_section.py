"""The section `stac` of prepare: which items of a catalogue are places, and which of their assets are bands.

    stac:
      catalog: catalog.json                              a path from root, or the address of a catalogue or an API
      s2: {collection: sentinel-2-l2a, assets: {blue: B2, green: B3, red: B4, nir: B8}}      one band an asset
      s1: {collection: s1, asset: image}                 or all bands in one asset, named in its file
      dem: {collection: dem, asset: data, season: null}  of the section sensors; one image for all seasons
      labels: {collection: landcover, asset: map}        or by the setting labels, whose {id} is the place
      annotators: {dw: {collection: dw, asset: map}}     several, in the place of labels; further ones by their setting
      probabilities: {collection: soft, assets: {p_water: water, ...}}     one asset a class, or all in one
      clouds: {collection: sentinel-2-l2a, asset: scl}   what its values mean: cloud_values; truth as labels
      bbox: [11.0, 47.5, 12.0, 48.5]                     west, south, east, north in degrees
      start: 2021-05-01                                  first and last day
      end: 2021-09-30
      place: grid:code                                   the property that names the place; null: the item's id
      season: month                                      `date`, `month`, a property; null: one season a place

In: that section. Out: a `StacPlan`, or an error that says which line is wrong. s1 may say `unit: power`: its values are
turned into dB. A role may say a season of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cromss.data.sources.role_sections import NO_NAMES, Entry, Known, is_map, role_entries
from cromss.data.stac_catalogue import Box, day
from cromss.errors import ConfigError

__all__ = ["ItemRule", "StacPlan", "plan_stac"]

_KEYS = ("catalog", "bbox", "start", "end", "place", "season")
_LINES = ("collection", "asset", "assets", "unit", "season")


@dataclass(frozen=True, kw_only=True)
class ItemRule:
    """Which items make one role. assets: asset -> its band; "" where its file names the bands. power: s1 is linear.

    season: what names the season of an item; None where one serves all seasons of its place.
    """

    collection: str | None
    assets: Mapping[str, str]
    season: str | None
    power: bool = False


@dataclass(frozen=True, kw_only=True)
class StacPlan:
    """The section, read. rules: role -> items. place: the property that names it; None for the item's id."""

    catalog: str
    rules: Mapping[str, ItemRule]
    bbox: Box | None
    start: str | None
    end: str | None
    place: str | None


def plan_stac(section: Any, known: Known = NO_NAMES) -> StacPlan:
    """Read the section. Raises ConfigError."""
    example = "{catalog: catalog.json, s2: {collection: s2, asset: image}}"
    entries = role_entries(section, known, title="stac", own=_KEYS, lines=_LINES, example=example)
    rules = {role: _rule(role, entry, section.get("season")) for role, entry in entries.items()}
    days = {name: None if section.get(name) is None else str(section[name]) for name in ("start", "end")}
    for text in days.values():
        if text is not None:
            day(text)
    place = None if section.get("place") is None else str(section["place"])
    return StacPlan(catalog=str(section["catalog"]), rules=rules, bbox=_box(section.get("bbox")), place=place, **days)


def _rule(role: str, entry: Entry, season: Any) -> ItemRule:
    lines = entry.lines
    asset: Any = lines.get("asset")
    assets: Any = lines.get("assets")
    season = lines.get("season", season)
    if (asset is None) == (assets is None) or not isinstance(assets or {}, Mapping) or (assets and is_map(role)):
        raise ConfigError(
            "the items of a role need one way to their bands",
            got=dict(lines),
            expected="asset: NAME" + ("" if is_map(role) else ", or assets: {NAME: BAND, ...}"),
            where=entry.where,
        )
    twice = {str(band) for band in (assets or {}).values() if list(assets.values()).count(band) > 1}
    if twice:
        raise ConfigError(
            "two assets of a role are one band",
            got=", ".join(f"{name}: {band}" for name, band in assets.items() if str(band) in twice),
            expected="each band once",
            where=entry.where,
            do="correct the bands, or leave an asset out",
        )
    unit = lines.get("unit", "dB")
    if "unit" in lines and (role != "s1" or unit not in ("dB", "power")):
        raise ConfigError("only s1 has a unit to choose", got=unit, expected="dB or power", where=entry.where)
    return ItemRule(
        collection=None if lines.get("collection") is None else str(lines["collection"]),
        assets={str(asset): ""} if asset is not None else {str(name): str(band) for name, band in assets.items()},
        season=None if season is None else str(season),
        power=unit == "power",
    )


def _box(value: Any) -> Box | None:
    if value is None:
        return None
    try:
        west, south, east, north = (float(number) for number in value)
    except (TypeError, ValueError):
        west = south = east = north = 0.0
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise ConfigError(
            "a box is four numbers in degrees", got=value, expected="[west, south, east, north]", where="stac: bbox"
        )
    return west, south, east, north
