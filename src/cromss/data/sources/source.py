"""The wall that all readers share: what a source of scenes is, whatever layout its files have.

In: nothing; these are the shapes of what goes over the wall. Out: `Source`, which `prepare` and `survey` read from; a
`Scene` names one place of it, an `Orphan` what can not be used for want of partners, and a `Tally` collects what
happened to a scene on its way into records.

A reader finds its scenes when it is opened, from names alone, and reads pixels only in `records`, one place at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cromss.data.record import PlaceRecord
from cromss.geo.raster import Grid

__all__ = ["Orphan", "Scene", "Source", "Tally"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One place: files maps a role to one path a season, in the order of `seasons`.

    A path is whatever the reader of the layout opens for that role and season: a file, a folder of bands, an archive.
    """

    id: str
    seasons: tuple[str, ...]
    files: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A place, or one season of it, that lacks files."""

    id: str
    season: str | None
    missing: tuple[str, ...]
    found: tuple[str, ...]


@dataclass(kw_only=True)
class Tally:
    """What happened to one scene on its way into records.

    left_out: patches not handed on, by reason. pixels_left_over: pixels of the scene that fill no patch.
    labels_outside_split: labels set to 255 because they lie in another split than their patch.
    listed: (sensor, product) -> the bands that its files list, with one of those files.
    changed: what was done to values before they were handed on, such as resampling, in words -> how many band images.
    grid: that of the scene, where blocks of ground say which split its patches belong to; blocks: those under them.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    pixels_left_over: int = 0
    labels_outside_split: int = 0
    georeferenced: bool = True
    listed: dict[tuple[str, str], dict[tuple[str, ...], str]] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)
    grid: Grid | None = None
    blocks: set[tuple[int, int]] = field(default_factory=set)


class Source(Protocol):
    """Somebody's files, as scenes.

    sensors: those that every scene has, of s1 and s2. scenes: with ids that differ, in the same
    order every time, which is the order that they are read in. orphans: places, or seasons of them, that lack files.
    """

    @property
    def sensors(self) -> tuple[str, ...]: ...

    @property
    def scenes(self) -> Sequence[Scene]: ...

    @property
    def orphans(self) -> Sequence[Orphan]: ...

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of one scene, the same at every call; `tally` collects what is left out or changed.

        only: the ids of the records that are read and handed on, which another call has shown to be there; None for
        all.
        Raises DataError of the fitting kind for anything that makes the scene unusable, possibly after some records.
        """
        ...

    def split(self, scene: Scene) -> str | None:
        """The split of all records of a scene, "" for none; None where only its pixels tell."""
        ...

    def files(self, scene: Scene) -> Iterable[Path]:
        """Every file on disk that the records of a scene come from: a store is continued only if none has changed."""
        ...
