"""What blocks of ground make of a set of scenes: scenes too near to others of another grid, and splits that stay empty.

In: scenes before they are read, and the surveys of those that are used. Out: surveys of the scenes that can not be held
apart from others, with the error; the report's entry; or the error that names an empty split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cromss.data.blocks import NEAR_ANOTHER_SPLIT, Neighbours, SplitBlocks, count_blocks
from cromss.data.preparation import Preparation
from cromss.data.sources.own_images import OwnImages
from cromss.data.sources.source import Scene
from cromss.data.survey.scene_survey import Survey
from cromss.errors import DataError, MissingDataError
from cromss.geo.raster import Grid
from cromss.workers import Each

__all__ = ["drawn_blocks", "too_near"]

_TOGETHER = 64  # scenes whose headers one worker reads, one after the other


def too_near(preparation: Preparation, scenes: Sequence[Scene], each: Each) -> list[Survey]:
    """The scenes that lie near an earlier one whose blocks are on another grid, found from headers alone.

    Scenes without a usable header or place are passed over: what is wrong with them shows when they are read.
    """
    blocks = preparation.opening.blocks
    if blocks is None:
        return []
    neighbours, found = Neighbours(blocks.buffer), []
    for scene, grid in zip(scenes, each(_grid_of, preparation, scenes, together=_TOGETHER), strict=True):
        try:
            error = None if grid is None else neighbours.refuse(scene.id, grid)
        except DataError:
            continue
        if error is not None:
            found.append(Survey(scene=scene, error=error))
    return found


def _grid_of(preparation: Preparation, scene: Scene) -> Grid | None:
    source = preparation.source
    try:
        return source.grid(scene) if isinstance(source, OwnImages) else None
    except DataError:
        return None


def drawn_blocks(blocks: SplitBlocks | None, used: Sequence[Survey]) -> dict[str, Any] | None:
    """The entry split_blocks of the report; None without blocks. Raises MissingDataError for an empty split."""
    if blocks is None:
        return None
    shares = {"train": 1 - blocks.validation_share - blocks.test_share}
    shares |= {"validation": blocks.validation_share, "test": blocks.test_share}
    present = {split for survey in used for split in survey.counts}
    entry = count_blocks(
        blocks,
        [survey.tally.blocks for survey in used],
        [survey.tally.grid for survey in used if survey.tally.grid is not None],
    )
    empty = [split for split, share in shares.items() if share > 0 and split not in present]
    if empty:
        left_out = sum(survey.tally.left_out[NEAR_ANOTHER_SPLIT] for survey in used)
        raise MissingDataError(
            f"no patch is in {' nor in '.join(empty)}",
            got=f"{entry['blocks_with_patches'] or 'no'} blocks with patches, {left_out} patches {NEAR_ANOTHER_SPLIT}",
            expected="at least one in each split that has a share",
            do="choose smaller split_blocks, a smaller split_buffer, another seed, or larger shares",
        )
    return entry
