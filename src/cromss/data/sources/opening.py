"""What every layout is opened with, and the settings that a published layout has no use for.

In: the settings of `prepare`, its legend, the bands to keep and a rule for splits. Out: those as one value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cromss.config import PrepareConfig
from cromss.data.blocks import SplitBlocks
from cromss.data.sources.own_images import ROLES
from cromss.data.sources.role_sections import Known, annotators_of
from cromss.data.sources.stac_items import FoundItems
from cromss.data.store.layout import label_layers
from cromss.errors import ConfigError
from cromss.geo.legend import Legend
from cromss.geo.sensor import SENSORS, Sensor

__all__ = ["Opening", "default_of", "known_names", "refuse_patterns"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a layout is opened with: the settings, and what `prepare` made of them.

    bands: sensor -> the bands to keep; a sensor that the settings leave out is absent. definitions: what each measures.
    patterns: sensor -> where its files lie, from root.
    items: what a catalogue holds, where the layout has one and it has been searched: every process uses the same items.
    split_of: place -> split. by_table: whether that rule is a table of ids, not a draw.
    """

    config: PrepareConfig
    legend: Legend
    bands: Mapping[str, Sequence[str]]
    split_of: Callable[[str], str]
    by_table: bool
    definitions: Mapping[str, Sensor] = field(default_factory=lambda: SENSORS)
    patterns: Mapping[str, str] = field(default_factory=dict)
    items: FoundItems | None = None

    @property
    def root(self) -> Path:
        """The folder, or the archive, that holds the layout."""
        return Path(self.config.root)

    @property
    def section(self) -> Mapping[str, Any]:
        """What the settings say of a layout that lists its images; empty for layouts of files."""
        return {"stac": self.config.stac, "cube": self.config.cube}.get(self.config.layout) or {}

    @property
    def known(self) -> Known:
        """The names that the section may use."""
        return known_names(self.config)

    @property
    def annotators(self) -> tuple[str, ...]:
        """Those whose label maps are kept apart: of the section of the layout, then of patterns."""
        return (*annotators_of(self.section), *self.config.annotators)

    @property
    def soft(self) -> tuple[str, ...]:
        """The layers of labels with class probabilities: by their patterns, or by the section of the layout."""
        given = [each for each in (self.section.get("probabilities"), self.config.probabilities) if each is not None]
        if not self.annotators:
            return ("labels",) if given else ()
        named = (each.items() for each in given if isinstance(each, Mapping))
        owners = {str(name) for items in named for name, source in items if source is not None}
        layers = zip(self.annotators, label_layers(self.annotators), strict=True)
        return tuple(layer for name, layer in layers if name in owners)

    @property
    def blocks(self) -> SplitBlocks | None:
        """The blocks of ground that patches are drawn by; None where they are not asked for. Raises ConfigError."""
        config = self.config
        if config.split_blocks is None:
            if config.split_buffer:
                raise ConfigError(
                    "a buffer lies between blocks, and none are asked for",
                    got=f"split_buffer {config.split_buffer}",
                    do="give split_blocks, too",
                )
            return None
        if config.split is not None:
            raise ConfigError(
                "a split and blocks exclude each other",
                got=f"split {config.split}, split_blocks {config.split_blocks}",
                expected="one of them",
            )
        if config.tile is not None and config.tile + config.split_buffer > config.split_blocks:
            raise ConfigError(
                "blocks are too small for their patches and the buffer",
                got=f"split_blocks {config.split_blocks}, tile {config.tile}, split_buffer {config.split_buffer}",
                expected=f"split_blocks of at least {config.tile + config.split_buffer}; several times that loses less",
            )
        return SplitBlocks(
            side=config.split_blocks,
            buffer=config.split_buffer,
            seed=config.seed,
            validation_share=config.validation_share,
            test_share=config.test_share,
        )


def known_names(config: PrepareConfig) -> Known:
    """The names that the section of a layout may use, beside those that it defines."""
    return Known(sensors=tuple(config.sensors), annotators=tuple(config.annotators))


def refuse_patterns(config: PrepareConfig, *, free: Sequence[str] = ()) -> None:
    """Raise ConfigError for patterns that a published layout has no use for; null, the default and a table pass.

    free: names of settings that the layout does use.
    """
    for name in (*ROLES, "tile"):
        value = getattr(config, name)
        if name == "split" and str(value).endswith(".csv"):
            continue
        if name not in free and value is not None and value != default_of(name):
            raise ConfigError(
                f"layout {config.layout} has no use for the setting {name}",
                got=f"{name} {value}",
                expected="null, or nothing: the layout says where its files are and how they are cut",
                do=f"leave {name} out, or choose layout geotiff_folders",
            )


def default_of(name: str) -> object:
    """The value of a setting of `prepare` that is not given."""
    return {entry.name: entry.default for entry in dataclasses.fields(PrepareConfig)}[name]
