"""Splits by blocks of ground: patches of different splits share no pixel and keep a distance, also across scenes.

In: the grid of a patch, and scenes by their grids. Out: the split of the patch, or "" where blocks of different splits
are too near; and the scenes that no such grid of blocks can hold apart.

    x = easting / pixel size, y = northing / pixel size
    block = (floor(x / side), floor(y / side)), each drawn into a split by its key
    a patch belongs to split s where every block that it meets, grown by half a buffer to all sides, was drawn into s

Blocks are anchored at coordinate 0 of the CRS, so that all scenes of one CRS and pixel size agree about them. Two
patches of different splits, both grown, lie in different blocks: so they are at least a buffer apart. A patch over
several blocks of one split is whole. Scenes of another CRS or pixel size have another grid of blocks; where such scenes
come closer than the buffer, the later one is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from cromss.data.splits import draw_split
from cromss.errors import ConfigError, GridError
from cromss.geo.raster import Grid

__all__ = ["NEAR_ANOTHER_SPLIT", "Neighbours", "SplitBlocks", "blocks_in_words", "count_blocks"]

NEAR_ANOTHER_SPLIT = "over or near blocks of different splits"
"""Why a patch is left out, as the report says it."""

_SLACK_PX = 1e-6  # coordinates are rounded: a patch that ends on the edge of a block does not meet the next
_DIGITS = 9  # of a pixel size: files of one product differ in the last digits

Block = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SplitBlocks:
    """Square blocks of `side` px, drawn into splits by their shares; patches of two splits lie `buffer` px apart.

    Raises ConfigError for a side or a buffer that is none, and where the shares draw nothing.
    """

    side: int
    buffer: int
    seed: int
    validation_share: float
    test_share: float

    def __post_init__(self) -> None:
        if self.side < 1 or self.buffer < 0:
            raise ConfigError(
                "blocks need a side, and a buffer that is not negative",
                got=f"split_blocks {self.side}, split_buffer {self.buffer}",
                expected="pixels: at least 1, and at least 0",
            )
        if not self.validation_share and not self.test_share:
            raise ConfigError(
                "blocks are drawn into splits by shares, and none is given",
                got=f"split_blocks {self.side}, validation_share 0, test_share 0",
                expected="a share above 0",
                do="give validation_share or test_share, or leave split_blocks out",
            )
        self.split((0, 0))  # refuses shares that do not fit

    def split(self, block: Block) -> str:
        """The split that a block was drawn into. The CRS is not asked, for one CRS may be written in many ways."""
        name = f"block {block[0]} {block[1]}"
        return draw_split(name, self.seed, self.validation_share, self.test_share)

    def split_of(self, patch: Grid) -> str:
        """The split of a patch, "" where it comes too near to blocks of different splits.

        Raises GridError for a grid without CRS, or one that is rotated.
        """
        half = self.buffer // 2
        splits = {self.split(block) for block in self._met(patch, half, self.buffer - half)}
        return splits.pop() if len(splits) == 1 else ""

    def under(self, patch: Grid) -> list[Block]:
        """The blocks that a patch lies on."""
        return list(self._met(patch, 0, 0))

    def _met(self, patch: Grid, before: int, behind: int) -> Iterable[Block]:
        """The blocks that a patch meets, grown by so many px to the west and south, and to the east and north."""
        width, height = pixel_size(patch)
        west, south, east, north = patch.bounds
        before_px, behind_px = before - _SLACK_PX, behind - _SLACK_PX
        columns = _range(west / width - before_px, east / width + behind_px, self.side)
        rows = _range(south / height - before_px, north / height + behind_px, self.side)
        return itertools.product(rows, columns)


def _range(first_px: float, last_px: float, side: int) -> range:
    return range(math.floor(first_px / side), math.ceil(last_px / side))


def pixel_size(grid: Grid) -> tuple[float, float]:
    """Width and height of a pixel in CRS units, rounded alike. Raises GridError: no CRS, rotated, without area."""
    a, b, _, d, e, _ = grid.transform[:6]
    if grid.crs is None or b or d or not a or not e:
        raise GridError(
            "a scene has no place in blocks of ground",
            got="no CRS" if grid.crs is None else f"a transform of {(a, b, d, e)}",
            expected="a CRS, and rows and columns along its axes",
            do="give the scene its CRS and warp it north up, or split by a table, or without split_blocks",
        )
    return float(f"{abs(a):.{_DIGITS}g}"), float(f"{abs(e):.{_DIGITS}g}")


class Neighbours:
    """Finds scenes that come within `buffer` px of an earlier one whose blocks are on another grid.

    Distances are taken between boxes around the scenes in degrees, which are never too small.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._known: list[CRS] = []
        self._kept: list[tuple[str, Grid]] = []
        self._kinds: list[tuple[int, float, float]] = []
        self._boxes = np.empty((64, 4))
        self._numbers = np.empty(64, np.int64)

    def refuse(self, name: str, grid: Grid) -> GridError | None:
        """The error of a scene that lies near one that was asked for before and not refused; None for none."""
        lattice, box, count = _lattice(grid, self._known), _box(name, grid, self._buffer), len(self._kept)
        if lattice not in self._kinds:
            self._kinds.append(lattice)
        number = self._kinds.index(lattice)
        if len(self._kinds) > 1:
            near = _touch(self._boxes[:count], box) & (self._numbers[:count] != number)
            if near.any():
                return _too_near(name, grid, *self._kept[int(near.argmax())], self._buffer)
        if count == len(self._boxes):
            self._boxes, self._numbers = np.resize(self._boxes, (2 * count, 4)), np.resize(self._numbers, 2 * count)
        self._boxes[count], self._numbers[count] = box, number
        self._kept.append((name, grid))
        return None


