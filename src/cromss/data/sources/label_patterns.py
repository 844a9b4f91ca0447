"""Which files are labels, one map a season, class probabilities, or those of several annotators; and what is cloud.

In: the settings of prepare. Out: a pattern for each role that holds labels, and the meaning of a mask of clouds.

    annotators:                  roles "labels" (the first) and "labels.<name>"
      dw: "dw/{id}.tif"          after those that the section of a layout lists
      osm: "osm/{id}.tif"
      rules: null                no maps; the likeliest class of its probabilities is its label
    probabilities:               roles "probabilities" and "probabilities.<name>"
      rules: "soft/{id}.tif"
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from cromss.config import PrepareConfig
from cromss.data.sources.opening import Opening, default_of
from cromss.data.sources.role_sections import check_annotators, require_owners
from cromss.data.store.layout import label_layers, soft_layer
from cromss.data.survey.clouds import CloudValues, parse_cloud_values
from cromss.errors import ConfigError

__all__ = ["cloud_values_of", "label_patterns"]


def label_patterns(opening: Opening, listed: Container[str] = ()) -> dict[str, str | None]:
    """Role -> pattern, from root, of all labels but the truth. Raises ConfigError for settings that exclude each other.

    listed: roles that the section of a layout has. With probabilities, a pattern of labels that was left as it is
    counts only where its folder is there.
    """
    config = opening.config
    left = config.labels == default_of("labels")
    if opening.annotators:
        return _of_annotators(opening, left, listed)
    soft = config.probabilities
    if isinstance(soft, dict):
        raise ConfigError(
            "probabilities are by the name of annotators, and there are none",
            got=f"probabilities of {', '.join(soft)}",
            expected="a pattern, or annotators, too",
            do=f"give annotators {{{next(iter(soft), 'dw')}: PATTERN}}, or null for who has no maps",
        )
    if not opening.soft or config.labels is None or not left:
        return {"labels": config.labels, "probabilities": soft}
    there = (Path(config.root) / config.labels.partition("/")[0]).is_dir()
    return {"labels": config.labels if there else None, "probabilities": soft}


def cloud_values_of(config: PrepareConfig, listed: Container[str] = ()) -> CloudValues | None:
    """What the masks of clouds mean, None where there are none. Raises ConfigError for one setting without another.

    listed: roles that the section of a layout has, `clouds` perhaps.
    """
    masked = config.cloud_mask is not None or "clouds" in listed
    if not masked and (config.mask_clouds or config.cloud_values is not None):
        raise ConfigError(
            "labels under cloud can only be told where a mask says what is cloud",
            got=f"mask_clouds {config.mask_clouds}, cloud_values {config.cloud_values}, no cloud_mask",
            do="give cloud_mask, or leave mask_clouds and cloud_values out",
        )
    if masked and config.cloud_values is None:
        raise ConfigError(
            "nothing says which values of the mask mean cloud",
            got="a mask of clouds without cloud_values",
            expected="scl, qa60, s2cloudless, or values such as 1",
            do="give cloud_values",
        )
    return None if config.cloud_values is None else parse_cloud_values(config.cloud_values)


def _of_annotators(opening: Opening, left: bool, listed: Container[str]) -> dict[str, str | None]:
    config, names = opening.config, opening.annotators
    if config.labels is not None and not left:
        raise ConfigError(
            "several annotators stand in the place of labels",
            got=f"annotators {', '.join(names)}, and labels {config.labels}",
            expected="either annotators or labels",
            do="give the label maps as one more annotator, or leave annotators out",
        )
    check_annotators(config.annotators)
    soft = {config.probabilities: None} if isinstance(config.probabilities, str) else config.probabilities or {}
    require_owners(soft, names, "the setting probabilities")
    _refuse_both("annotators", config.annotators, opening.section)
    _refuse_twice(config.annotators)
    _refuse_both("probabilities", soft, opening.section)
    patterns: dict[str, str | None] = {}
    for name, layer in zip(names, label_layers(names), strict=True):
        mine = {layer: config.annotators.get(name), soft_layer(layer): soft.get(name)}
        if not any(pattern is not None or role in listed for role, pattern in mine.items()):
            raise ConfigError(
                "an annotator has neither maps nor probabilities",
                got=f"{name}: null",
                expected="where its maps are, or an entry of that name among probabilities",
                do="give one of them, or leave that annotator out",
            )
        patterns |= mine
    return patterns


def _refuse_twice(annotators: Mapping[str, str | None]) -> None:
    """Raise ConfigError for two annotators with the maps of one: they would agree everywhere."""
    names: dict[str, str] = {}
    for name, pattern in annotators.items():
        if pattern is not None and names.setdefault(pattern, name) != name:
            raise ConfigError(
                "two annotators have the same maps",
                got=f"{pattern}, of {names[pattern]} and {name}",
                expected="a pattern of its own for each",
                do="correct one of them, or leave it out",
            )


def _refuse_both(key: str, given: Iterable[str], section: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name that a setting and the section of the layout both have."""
    if twice := sorted({*given} & {*map(str, section.get(key) or ())}):
        raise ConfigError(
            f"{key} of one name come from a pattern or from the section of the layout",
            got=f"both, for {', '.join(twice)}",
            do="take one of them away, or give it another name",
        )
