"""What a sensor measures, as one value that travels: from the settings to a store, a dataset and a checkpoint's card.

In: a name, a unit, bands in order, and the range that values can have. Out: a `Sensor`, or an error that says which of
them cannot be. `SENSORS` holds the two that are known beforehand, s1 and s2.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from cromss.errors import ArgumentError

__all__ = ["RESERVED", "SENSORS", "STORED_TYPES", "Sensor"]

STORED_TYPES = ("float32", "int16", "int32", "uint8", "uint16")
"""Types in which a store can keep the values of a sensor."""

_PARTS = (  # other arrays of a sample and parts of a place, branches and log rows
    "label labels annotators truth valid probabilities clouds split prior season id fused mean loss selected"
)
_WORDS = (
    "add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches eval"
    " extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys"
    " load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop"
    " register_backward_hook register_buffer register_forward_hook register_forward_pre_hook"
    " register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook"
    " register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook"
    " register_state_dict_pre_hook set_extra_state set_submodule share_memory state_dict to to_empty train training"
    " type update values xpu zero_grad"  # the methods of torch's ModuleDict, which keeps the branches of a network
)
RESERVED = frozenset(f"{_PARTS} {_WORDS}".split())
"""Names that no sensor can have."""

_EXACT_FLOAT32 = 2**24  # whole numbers up to here are exact in float32


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What a sensor measures. Raises ArgumentError for what cannot be one.

    missing: "any" or "all", how many bands of a pixel must hold no-data for the pixel to have none.
    dtype: the type that its values are kept in. file_dtypes: those that a file may have; none: all that fit `dtype`.
    subsets: names for usual choices of bands. products: the bands of each. statistics: product -> band -> (mean, std).
    aliases: what files call a band -> its name here, in small letters.
    ordered: a file that names no band, and holds as many, holds them in this order.
    zero_is_fill: 0 in every band is no measurement.
    """

    name: str
    title: str
    unit: str
    bands: tuple[str, ...]
    valid_min: float
    valid_max: float
    missing: str = "any"
    dtype: str = "float32"
    file_dtypes: tuple[str, ...] = ()
    wavelengths_nm: tuple[float, ...] = ()
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    products: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = True
    zero_is_fill: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,30}", self.name) or self.name in RESERVED:
            self._refuse("the name of a sensor cannot be used", self.name, "small letters and digits, no word in use")
        if not self.unit.strip() or not self.title.strip():
            self._refuse("a sensor needs a title and a unit", f"{self.title!r}, {self.unit!r}", "words")
        plain = [band.casefold() for band in self.bands]
        sound = all(re.fullmatch(r"\w[\w.+/-]{0,60}", band) and band.casefold() != "all" for band in self.bands)
        if not plain or len(set(plain)) != len(plain) or not sound:
            self._refuse("the bands of a sensor cannot be used", list(self.bands), "different names without blanks")
        if self.missing not in ("any", "all"):
            self._refuse("unknown rule for missing pixels", self.missing, "any or all")
        if self.dtype not in STORED_TYPES:
            self._refuse("a store cannot keep this type", self.dtype, ", ".join(STORED_TYPES))
        if not (math.isfinite(self.valid_min) and math.isfinite(self.valid_max) and self.valid_min < self.valid_max):
            self._refuse("a range has no values", f"{self.valid_min} to {self.valid_max}", "valid_min below valid_max")
        if not self._fits(np.dtype(self.dtype)):
            span = f"{self.valid_min:g} to {self.valid_max:g}"
            self._refuse(f"{self.dtype} cannot hold all values of the range", span, "another dtype, or a smaller range")
        strange = sorted(set(self.aliases.values()) - set(self.bands))
        if strange:
            self._refuse("names of files stand for bands that the sensor does not have", strange, list(self.bands))
        if not self.products:
            object.__setattr__(self, "products", {self.name: self.bands})

    def _refuse(self, what: str, got: object, expected: object) -> None:
        raise ArgumentError(what, got=got, expected=expected, where=f"sensor {self.name!r}")

    def _fits(self, dtype: np.dtype[Any]) -> bool:
        """Whether every value of the valid range is a value of this type."""
        if dtype.kind == "f":
            return True
        limits = np.iinfo(dtype)
        return bool(limits.min <= self.valid_min and self.valid_max <= limits.max)

    @cached_property
    def spellings(self) -> Mapping[str, str]:
        """The name of each band in small letters -> as it is spelt here."""
        return {band.casefold(): band for band in self.bands}

    def takes(self, dtype: str) -> bool:
        """Whether the valid values of a file of this type can be kept as they are."""
        if self.file_dtypes:
            return dtype in self.file_dtypes
        kind = np.dtype(dtype).kind
        if kind == "f":
            return self.dtype == "float32" and dtype in ("float32", "float64")
        largest = max(abs(self.valid_min), abs(self.valid_max))
        small = self.dtype != "float32" or np.dtype(dtype).itemsize <= 2 or largest <= _EXACT_FLOAT32
        return kind in "iu" and small

    def label(self, product: str) -> str:
        """Title and product, for people; the title alone where there are no products to tell apart."""
        return self.title if product == self.name else f"{self.title} {product}"

    def to_dict(self) -> dict[str, Any]:
        """The sensor as JSON types, without what is known of s1 and s2 alone."""
        return {
            "title": self.title,
            "unit": self.unit,
            "bands": list(self.bands),
            "valid_min": self.valid_min,
            "valid_max": self.valid_max,
            "missing": self.missing,
            "dtype": self.dtype,
            "aliases": dict(self.aliases),
        }

    @classmethod
    def from_dict(cls, name: str, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ArgumentError for anything else."""
        try:
            return cls(
                name=name,
                title=str(content["title"]),
                unit=str(content["unit"]),
                bands=tuple(str(band) for band in content["bands"]),
                valid_min=float(content["valid_min"]),
                valid_max=float(content["valid_max"]),
                missing=str(content["missing"]),
                dtype=str(content["dtype"]),
                aliases={str(text): str(band) for text, band in content.get("aliases", {}).items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError("this is not the definition of a sensor", got=repr(error), where=name) from None

    def with_statistics(self, statistics: Mapping[str, Mapping[str, tuple[float, float]]]) -> Self:
        """The same sensor with mean and std of its bands, by product."""
        return dataclasses.replace(self, statistics=statistics)

    def with_aliases(self, aliases: Mapping[str, str]) -> Self:
        """The same sensor, whose files may call its bands by other names. Raises ArgumentError for unknown bands."""
        return dataclasses.replace(self, aliases={text.strip().casefold(): band for text, band in aliases.items()})


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
        file_dtypes=("float32", "float64"),
        ordered=False,
        zero_is_fill=True,  # exactly 0 dB twice
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
        file_dtypes=("uint16", "int16", "int32", "uint32"),
        ordered=False,
        zero_is_fill=True,  # the agency's fill value
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
