"""Several label maps of one image fused into one: by agreement, by majority, or by fitted error rates.

In: the settings, and the maps and confidences on the grid of an image. Out: a `Labeller`, and `vote_counter`, the part
of a fit over all images that each image has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.config import LabelsConfig
from cromss.data.labelling import agreement
from cromss.data.labelling.image_labeller import (
    ROWS,
    ImageFile,
    Labeller,
    grid_of_image,
    partners_of,
    source_legend,
    stack,
)
from cromss.data.labelling.soft import LabelMap
from cromss.errors import BandError, ConfigError, RangeError
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, Raster, read_raster, require_same_grid
from cromss.geo.remap import remap

__all__ = ["fuse", "vote_counter"]


def vote_counter(config: LabelsConfig, legend: Legend) -> Callable[[ImageFile], Counter[int]]:
    """A function that counts the votes of the maps in one image, as `agreement.count_map` does."""
    votes = _voting(config, legend)
    return lambda image: agreement.count_map(votes(image, grid_of_image(image)))


def fuse(config: LabelsConfig, legend: Legend, fitted: agreement.Annotators | None) -> Labeller:
    votes = _voting(config, legend)
    weighers = [partners_of("confidences", config, pattern) for pattern in config.confidences]

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid = grid_of_image(image)
        votes_KHW = votes(image, grid)
        weight_KHW = np.stack([_weights(find(image), grid, image) for find in weighers]) if weighers else None
        parts = []
        for top in range(0, grid.height, ROWS):
            strip_KHW = votes_KHW[:, top : top + ROWS]
            if config.fuse_by == "agree":
                parts.append(agreement.agree(strip_KHW, config.votes))
            elif fitted is not None:
                parts.append(agreement.posterior(strip_KHW, fitted))
            else:
                weights = None if weight_KHW is None else weight_KHW[:, top : top + ROWS]
                parts.append(agreement.majority(strip_KHW, legend.num_classes, weights))
        return stack(parts), grid

    return label


def _voting(config: LabelsConfig, legend: Legend) -> Callable[[ImageFile, Grid], NDArray[np.uint8]]:
    """A function that reads the maps to fuse (K, H, W)."""
    if len(config.fuse) < 2 or len(config.confidences) not in (0, len(config.fuse)):
        raise ConfigError(
            "fusing takes two or more label maps, and a confidence for each or for none",
            got=f"{len(config.fuse)} maps, {len(config.confidences)} confidences",
            do='give e.g. --fuse \'["a/labels/{id}.tif", "b/labels/{id}.tif"]\'',
        )
    if len(set(config.fuse)) < len(config.fuse):
        raise ConfigError(
            "one label map cannot be fused with itself",
            got=config.fuse,
            expected="different maps: one that is there twice would agree with itself",
            do="name each map once",
        )
    if config.fuse_by == "agree" and config.votes > len(config.fuse):
        raise ConfigError(
            "no pixel can have so many votes",
            got=f"votes {config.votes}, {len(config.fuse)} maps",
            expected=f"votes of at most {len(config.fuse)}",
            do="lower votes, or name more maps",
        )
    if config.confidences and config.fuse_by != "majority":
        raise ConfigError("only majority looks at confidences", got=f"fuse_by {config.fuse_by}", do="leave them out")
    source, table = source_legend(config, legend)
    finders = [partners_of("fuse", config, pattern) for pattern in config.fuse]

    def votes(image: ImageFile, grid: Grid) -> NDArray[np.uint8]:
        return np.stack([remap(_votes(find(image), grid, image, source), table) for find in finders])

    return votes


def _votes(path: Path, grid: Grid, image: ImageFile, source: Legend) -> NDArray[np.uint8]:
    raster = _one_band(path)
    require_same_grid(grid, raster.grid, image.path, path)
    encoded = source.of_file(raster.tags, path).encode(raster.values_BHW[0], path, raster.nodata)
    return np.where(raster.valid_HW, encoded, np.uint8(IGNORE))


def _weights(path: Path, grid: Grid, image: ImageFile) -> NDArray[np.float32]:
    """Confidences as weights 0..1, 0 where there is none."""
    raster = _one_band(path)
    require_same_grid(grid, raster.grid, image.path, path)
    percent_HW = np.where(raster.valid_HW, raster.values_BHW[0], 0)
    low, high = percent_HW.min(), percent_HW.max()  # NaN if there is one
    if not (low >= 0 and high <= 100) or (high <= 1 and (percent_HW % 1 != 0).any()):
        raise RangeError(
            "confidences are not in percent",
            got=f"{low:g} to {high:g}" + (", as fractions of 1" if low >= 0 and high <= 1 else ""),
            expected="0..100",
            where=path,
            do="convert them to percent, or declare the fill value as no-data",
        )
    return np.asarray(percent_HW / 100, np.float32)


def _one_band(path: Path) -> Raster:
    """A raster of labels or confidences. Raises BandError for one of several bands."""
    raster = read_raster(path)
    if len(raster.values_BHW) != 1:
        raise BandError(
            "a raster to fuse must have one band",
            got=f"{len(raster.values_BHW)} bands",
            expected=1,
            where=path,
            do="give the label maps, or the confidences of their labels; or take one band (gdal_translate -b N)",
        )
    return raster
