"""The offset of Sentinel-2 values: since processing baseline 04.00 (January 2022), DN = reflectance * 10000 + 1000.

In: the tags of a file and what the user says. Out: the DN that its producer added, and values with them taken off, so
that all images of a set, and the published statistics, speak of the same DN = reflectance * 10000.

The agency names the offset RADIO_ADD_OFFSET (L1C) or BOA_ADD_OFFSET (L2A), with the sign of what is to be added when
reading: -1000 (Sentinel-2 Products Specification Document). Reflectances below 0 become DN 0, and are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ConfigError, DataError, RangeError

__all__ = ["OFFSET_TAGS", "offset_of", "take_off"]

OFFSET_TAGS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")

_LARGEST_DN = 10_000
_NOISE_DN = 200  # reflectance -0.02: so far below black do shadow and water in L2A reach
_BELOW = 0.05  # share of values that may be darker still


def offset_of(tags: Mapping[str, str], setting: int | None, where: str | Path) -> int:
    """The DN added to every value of a file: what its tags say, or else the setting, or else 0.

    Raises DataError for a tag that is no one whole number from -10000 to 0, and where tags and setting differ;
    ConfigError for a setting that is not from 0 to 10000.
    """
    if setting is not None and not 0 <= setting <= _LARGEST_DN:
        raise ConfigError("an offset must be the DN that were added", got=f"s2_offset {setting}", expected="1000, or 0")
    texts = {name: tags[name] for name in OFFSET_TAGS if name in tags}
    said = {number for text in texts.values() for number in re.split(r"[,; ]+", text.strip())}
    if not said:
        return setting or 0
    if len(said) > 1 or not re.fullmatch(r"-?\d+", next(iter(said))) or not -_LARGEST_DN <= int(next(iter(said))) <= 0:
        raise DataError(
            "a file states an offset of its values that can not be used",
            got=texts,
            expected="one whole number for all bands, such as -1000 (or 0)",
            where=where,
            do="correct the tag, or write the file as DN = reflectance * 10000 without it",
        )
    added = -int(said.pop())
    if setting is not None and setting != added:
        raise DataError(
            "a file says that its values have another offset than the setting",
            got=texts,
            expected=f"s2_offset = {setting}",
            where=where,
            do="leave s2_offset out to use the tags, or correct the tags",
        )
    return added


def take_off(
    values_BHW: NDArray[Any], valid_HW: NDArray[np.bool_], offset: int, where: str | Path
) -> tuple[NDArray[Any], int]:
    """Values (same type) less the offset, never below 0, and in how many bands valid values were below it.

    Raises RangeError where more than 5 % of the values lie more than 200 DN below it: then nothing was added here.
    """
    below_B = ((values_BHW < offset) & valid_HW).sum(axis=(1, 2))
    darker = int(((values_BHW < offset - _NOISE_DN) & valid_HW).sum())
    count = values_BHW.shape[0] * int(valid_HW.sum())
    if darker > _BELOW * count:
        raise RangeError(
            "Sentinel-2 values are darker than their offset allows",
            got=f"{darker} of {count} values below {offset - _NOISE_DN} DN",
            expected=f"at most {_BELOW:.0%}: {offset} DN are said to be added to every value",
            where=where,
            do="leave s2_offset out, or correct the tag of the offset in the file",
        )
    return np.maximum(values_BHW, offset) - np.asarray(offset, values_BHW.dtype), int((below_B > 0).sum())
