"""The layouts that are known by name, and how each is opened.

In: the settings of `prepare`, its legend, the bands to keep and a rule for splits. Out: the `Source` of that layout.
A new layout is a function here (or in `patch_layouts`), a module beside this one that holds its reader, and a name in
`config.Layout`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from cromss.data.sources.geotiff_folders import ROLES, GeotiffFolders
from cromss.data.sources.label_patterns import cloud_values_of, label_patterns
from cromss.data.sources.noldo_labels import NolLabels
from cromss.data.sources.noldo_tiles import NoldoTiles
from cromss.data.sources.opening import Opening, default_of, refuse_patterns
from cromss.data.sources.patch_layouts import PATCH_LAYOUTS
from cromss.data.sources.source import Source
from cromss.data.sources.ssl4eo_s12 import FOLDERS, Ssl4eoS12
from cromss.data.sources.ssl4eo_s12_v11 import MODALITIES, Ssl4eoS12V11
from cromss.errors import ConfigError

__all__ = ["LAYOUTS", "Opening", "open_source", "refuse_patterns"]


def open_source(opening: Opening) -> Source:
    """The source of the layout that the settings name. Raises ConfigError and MissingDataError of the reader."""
    for name in ("s2_offset", "sensors", "band_names", "annotators", "cloud_mask", "cloud_values", "mask_clouds"):
        given = getattr(opening.config, name)
        if given and opening.config.layout != "geotiff_folders":
            raise ConfigError(
                f"layout {opening.config.layout} has no use for the setting {name}",
                got=f"{name} {given}",
                expected="nothing: what its files hold is known",
                do=f"leave {name} out, or choose layout geotiff_folders",
            )
    return LAYOUTS[opening.config.layout](opening)


def _geotiff_folders(opening: Opening) -> Source:
    config, bands = opening.config, opening.bands
    patterns = {**{role: getattr(config, role) for role in ROLES}, **opening.patterns, **label_patterns(config)}
    patterns["clouds"] = config.cloud_mask
    if opening.by_table:
        patterns["split"] = None
    asked = {"s1": config.s1_bands, "s2": config.s2_bands}
    by_name = {name for name, subset in asked.items() if subset in opening.definitions[name].subsets}
    return GeotiffFolders(
        {role: str(Path(config.root) / pattern) for role, pattern in patterns.items() if pattern is not None},
        legend=opening.legend,
        bands=bands,
        definitions=opening.definitions,
        products={"s1": config.s1_product, "s2": config.s2_product},
        # only names that the user wrote out can stand for the order of bands in a file
        file_bands={name: names for name, names in bands.items() if name in asked and name not in by_name},
        s2_offset=config.s2_offset,
        split_values=config.split_values,
        clouds=cloud_values_of(config),
        mask_clouds=config.mask_clouds,
        split_of=opening.split_of,
        tile=config.tile,
    )


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
    folders = {product: f"*/{name}" for product, name in MODALITIES.items()}
    return Ssl4eoS12V11(
        opening.root, bands=opening.bands, product=_s2_product(opening, folders), train_split=opening.split_of
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
    "ssl4eo_s12": _ssl4eo_s12,
    "ssl4eo_s12_v1_1": _ssl4eo_s12_v11,
    "noldo_s12_nol": _noldo_nol,
    "noldo_s12_dw": functools.partial(_noldo_tiles, task="dw"),
    "noldo_s12_osm": functools.partial(_noldo_tiles, task="osm"),
    **PATCH_LAYOUTS,
}
