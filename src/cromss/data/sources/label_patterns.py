"""Which files are labels, one map a season, the maps of several annotators or class probabilities; and what is cloud.

In: the settings of prepare. Out: a pattern for each role that holds labels, and the meaning of a mask of clouds.

    annotators:                  roles "labels" (the first) and "labels.<name>"
      dw: "dw/{id}.tif"
      osm: "osm/{id}.tif"
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from cromss.config import PrepareConfig
from cromss.data.clouds import CloudValues, parse_cloud_values
from cromss.data.sources.opening import default_of
from cromss.data.store_layout import label_layers
from cromss.errors import ConfigError

__all__ = ["cloud_values_of", "label_patterns"]


def label_patterns(config: PrepareConfig, listed: Container[str] = ()) -> dict[str, str | None]:
    """Role -> pattern, from root, of all labels but the truth. Raises ConfigError for settings that exclude each other.

    listed: roles that the section of a layout has. With probabilities, a pattern of labels that was left as it is
    counts only where its folder is there.
    """
    left = config.labels == default_of("labels")
    if config.annotators:
        return _of_annotators(config, left, listed)
    soft = config.probabilities is not None or "probabilities" in listed
    if not soft or config.labels is None or not left:
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


def _of_annotators(config: PrepareConfig, left: bool, listed: Container[str]) -> dict[str, str | None]:
    names = list(config.annotators)
    others = [role for role in ("labels", "probabilities") if role in listed]
    if (config.labels is not None and not left) or config.probabilities is not None or others:
        raise ConfigError(
            "several annotators stand in the place of labels and probabilities",
            got=f"annotators {', '.join(names)}, labels {config.labels}, probabilities {config.probabilities}"
            + (f", and {' and '.join(others)} in the section of the layout" if others else ""),
            expected="either annotators, or labels and probabilities",
            do="give the label maps as one more annotator, or leave annotators out",
        )
    strange = [name for name in names if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", name)]
    if strange:
        raise ConfigError("an annotator has a name that cannot be used", got=strange, expected="letters, digits, _, -")
    return dict(zip(label_layers(names), config.annotators.values(), strict=True))
