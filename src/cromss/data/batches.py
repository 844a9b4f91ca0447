"""Which scenes are prepared together, and the shards that they go into.

In: scenes in their order, and the files that each comes from. Out: a `Batch` of neighbours, and its shard files, whose
names and bytes follow from the batch alone: any process can make any batch, at any time, and the store is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Scene, Source
from cromss.data.store.layout import SHARD_FOLDER, batch_shard_name, read_header
from cromss.data.store.shard import SHARD_BYTES, ShardBuilder

__all__ = ["Batch", "BatchShards", "batch_shards_in", "make_batches"]


_FEWEST = 16  # batches, so that a small set has work for several processes; it must not depend on how many there are


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Neighbouring scenes, which one process reads one after the other."""

    number: int
    scenes: tuple[Scene, ...]


def make_batches(source: Source, scenes: Sequence[Scene], shard_places: int) -> list[Batch]:
    """Cut scenes into batches: at most so many, of about a shard's bytes, and sixteen or more where there are as many.

    A file that neighbouring scenes share, such as an archive, says nothing about their size and does not count.
    """
    most = min(shard_places, -(-len(scenes) // _FEWEST))
    batches: list[Batch] = []
    together: list[Scene] = []
    size, before = 0, set[Path]()
    for scene in scenes:
        together.append(scene)
        files = set(source.files(scene))
        size += sum(path.stat().st_size for path in files - before)
        before = files
        if len(together) == most or size >= SHARD_BYTES or scene is scenes[-1]:
            batches.append(Batch(number=len(batches), scenes=tuple(together)))
            together, size = [], 0
    return batches


def batch_shards_in(out: Path, batch: str = "[0-9]" * 6) -> list[Path]:
    """The shards of all batches in the folder of a store, or those of the batch with this number of six digits."""
    return sorted((out / SHARD_FOLDER).glob(f"{batch}-{'[0-9]' * 4}.safetensors"))


class BatchShards:
    """Writes the records of a batch into as many shards as they fill; a shard that is there already stays."""

    def __init__(self, out: Path, batch: int, builder: ShardBuilder) -> None:
        self._out, self._batch, self._builder = out, batch, builder
        self._shards: dict[str, str | None] = {}

    def add(self, record: PlaceRecord) -> None:
        """Take a record. Raises what `ShardBuilder.add` raises."""
        self._builder.add(record)
        if self._builder.full:
            self._write()

    def finish(self) -> dict[str, str | None]:
        """Write the rest, and delete shards that this batch had of records that it lost; return file -> SHA-256.

        The hash of a shard that was there already is None.
        """
        if self._builder.ids:
            self._write()
        for left in batch_shards_in(self._out, f"{self._batch:06d}"):
            if f"{SHARD_FOLDER}/{left.name}" not in self._shards:
                left.unlink()
        return self._shards

    def _write(self) -> None:
        name = batch_shard_name(self._batch, len(self._shards))
        path = self._out / name
        if path.exists() and tuple(place["id"] for place in read_header(path).places) == self._builder.ids:
            self._builder.clear()
            self._shards[name] = None
        else:
            self._shards[name] = self._builder.write(path)
