"""Which pixels are under cloud: by a mask raster of the user, or else by B10 of Sentinel-2 L1C; and how many they are.

In: the values of a mask and what they mean, or a record. Out: 1 cloud, 0 clear, 255 unknown; sums by split.

    scl           scene classification of L2A: 8, 9 cloud of medium and high probability, 10 thin cirrus; 0 no data
    qa60          bits 10 (opaque cloud) and 11 (cirrus) of L1C products in Earth Engine
    s2cloudless   probability in percent: 40 or more, the default of that detector
    1 or 3,8,9    these values          >=65          these and all above
    B10           reflectance above 0.012 where the product is L1C: cirrus only, and bare ground above some 1500 m

No data of the mask is unknown. Shadows are cloud only where their value is given (`3,8,9,10` for scl).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.survey.band_statistics import CIRRUS_DN
from cromss.data.survey.value_counts import value_counts
from cromss.errors import ConfigError, RangeError

__all__ = [
    "CLEAR",
    "CLOUD",
    "UNKNOWN",
    "CloudCounts",
    "CloudValues",
    "cover_of",
    "parse_cloud_values",
    "summarize_clouds",
    "told_by",
]

CLEAR, CLOUD, UNKNOWN = 0, 1, 255


@dataclass(frozen=True, kw_only=True)
class CloudValues:
    """What the values of a mask mean. highest: the largest that the mask can hold, None where that is not known."""

    text: str
    values: frozenset[int] = frozenset()
    least: float | None = None
    bits: int = 0
    unknown: frozenset[int] = frozenset()
    highest: int | None = None

    def cover(self, values_HW: NDArray[Any], missing_HW: NDArray[np.bool_], where: str) -> NDArray[np.uint8]:
        """CLOUD, CLEAR or UNKNOWN of each pixel. Raises RangeError for values that such a mask cannot hold."""
        known = values_HW[~missing_HW]
        strange = known[~self._can_hold(known)]
        if strange.size:
            whole = "numbers" if self._fractions else "whole numbers"
            raise RangeError(
                f"a mask of clouds does not hold values of {self.text}",
                got=f"{strange.size} pixels, such as {strange[0]:g}",
                expected=whole if self.highest is None else f"{whole} from 0 to {self.highest}",
                where=where,
                do="correct cloud_mask or cloud_values",
            )
        if self.least is not None:
            cloudy_HW = values_HW >= self.least
        elif self.bits:
            cloudy_HW = (np.where(missing_HW, 0, values_HW).astype(np.int64) & self.bits) != 0
        else:
            cloudy_HW = np.isin(values_HW, list(self.values))
        unknown_HW = missing_HW | np.isin(values_HW, list(self.unknown))
        return np.where(unknown_HW, UNKNOWN, np.where(cloudy_HW, CLOUD, CLEAR)).astype(np.uint8)

    @property
    def _fractions(self) -> bool:
        """Whether such a mask may hold fractions: of a threshold of the user's own, nobody else knows the unit."""
        return self.least is not None and self.highest is None

    def _can_hold(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = np.isfinite(values) if self._fractions else np.equal(values % 1, 0)
        return fits if self.highest is None else fits & (values >= 0) & (values <= self.highest)


_PRESETS = {
    "scl": CloudValues(text="scl", values=frozenset({8, 9, 10}), unknown=frozenset({0}), highest=11),
    "qa60": CloudValues(text="qa60", bits=1 << 10 | 1 << 11, highest=1 << 10 | 1 << 11),
    "s2cloudless": CloudValues(text="s2cloudless", least=40, highest=100),
}


def parse_cloud_values(text: str) -> CloudValues:
    """The meaning of a mask in words of the module's head. Raises ConfigError."""
    if text in _PRESETS:
        return _PRESETS[text]
    if match := re.fullmatch(r">= *(\d+(?:\.\d+)?)", text.strip()):
        return CloudValues(text=text, least=float(match.group(1)))
    if re.fullmatch(r"\d+( *, *\d+)*", text.strip()):
        return CloudValues(text=text, values=frozenset(int(part) for part in text.split(",")))
    raise ConfigError(
        "cloud_values cannot be understood", got=text, expected=f"{', '.join(_PRESETS)}, values such as 8,9, or >=40"
    )


@dataclass(kw_only=True)
class CloudCounts:
    """Sums over places. by: how clouds were told -> places; pixels: (split, cover) -> those where images have data."""

    by: Counter[str] = field(default_factory=Counter)
    pixels: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, record: PlaceRecord, bands: Mapping[str, Sequence[str]]) -> None:
        """Count one place; bands: sensor -> those of the record's images, in order."""
        by, cover_THW = cover_of(record, bands)
        if cover_THW is None:
            return
        self.by[by] += 1
        known = cover_THW if record.valid.all() else cover_THW[record.valid]
        self.pixels.update({(record.split, cover): count for cover, count in value_counts(known).items()})

    def merge(self, other: CloudCounts) -> None:
        """Add the sums of other places."""
        self.by.update(other.by)
        self.pixels.update(other.pixels)


def summarize_clouds(counts: Iterable[CloudCounts], left_out: bool = False) -> dict[str, Any]:
    """The part "clouds" of the report (JSON types): share of the known pixels of each split; {} where nothing tells.

    left_out: whether labels under cloud were left out.
    """
    total = CloudCounts()
    for count in counts:
        total.merge(count)
    splits: dict[str, dict[str, Any]] = {}
    for split in sorted({split for split, _ in total.pixels}):
        cloud, clear = total.pixels[split, CLOUD], total.pixels[split, CLEAR]
        share = cloud / (cloud + clear) if cloud + clear else None
        splits[split] = {"cloud_share": share, "unknown_pixels": total.pixels[split, UNKNOWN]}
    if not splits:
        return {}
    return {"by": dict(sorted(total.by.items())), "labels_left_out": left_out, "splits": splits}


def told_by(clouds: Mapping[str, Any]) -> str:
    """How clouds were told, in words."""
    words = {"mask": "the mask", "B10": "B10 (cirrus only)"}
    return " and ".join(words[by] for by in clouds["by"])


def cover_of(record: PlaceRecord, bands: Mapping[str, Sequence[str]]) -> tuple[str, NDArray[np.uint8] | None]:
    """How clouds of a place are told, and its cover (T, H, W); None where nothing tells."""
    if record.clouds is not None:
        return "mask", record.clouds
    if record.products.get("s2") != "L1C" or "B10" not in bands.get("s2", ()):
        return "", None
    return "B10", (record.images["s2"][:, list(bands["s2"]).index("B10")] > CIRRUS_DN).astype(np.uint8)
