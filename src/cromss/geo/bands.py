"""Sensors and bands by name: unit, valid range, published statistics, and the scaling that a network is fed with.

In: arrays in the sensor's native unit (s1 backscatter in dB, s2 digital numbers = reflectance * 10000), bands by name.
Functions take a `Sensor`, or the name of one that is known beforehand: s1 or s2.
Out: float32 network inputs, and errors for numbers that cannot be in that unit.

    paper:     x' = clip((x - (mean - 2 std)) / (4 std), 0, 1)
    standard:  x' = (x - mean) / std

The mean and std of a band depend on the product: GRD for s1; L1C or L2A for s2 (L2A has no B10).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ArgumentError, BandError, MissingDataError, RangeError
from cromss.geo.sensor import SENSORS, Sensor

__all__ = [
    "SENSORS",
    "Normalization",
    "Sensor",
    "band_name",
    "check_values",
    "get_sensor",
    "known_sensor",
    "nearest",
    "published_normalization",
    "require_product_bands",
    "resolve_bands",
]


_BRIGHT_DB = 5.0  # mean of an image; cities reach about 0


def nearest(word: str, known: Sequence[str]) -> str:
    """The name that was probably meant."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return close[0] if close else known[0]


def get_sensor(sensor: str | Sensor, known: Mapping[str, Sensor] = SENSORS) -> Sensor:
    """The sensor of that name, of those known. Raises BandError naming the nearest."""
    if isinstance(sensor, Sensor):
        return sensor
    if sensor not in known:
        raise BandError(
            "unknown sensor", got=sensor, expected=list(known), do=f"did you mean {nearest(sensor, [*known])!r}?"
        )
    return known[sensor]


def known_sensor(name: str, content: Mapping[str, Any] | None = None) -> Sensor:
    """A sensor from its definition in a store or card; s1 and s2 need none, and take only other names of bands from it.

    Raises BandError for an unknown name without a definition, ArgumentError for a definition that is none.
    """
    if content is None:
        return get_sensor(name)
    defined = Sensor.from_dict(name, content)
    return dataclasses.replace(SENSORS[name], aliases=defined.aliases) if name in SENSORS else defined


def band_name(sensor: str | Sensor, text: str) -> str | None:
    """The band that `text` means ("B02" is B2, "b8a" is B8A, "vv" is VV), or None if the sensor has no such band."""
    known, plain = get_sensor(sensor), text.strip().casefold()
    if plain in known.aliases:
        return known.aliases[plain]
    if known.name == "s2":
        plain = re.sub(r"^b0+(?=\d)", "b", plain)
    return known.spellings.get(plain)


def resolve_bands(sensor: str | Sensor, bands: str | Sequence[str]) -> tuple[str, ...]:
    """Band names from a subset ("all"; s2 "13", "12", "10", "9", "3"; s1 "2"), from "B4,B3,B2", or from a list.

    Raises BandError for an unknown, repeated or missing name, with the nearest one.
    """
    known = get_sensor(sensor)
    subsets = {"all": known.bands, **known.subsets}
    if isinstance(bands, str) and bands in subsets:
        return subsets[bands]
    names = [part for part in re.split(r"[,\s]+", bands) if part] if isinstance(bands, str) else list(bands)
    resolved = [band_name(known, name) for name in names]
    for name, found in zip(names, resolved, strict=True):
        if found is None:
            spelt = {choice.casefold(): choice for choice in [*known.bands, *subsets]}
            raise BandError(
                f"unknown {known.name} band or subset",
                got=name,
                expected=f"names of {', '.join(known.bands)}, or a subset: {', '.join(subsets)}",
                do=f"did you mean {spelt[nearest(name.casefold(), [*spelt])]!r}?",
            )
    result = tuple(name for name in resolved if name is not None)
    if not result or len(set(result)) != len(result):
        raise BandError(f"the {known.name} bands are empty or repeat", got=bands, expected="each name once")
    return result


