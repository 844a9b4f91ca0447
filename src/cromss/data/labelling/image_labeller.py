"""What a labeller is, and what labellers of all sources share: an image, its partners by name, its rows by strips.

In: an image that wants labels. Out: its grid, the file of a role that belongs to it, strips of labels put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.config import LabelsConfig
from cromss.data.labelling.soft import LabelMap
from cromss.data.sources.file_patterns import find_files
from cromss.errors import MissingDataError
from cromss.geo.legend import Legend
from cromss.geo.legends import get_legend
from cromss.geo.raster import Grid, grid_of, open_raster
from cromss.geo.remap import read_remap, remap_table

__all__ = ["ROWS", "ImageFile", "Labeller", "grid_of_image", "partners_of", "source_legend", "stack"]

ROWS = 256
"""Of a strip: enough for the unit of its values to be judged, and one row of usual blocks."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image that wants labels. season: None where the pattern has none."""

    id: str
    season: str | None
    path: Path


Labeller = Callable[[ImageFile], tuple[LabelMap, Grid]]


def grid_of_image(image: ImageFile) -> Grid:
    """The grid that the labels of an image are to have."""
    with open_raster(image.path) as dataset:
        return grid_of(dataset)


def partners_of(role: str, config: LabelsConfig, pattern: str) -> Callable[[ImageFile], Path]:
    """Find the file of `role` that belongs to an image: of its season, or of its place where files have no season."""
    found = find_files(role, str(Path(config.root) / pattern))

    def find(image: ImageFile) -> Path:
        path = found.get((image.id, image.season), found.get((image.id, None)))
        if path is None:
            raise MissingDataError(
                f"an image has no file of {role}",
                got=f"image {image.path}",
                expected=pattern,
                do="make that file, or leave such images out with on_bad=skip",
            )
        return path

    return find


def source_legend(config: LabelsConfig, legend: Legend) -> tuple[Legend, NDArray[np.uint8]]:
    """The class scheme of the maps that labels are made of, and the table from its classes to those of the labels."""
    source = legend if config.map_legend is None else get_legend(config.map_legend)
    return source, remap_table(source, legend, None if config.remap is None else read_remap(config.remap))


def stack(parts: Sequence[LabelMap]) -> LabelMap:
    """Strips of rows as one map."""
    confidences = [part.confidence_HW for part in parts if part.confidence_HW is not None]
    percents = [part.percent_CHW for part in parts if part.percent_CHW is not None]
    notes: Counter[str] = Counter()
    for part in parts:
        notes.update(part.notes)
    return LabelMap(
        labels_HW=np.concatenate([part.labels_HW for part in parts]),
        confidence_HW=np.concatenate(confidences) if confidences else None,
        percent_CHW=np.concatenate(percents, axis=1) if percents else None,
        notes=notes,
    )
