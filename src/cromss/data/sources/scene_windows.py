"""How a scene is cut: the windows of its patches, and what of its blocks is kept decoded while they are read.

In: the size of a scene in pixels, and the side of a patch. Out: the name and window of each patch, row by row. Patches
lie on the scene's own pixel grid, from its upper left corner; what does not fill a patch is left over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import rasterio

from cromss.errors import GridError

__all__ = ["bytes_under_a_row", "pixels_left_over", "scene_windows"]

Window = tuple[int, int, int, int]


def scene_windows(place: str, shape: tuple[int, int], tile: int | None, where: str) -> Iterator[tuple[str, Window]]:
    """The name and window (row, column, height, width) of each patch of `tile` px, or of the whole scene for None.

    Raises GridError for a scene, read from `where`, that is smaller than a patch.
    """
    height, width = shape
    if tile is None:
        yield place, (0, 0, height, width)
        return
    if min(shape) < tile:
        raise GridError(
            "a scene is smaller than a patch",
            got=f"{height} x {width} px",
            expected=f"at least {tile} x {tile} px",
            where=where,
            do="choose a smaller tile, or leave the scene out",
        )
    for row in range(0, height - tile + 1, tile):
        for column in range(0, width - tile + 1, tile):
            yield f"{place}_r{row:05d}_c{column:05d}", (row, column, tile, tile)


def pixels_left_over(shape: tuple[int, int], tile: int) -> int:
    """How many pixels of a scene lie in no patch."""
    height, width = shape
    return height * width - (height // tile) * (width // tile) * tile * tile


def bytes_under_a_row(datasets: Sequence[rasterio.DatasetReader], tile: int | None) -> int:
    """The blocks under one row of patches, or in one row of a whole scene, so that each is decoded once.

    No more than that: decoded blocks then take the place of others, which are still near the processor. GDAL's own
    limit is 5% of the memory.
    """
    total = 1024**2
    for dataset in datasets:
        rows, _ = dataset.block_shapes[0]
        touched = 1 if tile is None else -(-tile // rows) + (tile % rows > 0)
        total += touched * rows * dataset.width * sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
    return total
