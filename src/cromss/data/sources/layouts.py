"""The layouts that are known by name, and how each is opened.

In: the settings of `prepare`, its legend, the bands to keep and a rule for splits. Out: the `Source` of that layout.
A new layout is a function here (or in `patch_layouts`), a module beside this one that holds its reader, and a name in
`config.Layout`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any

from cromss.data.sources.cube import cube_entries, cube_images
from cromss.data.sources.label_patterns import cloud_values_of, label_patterns
from cromss.data.sources.noldo_labels import NolLabels
from cromss.data.sources.noldo_tiles import NoldoTiles
from cromss.data.sources.opening import Opening, default_of, refuse_patterns
from cromss.data.sources.own_images import ROLES, OwnImages
from cromss.data.sources.patch_layouts import PATCH_LAYOUTS
from cromss.data.sources.rule_labels import RuleLabels, with_bands_of_rules
from cromss.data.sources.source import Source
from cromss.data.sources.ssl4eo_s12 import FOLDERS, Ssl4eoS12
from cromss.data.sources.ssl4eo_s12_v11 import MODALITIES, Ssl4eoS12V11
from cromss.data.sources.stac import stac_images
from cromss.data.sources.stac_items import find_items
from cromss.data.sources.stac_section import plan_stac
from cromss.data.survey.clouds import parse_cloud_values
from cromss.errors import ConfigError

__all__ = ["LAYOUTS", "Opening", "open_source", "refuse_patterns", "settled"]

_OWN = frozenset(
    {"s2_offset", "sensors", "band_names", "split_blocks", "align_to"}
    | {"annotators", "cloud_mask", "cloud_values", "mask_clouds"}
)
_OWN_FILES = {"geotiff_folders": _OWN, "stac": _OWN | {"stac"}, "cube": _OWN | {"cube"}}
_OWN_FILES |= {"ssl4eo_s12_v1_1": frozenset({"cloud_values"})}
"""Layouts, above all of a user's own files -> settings that they have a use for, and other layouts have not."""


def open_source(opening: Opening) -> Source:
    """The source of the layout that the settings name. Raises ConfigError and MissingDataError of the reader."""
    for name in sorted(frozenset().union(*_OWN_FILES.values())):
        given = getattr(opening.config, name)
        if given and name not in _OWN_FILES.get(opening.config.layout, ()):
            raise ConfigError(
                f"layout {opening.config.layout} has no use for the setting {name}",
                got=f"{name} {given}",
                expected="nothing: what its files hold is known",
                do=f"leave {name} out, or choose layout {name if name in LAYOUTS else 'geotiff_folders'}",
            )
    if not opening.config.label_rules:
        return LAYOUTS[opening.config.layout](opening)
    for name in ("mask_clouds", "annotators", "probabilities"):
        if given := getattr(opening.config, name):
            raise ConfigError(
                f"label_rules and {name} do not go together",
                got=f"{name} {given}",
                do=f"leave {name} out, or write the labels with cromss labels rules and prepare with their files",
            )
    bands = with_bands_of_rules(opening.bands)
    source = LAYOUTS[opening.config.layout](dataclasses.replace(opening, bands=bands))
    return RuleLabels(source, bands=bands["s2"], kept=len(opening.bands["s2"]), legend=opening.legend)


def _geotiff_folders(opening: Opening) -> Source:
    return OwnImages(_patterns(opening), **_own(opening))


def settled(opening: Opening) -> Opening:
    """The same, with what a catalogue holds: it is searched once, and all processes that are sent this use the same.

    Raises ConfigError, MissingDataError, DamagedFileError, DataError.
    """
    if opening.config.layout != "stac" or opening.items is not None:
        return opening
    plan = plan_stac(opening.section, opening.known)
    where = plan.catalog if "://" in plan.catalog else str(opening.root / plan.catalog)
    return dataclasses.replace(opening, items=find_items(plan, where))


def _stac(opening: Opening) -> Source:
    items = settled(opening).items
    if items is None:
        raise ConfigError("no catalogue was searched", do="choose layout stac, and give its section")
    listed = tuple(items.items)
    return stac_images(items, _patterns(opening, listed), **_own(opening, listed))


def _cube(opening: Opening) -> Source:
    section = opening.section
    listed = cube_entries(section, opening.known)
    return cube_images(section, opening.root, _patterns(opening, listed), roles=listed, **_own(opening, listed))


def _patterns(opening: Opening, listed: Collection[str] = ()) -> dict[str, str]:
    """Role -> pattern of what lies in files; a default steps back where the section of the layout lists the role."""
    config = opening.config
    patterns = {"truth": config.truth, "split": None if opening.by_table else config.split}
    patterns |= {**opening.patterns, **label_patterns(opening, listed), "clouds": config.cloud_mask}
    for role in listed:
        if role in (*ROLES, "labels") and patterns.get(role) == default_of(role):
            patterns[role] = None
    return {role: str(opening.root / pattern) for role, pattern in patterns.items() if pattern is not None}


