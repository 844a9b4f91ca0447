"""The two pieces of work that a store is prepared from, as any process can do them: survey a scene, write a shard.

In: how the source is opened, and a scene or a planned shard. Out: its `Survey`, or the SHA-256 of the file written.
A process opens the source once, and holds one place, or the places of one shard, at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cromss.data.set_statistics import SetStatistics
from cromss.data.shard_plan import PlannedShard, span
from cromss.data.sources.layouts import Opening, open_source
from cromss.data.sources.source import Scene, Source
from cromss.data.store_layout import shard_name
from cromss.data.store_shard import ShardBuilder
from cromss.data.survey import Survey, survey_scene
from cromss.errors import StoreError

__all__ = ["Preparation", "survey", "write_shard"]


@dataclass(frozen=True, eq=False)
class Preparation:
    """A source and the store that it goes into. Another process that is sent it opens the source anew."""

    opening: Opening

    @cached_property
    def source(self) -> Source:
        return open_source(self.opening)

    @property
    def out(self) -> Path:
        """The folder of the store."""
        return Path(self.opening.config.out)

    def builder(self) -> ShardBuilder:
        """What makes a shard of the store."""
        config = self.opening.config
        return ShardBuilder(
            legend=self.opening.legend,
            sensors=self.opening.bands,
            definitions=self.opening.definitions,
            edition=config.edition,
            shard_places=config.shard_places,
        )

    def __reduce__(self) -> tuple[Callable[[Opening], Preparation], tuple[Opening]]:
        """Open files stay behind."""
        return (Preparation, (self.opening,))


def survey(preparation: Preparation, given: tuple[Scene, SetStatistics]) -> tuple[Survey, SetStatistics]:
    """Read all of a scene; return its survey, and the empty statistics that came with it, filled."""
    scene, statistics = given
    return survey_scene(preparation.source, scene, preparation.opening.config.edition, statistics), statistics


def write_shard(preparation: Preparation, shard: PlannedShard) -> str:
    """Read the records of a shard and write its file, whole or not at all; return its SHA-256.

    Raises what the source raises, and StoreError when its files no longer give the records that were planned.
    """
    builder = preparation.builder()
    for scene, names in shard.parts:
        for record in preparation.source.records(scene, only=frozenset(names)):
            builder.add(record)
    if builder.ids != shard.ids:
        raise StoreError(
            "files have changed while the store was written from them",
            got=span(builder.ids),
            expected=span(shard.ids),
            where=preparation.out,
            do="delete that folder and prepare again, from files that stay as they are",
        )
    return builder.write(preparation.out / shard_name(shard.number))
