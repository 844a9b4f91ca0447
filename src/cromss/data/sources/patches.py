"""What readers of published patch archives have in common: one date a place, splits as published.

In: the rasters of one patch, already read. Out: its `PlaceRecord`, or nothing where nothing can be learnt from it,
which is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Scene, Tally
from cromss.geo.legend import IGNORE
from cromss.geo.raster import Grid, Raster, require_same_grid

__all__ = ["ONE_DATE", "PublishedSplits", "patch_record"]

ONE_DATE = ("0",)
"""The seasons of a place that was taken once."""


@dataclass(frozen=True, kw_only=True)
class PublishedSplits:
    """Splits as an archive publishes them, or by a table of the user's own.

    draw: place -> split, the table or the draw of `prepare`. by_table: whether it is a table.
    """

    draw: Callable[[str], str]
    by_table: bool

    def split(self, place: str, published: str, group: str | None = None) -> str:
        """The split of a place. What is published for training can be drawn from for validation.

        All places of one `group` then fall together.
        """
        if self.by_table:
            return self.draw(place)
        return self.draw(group or place) if published == "train" else published


def patch_record(
    scene: Scene,
    tally: Tally,
    *,
    images: Mapping[str, Raster],
    products: Mapping[str, str],
    labels: tuple[NDArray[np.uint8], Grid] | None,
    split: str,
    notes: Mapping[str, str] | None = None,
) -> PlaceRecord | None:
    """The record of one patch; None, counted in `tally`, where no pixel has data in all images and a class.

    labels: class ids (H, W) and their grid. Raises GridError unless all grids are equal.
    """
    (first, reference), *_ = images.items()
    grids = {sensor: raster.grid for sensor, raster in images.items()}
    grids |= {"labels": labels[1]} if labels is not None else {}
    for role, grid in grids.items():
        require_same_grid(reference.grid, grid, scene.files[first][0], scene.files[role][0])
    valid_HW = np.logical_and.reduce([raster.valid_HW for raster in images.values()])
    usable_HW = valid_HW if labels is None else valid_HW & (labels[0] != IGNORE)
    tally.georeferenced = reference.grid.crs is not None
    if not usable_HW.any():
        tally.left_out["without a labelled pixel" if valid_HW.any() else "without a pixel of data"] += 1
        return None
    return PlaceRecord(
        id=scene.id,
        seasons=scene.seasons,
        images={sensor: raster.values_BHW[None] for sensor, raster in images.items()},
        products=products,
        labels=None if labels is None else labels[0][None],
        valid=valid_HW[None],
        split=split,
        grid=reference.grid,
        notes=notes or {},
    )
