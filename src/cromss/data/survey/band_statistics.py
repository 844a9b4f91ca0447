"""How the pixels of a set are distributed, band by band, and what gives away a wrong product or an offset.

In: the images of places. Out: for each sensor and product a histogram a band, and, image by image, signs of two faults
that no single value shows: L1C taken for L2A or the reverse, and the 1000 DN which the agency adds to every value since
processing baseline 04.00 (January 2022; Sentinel-2 Products Specification Document, RADIO_ADD_OFFSET, BOA_ADD_OFFSET).

    product   mean B9 / mean B8A < 0.6: L1C (water vapour darkens B9), else L2A; open water (mean B8A < 500 DN) can not
              tell; without these bands by the darkest percent of B2: 800 DN or more, L1C (scattered light); 500 or
              less, L2A
    offset    the darkest percent of every band is 900 DN or more, in every patch of the file; B10 of L1C, which sees
              little but cirrus, says most
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.geo.bands import get_sensor
from cromss.geo.sensor import Sensor

__all__ = ["BINS", "CIRRUS_DN", "OFFSET_DN", "BandCounts", "bin_edges"]

BINS = 160  # of s1 and s2, whose usual range is known
OFFSET_DN = 1000

_RANGES = {"s1": (-50.0, 30.0), "s2": (0.0, 10240.0)}  # dB in steps of 0.5, DN in steps of 64; beyond: the end bins
_FINE_BINS = 2048  # of other sensors: over all of their valid range, of which a set may fill a small part
_OFFSET_FLOOR_DN = 900.0
_B9_TO_B8A, _LAND_DN = 0.6, 500.0
_B2_L1C_DN, _B2_L2A_DN = 800.0, 500.0
CIRRUS_DN = 120.0  # reflectance 0.012 in B10: where Sen2Cor begins to see thin cirrus (L2A ATBD, S2-PDGS-MPC-ATBD-L2A)
_NAMED = 5


def bin_edges(sensor: str | Sensor) -> NDArray[np.float64]:
    """The borders of the bins, one more than there are bins, in the sensor's unit."""
    low, high, bins = _bins(get_sensor(sensor))
    return np.linspace(low, high, bins + 1)


def _bins(known: Sensor) -> tuple[float, float, int]:
    """The range of the bins, and how many there are."""
    if known.name in _RANGES:
        return (*_RANGES[known.name], BINS)
    return float(known.valid_min), float(known.valid_max), _FINE_BINS