def require_product_bands(sensor: str, product: str, names: Sequence[str]) -> None:
    """Raise BandError for bands that no image of this product has."""
    held = get_sensor(sensor).products[product]
    lacking = [name for name in names if name not in held]
    if lacking:
        raise BandError(
            f"{product} images have no {', '.join(lacking)}",
            got=", ".join(names),
            expected=", ".join(held),
            do=f"choose bands without {', '.join(lacking)}: {sensor}_bands={','.join(n for n in names if n in held)}",
        )


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How native values become network inputs; travels with every checkpoint.

    statistics: product -> {"mean": one number a band, "std": one number a band}, in the sensor's unit.
    kind: "paper" (into 0..1, clipped at mean +- 2 std) or "standard" (mean 0, std 1).
    """

    sensor: str
    unit: str
    bands: tuple[str, ...]
    kind: str
    statistics: Mapping[str, Mapping[str, tuple[float, ...]]]

    def __post_init__(self) -> None:
        if self.kind not in ("paper", "standard"):
            raise ArgumentError("unknown normalization", got=self.kind, expected="paper or standard")
        if not self.statistics:
            raise ArgumentError("a normalization needs statistics of a product", got="none", expected="at least one")
        for product, numbers in self.statistics.items():
            mean, std = numbers.get("mean", ()), numbers.get("std", ())
            fits = len(mean) == len(std) == len(self.bands)
            if not fits or not np.isfinite([*mean, *std]).all() or min(std, default=0.0) <= 0:
                raise ArgumentError(
                    f"the statistics of {self.sensor} {product} do not fit",
                    got=f"mean {list(mean)}, std {list(std)}",
                    expected=f"finite numbers, std above 0, one for each of {list(self.bands)}",
                )

    def apply(self, values: NDArray[Any], product: str) -> NDArray[np.float32]:
        """Scale `values` (..., B, H, W) of `product` to float32 of the same shape; NaN stays NaN.

        Raises BandError for a product without statistics or another number of bands.
        """
        if product not in self.statistics:
            raise BandError(
                f"no statistics of {self.sensor} product {product!r} for bands {', '.join(self.bands)}",
                got=product,
                expected=list(self.statistics),
                do="L2A has no B10: choose bands without it (12, 10, 9 or 3)" if "B10" in self.bands else None,
            )
        if values.ndim < 3 or values.shape[-3] != len(self.bands):
            raise BandError(
                f"{self.sensor} values have the wrong number of bands",
                got=f"shape {values.shape}",
                expected=f"(..., {len(self.bands)}, H, W) for {', '.join(self.bands)}",
            )
        low, span = self._low_and_span(product)
        scaled = (values.astype(np.float32) - low.astype(np.float32)) * (1 / span).astype(np.float32)
        return np.clip(scaled, 0, 1, out=scaled) if self.kind == "paper" else scaled

    def undo(self, scaled: NDArray[Any], product: str) -> NDArray[np.float32]:
        """Network inputs (..., B, H, W) as values of `product` in the sensor's unit; what was clipped stays clipped."""
        low, span = self._low_and_span(product)
        return np.asarray(scaled * span + low, np.float32)

    def _low_and_span(self, product: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, std = (np.asarray(self.statistics[product][name], np.float64)[:, None, None] for name in ("mean", "std"))
        return (mean - 2 * std, 4 * std) if self.kind == "paper" else (mean, std)

    def to_dict(self) -> dict[str, Any]:
        """The normalization as JSON types."""
        statistics = {
            product: {name: [float(number) for number in numbers] for name, numbers in both.items()}
            for product, both in self.statistics.items()
        }
        return {
            "sensor": self.sensor,
            "unit": self.unit,
            "bands": list(self.bands),
            "kind": self.kind,
            "statistics": statistics,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Normalization:
        """The inverse of `to_dict`. Raises ArgumentError for anything else."""
        try:
            return cls(
                sensor=str(content["sensor"]),
                unit=str(content["unit"]),
                bands=tuple(str(name) for name in content["bands"]),
                kind=str(content["kind"]),
                statistics={
                    str(product): {name: tuple(float(number) for number in both[name]) for name in ("mean", "std")}
                    for product, both in content["statistics"].items()
                },
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError("this is not a normalization", got=repr(error), expected=cls.__annotations__) from None


def published_normalization(sensor: str | Sensor, bands: str | Sequence[str], kind: str = "paper") -> Normalization:
    """The scaling of these bands by the sensor's statistics, for every product that holds them all: published ones of
    s1 and s2, those of the training split that a store was prepared with of others.

    Raises MissingDataError for a sensor without statistics of these bands.
    """
    known = get_sensor(sensor)
    names = resolve_bands(known, bands)
    statistics = {
        product: {"mean": tuple(table[n][0] for n in names), "std": tuple(table[n][1] for n in names)}
        for product, table in known.statistics.items()
        if set(names) <= set(table)
    }
    if not statistics:
        raise MissingDataError(
            f"there are no statistics of {known.name} to scale it with",
            got=f"no mean and std of {', '.join(names)}",
            expected="those of a training split, which prepare measures, or those of a checkpoint",
            do=f"prepare the store with a training split, or give mean and std of {known.name} in the section sensors",
        )
    return Normalization(sensor=known.name, unit=known.unit, bands=names, kind=kind, statistics=statistics)


def check_values(
    sensor: str | Sensor, values_BHW: NDArray[Any], valid_HW: NDArray[np.bool_], bands: Sequence[str], where: str | Path
) -> None:
    """Refuse pixels that cannot be in the sensor's unit; pixels outside `valid_HW` are not looked at.

    Raises RangeError, with a count: not finite; s1 in linear power; s2 as reflectance; beyond the valid range.
    """
    known = get_sensor(sensor)
    # most images are valid everywhere; picking pixels one by one costs more than all that follows
    values = values_BHW.reshape(len(values_BHW), -1) if valid_HW.all() else values_BHW[:, valid_HW]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = np.isfinite(values).all(axis=0)
        raise RangeError(
            f"{known.title} has pixels that are not finite and not declared as no-data",
            got=f"{int((~finite).sum())} of {values.shape[1]} pixels with NaN or infinity",
            expected="finite numbers, or a no-data value in the file",
            where=where,
            do="set the file's no-data value (gdal_edit.py -a_nodata nan FILE), or leave the scene out",
        )
    _check_unit(known, values.dtype, low, high, where)
    if low < known.valid_min or high > known.valid_max:
        beyond = (values < known.valid_min) | (values > known.valid_max)
        worst = bands[int(beyond.sum(axis=1).argmax())]
        raise RangeError(
            f"{known.title} has values beyond what {known.unit} can be",
            got=f"{int(beyond.any(axis=0).sum())} pixels in {low:g} to {high:g}, most in {worst}",
            expected=f"{known.valid_min:g} to {known.valid_max:g} {known.unit}",
            where=where,
            do="convert the file, or declare its fill value as no-data",
        )
    if known.name == "s1" and high > _BRIGHT_DB and (mean := float(values.mean())) > _BRIGHT_DB:
        raise RangeError(
            "Sentinel-1 is brighter than ground is: its sign or its calibration is another",
            got=f"{low:g} to {high:g}, {mean:.3g} on average",
            expected=f"backscatter in dB, mostly negative, at most {_BRIGHT_DB:g} on average",
            where=where,
            do="write calibrated backscatter, 10 * log10(sigma nought), with its sign",
        )


def _check_unit(known: Sensor, dtype: np.dtype[Any], low: float, high: float, where: str | Path) -> None:
    """`low` to `high` are the values. Backscatter in dB is mostly negative; DN are whole numbers far above 1."""
    if known.name == "s1" and low >= 0:
        raise RangeError(
            "Sentinel-1 looks like linear power, not dB: no value is negative",
            got=f"{low:g} to {high:g}",
            expected="backscatter in dB, 10 * log10(power)",
            where=where,
            do="convert it with 10 * log10(x)",
        )
    if known.name == "s2" and (high <= 10 or not np.issubdtype(dtype, np.integer)):
        raise RangeError(
            "Sentinel-2 is not given as digital numbers",
            got=f"{dtype}, {low:g} to {high:g}" + (" (looks like reflectance)" if high <= 10 else ""),
            expected="whole numbers, DN = reflectance * 10000, as uint16",
            where=where,
            do="multiply reflectance by 10000, round, and write uint16",
        )
