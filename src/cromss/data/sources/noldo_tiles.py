"""SSL4EO-S12@DW and SSL4EO-S12@OSM: tiles with exact labels for transfer, part of NoLDO-S12.

In: a folder, or `ssl4eo_s12_dw.zip` / `ssl4eo_s12_osm.zip` as published, with
    {dw_train,dw_test}/{image_s1,image_s2,label_dw}/{s1,s2,dw}_<lon>_<lat>-<yyyymmdd>.tif
    {osm_train*,osm_test*}/{image_s1,image_s2,label_osm}/{s1,s2,osm}_<lon>_<lat>-<yyyymmdd>.tif
    where "." of lon and lat may be written "p". s1: 2 bands, dB; s2: DN, 13 bands (L1C) or 12 (taken as L2A, the
    product without B10); files that name their bands are read by name.
Out: a `PlaceRecord` a tile, or a patch of it, with one season; the splits are the publisher's.

Label values as the authors read them: 0 is not annotated; 1..9 (DW), 1..13 (OSM) are the classes 0..8, 0..12; 10 (DW)
is cloud. Not annotated and cloud become 255. Where a DW file has several bands, the classes are in index 1 from 0.
Images and labels of a tile may be up to half a pixel apart, since their boxes were written from rounded numbers.
0 in every band of an image is no data. Seen: the authors' scripts that write and read these files, not the archives.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio

from cromss.data.record import PlaceRecord
from cromss.data.sources.file_tree import find_tree
from cromss.data.sources.raster_scenes import SceneReader, only_band
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.errors import BandError, ConfigError, DamagedFileError, DataError, MissingDataError
from cromss.geo.bands import get_sensor
from cromss.geo.images import ImageFacts, describe_image
from cromss.geo.legend import IGNORE, Legend

__all__ = ["TASKS", "NoldoTiles"]

TASKS: Mapping[str, str] = {"dw": "dynamic_world", "osm": "osm13"}
"""Task -> the legend of its labels."""

_KEY = re.compile(r"(-?\d+[.p]\d+)_(-?\d+[.p]\d+)-(\d{8})")
_CLOUD = 10  # Dynamic World's mark-up of experts
_TOLERANCE_PX = 0.5


class NoldoTiles:
    """Reads the tiles of one task, "dw" or "osm".

    bands: sensor -> the bands to keep, by name. s2_product: refuses files of another product. train_split: tile ->
    split of a published training tile ("train" or "validation"). tile: side of a patch in px; None keeps tiles whole.
    Raises MissingDataError for a root without the layout, DamagedFileError for other names, ConfigError for a legend.
    """

    def __init__(
        self,
        root: str | Path,
        task: str,
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        s2_product: str | None = None,
        train_split: Callable[[str], str] | None = None,
        tile: int | None = None,
    ) -> None:
        if legend.name != TASKS[task]:
            raise ConfigError(
                f"the labels of this task are {TASKS[task]}",
                got=f"legend {legend.name}",
                do=f"give legend={TASKS[task]}",
            )
        self.sensors, self._task, self._train_split = tuple(bands), task, train_split
        self._tree = find_tree(root, f"ssl4eo_s12_{task}.zip", f"{task}_t*")
        self._reader = SceneReader(
            bands=bands,
            legend=_expert_codes(legend, task),
            describe=lambda sensor, dataset: _describe(sensor, dataset, s2_product),
            split_of=None,
            tile=tile,
            open_file=self._tree.raster,
            class_band=_expert_band if task == "dw" else only_band,
            grid_tolerance=_TOLERANCE_PX,
            fill=True,
        )
        self.orphans: list[Orphan] = []
        self._folders: dict[str, str] = {}
        self.scenes = self._join(self._found())

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of one tile, or those of `only`. Raises DataError for anything that makes it unusable."""
        for record in self._reader.records(scene, tally, only):
            yield dataclasses.replace(record, split=self.split(scene), notes={"date": scene.id.rpartition("-")[2]})

    def split(self, scene: Scene) -> str:
        """The published split; the training tiles may be parted further."""
        if "_test" in self._folders[scene.id]:
            return "test"
        return self._train_split(scene.id) if self._train_split else "train"

    def files(self, scene: Scene) -> Iterator[Path]:
        """The files of a tile, or the archive that holds them."""
        return (self._tree.disk(path) for paths in scene.files.values() for path in paths)

    def _found(self) -> dict[str, dict[str, dict[str, Path]]]:
        """Folder of a split -> tile -> role -> path."""
        wanted = {"image_s1": "s1", "image_s2": "s2", f"label_{self._task}": "labels"}
        found: dict[str, dict[str, dict[str, Path]]] = {}
        names = self._tree.names()
        for name in names:
            parts = name.rsplit("/", 3)
            fits = len(parts) >= 3 and re.fullmatch(rf"{self._task}_(train|test)\w*", parts[-3])
            if not fits or parts[-2] not in wanted or not name.endswith(".tif"):
                continue
            role = wanted[parts[-2]]
            if role in self.sensors or role == "labels":
                tiles = found.setdefault(name.rpartition("/")[0].rpartition("/")[0], {})
                tiles.setdefault(self._tile_id(parts[-1], parts[-2], name), {})[role] = self._tree.path / name
        if not found:
            raise MissingDataError(
                f"there are no tiles of SSL4EO-S12@{self._task.upper()}",
                got=f"{len(names)} files, such as {names[:3]}",
                expected=f"{self._task}_train/image_s1/s1_<lon>_<lat>-<yyyymmdd>.tif and the like",
                where=self._tree.path,
                do="correct root, or choose another layout",
            )
        return found

    def _tile_id(self, name: str, folder: str, full: str) -> str:
        """<lon>_<lat>-<date>, with decimal points."""
        prefix = folder.rpartition("_")[2]
        match = _KEY.fullmatch(name.removeprefix(f"{prefix}_").removesuffix(".tif"))
        if match is None or not name.startswith(f"{prefix}_"):
            raise DamagedFileError(
                "a tile has another name than the layout says",
                got=name,
                expected=f"{prefix}_<lon>_<lat>-<yyyymmdd>.tif, such as {prefix}_-0p64813_6p82318-20190226.tif",
                where=self._tree.path / full,
                do="take the file out, or choose another layout",
            )
        lon, lat, date = match.groups()
        return f"{lon.replace('p', '.')}_{lat.replace('p', '.')}-{date}"

    def _join(self, found: Mapping[str, Mapping[str, Mapping[str, Path]]]) -> list[Scene]:
        """Scenes for which every role is there; the others are orphans, and so is a tile that training has twice."""
        roles = (*self.sensors, "labels")
        files: dict[str, Mapping[str, Path]] = {}
        sizes = Counter({folder: len(tiles) for folder, tiles in found.items()})
        for folder, _ in sizes.most_common():
            for tile, paths in found[folder].items():
                missing = tuple(role for role in roles if role not in paths)
                if tile in files:
                    self._require_same_split(tile, folder)
                    missing = (f"a place of its own: it is in {self._folders[tile]}, too",)
                if missing:
                    there = tuple(str(path) for path in paths.values())
                    self.orphans.append(Orphan(id=tile, season=None, missing=missing, found=there))
                else:
                    files[tile], self._folders[tile] = paths, folder
        if not files:
            raise MissingDataError(
                "no tile has all its files",
                got=f"{len(self.orphans)} incomplete tiles",
                expected=f"the same name in {', '.join(roles)}",
                where=self._tree.path,
            )
        return [
            Scene(id=tile, seasons=("0",), files={role: (files[tile][role],) for role in roles})
            for tile in sorted(files)
        ]

    def _require_same_split(self, tile: str, folder: str) -> None:
        if ("_test" in folder) != ("_test" in self._folders[tile]):
            raise DamagedFileError(
                "a tile is in training and in test",
                got=tile,
                expected="one split",
                where=f"{self._tree.path}: {folder} and {self._folders[tile]}",
                do="fetch the archive again; scores on such a set would mean nothing",
            )


