"""A user's own images and maps: files that patterns with {id} and {season} find, and entries that a list names.

In: a pattern for each role that lies in files; for other roles entries (items of a catalogue, times of a cube) by place
and season, each under a path that only its opener knows. Roles are sensors, labels, probabilities, truth, split and
clouds. Out: a `Source`: scenes, joined by place and season, and their records.
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
from cromss.data.store.layout import is_label_layer, is_soft_layer, label_layer
from cromss.errors import ConfigError
from cromss.geo.images import ImageFacts, describe_image
from cromss.geo.raster import Grid, open_raster
from cromss.geo.sensor import SENSORS, Sensor

__all__ = ["ROLES", "OwnImages"]

ROLES = (*SENSORS, "labels", "probabilities", "truth", "split")
"""The settings of `prepare` that are patterns; other sensors have theirs in the section sensors."""

_LAYERS = ("labels", "probabilities", "truth", "split", "clouds")


class OwnImages:
    """Reads scenes of own images; iterating gives every record of every complete scene.

    patterns: role -> absolute pattern; roles are sensors, labels, probabilities (of further annotators labels.<name>
    and probabilities.<name>), truth, split, clouds. Of several annotators, a scene has all that one of them gives at
    least.
    entries: role -> those that are no files found by a pattern; open_entry: the path of an entry -> an open raster;
    files_of: that path -> its files on disk. orphans: those of the entries that are known before.
    bands: sensor -> the bands to keep, by name. definitions: what a sensor measures; of all but s1 and s2 an image may
    serve all seasons. products: sensor -> the product where files do not say it. file_bands: sensor -> bands of files
    that name none. s2_offset: DN that were added to all s2 values, where files do not say it.
    reader: further settings of `SceneReader`.
    Raises ConfigError and MissingDataError at once for patterns that lead nowhere.
    """

    def __init__(
        self,
        patterns: Mapping[str, str],
        *,
        bands: Mapping[str, Sequence[str]],
        definitions: Mapping[str, Sensor] = SENSORS,
        entries: Mapping[str, Found] | None = None,
        open_entry: Callable[[Path], Any] = open_raster,
        files_of: Callable[[Path], Iterable[Path]] = lambda path: (path,),
        orphans: Sequence[Orphan] = (),
        products: Mapping[str, str | None] | None = None,
        file_bands: Mapping[str, Sequence[str]] | None = None,
        s2_offset: int | None = None,
        **reader: Any,
    ) -> None:
        entries = entries or {}
        _require_roles(patterns, entries, definitions)
        self.sensors = tuple(role for role in definitions if role in patterns or role in entries)
        self._entries = {path for found in entries.values() for path in found.values()}
        self._open_entry, self._files_of = open_entry, files_of

        def describe(sensor: str, dataset: rasterio.DatasetReader) -> ImageFacts:
            product, names = (products or {}).get(sensor), (file_bands or {}).get(sensor)
            known = definitions[sensor]
            return describe_image(dataset, known, product=product, file_bands=names, offset=s2_offset)

        kept = {sensor: tuple(bands[sensor]) for sensor in self.sensors}
        self._reader = SceneReader(bands=kept, describe=describe, open_file=self._open, **reader)
        found = {**entries, **{role: find_files(role, pattern) for role, pattern in patterns.items()}}
        annotators = _annotators(found)
        maps = (role for roles in annotators for role in roles)
        ordered = dict.fromkeys((*self.sensors, *maps, *_LAYERS))
        constant = tuple(name for name in self.sensors if name not in SENSORS)
        self.scenes, lone = join_by_id(
            {role: found[role] for role in ordered if role in found},
            self.sensors,
            optional=("truth",),
            constant=constant,
            one_of=annotators if len(annotators) > 1 else (),
        )
        self.orphans = [*orphans, *lone]

    def __iter__(self) -> Iterator[PlaceRecord]:
        for scene in self.scenes:
            yield from self.records(scene)

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of one scene, or those of `only`, read one at a time; `tally` collects what is left out.

        Raises DataError of the fitting kind for anything that makes the scene unusable, possibly after some patches.
        """
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


def _annotators(roles: Iterable[str]) -> list[tuple[str, ...]]:
    """The roles of each annotator: its maps, its probabilities, or both."""
    given: dict[str, list[str]] = {"labels": []}
    for role in roles:
        if is_label_layer(role) or is_soft_layer(role):
            given.setdefault(label_layer(role), []).append(role)
    return [tuple(sorted(of_one)) for of_one in given.values() if of_one]


def _require_roles(patterns: Mapping[str, str], entries: Mapping[str, Found], sensors: Mapping[str, Sensor]) -> None:
    """Raise ConfigError without images, for a role that there is not, and for one that comes from both."""
    roles = {*patterns, *entries}
    maps = {role for role in roles if is_label_layer(role) or is_soft_layer(role)}
    if not roles & set(sensors) or not roles <= {*sensors, *_LAYERS, *maps}:
        names = " or ".join(sensors)
        expected = f"{names}, and of {', '.join(_LAYERS)}"
        raise ConfigError("a source needs images", got=sorted(roles), expected=expected)
    for role in sorted(set(entries) & set(patterns)):
        raise ConfigError(
            "a role comes from a pattern or from the section of its layout",
            got=f"both, for {role}",
            do=f"set {role} to null",
        )