def _lattice(grid: Grid, known: list[CRS]) -> tuple[int, float, float]:
    """What grids of blocks are equal by: the CRS, however it is written, and the pixel size."""
    if grid.crs not in known:
        known.append(grid.crs)
    return (known.index(grid.crs), *pixel_size(grid))


def _box(name: str, grid: Grid, buffer: int) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of a scene grown by the buffer."""
    west, south, east, north = grid.bounds
    width, height = pixel_size(grid)
    grown = (west - buffer * width, south - buffer * height, east + buffer * width, north + buffer * height)
    try:
        west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grown)
    except RasterioError as error:
        raise GridError("a scene lies outside its CRS", got=error, where=name, do="correct its georeference") from None
    return (west, south, east, north) if west <= east else (-180.0, south, 180.0, north)  # over the date line


def _touch(boxes: NDArray[np.float64], box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    touching: NDArray[np.bool_] = (
        (boxes[:, 0] <= box[2]) & (boxes[:, 2] >= box[0]) & (boxes[:, 1] <= box[3]) & (boxes[:, 3] >= box[1])
    )
    return touching


def _too_near(name: str, grid: Grid, other_name: str, other: Grid, buffer: int) -> GridError:
    (width, height), (other_width, other_height) = pixel_size(grid), pixel_size(other)
    return GridError(
        "two scenes near each other have different grids of blocks, so their splits can not be held apart",
        got=f"{grid.crs} with pixels of {width:g} x {height:g}, {other.crs} with {other_width:g} x {other_height:g}",
        expected=f"one CRS and pixel size, or more than {2 * buffer} px between the boxes around them",
        where=f"{name}\n      and {other_name}",
        do="warp both to one CRS and pixel size, or leave the second out with on_bad=skip",
    )


def count_blocks(blocks: SplitBlocks, held: Iterable[Iterable[Block]], grids: Sequence[Grid]) -> dict[str, Any]:
    """The entry split_blocks of the report (JSON types): the grid of blocks, and how many blocks hold patches.

    held: the blocks under the patches of each scene.
    """
    used = {block for scene in held for block in scene}
    splits = sorted(blocks.split(block) for block in used)
    known: list[CRS] = []
    sizes = sorted({_lattice(grid, known) for grid in grids})
    return {
        "side_px": blocks.side,
        "buffer_px": blocks.buffer,
        "grids": [
            {"crs": known[index].to_string(), "pixel_width": width, "pixel_height": height}
            for index, width, height in sizes
        ],
        "blocks_with_patches": {split: len(list(group)) for split, group in itertools.groupby(splits)},
    }


def blocks_in_words(entry: Mapping[str, Any] | None) -> str:
    """The entry split_blocks of the report as a sentence, "" where there is none."""
    if entry is None:
        return ""
    grids = "; ".join(
        f"{g['crs'][:40]}, pixels of {g['pixel_width']:g} x {g['pixel_height']:g}" for g in entry["grids"]
    )
    blocks = ", ".join(f"{count} of {split}" for split, count in entry["blocks_with_patches"].items())
    return (
        f"Splits are drawn by blocks of {entry['side_px']} x {entry['side_px']} px from coordinate 0 of the CRS "
        f"({grids}): {blocks}. Patches of different splits are at least {entry['buffer_px']} px apart."
    )
