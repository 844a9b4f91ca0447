"""Folders of co-registered GeoTIFFs: any layout that a pattern with {id} and {season} can say.

In: a pattern for each role (a sensor, labels, truth, split). Out: scenes, found and joined by id, and their records.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import rasterio

from cromss.data.blocks import SplitBlocks
from cromss.data.clouds import CloudValues
from cromss.data.record import PlaceRecord
from cromss.data.sources.file_patterns import find_files, join_by_id
from cromss.data.sources.raster_scenes import SceneReader
from cromss.data.sources.source import Scene, Tally
from cromss.errors import ConfigError
from cromss.geo.images import ImageFacts, describe_image
from cromss.geo.legend import Legend
from cromss.geo.raster import Grid
from cromss.geo.sensor import SENSORS, Sensor

__all__ = ["ROLES", "GeotiffFolders"]

ROLES = (*SENSORS, "labels", "probabilities", "truth", "split")
"""The settings of `prepare` that are patterns; other sensors have theirs in the section sensors."""

_LAYERS = ("labels", "probabilities", "truth", "split", "clouds")


class GeotiffFolders:
    """Reads scenes from folders; iterating gives every record of every complete scene.

    patterns: role -> absolute pattern; roles are sensors, labels (of further annotators labels.<name>), probabilities,
    truth, split, clouds. Where there are several annotators, a scene has labels of one at least. bands: sensor -> the
    bands to keep, by name. definitions: what a sensor measures; of all but s1 and s2 an image may serve all seasons.
    products: sensor -> the product where files do not say it. file_bands: sensor -> bands of files that name none.
    s2_offset: DN that were added to all s2 values, where files do not say it.
    split_values: split -> its value in the rasters of role split; other values, such as 0, are in no split.
    clouds: what the values of role clouds mean. mask_clouds: labels under cloud become 255.
    split_of: scene id -> split, where there is no raster. tile: the side of a patch in px; None keeps scenes whole.
    blocks: what draws patches into splits, instead of split_of and a raster.
    align_to: the sensor whose grid files of other grids are warped onto, images by `resampling`; None refuses them.
    Raises ConfigError and MissingDataError at once for patterns that lead nowhere.
    """

    def __init__(
        self,
        patterns: Mapping[str, str],
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        definitions: Mapping[str, Sensor] = SENSORS,
        products: Mapping[str, str | None] | None = None,
        s2_offset: int | None = None,
        file_bands: Mapping[str, Sequence[str]] | None = None,
        split_values: Mapping[str, int] | None = None,
        clouds: CloudValues | None = None,
        mask_clouds: bool = False,
        split_of: Callable[[str], str] | None = None,
        tile: int | None = None,
        blocks: SplitBlocks | None = None,
        align_to: str | None = None,
        resampling: Literal["bilinear", "cubic"] = "bilinear",
    ) -> None:
        self.sensors = tuple(role for role in definitions if role in patterns)
        maps = tuple(role for role in patterns if role == "labels" or role.startswith("labels."))
        if not self.sensors or not set(patterns) <= {*definitions, *_LAYERS, *maps}:
            names = " or ".join(definitions)
            raise ConfigError(
                "a source needs images", got=sorted(patterns), expected=f"{names}, and of {', '.join(_LAYERS)}"
            )

        def describe(sensor: str, dataset: rasterio.DatasetReader) -> ImageFacts:
            product, names = (products or {}).get(sensor), (file_bands or {}).get(sensor)
            known = definitions[sensor]
            return describe_image(dataset, known, product=product, file_bands=names, offset=s2_offset)

        self._reader = SceneReader(
            bands={sensor: tuple(bands[sensor]) for sensor in self.sensors},
            legend=legend,
            describe=describe,
            split_of=split_of,
            split_values=split_values,
            clouds=clouds,
            mask_clouds=mask_clouds,
            tile=tile,
            blocks=blocks,
            align_to=align_to,
            resampling=resampling,
        )
        roles = (*self.sensors, *dict.fromkeys(("labels", *maps, *_LAYERS)))
        found = {role: find_files(role, patterns[role]) for role in roles if role in patterns}
        constant = tuple(name for name in self.sensors if name not in SENSORS)
        several = maps if len(maps) > 1 else ()
        optional = ("truth", *several)
        self.scenes, self.orphans = join_by_id(found, self.sensors, optional, constant, one_of=several)

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
        """Every file of a scene."""
        return (path for paths in scene.files.values() for path in paths)
