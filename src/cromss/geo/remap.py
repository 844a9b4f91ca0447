"""From one class scheme to another, class by class: which class of the target a class of the source becomes.

In: class ids of a source legend (0..C-1, 255 for none). Out: class ids of a target legend, 255 where the source has no
class, or one that the target cannot say. Every class of the source stands in the table: none is dropped by omission.

The tables are ours and follow the publishers' definitions: Dynamic World (Brown et al. 2022, table 2), WorldCover
(product user manual, 2.0), IGBP (MCD12Q1 user guide), DFC2020 (the contest's own simplification of IGBP).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from cromss.errors import ArgumentError, ConfigError, MissingDataError
from cromss.geo.legend import IGNORE, Legend

__all__ = ["REMAPS", "read_remap", "remap", "remap_table"]

_NO_CLASS = "-"


def _rows(text: str) -> dict[str, str]:
    """Rows "source_class target_class", "-" for no class."""
    pairs = (row.split() for row in text.strip().splitlines())
    return {source: target for source, target in pairs}  # noqa: C416 - dict() would hide that rows are pairs


_WORLDCOVER_DW = """
tree_cover trees
shrubland shrub_and_scrub
grassland grass
cropland crops
built_up built
bare bare
snow_and_ice snow_and_ice
water water
herbaceous_wetland flooded_vegetation
mangrove flooded_vegetation
moss_and_lichen bare
"""

# Woody savannas hold 30 to 60 % trees, savannas 10 to 30 %; mosaics are two thirds crops at most and stay crops.
_IGBP_DW = """
evergreen_needleleaf_forest trees
evergreen_broadleaf_forest trees
deciduous_needleleaf_forest trees
deciduous_broadleaf_forest trees
mixed_forest trees
closed_shrubland shrub_and_scrub
open_shrubland shrub_and_scrub
woody_savanna trees
savanna grass
grassland grass
permanent_wetland flooded_vegetation
cropland crops
urban built
cropland_natural_mosaic crops
snow_and_ice snow_and_ice
barren bare
water water
"""

_OSM13_DW = """
urban built
arable_land crops
forest trees
industrial built
artificial_vegetation grass
dump_site_or_mine bare
pasture grass
permanent_crops crops
water water
open_space bare
shrub shrub_and_scrub
wetland flooded_vegetation
coastal flooded_vegetation
"""

_DFC2020_DW = """
water water
forest trees
grassland grass
wetland flooded_vegetation
cropland crops
shrubland shrub_and_scrub
urban built
barren bare
"""

_DW_DFC2020 = """
water water
trees forest
grass grassland
flooded_vegetation wetland
crops cropland
shrub_and_scrub shrubland
built urban
bare barren
snow_and_ice -
"""

_WORLDCOVER_DFC2020 = """
tree_cover forest
shrubland shrubland
grassland grassland
cropland cropland
built_up urban
bare barren
snow_and_ice -
water water
herbaceous_wetland wetland
mangrove wetland
moss_and_lichen barren
"""

# The contest leaves savannas (8, 9) and snow (15) out.
_IGBP_DFC2020 = """
evergreen_needleleaf_forest forest
evergreen_broadleaf_forest forest
deciduous_needleleaf_forest forest
deciduous_broadleaf_forest forest
mixed_forest forest
closed_shrubland shrubland
open_shrubland shrubland
woody_savanna -
savanna -
grassland grassland
permanent_wetland wetland
cropland cropland
urban urban
cropland_natural_mosaic cropland
snow_and_ice -
barren barren
water water
"""

REMAPS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("worldcover", "dynamic_world"): _rows(_WORLDCOVER_DW),
    ("igbp", "dynamic_world"): _rows(_IGBP_DW),
    ("osm13", "dynamic_world"): _rows(_OSM13_DW),
    ("dfc2020", "dynamic_world"): _rows(_DFC2020_DW),
    ("dynamic_world", "dfc2020"): _rows(_DW_DFC2020),
    ("worldcover", "dfc2020"): _rows(_WORLDCOVER_DFC2020),
    ("igbp", "dfc2020"): _rows(_IGBP_DFC2020),
}
"""(source legend, target legend) -> source class -> target class, "-" for none."""


def remap_table(source: Legend, target: Legend, names: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
    """For each value 0..255 of the source its class id in the target, uint8 of (256,), 255 for none.

    names: source class -> target class or "-"; None takes `REMAPS`, or each class itself where the legends are equal.
    Raises ConfigError where there is no table, or one that lacks a class or names one that is not there.
    """
    if names is None:
        same = source.names == target.names
        names = dict(zip(source.names, source.names, strict=True)) if same else REMAPS.get((source.name, target.name))
    if names is None:
        known = ", ".join(f"{a} to {b}" for a, b in REMAPS)
        raise ConfigError(
            "there is no table from one legend to the other",
            got=f"{source.name} to {target.name}",
            expected=known,
            do="give a YAML file of `source_class: target_class` lines, `-` for none, as remap",
        )
    strange = [
        *(f"source {name}" for name in source.names if name not in names),
        *(f"source {name}" for name in names if name not in source.names),
        *(f"target {name}" for name in names.values() if name not in (*target.names, _NO_CLASS)),
    ]
    if strange:
        raise ConfigError(
            f"the table from {source.name} to {target.name} does not fit the legends",
            got=f"absent or unknown: {', '.join(strange)}",
            expected=f"each of {', '.join(source.names)}; to any of {', '.join(target.names)}, or -",
            do="correct the table",
        )
    table = np.full(256, IGNORE, np.uint8)
    for index, name in enumerate(source.names):
        table[index] = IGNORE if names[name] == _NO_CLASS else target.names.index(names[name])
    return table


def remap(labels: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids of the source (any shape, uint8) as class ids of the target, by `remap_table`."""
    if labels.dtype != np.uint8 or table.shape != (256,):
        raise ArgumentError(
            "labels to remap must be uint8", got=f"{labels.dtype}, table {table.shape}", expected="uint8, table (256,)"
        )
    return table[labels]


def read_remap(path: str | Path) -> dict[str, str]:
    """A table from a YAML file of `source_class: target_class` lines. Raises MissingDataError, ConfigError."""
    path = Path(path)
    if not path.is_file():
        raise MissingDataError("the table of classes is absent", where=path, do="check the path given to remap")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the table of classes is not YAML", got=" ".join(str(error).split()), where=path) from None
    if not isinstance(content, dict) or not content:
        raise ConfigError("a table of classes holds `source_class: target_class` lines", got=content, where=path)
    return {str(name): str(target) for name, target in content.items()}
