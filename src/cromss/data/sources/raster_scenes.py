"""Scenes whose files are whole rasters on one grid: from open files to records, in patches or whole.

In: a `Scene` whose files are rasters by role (sensors, the roles of `label_rasters`, split), and functions that say how
a file is opened, what an image file holds, and which class a value means. Out: a `PlaceRecord` for the scene, or for
each patch of `tile` x `tile` px, one at a time; and a `Tally` of all that was left out of a scene, and why.

Every file of a scene is opened before a pixel is read, so that their grids, bands and types are compared first.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.data.blocks import NEAR_ANOTHER_SPLIT, SplitBlocks
from cromss.data.record import PlaceRecord
from cromss.data.sources.label_rasters import (
    hide,
    label_roles,
    labelled,
    read_classes,
    read_labels,
    require_one_legend,
    without,
)
from cromss.data.sources.scene_windows import bytes_under_a_row, pixels_left_over, scene_windows
from cromss.data.sources.source import Scene, Tally
from cromss.data.sources.usable import require_usable
from cromss.data.splits import majority_split
from cromss.data.store.layout import is_soft_layer
from cromss.data.survey.clouds import CLOUD, CloudValues
from cromss.errors import BandError, ConfigError, LabelError
from cromss.geo.align import Alignment, Method, align, as_measured, read_nearest
from cromss.geo.images import ImageFacts, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, block_cache, grid_of, open_raster, read_raster, require_same_grid
from cromss.geo.virtual import changes_of

__all__ = ["SceneReader", "only_band"]

Window = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class _OpenScene:
    """A scene with its files open: role -> one dataset a season. alignments: of files on another grid, by name."""

    scene: Scene
    files: Mapping[str, Sequence[rasterio.DatasetReader]]
    facts: Mapping[str, Sequence[ImageFacts]]
    grid: Grid
    alignments: Mapping[str, Alignment]


def only_band(dataset: rasterio.DatasetReader) -> int:
    """The index of the band that holds the classes of a map with one band. Raises BandError for more."""
    if dataset.count != 1:
        raise BandError("a map of classes must have one band", got=dataset.count, expected=1, where=dataset.name)
    return 0


@dataclass(frozen=True, kw_only=True)
class SceneReader:
    """How the scenes of one source are read.

    bands: sensor -> the bands to keep, by name. legend: its codes are the values of the label files.
    describe: (sensor, dataset) -> what an image file holds. split_of: scene id -> split, where there is no raster.
    split_values: split -> its value in the rasters of role split; other values, such as 0, are in no split.
    clouds: what the values of role clouds mean; mask_clouds: whether labels under cloud become 255.
    tile: the side of a patch in px; None keeps scenes whole. open_file: how a file of a scene is opened.
    class_band: dataset -> index from 0 of the band of a label file that holds the classes.
    grid_tolerance: how far apart the corners of two files may lie, px. fill: whether 0 in every band is no data
    although the file does not declare it. blocks: what draws patches into splits, instead of split_of and a raster.
    align_to: the sensor whose grid, in its first season, other files are warped onto; None refuses other grids.
    resampling: how images are warped then.
    """

    bands: Mapping[str, Sequence[str]]
    legend: Legend
    describe: Callable[[str, rasterio.DatasetReader], ImageFacts]
    split_of: Callable[[str], str] | None = None
    split_values: Mapping[str, int] | None = None
    clouds: CloudValues | None = None
    mask_clouds: bool = False
    tile: int | None = None
    open_file: Callable[[Path], rasterio.DatasetReader] = open_raster
    class_band: Callable[[rasterio.DatasetReader], int] = only_band
    grid_tolerance: float = 0.01
    fill: bool = False
    blocks: SplitBlocks | None = None
    align_to: str | None = None
    resampling: Method = "bilinear"

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise ConfigError("a patch needs pixels", got=f"tile {self.tile}", expected="at least 1")
        if self.align_to is not None and self.align_to not in self.bands:
            raise ConfigError(
                "files are to be warped onto the grid of a sensor that the set does not have",
                got=f"align_to {self.align_to}",
                expected=" or ".join(self.bands),
            )

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.bands)

    def split(self, scene: Scene) -> str | None:
        """The split of all records of a scene; None where a raster or its place decides for each patch."""
        if "split" in scene.files or self.blocks is not None:
            return None
        return self.split_of(scene.id) if self.split_of else ""

    def grid(self, scene: Scene) -> Grid:
        """The grid that all records of a scene lie on, from the header of one file."""
        with self.open_file(scene.files[self.align_to or self.sensors[0]][0]) as dataset:
            return grid_of(dataset)

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The records of one scene, read one at a time; `tally` collects what is left out.

        only: ids of the records to read; other patches are passed over unread. None for all.
        Raises DataError of the fitting kind for anything that makes the scene unusable, possibly after some patches.
        """
        tally = Tally() if tally is None else tally
        with ExitStack() as stack:
            opened = self._open(stack, scene, tally)
            handed_on = 0
            if self.tile is not None:
                tally.pixels_left_over = pixels_left_over(opened.grid.shape, self.tile)
            image = opened.files[self.sensors[0]][0].name
            for name, window in scene_windows(scene.id, opened.grid.shape, self.tile, image):
                if (only is not None and name not in only) or not self._in_one_split(opened, window, tally):
                    continue
                record = self._record(opened, name, window, tally)
                if record is not None:
                    handed_on += 1
                    if self.blocks is not None:
                        tally.blocks.update(self.blocks.under(opened.grid.window(*window)))
                    yield record
            if handed_on == 0 and only is None and NEAR_ANOTHER_SPLIT not in tally.left_out:
                reasons = ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items())
                raise LabelError(
                    "no patch of a scene can be used",
                    got=reasons,
                    expected="labelled pixels where the images have data"
                    + (", inside a split" if "split" in scene.files else ""),
                    where=str(scene.files.get("labels", scene.files[self.sensors[0]])[0]),
                    do="leave the scene out, or check its labels",
                )

    def _open(self, stack: ExitStack, scene: Scene, tally: Tally) -> _OpenScene:
        files = {
            role: [stack.enter_context(self.open_file(path)) for path in paths] for role, paths in scene.files.items()
        }
        datasets = [dataset for role in files.values() for dataset in role]
        stack.enter_context(block_cache(bytes_under_a_row(datasets, self.tile)))
        reference = files[self.align_to or self.sensors[0]][0]
        grid, alignments = grid_of(reference), {}
        for role, dataset in ((role, dataset) for role, datasets in files.items() for dataset in datasets):
            if self.align_to is None or is_soft_layer(role):
                require_same_grid(grid, grid_of(dataset), reference.name, dataset.name, self.grid_tolerance)
            elif (alignment := align(grid_of(dataset), grid, dataset.name, reference.name)) is not None:
                method = self.resampling if role in self.bands else "nearest"
                new = dataset.name not in alignments  # one file may serve all seasons
                tally.changed[f"{role} files warped onto the grid of {self.align_to}, {method}"] += new
                alignments[dataset.name] = alignment
        for role in (role for role in files if role not in self.bands and not is_soft_layer(role)):
            for dataset in files[role]:
                _ = only_band(dataset) if role in ("split", "clouds") else self.class_band(dataset)
        require_one_legend(files)
        facts = {
            sensor: [self._describe(sensor, dataset, tally) for dataset in files[sensor]] for sensor in self.sensors
        }
        for sensor, season_facts in facts.items():
            if len({entry.product for entry in season_facts}) > 1:
                raise BandError(
                    f"the seasons of a place are different {sensor} products",
                    got=[entry.product for entry in season_facts],
                    expected="one product",
                    where=scene.id,
                )
        tally.georeferenced = grid.crs is not None
        if self.blocks is not None:
            tally.grid = grid
        return _OpenScene(scene=scene, files=files, facts=facts, grid=grid, alignments=alignments)

    def _describe(self, sensor: str, dataset: rasterio.DatasetReader, tally: Tally) -> ImageFacts:
        facts = self.describe(sensor, dataset)
        if facts.offset:
            tally.changed[f"s2 band images less an offset of {facts.offset} DN"] += len(self.bands[sensor])
        if facts.renamed:
            tally.changed[f"{sensor} band images named by the order of the settings, not as in their files"] += len(
                facts.listed
            )
        tally.changed.update(changes_of(dataset))
        tally.listed.setdefault((sensor, facts.product), {}).setdefault(facts.listed, dataset.name)
        return facts

    def _in_one_split(self, opened: _OpenScene, window: Window, tally: Tally) -> bool:
        """Whether blocks of ground, where they are asked for, put a patch into one split."""
        if self.blocks is None:
            return True
        in_one = bool(self.blocks.split_of(opened.grid.window(*window)))
        if not in_one:
            tally.left_out[NEAR_ANOTHER_SPLIT] += 1
        return in_one

    def _record(self, opened: _OpenScene, name: str, window: Window, tally: Tally) -> PlaceRecord | None:
        """The record of one window, or None if nothing in it can be learnt from."""
        truth = None
        if "truth" in opened.files:
            truth = read_classes(opened.files["truth"], self.legend, self.class_band, window, opened.alignments)
        maps, soft = read_labels(opened.files, self.legend, self.class_band, window, tally, opened.alignments)
        clouds = self._clouds(opened, window)
        if clouds is not None and self.mask_clouds:
            maps, soft = without(maps, soft, clouds == CLOUD, tally)
        images, valid = self._images(opened, window, tally)
        usable = valid & labelled(maps) if maps else valid
        if self.tile is None:
            images_of = [self._empty_images(opened, window, t) if not valid[t].any() else "" for t in range(len(valid))]
            labels_of = [dataset.name for role in label_roles(opened.files) for dataset in opened.files[role]]
            require_usable(valid, usable, images_of, labels_of)
        elif not usable.any():
            tally.left_out["without a labelled pixel" if valid.any() else "without a pixel of data"] += 1
            return None
        split, inside = self._split_window(opened, window, np.logical_or.reduce(usable))
        if "split" in opened.files and not split:
            tally.left_out["outside all splits"] += 1
            return None
        if inside is not None:
            outside = ~inside[None]
            tally.labels_outside_split += sum(int((outside & (layer != IGNORE)).sum()) for layer in maps.values())
            maps, soft = hide(maps, soft, outside)
            truth = None if truth is None else np.where(outside, np.uint8(IGNORE), truth)
        labels, levels = maps.pop("labels", None), soft.pop("labels", None)
        return PlaceRecord(
            id=name,
            seasons=opened.scene.seasons,
            images=images,
            products={sensor: opened.facts[sensor][0].product for sensor in self.sensors},
            labels=labels,
            truth=truth,
            valid=valid,
            further_labels={role.removeprefix("labels."): layer for role, layer in maps.items()},
            probabilities=levels,
            further_probabilities={role.removeprefix("labels."): layer for role, layer in soft.items()},
            clouds=clouds,
            split=split,
            grid=opened.grid.window(*window),
            notes=self._notes(opened),
        )

    def _images(
        self, opened: _OpenScene, window: Window, tally: Tally
    ) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.bool_]]:
        images: dict[str, NDArray[np.generic]] = {}
        valid = np.ones((len(opened.scene.seasons), *window[2:]), bool)
        for sensor in self.sensors:
            pairs = zip(opened.files[sensor], opened.facts[sensor], strict=True)
            read = [self._image(opened, dataset, facts, window, tally) for dataset, facts in pairs]
            images[sensor] = read[0][0][None] if len(read) == 1 else np.stack([values_BHW for values_BHW, _ in read])
            for season, (_, valid_HW) in enumerate(read):
                valid[season] &= valid_HW
        return images, valid

    def _empty_images(self, opened: _OpenScene, window: Window, season: int) -> str:
        """The images of a season without a pixel of data, or all where each has some, but none in common."""
        names, empty = [], []
        for sensor in self.sensors:
            dataset, facts = opened.files[sensor][season], opened.facts[sensor][season]
            names.append(dataset.name)
            if not self._image(opened, dataset, facts, window, Tally())[1].any():
                empty.append(dataset.name)
        return "\n      and ".join(empty or names)

    def _clouds(self, opened: _OpenScene, window: Window) -> NDArray[np.uint8] | None:
        """What the masks say of clouds (T, H, W); None where there are none."""
        if self.clouds is None or "clouds" not in opened.files:
            return None
        covers = []
        for dataset in opened.files["clouds"]:
            values_HW, inside_HW = self._numbers(opened, dataset, window)
            covers.append(self.clouds.cover(values_HW, ~inside_HW, dataset.name))
        return np.stack(covers)

    def _numbers(
        self, opened: _OpenScene, dataset: rasterio.DatasetReader, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The values (H, W) of a mask or a raster of splits, 0 where it has no data, and where it has."""
        return read_nearest(opened.alignments.get(dataset.name), window, partial(_numbers, dataset))

    def _image(
        self, opened: _OpenScene, dataset: rasterio.DatasetReader, facts: ImageFacts, window: Window, tally: Tally
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        def read(part: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            raster = read_image(dataset, facts, self.bands[facts.sensor.name], part, fill=self.fill)
            if raster.clipped_bands:
                tally.changed["s2 band images with reflectances below 0 set to DN 0"] += raster.clipped_bands
            return raster.values_BHW, raster.valid_HW

        if dataset.name not in opened.alignments:
            return read(window)
        warped_BHW, valid_HW = opened.alignments[dataset.name].read(window, self.resampling, read)
        values_BHW, clipped = as_measured(facts.sensor, warped_BHW, valid_HW)
        if clipped:
            tally.changed[f"{facts.sensor.name} band images warped to values out of range, set to its ends"] += clipped
        return values_BHW, valid_HW

    def _split_window(
        self, opened: _OpenScene, window: Window, usable_HW: NDArray[np.bool_]
    ) -> tuple[str, NDArray[np.bool_] | None]:
        if self.blocks is not None:
            return self.blocks.split_of(opened.grid.window(*window)), None
        if "split" not in opened.files:
            return self.split(opened.scene) or "", None
        dataset, *others = {dataset.name: dataset for dataset in opened.files["split"]}.values()
        values, inside_HW = self._numbers(opened, dataset, window)
        for other in others:
            again = self._numbers(opened, other, window)
            if not np.array_equal(values, again[0]) or not np.array_equal(inside_HW, again[1]):
                raise LabelError(
                    "the seasons of a place are in different splits",
                    got="rasters that differ",
                    expected="one split for all seasons of a pixel",
                    where=f"{dataset.name}\n      and {other.name}",
                    do="give one raster for all seasons: a pattern of split without {season}",
                )
        split_values = self.split_values or {}
        strange = sorted(set(np.unique(values).tolist()) - {0, *split_values.values()})
        if strange:
            raise LabelError(
                "a raster of splits holds values that name no split",
                got=strange,
                expected=f"{dict(split_values)}, and 0 for none",
                where=dataset.name,
                do="correct the raster, or the setting split_values",
            )
        split, chosen_HW = majority_split(values, usable_HW & inside_HW, split_values)
        return split, chosen_HW & inside_HW

    def _notes(self, opened: _OpenScene) -> dict[str, str]:
        dates = {
            f"{sensor}_date": ",".join(dataset.tags().get("DATE", "") for dataset in opened.files[sensor])
            for sensor in self.sensors
        }
        return {name: text for name, text in dates.items() if text.strip(",")}


def _numbers(dataset: rasterio.DatasetReader, part: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    raster = read_raster(dataset, part)
    return raster.values_BHW, raster.valid_HW
