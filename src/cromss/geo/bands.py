"""Sensors and bands by name: unit, valid range, published statistics, and the scaling that a network is fed with.

In: arrays in the sensor's native unit (s1 backscatter in dB, s2 digital numbers = reflectance * 10000), bands by name.
Out: float32 network inputs, and errors for numbers that cannot be in that unit.

    paper:     x' = clip((x - (mean - 2 std)) / (4 std), 0, 1)
    standard:  x' = (x - mean) / std

The mean and std of a band depend on the product: GRD for s1; L1C or L2A for s2 (L2A has no B10).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ArgumentError, BandError, RangeError

__all__ = [
    "SENSORS",
    "Normalization",
    "Sensor",
    "band_name",
    "check_values",
    "get_sensor",
    "published_normalization",
    "require_product_bands",
    "resolve_bands",
]


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What a sensor measures.

    missing: "any" or "all", how many bands of a pixel must hold no-data for the pixel to have none.
    subsets: names for usual choices of bands. products: the bands of each. statistics: product -> band -> (mean, std).
    """

    name: str
    title: str
    unit: str
    bands: tuple[str, ...]
    wavelengths_nm: tuple[float, ...]
    valid_min: float
    valid_max: float
    missing: str
    dtype: str
    subsets: Mapping[str, tuple[str, ...]]
    products: Mapping[str, tuple[str, ...]]
    statistics: Mapping[str, Mapping[str, tuple[float, float]]]


_S1 = ("VV", "VH")
_S2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
_S2_L2A = tuple(name for name in _S2 if name != "B10")


def _table(bands: tuple[str, ...], mean: Sequence[float], std: Sequence[float]) -> dict[str, tuple[float, float]]:
    return {name: (m, s) for name, m, s in zip(bands, mean, std, strict=True)}


# Mean and standard deviation: SSL4EO-S12, subset of 50,000 places, as the CromSS authors scale with.
# s1 in dB; s2 in DN = reflectance * 10000 without the +1000 offset of processing baseline 04.00.
_GRD = _table(_S1, (-12.54847273, -20.19237134), (5.25697717, 5.91150917))
_L1C = _table(
    _S2,
    (1605.57504906, 1390.78157673, 1314.8729939, 1363.52445545, 1549.44374991, 2091.74883118, 2371.7172463,
     2299.90463006, 2560.29504086, 830.06605044, 22.10351321, 2177.07172323, 1524.06546312),
    (786.78685367, 850.34818441, 875.06484736, 1138.84957046, 1122.17775652, 1161.59187054, 1274.39184232,
     1248.42891965, 1345.52684884, 577.31607053, 51.15431158, 1336.09932639, 1136.53823676),
)  # fmt: skip
_L2A = _table(
    _S2_L2A,
    (752.40087073, 884.29673756, 1144.16202635, 1297.47289228, 1624.90992062, 2194.6423161, 2422.21248945,
     2517.76053101, 2581.64687018, 2645.51888987, 2368.51236873, 1805.06846033),
    (1108.02887453, 1155.15170768, 1183.6292542, 1368.11351514, 1370.265037, 1355.55390699, 1416.51487101,
     1474.78900051, 1439.3086061, 1582.28010962, 1455.52084939, 1343.48379601),
)  # fmt: skip

SENSORS: Mapping[str, Sensor] = {
    "s1": Sensor(
        name="s1",
        title="Sentinel-1",
        unit="dB",
        bands=_S1,
        wavelengths_nm=(5.547e7, 5.547e7),  # C band, 5.405 GHz
        # The noise floor over calm water reaches about -54 dB, bright targets +26 dB; the margin is generous.
        valid_min=-90.0,
        valid_max=60.0,
        missing="any",
        dtype="float32",
        subsets={"all": _S1, "2": _S1},
        products={"GRD": _S1},
        statistics={"GRD": _GRD},
    ),
    "s2": Sensor(
        name="s2",
        title="Sentinel-2",
        unit="DN",
        bands=_S2,
        # central wavelengths of Sentinel-2A, ESA Sentinel-2 MSI technical guide
        wavelengths_nm=(442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1373.5, 1613.7, 2202.4),
        valid_min=0.0,
        valid_max=65535.0,  # all of uint16: glint, snow and saturation reach far above reflectance 1
        missing="all",  # a single band may well be 0 in deep shadow
        dtype="uint16",
        subsets={
            "all": _S2,
            "13": _S2,
            "12": _S2_L2A,
            "10": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"),  # native 10 and 20 m
            "9": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"),  # the paper's 9, as Dynamic World uses
            "3": ("B4", "B3", "B2"),  # red, green, blue
        },
        products={"L1C": _S2, "L2A": _S2_L2A},
        statistics={"L1C": _L1C, "L2A": _L2A},
    ),
}


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return close[0] if close else known[0]


def get_sensor(name: str) -> Sensor:
    """The sensor of that name, "s1" or "s2". Raises BandError naming the nearest."""
    if name not in SENSORS:
        raise BandError(
            "unknown sensor", got=name, expected=list(SENSORS), do=f"did you mean {_nearest(name, [*SENSORS])!r}?"
        )
    return SENSORS[name]


def band_name(sensor: str, text: str) -> str | None:
    """The band that `text` means ("B02" is B2, "b8a" is B8A, "vv" is VV), or None if the sensor has no such band."""
    plain = re.sub(r"^B0+(?=\d)", "B", text.strip().upper())
    return plain if plain in get_sensor(sensor).bands else None


def resolve_bands(sensor: str, bands: str | Sequence[str]) -> tuple[str, ...]:
    """Band names from a subset ("all"; s2 "13", "12", "10", "9", "3"; s1 "2"), from "B4,B3,B2", or from a list.

    Raises BandError for an unknown, repeated or missing name, with the nearest one.
    """
    known = get_sensor(sensor)
    if isinstance(bands, str) and bands in known.subsets:
        return known.subsets[bands]
    names = [part for part in re.split(r"[,\s]+", bands) if part] if isinstance(bands, str) else list(bands)
    resolved = [band_name(sensor, name) for name in names]
    for name, found in zip(names, resolved, strict=True):
        if found is None:
            choices = [*known.bands, *known.subsets]
            raise BandError(
                f"unknown {sensor} band or subset",
                got=name,
                expected=f"names of {', '.join(known.bands)}, or a subset: {', '.join(known.subsets)}",
                do=f"did you mean {_nearest(name.upper(), choices)!r}?",
            )
    result = tuple(name for name in resolved if name is not None)
    if not result or len(set(result)) != len(result):
        raise BandError(f"the {sensor} bands are empty or repeat", got=bands, expected="each name once")
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


def published_normalization(sensor: str, bands: str | Sequence[str], kind: str = "paper") -> Normalization:
    """The published scaling of these bands, for every product of the sensor that holds them all."""
    known = get_sensor(sensor)
    names = resolve_bands(sensor, bands)
    statistics = {
        product: {"mean": tuple(table[n][0] for n in names), "std": tuple(table[n][1] for n in names)}
        for product, table in known.statistics.items()
        if set(names) <= set(table)
    }
    return Normalization(sensor=sensor, unit=known.unit, bands=names, kind=kind, statistics=statistics)


def check_values(
    sensor: str, values_BHW: NDArray[Any], valid_HW: NDArray[np.bool_], bands: Sequence[str], where: str | Path
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
