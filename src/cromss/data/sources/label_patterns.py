"""Which files are labels, one map a season, the maps of several annotators or class probabilities; and what is cloud.

In: the settings of prepare. Out: a pattern for each role that holds labels, and the meaning of a mask of clouds.

    annotators:                  roles "labels" (the first) and "labels.<name>"
      dw: "dw/{id}.tif"          after those that the section of a layout lists
      osm: "osm/{id}.tif"
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from cromss.config import PrepareConfig
from cromss.data.clouds import CloudValues, parse_cloud_values
from cromss.data.sources.opening import Opening, default_of
from cromss.data.sources.role_sections import annotators_of, check_annotators
from cromss.data.store_layout import label_layers
from cromss.errors import ConfigError

__all__ = ["cloud_values_of", "label_patterns"]


def label_patterns(opening: Opening) -> dict[str, str | None]:
    """Role -> pattern, from root, of all labels but the truth. Raises ConfigError for settings that exclude each other.

    With probabilities, a pattern of labels that was left as it is counts only where its folder is there.
    """
    config = opening.config
    left = config.labels == default_of("labels")
    if opening.annotators:
        return _of_annotators(opening, left)
    if not opening.soft or config.labels is None or not left:
        return {"labels": config.labels, "probabilities": config.probabilities}
    there = (Path(config.root) / config.labels.partition("/")[0]).is_dir()
    return {"labels": config.labels if there else None, "probabilities": config.probabilities}


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


def _of_annotators(opening: Opening, left: bool) -> dict[str, str | None]:
    config, names = opening.config, opening.annotators
    others = [role for role in ("labels", "probabilities") if opening.section.get(role) is not None]
    if (config.labels is not None and not left) or config.probabilities is not None or others:
        raise ConfigError(
            "several annotators stand in the place of labels and probabilities",
            got=f"annotators {', '.join(names)}, labels {config.labels}, probabilities {config.probabilities}"
            + (f", and {' and '.join(others)} in the section of the layout" if others else ""),
            expected="either annotators, or labels and probabilities",
            do="give the label maps as one more annotator, or leave annotators out",
        )
    check_annotators(config.annotators)
    if twice := sorted(set(config.annotators) & set(annotators_of(opening.section))):
        raise ConfigError(
            "an annotator comes from a pattern or from the section of its layout",
            got=f"both, for {', '.join(twice)}",
            do="take one of them away, or give it another name",
        )
    roles = zip(names, label_layers(names), strict=True)
    return {role: config.annotators[name] for name, role in roles if name in config.annotators}
