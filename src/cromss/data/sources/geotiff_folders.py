"""Folders of co-registered GeoTIFFs: any layout that a pattern with {id} and {season} can say.

In: a pattern for each role (s1, s2, labels, truth, split). Out: a `PlaceRecord` for each scene, or for each patch of
`tile` x `tile` px, one at a time; and a `Tally` of all that was left out of a scene, and why.

Every file of a scene is opened before a pixel is read, so that their grids, bands and types are compared first.
Patches lie on the scene's own pixel grid, from its upper left corner; what does not fill a patch is left over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.file_patterns import find_files, join_by_id
from cromss.data.sources.source import Scene, Tally
from cromss.data.splits import majority_split
from cromss.errors import BandError, ConfigError, GridError, LabelError, RangeError
from cromss.geo.bands import SENSORS
from cromss.geo.images import ImageFacts, describe_image, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, grid_of, open_raster, read_raster, require_same_grid

__all__ = ["ROLES", "GeotiffFolders"]

ROLES = ("s1", "s2", "labels", "truth", "split")

Window = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class _OpenScene:
    """A scene with its files open: role -> one dataset a season."""

    scene: Scene
    files: Mapping[str, Sequence[rasterio.DatasetReader]]
    facts: Mapping[str, Sequence[ImageFacts]]
    grid: Grid


class GeotiffFolders:
    """Reads scenes from folders; iterating gives every record of every complete scene.

    patterns: role -> absolute pattern; roles s1, s2, labels, truth, split. bands: sensor -> the bands to keep, by name.
    products: sensor -> the product where files do not say it. file_bands: sensor -> bands of files that name none.
    split_values: split -> its value in the rasters of role split; other values, such as 0, are in no split.
    split_of: scene id -> split, where there is no raster. tile: the side of a patch in px; None keeps scenes whole.
    Raises ConfigError and MissingDataError at once for patterns that lead nowhere.
    """

    def __init__(
        self,
        patterns: Mapping[str, str],
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        products: Mapping[str, str | None] | None = None,
        file_bands: Mapping[str, Sequence[str]] | None = None,
        split_values: Mapping[str, int] | None = None,
        split_of: Callable[[str], str] | None = None,
        tile: int | None = None,
    ) -> None:
        self.sensors = tuple(role for role in SENSORS if role in patterns)
        if not self.sensors or not set(patterns) <= set(ROLES):
            raise ConfigError(
                "a source needs images", got=sorted(patterns), expected=f"s1 or s2, and of {', '.join(ROLES)}"
            )
        if tile is not None and tile < 1:
            raise ConfigError("a patch needs pixels", got=f"tile {tile}", expected="at least 1")
        self._legend, self._tile, self._split_values, self._split_of = legend, tile, split_values or {}, split_of
        self._bands = {sensor: tuple(bands[sensor]) for sensor in self.sensors}
        self._products, self._file_bands = products or {}, file_bands or {}
        found = {role: find_files(role, patterns[role]) for role in ROLES if role in patterns}
        self.scenes, self.orphans = join_by_id(found, self.sensors, optional=("truth",))

    def __iter__(self) -> Iterator[PlaceRecord]:
        for scene in self.scenes:
            yield from self.records(scene)

    def records(self, scene: Scene, tally: Tally | None = None) -> Iterator[PlaceRecord]:
        """The records of one scene, read one at a time; `tally` collects what is left out.

        Raises DataError of the fitting kind for anything that makes the scene unusable, possibly after some patches.
        """
        tally = Tally() if tally is None else tally
        with ExitStack() as stack:
            opened = self._open(stack, scene, tally)
            handed_on = 0
            for name, window in self._windows(opened, tally):
                record = self._record(opened, name, window, tally)
                if record is not None:
                    handed_on += 1
                    yield record
            if handed_on == 0:
                reasons = ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items())
                raise LabelError(
                    "no patch of a scene can be used",
                    got=reasons,
                    expected="labelled pixels where the images have data"
                    + (", inside a split" if self._by_raster else ""),
                    where=str(scene.files.get("labels", scene.files[self.sensors[0]])[0]),
                    do="leave the scene out, or check its labels",
                )

    def split(self, scene: Scene) -> str | None:
        """The split of all records of a scene; None where a raster decides for each patch."""
        if "split" in scene.files:
            return None
        return self._split_of(scene.id) if self._split_of else ""

    def files(self, scene: Scene) -> Iterator[Path]:
        """Every file of a scene."""
        return (path for paths in scene.files.values() for path in paths)

    @property
    def _by_raster(self) -> bool:
        return any("split" in scene.files for scene in self.scenes[:1])

    def _open(self, stack: ExitStack, scene: Scene, tally: Tally) -> _OpenScene:
        files = {
            role: [stack.enter_context(open_raster(path)) for path in paths] for role, paths in scene.files.items()
        }
        reference = files[self.sensors[0]][0]
        grid = grid_of(reference)
        for dataset in (dataset for datasets in files.values() for dataset in datasets):
            require_same_grid(grid, grid_of(dataset), reference.name, dataset.name)
        for dataset in (dataset for role in files if role not in SENSORS for dataset in files[role]):
            if dataset.count != 1:
                raise BandError(
                    "a map of classes must have one band", got=dataset.count, expected=1, where=dataset.name
                )
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
        return _OpenScene(scene=scene, files=files, facts=facts, grid=grid)

    def _describe(self, sensor: str, dataset: rasterio.DatasetReader, tally: Tally) -> ImageFacts:
        facts = describe_image(
            dataset, sensor, product=self._products.get(sensor), file_bands=self._file_bands.get(sensor)
        )
        tally.listed.setdefault((sensor, facts.product), {}).setdefault(facts.listed, dataset.name)
        return facts

    def _windows(self, opened: _OpenScene, tally: Tally) -> Iterator[tuple[str, Window]]:
        """The name and window of each patch, or of the whole scene."""
        place, (height, width) = opened.scene.id, opened.grid.shape
        if self._tile is None:
            yield place, (0, 0, height, width)
            return
        side = self._tile
        if height < side or width < side:
            raise GridError(
                "a scene is smaller than a patch",
                got=f"{height} x {width} px",
                expected=f"at least {side} x {side} px",
                where=opened.files[self.sensors[0]][0].name,
                do="choose a smaller tile, or leave the scene out",
            )
        tally.pixels_left_over = height * width - (height // side) * (width // side) * side * side
        for row in range(0, height - side + 1, side):
            for column in range(0, width - side + 1, side):
                yield f"{place}_r{row:05d}_c{column:05d}", (row, column, side, side)

    def _record(self, opened: _OpenScene, name: str, window: Window, tally: Tally) -> PlaceRecord | None:
        """The record of one window, or None if nothing in it can be learnt from."""
        truth = self._layer(opened, "truth", window)
        labels = self._layer(opened, "labels", window)
        images, valid = self._images(opened, window)
        usable = valid if labels is None else valid & (labels != IGNORE)
        if self._tile is None:
            self._require_usable(opened, valid, usable)
        elif not usable.any():
            tally.left_out["without a labelled pixel" if valid.any() else "without a pixel of data"] += 1
            return None
        split, inside = self._split_window(opened, window, np.logical_or.reduce(usable))
        if self._by_raster and not split:
            tally.left_out["outside all splits"] += 1
            return None
        if inside is not None:
            outside = ~inside[None]
            tally.labels_outside_split += 0 if labels is None else int((outside & (labels != IGNORE)).sum())
            labels, truth = (None if layer is None else _ignore(layer, outside) for layer in (labels, truth))
        return PlaceRecord(
            id=name,
            seasons=opened.scene.seasons,
            images=images,
            products={sensor: opened.facts[sensor][0].product for sensor in self.sensors},
            labels=labels,
            truth=truth,
            valid=valid,
            split=split,
            grid=opened.grid.window(*window),
            notes=self._notes(opened),
        )

    def _images(self, opened: _OpenScene, window: Window) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.bool_]]:
        images: dict[str, NDArray[np.generic]] = {}
        valid = np.ones((len(opened.scene.seasons), *window[2:]), bool)
        for sensor in self.sensors:
            pairs = zip(opened.files[sensor], opened.facts[sensor], strict=True)
            rasters = [read_image(dataset, facts, self._bands[sensor], window) for dataset, facts in pairs]
            images[sensor] = np.stack([raster.values_BHW for raster in rasters])
            valid &= np.stack([raster.valid_HW for raster in rasters])
        return images, valid

    def _layer(self, opened: _OpenScene, role: str, window: Window) -> NDArray[np.uint8] | None:
        """Class ids (T, H, W), 255 where the file declares no data; None if the scene has no such files."""
        if role not in opened.files:
            return None
        layers = []
        for dataset in opened.files[role]:
            raster = read_raster(dataset, window)
            encoded = self._legend.encode(raster.values_BHW[0], dataset.name, raster.nodata)
            layers.append(np.where(raster.valid_HW, encoded, np.uint8(IGNORE)))
        return np.stack(layers)

    def _split_window(
        self, opened: _OpenScene, window: Window, usable_HW: NDArray[np.bool_]
    ) -> tuple[str, NDArray[np.bool_] | None]:
        if "split" not in opened.files:
            return self.split(opened.scene) or "", None
        dataset = opened.files["split"][0]
        raster = read_raster(dataset, window)
        values = np.where(raster.valid_HW, raster.values_BHW[0], 0)
        strange = sorted(set(np.unique(values).tolist()) - {0, *self._split_values.values()})
        if strange:
            raise LabelError(
                "a raster of splits holds values that name no split",
                got=strange,
                expected=f"{dict(self._split_values)}, and 0 for none",
                where=dataset.name,
                do="correct the raster, or the setting split_values",
            )
        return majority_split(values, usable_HW, self._split_values)

    def _require_usable(self, opened: _OpenScene, valid: NDArray[np.bool_], usable: NDArray[np.bool_]) -> None:
        """A whole scene must have something to learn from in every season."""
        for season in range(len(opened.scene.seasons)):
            if not valid[season].any():
                where = opened.files[self.sensors[0]][season].name
                raise RangeError(
                    "a scene has no pixel with data in all its images",
                    got="0 pixels",
                    expected="at least 1",
                    where=where,
                    do="leave the scene out, or check the no-data value of its files",
                )
            if not usable[season].any():
                raise LabelError(
                    "a scene has no labelled pixel where its images have data",
                    got="0 pixels with a class",
                    expected="at least 1",
                    where=opened.files["labels"][season].name,
                    do="leave the scene out, or check its labels and their no-data value",
                )

    def _notes(self, opened: _OpenScene) -> dict[str, str]:
        dates = {
            f"{sensor}_date": ",".join(dataset.tags().get("DATE", "") for dataset in opened.files[sensor])
            for sensor in self.sensors
        }
        return {name: text for name, text in dates.items() if text.strip(",")}


def _ignore(layer: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(where, np.uint8(IGNORE), layer)