def _own(opening: Opening, listed: Container[str] = ()) -> dict[str, Any]:
    """What a user's own images are read with, wherever they lie."""
    config = opening.config
    asked = {"s1": config.s1_bands, "s2": config.s2_bands}
    by_name = {name for name, subset in asked.items() if subset in opening.definitions[name].subsets}
    return {
        "legend": opening.legend,
        "bands": opening.bands,
        "definitions": opening.definitions,
        "products": {"s1": config.s1_product, "s2": config.s2_product},
        # only names that the user wrote out can stand for the order of bands in a file
        "file_bands": {name: names for name, names in opening.bands.items() if name in asked and name not in by_name},
        "s2_offset": config.s2_offset,
        "split_of": opening.split_of,
        "split_values": config.split_values,
        "clouds": cloud_values_of(config, listed),
        "mask_clouds": config.mask_clouds,
        "tile": config.tile,
        "blocks": opening.blocks,
        "align_to": config.align_to,
        "resampling": config.resampling,
    }


def _ssl4eo_s12(opening: Opening) -> Source:
    refuse_patterns(opening.config)
    return Ssl4eoS12(
        opening.root, bands=opening.bands, product=_s2_product(opening, FOLDERS), split_of=opening.split_of
    )


def _ssl4eo_s12_v11(opening: Opening) -> Source:
    config = opening.config
    refuse_patterns(config)
    if config.split is not None:
        raise ConfigError(
            f"layout {config.layout} has published splits", got=f"split {config.split}", do="leave split out"
        )
    if config.cloud_values is not None and "s2" not in opening.bands:
        raise ConfigError(
            "the masks of clouds of this layout are those of Sentinel-2",
            got=f"cloud_values {config.cloud_values}, s2 null",
            do="leave cloud_values out, or keep s2",
        )
    folders = {product: f"*/{name}" for product, name in MODALITIES.items()}
    return Ssl4eoS12V11(
        opening.root,
        bands=opening.bands,
        product=_s2_product(opening, folders),
        train_split=opening.split_of,
        clouds=None if config.cloud_values is None else parse_cloud_values(config.cloud_values),
    )


def _noldo_nol(opening: Opening) -> Source:
    refuse_patterns(opening.config, free=("labels",))
    config, default = opening.config, default_of("labels")
    if config.labels is None:
        return _ssl4eo_s12(opening)
    labels = opening.root if config.labels == default else opening.root / config.labels
    return Ssl4eoS12(
        opening.root,
        bands=opening.bands,
        product=config.s2_product or "L1C",
        split_of=opening.split_of,
        labels=NolLabels(labels, opening.legend),
    )


def _noldo_tiles(opening: Opening, task: str) -> Source:
    refuse_patterns(opening.config, free=("tile",))
    config = opening.config
    if config.split is not None or config.test_share:
        raise ConfigError(
            f"layout {config.layout} has published splits",
            got=f"split {config.split}, test_share {config.test_share}",
            expected="neither; validation_share draws from the training tiles",
            do="leave split and test_share out",
        )
    return NoldoTiles(
        opening.root,
        task,
        legend=opening.legend,
        bands=opening.bands,
        s2_product=config.s2_product,
        train_split=opening.split_of,
        tile=config.tile,
    )


def _s2_product(opening: Opening, folders: Mapping[str, str]) -> str:
    """L1C or L2A: as the settings say, or the one whose folder is there."""
    config = opening.config
    there = [product for product in ("L1C", "L2A") if any(opening.root.glob(folders[product]))]
    if config.s2_product is None and "s2" in opening.bands and len(there) == 2:
        raise ConfigError(
            "both Sentinel-2 products are there",
            got=f"{folders['L1C']} (L1C) and {folders['L2A']} (L2A)",
            expected="a choice; their statistics differ",
            where=opening.root,
            do="give s2_product=L1C or s2_product=L2A",
        )
    return config.s2_product or (there or ["L1C"])[0]


LAYOUTS: Mapping[str, Callable[[Opening], Source]] = {
    "geotiff_folders": _geotiff_folders,
    "stac": _stac,
    "cube": _cube,
    "ssl4eo_s12": _ssl4eo_s12,
    "ssl4eo_s12_v1_1": _ssl4eo_s12_v11,
    "noldo_s12_nol": _noldo_nol,
    "noldo_s12_dw": functools.partial(_noldo_tiles, task="dw"),
    "noldo_s12_osm": functools.partial(_noldo_tiles, task="osm"),
    **PATCH_LAYOUTS,
}
