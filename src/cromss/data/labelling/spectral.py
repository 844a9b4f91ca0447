"""Land cover from the colours of one Sentinel-2 image, by a table of thresholds: free, offline, and often wrong.

In: a Sentinel-2 image in DN and its product. Out: a membership in 0..1 for each of Dynamic World's nine classes, and
for clouds.

    index = (sum of its bands above - sum of its bands below) / (sum of both),    of surface reflectance r
    r = DN / 10000  (L2A),    DN / 10000 - path reflectance of clean air  (L1C),    at least 0.001
    how well a condition holds = 1 / (1 + exp(-(index - threshold) / softness))    (sign turned for "below")
    membership of a class = the largest over its rules of the smallest over the rule's conditions
    p_c = membership_c / max(1, sum of the memberships),    label = argmax_c p_c,    confidence = p of the label

A membership of a half or more means that every condition of a rule holds.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ArgumentError
from cromss.geo.bands import SENSORS

__all__ = [
    "BANDS",
    "CLOUD",
    "INDICES",
    "RULES",
    "Condition",
    "Rule",
    "path_reflectance",
    "spectral_index",
    "spectral_memberships",
    "sun_zenith",
]

INDICES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "NDVI": (("B8",), ("B4",)),  # vegetation: Rouse et al. 1974
    "MNDWI": (("B3",), ("B11",)),  # water: Xu 2006; of snow it is the NDSI: Hall et al. 1995
    "NDMI": (("B8A",), ("B11",)),  # moisture: Gao 1996; NDBI (Zha et al. 2003) is its negative, but for the NIR band
    "BSI": (("B11", "B4"), ("B8", "B2")),  # bare soil: Rikimaru et al. 2002
    "RBI": (("B4",), ("B2",)),  # red against blue: soils are red, roofs, roads and clouds are grey
}
"""Name -> (bands above, bands below). A band's own name is its surface reflectance."""

BANDS = ("B2", "B3", "B4", "B8", "B8A", "B11")
"""What the rules look at."""

_SOFTNESS = {"index": 0.05, "reflectance": 0.02}
"""How far from a threshold a condition holds to 73 %: in units of the index, or of reflectance."""

