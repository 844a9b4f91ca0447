"""Images that are no files found by a pattern, but entries of a list: items of a catalogue, times of a cube.

In: role -> entries by place and season, each under a path that only its opener knows, and patterns of label maps that
are files. Out: a `Source`: scenes, joined by place and season, and their records, read as folders of GeoTIFFs are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio

from cromss.data.record import PlaceRecord
from cromss.data.sources.file_patterns import Found, find_files, join_by_id
from cromss.data.sources.raster_scenes import SceneReader
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.errors import ConfigError
from cromss.geo.images import ImageFacts, describe_image
from cromss.geo.raster import Grid, open_raster
from cromss.geo.sensor import SENSORS, Sensor

__all__ = ["ListedImages"]


class ListedImages:
    """Reads scenes from entries. patterns: labels, truth, split -> absolute pattern, where they are files.

    open_entry: the path of an entry -> an open raster. files_of: that path -> its files on disk.
    reader: further arguments of `SceneReader`. s2_offset, s2_product: where the entries do not say them.
    orphans: those known before. Raises ConfigError and MissingDataError at once.
    """

    def __init__(
        self,
        entries: Mapping[str, Found],
        patterns: Mapping[str, str],
        *,
        open_entry: Callable[[Path], Any],
        files_of: Callable[[Path], Iterable[Path]],
        reader: Mapping[str, Any],
        s2_offset: int | None = None,
        s2_product: str | None = None,
        definitions: Mapping[str, Sensor] = SENSORS,
        orphans: Sequence[Orphan] = (),
    ) -> None:
        for role in sorted(set(entries) & set(patterns)):
            got, do = f"both, for {role}", f"set {role} to null"
            raise ConfigError("a map comes from a pattern or from the section of its layout", got=got, do=do)
        self.sensors = tuple(role for role in definitions if role in entries)
        self._open_entry, self._files_of = open_entry, files_of
        self._entries = {path for found in entries.values() for path in found.values()}

        def describe(sensor: str, dataset: rasterio.DatasetReader) -> ImageFacts:
            product = s2_product if sensor == "s2" else None
            return describe_image(dataset, definitions[sensor], product=product, offset=s2_offset)

        self._reader = SceneReader(describe=describe, open_file=self._open, **reader)
        found = {**entries, **{role: find_files(role, pattern) for role, pattern in patterns.items()}}
        ordered = {role: found[role] for role in (*self.sensors, "labels", "truth", "split") if role in found}
        self.scenes, more = join_by_id(ordered, self.sensors, optional=("truth",))
        self.orphans = [*orphans, *more]

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of one scene, or those of `only`, read one at a time; `tally` collects what is left out."""
        return self._reader.records(scene, tally, only)

    def split(self, scene: Scene) -> str | None:
        """The split of all records of a scene; None where a raster or its place decides for each patch."""
        return self._reader.split(scene)

    def grid(self, scene: Scene) -> Grid:
        """The grid of the records of a scene, from the header of one file. Raises DataError of the fitting kind."""
        return self._reader.grid(scene)

    def files(self, scene: Scene) -> Iterator[Path]:
        """Every file of a scene that is on disk; whether what lies at an address has changed, nothing tells."""
        for path in (path for paths in scene.files.values() for path in paths):
            yield from self._files_of(path) if path in self._entries else (path,)

    def _open(self, path: Path) -> Any:
        return self._open_entry(path) if path in self._entries else open_raster(path)
