"""Which place goes into which shard of a store, known before anything is written.

In: the surveys of the scenes that are used, in their order. Out: a `PlannedShard` a file, and which are there already.
The rule is the one of `StoreWriter`: places in their order, and a new shard where `is_full` says so. So shards can be
made in any order, by any process, and the store is the one that a single writer would have made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cromss.data.sources.source import Scene
from cromss.data.store_layout import read_header, shard_name
from cromss.data.store_shard import is_full
from cromss.data.survey import Survey
from cromss.errors import StoreError

__all__ = ["PlannedShard", "finished_shards", "plan_shards", "span"]


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """A shard by its number, and its records: ids of each scene, in order. A scene may go on in the next shard."""

    number: int
    parts: tuple[tuple[Scene, tuple[str, ...]], ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(name for _, names in self.parts for name in names)


def plan_shards(surveys: Iterable[Survey], shard_places: int) -> list[PlannedShard]:
    """The shards of a store that holds all records of these scenes. Raises StoreError for an id that comes twice."""
    shards: list[PlannedShard] = []
    parts: list[tuple[Scene, list[str]]] = []
    seen: set[str] = set()
    places = size = 0

    def close() -> None:
        shards.append(
            PlannedShard(number=len(shards), parts=tuple((scene, tuple(names)) for scene, names in parts if names))
        )

    for survey in surveys:
        parts.append((survey.scene, []))
        for name, stored in survey.sizes.items():
            if name in seen:
                raise StoreError("a place id comes twice", got=name, expected="each id once", where=survey.scene.id)
            seen.add(name)
            parts[-1][1].append(name)
            places, size = places + 1, size + stored
            if is_full(places, size, shard_places):
                close()
                parts, places, size = [(survey.scene, [])], 0, 0
    if places:
        close()
    return shards


def finished_shards(path: Path, shards: Sequence[PlannedShard]) -> set[int]:
    """The numbers of the planned shards that are in the store already. Raises StoreError for one with other places."""
    found = {shard.number for shard in shards if (path / shard_name(shard.number)).exists()}
    for number in sorted(found):
        held = tuple(place["id"] for place in read_header(path / shard_name(number)).places)
        if held != shards[number].ids:
            raise StoreError(
                "a shard here holds other places than these files give",
                got=span(held),
                expected=span(shards[number].ids),
                where=path / shard_name(number),
                do="delete that folder, or choose another out",
            )
    return found


def span(names: Sequence[str]) -> str:
    """Many ids in few words."""
    return f"{len(names)} places" + (f", {names[0]} to {names[-1]}" if names else "")
