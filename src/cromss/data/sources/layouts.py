"""The layouts that are known by name, and how each is opened.

In: the settings of `prepare`, its legend, the bands to keep and a rule for splits. Out: the `Source` of that layout.
A new layout is a function here, a module beside this one that holds its reader, and a name in `config.Layout`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cromss.config import PrepareConfig
from cromss.data.sources.geotiff_folders import ROLES, GeotiffFolders
from cromss.data.sources.noldo_labels import NolLabels
from cromss.data.sources.noldo_tiles import NoldoTiles
from cromss.data.sources.source import Source
from cromss.data.sources.ssl4eo_s12 import FOLDERS, Ssl4eoS12
from cromss.data.sources.ssl4eo_s12_v11 import MODALITIES, Ssl4eoS12V11
from cromss.errors import ConfigError
from cromss.geo.bands import SENSORS
from cromss.geo.legend import Legend

__all__ = ["LAYOUTS", "Opening", "open_source", "refuse_patterns"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a layout is opened with: the settings, and what `prepare` made of them.

    bands: sensor -> the bands to keep; a sensor that the settings leave out is absent.
    split_of: place -> split. by_table: whether that rule is a table of ids, not a draw.
    """

    config: PrepareConfig
    legend: Legend
    bands: Mapping[str, Sequence[str]]
    split_of: Callable[[str], str]
    by_table: bool

    @property
    def root(self) -> Path:
        """The folder, or the archive, that holds the layout."""
        return Path(self.config.root)


def open_source(opening: Opening) -> Source:
    """The source of the layout that the settings name. Raises ConfigError and MissingDataError of the reader."""
    return LAYOUTS[opening.config.layout](opening)


def refuse_patterns(config: PrepareConfig, *, free: Sequence[str] = ()) -> None:
    """Raise ConfigError for patterns that a published layout has no use for; null, the default and a table pass.

    free: names of settings that the layout does use.
    """
    for name in (*ROLES, "tile"):
        value = getattr(config, name)
        if name == "split" and str(value).endswith(".csv"):
            continue
        if name not in free and value is not None and value != _default(name):
            raise ConfigError(
                f"layout {config.layout} has no use for the setting {name}",
                got=f"{name} {value}",
                expected="null, or nothing: the layout says where its files are and how they are cut",
                do=f"leave {name} out, or choose layout geotiff_folders",
            )


def _geotiff_folders(opening: Opening) -> Source:
    config, bands = opening.config, opening.bands
    patterns = {role: getattr(config, role) for role in ROLES}
    if opening.by_table:
        patterns["split"] = None
    asked = {"s1": config.s1_bands, "s2": config.s2_bands}
    return GeotiffFolders(
        {role: str(Path(config.root) / pattern) for role, pattern in patterns.items() if pattern is not None},
        legend=opening.legend,
        bands=bands,
        products={"s1": config.s1_product, "s2": config.s2_product},
        # only names that the user wrote out can stand for the order of bands in a file
        file_bands={sensor: names for sensor, names in bands.items() if asked[sensor] not in SENSORS[sensor].subsets},
        split_values=config.split_values,
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
    config, default = opening.config, _default("labels")
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


def _default(name: str) -> object:
    return {entry.name: entry.default for entry in dataclasses.fields(PrepareConfig)}[name]


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
}
