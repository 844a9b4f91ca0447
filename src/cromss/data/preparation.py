"""What a store is prepared from, as any process can do it: read a batch of scenes once, check it, and write its shards.

In: how the source is opened, and a batch. Out: a `Prepared`: what was found in each scene, and the shards written.
A process opens the source once, and holds one place, and the places of one shard, at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cromss.data.batches import Batch, BatchShards
from cromss.data.sources.layouts import Opening, open_source
from cromss.data.sources.source import Source
from cromss.data.store.shard import ShardBuilder
from cromss.data.survey.scene_survey import Survey, survey_scene
from cromss.data.survey.set_statistics import SetStatistics, StatisticsByListing
from cromss.errors import StoreError
from cromss.geo.raster import many_rasters
from cromss.memory import keep_freed_memory

__all__ = ["Preparation", "Prepared", "prepare_batch", "write_batch"]


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
            annotators=self.opening.annotators,
            soft=self.opening.soft,
        )

    def __reduce__(self) -> tuple[Callable[[Opening], Preparation], tuple[Opening]]:
        """Open files stay behind."""
        return (Preparation, (self.opening,))


@dataclass(kw_only=True)
class Prepared:
    """What became of a batch. shards: file -> SHA-256, or None of one that was there already."""

    number: int
    surveys: list[Survey]
    shards: dict[str, str | None]


def prepare_batch(preparation: Preparation, given: tuple[Batch, SetStatistics]) -> tuple[Prepared, StatisticsByListing]:
    """Read every scene of a batch once: count it in statistics like those that came with it, and write its records.

    A scene whose error shows only after some records makes the batch be read again without it.
    """
    keep_freed_memory()  # scene after scene takes the same
    batch, empty = given
    statistics = StatisticsByListing(empty=empty)
    shards = BatchShards(preparation.out, batch.number, preparation.builder())
    surveys = []
    with many_rasters():
        for scene in batch.scenes:
            part = statistics.part()
            surveys.append(survey_scene(preparation.source, scene, part, shards.add))
            if surveys[-1].error is None:
                statistics.add(surveys[-1].listing, part)
    spoiled = any(survey.error is not None and survey.ids for survey in surveys)
    prepared = Prepared(number=batch.number, surveys=surveys, shards={} if spoiled else shards.finish())
    if spoiled:
        prepared.shards = write_batch(preparation, prepared)
    return prepared, statistics


def write_batch(preparation: Preparation, prepared: Prepared) -> dict[str, str | None]:
    """Read the scenes of a batch that are without an error, and write its shards anew; return file -> SHA-256.

    Raises what the source raises, and StoreError when its files no longer give the records that were surveyed.
    """
    shards = BatchShards(preparation.out, prepared.number, preparation.builder())
    for survey in prepared.surveys:
        if survey.error is not None:
            continue
        ids = []
        for record in preparation.source.records(survey.scene):
            shards.add(record)
            ids.append(record.id)
        if ids != survey.ids:
            raise StoreError(
                "files have changed while the store was written from them",
                got=_span(ids),
                expected=_span(survey.ids),
                where=survey.scene.id,
                do="delete that folder and prepare again, from files that stay as they are",
            )
    return shards.finish()


def _span(names: Sequence[str]) -> str:
    """Many ids in few words."""
    return f"{len(names)} places" + (f", {names[0]} to {names[-1]}" if names else "")
