"""The class schemes that are known by name, with the codes and colours of their publishers; others come from a file.

In: a name, or the path of a legend file. Out: a `Legend`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import yaml

from cromss.errors import ArgumentError, MissingDataError
from cromss.geo.legend import IGNORE, Legend, LegendClass

__all__ = ["LEGENDS", "get_legend"]


def _legend(name: str, rows: str, ignored: tuple[int, ...] = (IGNORE,)) -> Legend:
    """Rows "code colour name", in the order of the ids; several codes of one class are joined by commas."""
    parts = [row.split(maxsplit=2) for row in rows.strip().splitlines()]
    classes = tuple(LegendClass(id=i, name=title, color=f"#{color}") for i, (_, color, title) in enumerate(parts))
    codes = {int(code): i for i, (joined, _, _) in enumerate(parts) for code in joined.split(",")}
    return Legend(name=name, classes=classes, codes={**codes, **dict.fromkeys(ignored, IGNORE)})


# Google Dynamic World, band `label`; official colours.
_DYNAMIC_WORLD = """
0 419bdf water
1 397d49 trees
2 88b053 grass
3 7a87c6 flooded_vegetation
4 e49635 crops
5 dfc35a shrub_and_scrub
6 c4281b built
7 a59b8f bare
8 b39fe1 snow_and_ice
"""

# The 13 OpenStreetMap classes of SSL4EO-S12@OSM; the authors publish no colours, these are ours.
_OSM13 = """
0 c4281b urban
1 e49635 arable_land
2 397d49 forest
3 7d5ba6 industrial
4 9fe0a0 artificial_vegetation
5 6b4a36 dump_site_or_mine
6 88b053 pasture
7 b5651d permanent_crops
8 419bdf water
9 d9cfc0 open_space
10 dfc35a shrub
11 7a87c6 wetland
12 2a6f97 coastal
"""

# IEEE GRSS Data Fusion Contest 2020, in the CromSS authors' order; colours of the contest.
# Savanna (3) and snow (8) are not used by the contest; 0 and 255 are no label.
_DFC2020 = """
10 1c0dff water
1 009900 forest
4 b6ff05 grassland
5 27ff87 wetland
6 c24f44 cropland
2 c6b044 shrubland
7 a5a5a5 urban
9 f9ffa4 barren
"""

# MODIS MCD12Q1 LC_Type1 (IGBP); official colours.
_IGBP = """
1 05450a evergreen_needleleaf_forest
2 086a10 evergreen_broadleaf_forest
3 54a708 deciduous_needleleaf_forest
4 78d203 deciduous_broadleaf_forest
5 009900 mixed_forest
6 c6b044 closed_shrubland
7 dcd159 open_shrubland
8 dade48 woody_savanna
9 fbff13 savanna
10 b6ff05 grassland
11 27ff87 permanent_wetland
12 c24f44 cropland
13 a5a5a5 urban
14 ff6d4c cropland_natural_mosaic
15 69fff8 snow_and_ice
16 f9ffa4 barren
17 1c0dff water
"""

# ESA WorldCover 2020 and 2021; official colours. 0 is its no-data.
_WORLDCOVER = """
10 006400 tree_cover
20 ffbb22 shrubland
30 ffff4c grassland
40 f096ff cropland
50 fa0000 built_up
60 b4b4b4 bare
70 f0f0f0 snow_and_ice
80 0064c8 water
90 0096a0 herbaceous_wetland
95 00cf75 mangrove
100 fae6a0 moss_and_lichen
"""

# The 19 classes of BigEarthNet, in its order, by the codes of CORINE Land Cover 2018 that its reference maps hold
# (Sumbul et al. 2021, arXiv 2105.07921; the table of BigEarthNet v2). The colour is CORINE's for the first code.
# Without a class: roads and rails, ports, airports, mines, dumps, building sites, urban green, sport, bare rock, burnt
# areas, glaciers, intertidal flats; and 999, CORINE's no data. 0 is the no-data value of the files.
_BIGEARTHNET19 = """
111,112 e6004d urban_fabric
121 cc4df2 industrial_or_commercial_units
211,212,213 ffffa8 arable_land
221,222,223,241 e68000 permanent_crops
231 e6e64d pastures
242 ffe64d complex_cultivation_patterns
243 e6cc4d agriculture_with_natural_vegetation
244 f2cca6 agro_forestry
311 80ff00 broad_leaved_forest
312 00a600 coniferous_forest
313 4dff00 mixed_forest
321,333 ccf24d natural_grassland_and_sparse_vegetation
322,323 a6ff80 moors_heathland_and_sclerophyllous_vegetation
324 a6f200 transitional_woodland_shrub
331 e6e6e6 beaches_dunes_sands
411,412 a6a6ff inland_wetlands
421,422 ccccff coastal_wetlands
511,512 00ccf2 inland_waters
521,522,523 00ffa6 marine_waters
"""
_CORINE_UNUSED = (122, 123, 124, 131, 132, 133, 141, 142, 332, 334, 335, 423, 999)

# Surface water by hand, as Sen1Floods11.
_WATER = """
0 d9cfc0 not_water
1 419bdf water
"""

LEGENDS: Mapping[str, Legend] = {
    "dynamic_world": _legend("dynamic_world", _DYNAMIC_WORLD),
    "osm13": _legend("osm13", _OSM13),
    "dfc2020": _legend("dfc2020", _DFC2020, ignored=(0, 3, 8, IGNORE)),
    "igbp": _legend("igbp", _IGBP, ignored=(0, IGNORE)),
    "worldcover": _legend("worldcover", _WORLDCOVER, ignored=(0, IGNORE)),
    "bigearthnet19": _legend("bigearthnet19", _BIGEARTHNET19, ignored=(0, IGNORE, *_CORINE_UNUSED)),
    "water": _legend("water", _WATER),
}


def get_legend(name_or_path: str | Path) -> Legend:
    """A legend by its name, or from a JSON or YAML file as `Legend.to_dict` writes it.

    Raises MissingDataError naming the nearest known legend, ArgumentError for a file that is no legend.
    """
    text = str(name_or_path)
    if text in LEGENDS:
        return LEGENDS[text]
    path = Path(text)
    if not path.is_file():
        near = difflib.get_close_matches(text, LEGENDS, n=1, cutoff=0.0)[0]
        raise MissingDataError(
            "unknown legend", got=text, expected=f"one of {', '.join(LEGENDS)}, or the path of a legend file",
            do=f"did you mean {near!r}?",
        )  # fmt: skip
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError("a legend file does not parse", got=error, where=path) from None
    if not isinstance(content, dict):
        raise ArgumentError("this is not a legend", got=type(content).__name__, expected="a mapping", where=path)
    try:
        return Legend.from_dict(content)
    except ArgumentError as error:
        where = path if error.where is None else f"{path}, {error.where}"
        raise ArgumentError(
            error.what, got=error.got, expected=error.expected, where=where, do="correct the legend file"
        ) from None
