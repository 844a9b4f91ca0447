"""What OpenStreetMap's tags mean as land cover: the table from tag to class.

In: the tags of features, a column a key. Out: a class name for each feature, or none, with the reasons counted.
The keys are looked at in the order of the table; the first with a known value decides. `fclass` is the column of
the common extracts as Shapefile or GeoPackage, the others are OpenStreetMap's own keys, as in .osm.pbf extracts.

The 13 classes are CORINE's of level 2, as Schultz et al. (2017, Open land cover from OpenStreetMap and remote sensing)
read OpenStreetMap; the table is ours. Where a tag says more than its class of 13, `DYNAMIC_WORLD_TAGS` keeps it for
Dynamic World.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cromss.errors import ConfigError, MissingDataError
from cromss.geo.legend import Legend
from cromss.geo.remap import REMAPS

__all__ = ["DYNAMIC_WORLD_TAGS", "OSM13_TAGS", "TagTable", "classify_tags", "tag_table", "value_text"]

TagTable = Mapping[str, Mapping[str, str]]
"""key -> value -> class name."""


def _table(text: str) -> dict[str, dict[str, str]]:
    """Rows "key class: value value ..."."""
    table: dict[str, dict[str, str]] = {}
    for row in text.strip().splitlines():
        head, _, values = row.partition(":")
        key, name = head.split()
        table.setdefault(key, {}).update(dict.fromkeys(values.split(), name))
    return table


OSM13_TAGS: TagTable = _table("""
fclass urban: residential
fclass arable_land: farm farmland
fclass forest: forest
fclass industrial: industrial commercial retail farmyard
fclass artificial_vegetation: park cemetery allotments recreation_ground grass village_green
fclass dump_site_or_mine: quarry landfill
fclass pasture: meadow
fclass permanent_crops: orchard vineyard
fclass water: water reservoir river riverbank dock
fclass open_space: glacier beach cliff
fclass shrub: scrub heath grassland
fclass wetland: wetland
wetland wetland: bog marsh fen swamp reedbed wet_meadow string_bog palsa_bog
wetland coastal: tidalflat saltmarsh saltern mangrove
natural forest: wood
natural shrub: scrub heath grassland fell tundra shrubbery
natural open_space: bare_rock scree shingle sand beach dune glacier rock
natural wetland: wetland mud
natural water: water bay strait
landuse urban: residential garages
landuse arable_land: farmland farm greenhouse_horticulture paddy
landuse forest: forest
landuse industrial: industrial commercial retail railway port depot farmyard institutional
landuse artificial_vegetation: allotments cemetery recreation_ground village_green grass flowerbed winter_sports
landuse dump_site_or_mine: quarry landfill brownfield construction
landuse pasture: meadow pasture animal_keeping
landuse permanent_crops: orchard vineyard plant_nursery
landuse water: basin reservoir aquaculture
landuse coastal: salt_pond
leisure artificial_vegetation: park garden golf_course pitch playground stadium track common dog_park
waterway water: riverbank dock
aeroway industrial: aerodrome terminal apron runway taxiway
amenity industrial: parking
amenity urban: school hospital university college kindergarten
""")
"""Tags with a class of the 13; nature reserves, military land and other areas that say nothing of cover have none."""

DYNAMIC_WORLD_TAGS: TagTable = _table("""
fclass snow_and_ice: glacier
fclass grass: grassland
natural snow_and_ice: glacier
natural grass: grassland fell tundra
wetland bare: tidalflat
aeroway grass: aerodrome
""")
"""Tags whose class in Dynamic World is not that of their OSM class."""


def tag_table(legend: Legend, path: str | Path | None = None) -> TagTable:
    """The table for `legend`: that of 13 classes, the same seen as Dynamic World, or the user's own YAML file.

    The file holds `column: {value: class}`. Raises ConfigError for another legend, or a file that does not fit.
    """
    if path is not None:
        return _read_table(Path(path), legend)
    if legend.name == "osm13":
        return OSM13_TAGS
    names = REMAPS.get(("osm13", legend.name))
    if names is None:
        raise ConfigError(
            "there is no table from OpenStreetMap's tags to this legend",
            got=legend.name,
            expected="osm13 or dynamic_world",
            do="give a YAML file of `column: {value: class}` lines as tags",
        )
    table = {key: {value: names[name] for value, name in values.items()} for key, values in OSM13_TAGS.items()}
    if legend.name == "dynamic_world":
        for key, values in DYNAMIC_WORLD_TAGS.items():
            table[key].update(values)
    return table


def classify_tags(
    columns: Mapping[str, Sequence[str | None]], count: int, table: TagTable
) -> tuple[list[str | None], Counter[str]]:
    """The class name of each of `count` features, None for none, and how many features each untold tag left without.

    columns: key -> the value of each feature; a column `other_tags` holds more of them as `"key"=>"value"`.
    """
    more = [_other_tags(text) for text in columns.get("other_tags", [None] * count)]
    names: list[str | None] = []
    untold: Counter[str] = Counter()
    for index in range(count):
        tags = [(key, columns[key][index] if key in columns else more[index].get(key)) for key in table]
        known = [table[key][value] for key, value in tags if value is not None and value in table[key]]
        names.append(known[0] if known else None)
        if not known:
            said = [f"{key}={value}" for key, value in tags if value]
            untold[said[0] if said else "no tag of the table"] += 1
    return names, untold


def _other_tags(text: str | None) -> dict[str, str]:
    return dict(re.findall(r'"([^"]+)"=>"([^"]*)"', text)) if text else {}


def value_text(value: Any) -> str:
    """The value of a tag as text; whole numbers alike, as a column of them is read as floats where one is absent."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _read_table(path: Path, legend: Legend) -> TagTable:
    if not path.is_file():
        raise MissingDataError("the table of tags is absent", where=path, do="check the path given to tags")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the table of tags is not YAML", got=" ".join(str(error).split()), where=path) from None
    if not isinstance(content, dict) or not content or not all(isinstance(v, dict) and v for v in content.values()):
        raise ConfigError("a table of tags holds `column: {value: class}` lines", got=content, where=path)
    table = {str(key): {value_text(v): str(name) for v, name in values.items()} for key, values in content.items()}
    strange = sorted({name for values in table.values() for name in values.values()} - set(legend.names))
    if strange:
        raise ConfigError(
            "a table of tags names classes that are not in the legend",
            got=", ".join(strange),
            expected=", ".join(legend.names),
            where=path,
            do="correct the names, or choose the right legend",
        )
    return table
