"""The images of one scene, opened together, checked, and read row by row.

In: one GeoTIFF a sensor, and how the network wants its inputs (bands, unit, scaling). Out: strips of rows as stored,
with one validity for all sensors, and their scaled form for the network.

A pixel is valid where every sensor has data; what counts as data of a sensor is said in `cromss.geo.images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.data.dataset import FILL
from cromss.geo.bands import Normalization
from cromss.geo.images import ImageFacts, describe_image, read_image
from cromss.geo.raster import Grid, grid_of, open_raster, require_same_grid
from cromss.geo.sensor import SENSORS, Sensor
from cromss.maps.blend import Strip

__all__ = ["Scene", "open_scene"]

# The unit is judged by the spread of the values read at once; fewer rows than this may be open sea or roofs alone.
_JUDGED_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class _Image:
    dataset: rasterio.DatasetReader
    facts: ImageFacts
    normalization: Normalization

    def read(self, top: int, bottom: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Rows of the network's bands (B, rows, W) as stored, and where they hold data."""
        first = max(0, min(top, bottom - _JUDGED_ROWS))
        rows = (first, 0, bottom - first, self.dataset.width)
        raster = read_image(self.dataset, self.facts, self.normalization.bands, rows)
        return raster.values_BHW[:, top - first :], raster.valid_HW[top - first :]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Open images on one grid. Made by `open_scene`."""

    images: Mapping[str, _Image]
    grid: Grid

    @property
    def products(self) -> dict[str, str]:
        return {sensor: image.facts.product for sensor, image in self.images.items()}

    @property
    def renamed(self) -> dict[str, str]:
        """What is taken for what, of images whose own names of bands are none of their sensor's."""
        return {
            sensor: f"{', '.join(text or '' for text in image.dataset.descriptions)} taken as "
            + ", ".join(image.facts.listed)
            for sensor, image in self.images.items()
            if image.facts.renamed
        }

    def read(self, top: int, bottom: int) -> Strip:
        """Rows top..bottom of every sensor. Raises RangeError for values that cannot be in the sensor's unit."""
        parts = {sensor: image.read(top, bottom) for sensor, image in self.images.items()}
        valid_HW = np.logical_and.reduce([valid for _, valid in parts.values()])
        return Strip(images={sensor: values for sensor, (values, _) in parts.items()}, valid=valid_HW)

    def scaled(self, strip: Strip) -> dict[str, NDArray[np.float32]]:
        """The network's inputs (B, h, w) of each sensor; the fill of the training where the strip has no data."""
        inputs = {}
        for sensor, image in self.images.items():
            scaled_BHW = image.normalization.apply(strip.images[sensor], image.facts.product)
            scaled_BHW[:, ~strip.valid] = FILL[image.normalization.kind]
            inputs[sensor] = scaled_BHW
        return inputs

    def row_of_blocks(self) -> int:
        """Bytes of one row of blocks across all files: a cache of this size lets each block be decoded once."""
        total = 0
        for image in self.images.values():
            blocks = zip(image.dataset.block_shapes, image.dataset.dtypes, strict=True)
            total += sum(rows * self.grid.width * np.dtype(kind).itemsize for (rows, _), kind in blocks)
        return total


@contextmanager
def open_scene(
    paths: Mapping[str, str | Path],
    normalizations: Mapping[str, Normalization],
    s2_product: str | None = None,
    definitions: Mapping[str, Sensor] = SENSORS,
    s2_offset: int | None = None,
) -> Iterator[Scene]:
    """Open the images of a scene, {sensor: path}, for a network with these inputs; definitions: what they measure.

    s2_product, s2_offset: of the Sentinel-2 image, where its tags do not say them.

    Raises BandError for absent bands, DataError and BandError for an unknown product, GridError for unequal grids,
    RangeError for a wrong type or unit, MissingDataError and DamagedFileError.
    """
    with ExitStack() as stack:
        images = {}
        for sensor, path in paths.items():
            dataset = stack.enter_context(open_raster(path))
            product, offset = (s2_product, s2_offset) if sensor == "s2" else (None, None)
            facts = describe_image(dataset, definitions[sensor], product=product, offset=offset)
            images[sensor] = _Image(dataset=dataset, facts=facts, normalization=normalizations[sensor])
        first, *others = images.values()
        for other in others:
            require_same_grid(grid_of(first.dataset), grid_of(other.dataset), first.dataset.name, other.dataset.name)
        yield Scene(images=images, grid=grid_of(first.dataset))
