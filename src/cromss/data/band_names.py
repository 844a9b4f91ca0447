"""What files call their bands, where that is not what the sensor calls them: the setting `band_names`.

In: `name in the file: band` lines, or the name of a YAML file of such lines. Out: a `Sensor` that knows these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cromss.errors import ArgumentError, ConfigError, MissingDataError
from cromss.geo.sensor import Sensor

__all__ = ["read_band_names", "with_names"]


def read_band_names(value: Any, root: str | Path, where: str) -> dict[str, str]:
    """What files call bands -> the bands' names; none for None. root: the folder of a YAML file.

    Raises MissingDataError for a file that cannot be read, ConfigError for anything but a mapping.
    """
    if isinstance(value, str):
        path = Path(root) / value
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            got = str(error).splitlines()[0]
            raise MissingDataError("a file of band names cannot be read", got=got, where=path) from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            "names of bands are `name in the file: band` lines", got=value, expected="{blue: B2, red: B4}", where=where
        )
    return {str(text): str(band) for text, band in value.items()}


def with_names(sensor: Sensor, names: Mapping[str, str]) -> Sensor:
    """The sensor, whose files may also use these names. Raises ConfigError for bands that it does not have."""
    try:
        return sensor.with_aliases(names)
    except ArgumentError as error:
        raise ConfigError(error.what, got=error.got, expected=error.expected, where=error.where) from None
