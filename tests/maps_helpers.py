"""Small scenes, and networks whose answer is known, for the tests of the maps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import Tensor, nn

from cromss.geo.bands import Normalization, published_normalization
from cromss.geo.legends import get_legend
from cromss.geo.raster import Grid, write_raster
from cromss.models.networks import NetworkSpec

LEGEND = get_legend("dynamic_world")
S2_BANDS = ("B2", "B3")


def plain_normalization(sensor: str, bands: tuple[str, ...]) -> Normalization:
    """A scaling that changes nothing: mean 0, standard deviation 1."""
    numbers = {"mean": (0.0,) * len(bands), "std": (1.0,) * len(bands)}
    products = ("GRD",) if sensor == "s1" else ("L1C", "L2A")
    unit = "dB" if sensor == "s1" else "DN"
    return Normalization(
        sensor=sensor, unit=unit, bands=bands, kind="standard", statistics=dict.fromkeys(products, numbers)
    )


def plain_card() -> dict[str, Any]:
    """The card of a network that reads B2, B3 and VV, VH as they stand."""
    inputs = {"s1": plain_normalization("s1", ("VV", "VH")), "s2": plain_normalization("s2", S2_BANDS)}
    return {"inputs": {sensor: entry.to_dict() for sensor, entry in inputs.items()}, "legend": LEGEND.to_dict()}


def published_card(s2_bands: str = "13") -> dict[str, Any]:
    inputs = {"s1": published_normalization("s1", "all"), "s2": published_normalization("s2", s2_bands)}
    return {"inputs": {sensor: entry.to_dict() for sensor, entry in inputs.items()}, "legend": LEGEND.to_dict()}


class Reader(nn.Module):
    """Reads the class of a pixel from its own value: DN of B2 (or VV in dB) = -10 or 1000 + class, and is sure of it.

    It stands for a trained network: a map that puts any pixel elsewhere, or loses one, differs from the scene.
    """

    def __init__(self, delay: float = 0.0, broken: bool = False) -> None:
        super().__init__()
        self.spec = NetworkSpec(inputs={"s1": 2, "s2": 2}, branches=("s1", "s2"), num_classes=9)
        self.size_multiple = 32
        self.unused = nn.Parameter(torch.zeros(1))
        self.delay, self.broken = delay, broken

    def branch_logits(self, branch: str, images: Mapping[str, Tensor]) -> Tensor:
        time.sleep(self.delay)
        base = {"s1": -20, "s2": 1000}[branch]
        class_N1HW = (images[branch][:, :1] - base).round()
        logits = 20.0 * (class_N1HW == torch.arange(9.0).view(1, 9, 1, 1))
        return logits * torch.nan if self.broken else logits


def utm(height: int, width: int) -> Grid:
    return Grid(height=height, width=width, transform=Affine(10, 0, 435730, 0, -10, 4179460), crs=CRS.from_epsg(32618))


def write_scene(
    path: Path, class_HW: np.ndarray, sensor: str = "s2", grid: Grid | None = None, added: int = 0, **extra: Any
) -> Path:
    """A scene from which `Reader` reads class_HW; 255 becomes no data. added: DN on top of all s2 values."""
    missing = class_HW == 255
    if sensor == "s2":
        values = np.stack([1000 + class_HW.astype(np.uint16), np.full(class_HW.shape, 900, np.uint16)])
        values += np.uint16(added)
        values[:, missing] = 0
        names, nodata, tags = S2_BANDS, 0.0, {"LEVEL": "L1C"}
    else:
        values = np.stack([class_HW.astype(np.float32) - 20, np.full(class_HW.shape, -25, np.float32)])
        values[:, missing] = np.nan
        names, nodata, tags = ("VV", "VH"), np.nan, {"UNITS": "dB"}
    settings = {"nodata": nodata, "band_names": names, "tags": tags, **extra}
    write_raster(path, values, grid or utm(*class_HW.shape), **settings)
    return path


def pattern(height: int, width: int, seed: int = 0, missing: float = 0.0) -> np.ndarray:
    """Classes without any order, so that a shift by one pixel shows, and a share of pixels without data."""
    generator = np.random.default_rng((seed, height, width))
    classes = generator.integers(0, 9, (height, width), dtype=np.uint8)
    classes[generator.random((height, width)) < missing] = 255
    return classes