_FARTHEST = np.float32(60)  # softnesses; farther is as good as certain, and its exponential finite
_DARKEST = 0.001  # surface reflectance; keeps indices finite where L2A says 0 or the path takes all


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`quantity` (an index or a band's reflectance) lies above or below `threshold`."""

    quantity: str
    above: bool
    threshold: float

    @property
    def softness(self) -> float:
        return _SOFTNESS["index" if self.quantity in INDICES else "reflectance"]

    def distance(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far beyond the threshold, on the side where the condition holds, in units of the softness."""
        softness = np.float32(self.softness if self.above else -self.softness)
        return np.asarray((values - np.float32(self.threshold)) / softness, np.float32)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A class of Dynamic World and the conditions that must all hold; `why` names what the thresholds rest on."""

    class_id: int
    conditions: tuple[Condition, ...]
    why: str


def _rule(class_id: int, text: str, why: str) -> Rule:
    """Conditions as "NDVI > 0.5, B11 < 0.2"."""
    conditions = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+) ([<>]) (-?[\d.]+)\s*", part)
        if match is None:
            raise ArgumentError("not a condition", got=part, expected="QUANTITY < or > NUMBER")
        quantity, sign, number = match.groups()
        conditions.append(Condition(quantity=quantity, above=sign == ">", threshold=float(number)))
    return Rule(class_id=class_id, conditions=tuple(conditions), why=why)


CLOUD = 9
"""The place of clouds among the memberships, after the nine classes: what is hidden gets no label."""

RULES: tuple[Rule, ...] = (
    _rule(0, "MNDWI > 0, NDVI < 0.3, B8 < 0.11", "Xu 2006: MNDWI above 0; NIR below where snow begins"),
    _rule(0, "B8 < 0.08, B11 < 0.1", "darker than any land in NIR and SWIR, where indices are noise"),
    _rule(1, "NDVI > 0.5, B11 < 0.2, B3 < 0.04", "closed canopies in leaf are dark by their shadows"),
    _rule(1, "NDVI > 0.35, B11 < 0.22, B8 < 0.27", "canopies partly in leaf, or under a low sun"),
    _rule(2, "NDVI > 0.5, B11 > 0.23, B8 < 0.54", "short green swards are brighter than canopies"),
    _rule(3, "NDVI > 0.2, NDVI < 0.5, NDMI > -0.1, NDMI < 0.15, B11 < 0.16", "sparse green over dark, wet ground"),
    _rule(4, "NDVI > 0.35, NDVI < 0.65, BSI < 0.05, B11 < 0.28", "fields partly covered by plants"),
    _rule(4, "NDVI < 0.4, BSI > 0.05, B4 < 0.18", "ploughed soil: bare, but moist and dark"),
    _rule(4, "NDVI > 0.85, B8 > 0.46", "dense crops are the brightest plants in NIR"),
    _rule(5, "NDVI > 0.05, NDVI < 0.6, BSI > 0.15, B11 > 0.22", "sparse dry green over soil"),
    _rule(6, "NDVI < 0.55, RBI < 0.2, MNDWI < -0.2, B2 > 0.06", "grey, not green and not wet"),
    _rule(7, "NDVI < 0.3, BSI > -0.1, B4 > 0.18, RBI > 0.1", "bright, reddish soil, sand and rock"),
    _rule(8, "MNDWI > 0.4, B8 > 0.11", "MODIS snow map, Hall et al. 2002: NDSI above 0.4 and NIR above 0.11"),
    _rule(CLOUD, "B2 > 0.2, RBI < 0.1, MNDWI < 0.4", "bright and white, but brighter in SWIR than snow"),
)
"""Where `why` names no paper, the thresholds are ours: see docs/labels.md for how they were set and what they reach."""


def sun_zenith(date: datetime.date, latitude: float) -> float:
    """How far the sun stands from the zenith, in degrees, when Sentinel-2 passes: at 10:30 of mean local solar time.

    cos(zenith) = sin(lat) sin(decl) + cos(lat) cos(decl) cos(22.5), decl = -23.44 cos(360 (day of year + 10) / 365.25).
    Right to about 2 degrees, for what the formula leaves out: the equation of time, and the width of the swath.
    """
    turn = 2 * math.pi * (date.timetuple().tm_yday + 10) / 365.25
    declination = math.radians(-23.44 * math.cos(turn))
    height = math.radians(latitude)
    cosine = math.sin(height) * math.sin(declination)
    cosine += math.cos(height) * math.cos(declination) * math.cos(math.radians(22.5))
    return math.degrees(math.acos(cosine))


def path_reflectance(band: str, sun_zenith: float) -> float:
    """The reflectance that clean air adds to a band seen from straight above, by single Rayleigh scattering.

    rho = tau P / (4 cos(sun)), with P = 3/4 (1 + cos^2) of the scattering angle 180 - sun, and the optical depth
    tau = 0.008569 l^-4 (1 + 0.0113 l^-2 + 0.00013 l^-4) at the wavelength l in micrometres (Hansen and Travis 1974).
    Haze adds more, and is not taken away. sun_zenith: degrees, of which more than 80 count as 80.
    """
    length = SENSORS["s2"].wavelengths_nm[SENSORS["s2"].bands.index(band)] / 1000
    depth = 0.008569 * length**-4 * (1 + 0.0113 * length**-2 + 0.00013 * length**-4)
    cosine = math.cos(math.radians(min(sun_zenith, 80.0)))  # lower suns are outside the formula, which has no horizon
    return depth * 0.75 * (1 + cosine**2) / (4 * cosine)


def spectral_index(name: str, reflectance: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """An index of `INDICES`, in -1..1, or a band's own reflectance; `reflectance`: band -> (H, W), above 0."""
    if name not in INDICES:
        return reflectance[name]
    over, under = (sum(reflectance[band] for band in bands) for bands in INDICES[name])
    return np.asarray((over - under) / (over + under), np.float32)


def spectral_memberships(
    values_BHW: NDArray[Any],
    bands: Sequence[str],
    product: str,
    sun_zenith: float | None = None,
    rules: Sequence[Rule] = RULES,
) -> NDArray[np.float32]:
    """Memberships (10, H, W) in 0..1, clouds last, of a Sentinel-2 image in DN.

    bands: its bands by name. product: `L1C` or `L2A`. sun_zenith: degrees; an L1C image needs it.
    Raises ArgumentError for another product, for bands that the rules lack, and for L1C without the sun.
    """
    names = sorted({part for rule in rules for c in rule.conditions for part in _bands_of(c.quantity)})
    lacking = [name for name in names if name not in bands]
    if (
        lacking
        or len(bands) != len(values_BHW)
        or product not in ("L1C", "L2A")
        or (product == "L1C" and sun_zenith is None)
    ):
        raise ArgumentError(
            "the rules cannot read this image",
            got=f"{values_BHW.shape} with bands {list(bands)} of product {product}, sun_zenith {sun_zenith}",
            expected=f"(B, H, W) with {', '.join(names)} of product L2A, or L1C with sun_zenith",
        )
    air = {
        name: 0.0 if sun_zenith is None or product == "L2A" else path_reflectance(name, sun_zenith) for name in names
    }
    reflectance = {name: _surface(values_BHW[list(bands).index(name)], air[name]) for name in names}
    asked = {c.quantity for rule in rules for c in rule.conditions}
    quantities = {name: spectral_index(name, reflectance) for name in asked}
    # how well a condition holds grows with its distance, so smallest and largest are found before the exponential
    distance_CHW = np.full((CLOUD + 1, *values_BHW.shape[1:]), -_FARTHEST, np.float32)
    for rule in rules:
        least_HW = np.minimum.reduce([c.distance(quantities[c.quantity]) for c in rule.conditions])
        np.maximum(distance_CHW[rule.class_id], least_HW, out=distance_CHW[rule.class_id])
    return np.asarray(1 / (1 + np.exp(-np.minimum(distance_CHW, _FARTHEST))), np.float32)


def _bands_of(quantity: str) -> tuple[str, ...]:
    return tuple(band for bands in INDICES[quantity] for band in bands) if quantity in INDICES else (quantity,)


def _surface(digital_HW: NDArray[Any], air: float) -> NDArray[np.float32]:
    reflectance = digital_HW.astype(np.float32) / np.float32(10_000) - np.float32(air)
    return np.asarray(np.maximum(reflectance, np.float32(_DARKEST)), np.float32)