def _expert_codes(legend: Legend, task: str) -> Legend:
    """The legend with the values of the experts' files: classes from 1, 0 not annotated, and cloud for DW."""
    codes = {0: IGNORE, **{index + 1: index for index in range(legend.num_classes)}}
    return dataclasses.replace(legend, codes={**codes, **({_CLOUD: IGNORE} if task == "dw" else {})})


def _expert_band(dataset: rasterio.DatasetReader) -> int:
    return 0 if dataset.count == 1 else 1


def _describe(sensor: str, dataset: rasterio.DatasetReader, s2_product: str | None) -> ImageFacts:
    """Bands and product by the number of bands, where the file does not name them."""
    products: Mapping[str, Any] = get_sensor(sensor).products
    by_count = {len(names): product for product, names in products.items()}
    product = by_count.get(dataset.count)
    if product is None:
        raise BandError(
            f"a {get_sensor(sensor).title} tile has another number of bands than the layout says",
            got=dataset.count,
            expected=" or ".join(f"{count} ({name})" for count, name in by_count.items()),
            where=dataset.name,
        )
    if sensor == "s2" and s2_product not in (None, product):
        raise DataError(
            "a tile is another product than the setting",
            got=f"{dataset.count} bands, so {product}",
            expected=f"s2_product = {s2_product}",
            where=dataset.name,
            do="leave s2_product out",
        )
    return describe_image(dataset, sensor, product=product, file_bands=products[product])