@dataclass(kw_only=True)
class BandCounts:
    """Sums over the images of one sensor and product.

    histogram_BN: pixels a bin; values beyond the range are in the end bins. total_B, squares_B: of the values.
    looks_like: what the pixels say of the product -> images. offset: images that look as if 1000 DN were added.
    named: sign -> up to five images that show it. cirrus_pixels: with B10 above 120 DN, of `pixels`.
    open_files: file -> its images so far, and those of them that look so.
    """

    sensor: str | Sensor
    product: str
    bands: tuple[str, ...]
    images: int = 0
    pixels: int = 0
    histogram_BN: NDArray[np.int64] = field(init=False)
    total_B: NDArray[np.float64] = field(init=False)
    squares_B: NDArray[np.float64] = field(init=False)
    looks_like: Counter[str] = field(default_factory=Counter)
    offset: int = 0
    cirrus_pixels: int = 0
    named: dict[str, list[str]] = field(default_factory=dict)
    open_files: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = get_sensor(self.sensor)
        self._low, high, bins = _bins(self._known)
        self._step = (high - self._low) / bins
        self.histogram_BN = np.zeros((len(self.bands), bins), np.int64)
        self.total_B, self.squares_B = np.zeros(len(self.bands)), np.zeros(len(self.bands))

    def add(self, name: str, image_BHW: NDArray[Any], valid_HW: NDArray[np.bool_], file: str | None = None) -> None:
        """Count the valid pixels of one image, in the sensor's unit; file: what it is a part of, None for the whole."""
        values_BN = image_BHW.reshape(len(self.bands), -1) if valid_HW.all() else image_BHW[:, valid_HW]
        if not values_BN.size:
            return
        from cromss.data.survey.pixel_sums import pixel_sums  # the compiler is loaded where pixels are counted

        histogram_BN, total_B, squares_B = pixel_sums(
            np.ascontiguousarray(values_BN), self._low, self._step, self.histogram_BN.shape[1]
        )
        self.images += 1
        self.pixels += values_BN.shape[1]
        self.histogram_BN += histogram_BN
        self.total_B += total_B
        self.squares_B += squares_B
        if self._known.name == "s2":
            self._look(name, file or name, histogram_BN, total_B / values_BN.shape[1])
            if "B10" in self.bands:
                self.cirrus_pixels += int(np.count_nonzero(values_BN[self.bands.index("B10")] > CIRRUS_DN))

    def merge(self, other: BandCounts) -> None:
        """Add the sums of another part of the same sensor and product, whose files are closed."""
        other.close_files()
        for name in ("images", "pixels", "offset", "cirrus_pixels"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.histogram_BN += other.histogram_BN
        self.total_B += other.total_B
        self.squares_B += other.squares_B
        self.looks_like.update(other.looks_like)
        for sign, names in other.named.items():
            self.named[sign] = (self.named.get(sign, []) + names)[:_NAMED]

    def close_files(self) -> None:
        """No further image is a part of these files: one part of a file that lacks the offset clears the others."""
        for images, shifted in self.open_files.values():
            if len(shifted) == images:
                self.offset += images
                for name in shifted:
                    self._name("offset", name)
        self.open_files.clear()

    def _look(self, name: str, file: str, histogram_BN: NDArray[np.int64], mean_B: NDArray[np.float64]) -> None:
        """Note what one image looks like; an offset is taken off before the product is judged."""
        dark = dict(zip(self.bands, self._low + self._step * quantile_bins(histogram_BN, 0.01), strict=True))
        shifted = min(dark.values()) >= _OFFSET_FLOOR_DN - self._step
        added = OFFSET_DN if shifted else 0
        images, before = self.open_files.get(file, (0, []))
        self.open_files[file] = images + 1, [*before, name] if shifted else before
        look = "unknown"
        if "B9" in self.bands and "B8A" in self.bands:
            b9, b8a = (mean_B[self.bands.index(band)] - added for band in ("B9", "B8A"))
            if b8a >= _LAND_DN:
                look = "L1C" if b9 < _B9_TO_B8A * b8a else "L2A"
        elif "B2" in self.bands:
            blue = dark["B2"] - added
            look = "L1C" if blue >= _B2_L1C_DN else "L2A" if blue <= _B2_L2A_DN else look
        self.looks_like[look] += 1
        if look not in (self.product, "unknown"):
            self._name(look, name)

    def _name(self, sign: str, name: str) -> None:
        names = self.named.setdefault(sign, [])
        if len(names) < _NAMED:
            names.append(name)

    def summary(self) -> dict[str, Any]:
        """JSON types: mean, std and percentiles of each band beside the published mean and std of the product."""
        self.close_files()
        published, edges = self._known.statistics.get(self.product, {}), bin_edges(self._known)
        low_B, middle_B, high_B = (edges[quantile_bins(self.histogram_BN, share)] for share in (0.02, 0.5, 0.98))
        rows = []
        for index, band in enumerate(self.bands):
            mean = self.total_B[index] / self.pixels
            variance = max(self.squares_B[index] / self.pixels - mean**2, 0.0)
            usual = published.get(band)
            rows.append(
                {
                    "band": band,
                    "mean": float(mean),
                    "std": float(np.sqrt(variance)),
                    "published_mean": usual[0] if usual else None,
                    "published_std": usual[1] if usual else None,
                    "percentile_2": float(low_B[index]),
                    "median": float(middle_B[index]),
                    "percentile_98": float(high_B[index]),
                }
            )
        signs: Mapping[str, Any] = {}
        if self._known.name == "s2":
            signs = {
                "looks_like": dict(sorted(self.looks_like.items())),
                "looks_offset_by_1000": self.offset,
                "cirrus_share": self.cirrus_pixels / self.pixels if "B10" in self.bands else None,
                "examples": {sign: list(names) for sign, names in sorted(self.named.items())},
            }
        return {
            "sensor": self._known.name,
            "title": self._known.title,
            "product": self.product,
            "unit": self._known.unit,
            "images": self.images,
            "pixels": self.pixels,
            "bands": rows,
            **signs,
        }


def quantile_bins(counts_BN: NDArray[np.int64], share: float) -> NDArray[np.intp]:
    """Of each band the first bin up to which at least `share` (0..1) of the pixels lie; its lower border is the
    percentile."""
    total_BN = counts_BN.cumsum(axis=1)
    bin_B: NDArray[np.intp] = np.count_nonzero(total_BN < share * total_BN[:, -1:], axis=1)
    return bin_B
