"""SEN12MS and DFC2020: patches of 256 px in folders of regions of interest, all named alike.

    SEN12MS   <root>/ROIs1158_spring/{s1,s2,lc}_<scene>/ROIs1158_spring_{s1,s2,lc}_<scene>_p<patch>.tif   (four seasons)
    DFC2020   <root>/{validation,test}/{s1,s2,dfc}_<part>/ROIs0000_<part>_{s1,s2,dfc}_<scene>_p<patch>.tif, or
              <root>/ROIs0000_{validation,test}/{s1,s2,lc,dfc}_<scene>/ with the same names of files, or
              <root>/{s1,s2,dfc}/ with lists of splits, as Copernicus-Bench packs it (`dfc2020_lists`)

In: the root of one of them. Out: a place for each patch. s1 is VV, VH in dB; s2 the 13 bands of L1C; dfc one band of
classes; lc four, of which the first is IGBP. The files name no bands: their number is checked, the order is as
published; 0 in every band is no data, which they have no other way to say. Layouts are as the data sets' own scripts
read them; the archives could not be looked at here.

Splits. DFC2020: its validation part is for training and its test part for testing, as CromSS transfers to it.
SEN12MS: the published hold-out scenes are for testing, the rest for training. Patches of one scene of SEN12MS overlap
by half, so a validation split is drawn by scene.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.dfc2020_lists import find_listed, lists_root, unlisted
from cromss.data.sources.patches import ONE_DATE, PublishedSplits, patch_record
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.errors import BandError, DataError, MissingDataError
from cromss.geo.bands import SENSORS
from cromss.geo.images import describe_image, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import LEGENDS
from cromss.geo.raster import Grid, Raster, open_raster, read_pixels

__all__ = ["DFC2020", "IGBP_TO_DFC2020", "SEN12MS", "SEN12MS_HOLD_OUT", "RoisLayout", "RoisPatches", "igbp_as_dfc2020"]

SEN12MS_HOLD_OUT: Mapping[str, tuple[int, ...]] = {
    "ROIs1158_spring": (15, 17, 63, 97, 124, 146),
    "ROIs1868_summer": (15, 19, 43, 72, 79, 104, 131),
    "ROIs1970_fall": (30, 35, 39, 47, 61, 120, 141, 144),
    "ROIs2017_winter": (32, 64, 107, 135, 146),
}
"""Season -> scenes held out for testing, about 10% of all patches: SEN12MS_holdOutScenes.txt of the SEN12MS toolbox."""

IGBP_TO_DFC2020: Mapping[int, int] = {
    **dict.fromkeys((1, 2, 3, 4, 5), 1),  # needleleaf, broadleaf and mixed forests: forest
    **dict.fromkeys((6, 7), 2),  # closed and open shrubland: shrubland
    **dict.fromkeys((8, 9), 3),  # woody savanna, savanna: savanna, which the contest does not use
    10: 4,  # grassland
    11: 5,  # permanent wetland: wetland
    **dict.fromkeys((12, 14), 6),  # cropland, mosaic of cropland and natural vegetation: cropland
    13: 7,  # urban
    15: 8,  # snow and ice, which the contest does not use
    16: 9,  # barren
    17: 10,  # water
}
"""IGBP code -> code of DFC2020: the simplified IGBP scheme of the IEEE GRSS Data Fusion Contest 2020."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoisLayout:
    """One of the archives. parts: name of a folder -> how its files begin. published: that beginning -> split.

    labels: the kind of file with the labels. label_bands: its bands; the first is read.
    """

    title: str
    parts: Mapping[str, str]
    published: Mapping[str, str]
    labels: str
    label_bands: int


_DFC_PARTS = ("validation", "test")
DFC2020 = RoisLayout(
    title="DFC2020",
    parts={prefix + part: f"ROIs0000_{part}" for part in _DFC_PARTS for prefix in ("", "ROIs0000_")},
    published={"ROIs0000_validation": "train", "ROIs0000_test": "test"},
    labels="dfc",
    label_bands=1,
)
SEN12MS = RoisLayout(
    title="SEN12MS",
    parts={name: name for name in SEN12MS_HOLD_OUT},
    published=dict.fromkeys(SEN12MS_HOLD_OUT, "train"),
    labels="lc",
    label_bands=4,
)

_FOLDER = re.compile(r"(s1|s2|lc|dfc)_\w+")
_FILE = re.compile(r"(?P<rois>ROIs\d{4}_[a-z]+)_(?P<kind>s1|s2|lc|dfc)_(?P<scene>\w+)_p(?P<patch>\d+)\.tif")
_PRODUCTS = {"s1": "GRD", "s2": "L1C"}


def igbp_as_dfc2020() -> Legend:
    """The legend of DFC2020 for rasters with IGBP codes; savanna and snow have no class in it and become 255."""
    legend = LEGENDS["dfc2020"]
    codes = {igbp: legend.codes[code] for igbp, code in IGBP_TO_DFC2020.items()}
    return dataclasses.replace(legend, codes={**codes, 0: IGNORE, IGNORE: IGNORE})


class RoisPatches:
    """Reads one of the archives; every patch is a place of one date.

    legend: its codes are those of the label files. bands: sensor -> bands to keep. labelled: whether labels are read.
    Raises MissingDataError where `root` holds no such archive, DataError for a name that does not fit its folder.
    """

    def __init__(
        self,
        root: Path,
        layout: RoisLayout,
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        splits: PublishedSplits,
        labelled: bool = True,
    ) -> None:
        self._layout, self._legend, self._splits = layout, legend, splits
        self._bands = {sensor: tuple(bands[sensor]) for sensor in SENSORS if sensor in bands}
        self._roles = (*self._bands, *(("labels",) if labelled else ()))
        kinds = {*self._bands, layout.labels} if labelled else {*self._bands}
        listed = lists_root(root) if layout is DFC2020 else None
        self._listed: Mapping[str, str] = {}
        if listed is None:
            found = _find(root, layout, kinds)
        else:
            found, self._listed = find_listed(listed, kinds)
        self.scenes = [
            Scene(id=place, seasons=ONE_DATE, files={role: (files[role],) for role in self._roles})
            for place, files in sorted(found.items())
            if set(self._roles) <= set(files)
        ]
        self.orphans = [
            Orphan(
                id=place,
                season=None,
                missing=tuple(role for role in self._roles if role not in files),
                found=tuple(map(str, files.values())),
            )
            for place, files in sorted(found.items())
            if not set(self._roles) <= set(files)
        ]
        if listed is not None:
            self.orphans += unlisted(listed, self._listed)
        if not self.scenes:
            raise MissingDataError(
                f"no patch of {layout.title} has all its files",
                got=f"{len(self.orphans)} patches; {self.orphans[0].id} lacks {', '.join(self.orphans[0].missing)}",
                expected=", ".join(self._roles),
                where=root,
                do="unpack all parts of the archive into one root, or set the sensor or the labels to null",
            )

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self._bands)

    def split(self, scene: Scene) -> str:
        """As published, or by the user's table."""
        if scene.id in self._listed:
            return self._splits.split(scene.id, self._listed[scene.id])
        rois, number = _rois_and_scene(scene.id)
        held_out = number in map(str, SEN12MS_HOLD_OUT.get(rois, ()))
        published = "test" if held_out else self._layout.published[rois]
        group = f"{rois}_{number}" if rois in SEN12MS_HOLD_OUT else None
        return self._splits.split(scene.id, published, group)

    def files(self, scene: Scene) -> Iterator[Path]:
        """The files of a patch, one a role."""
        return (path for paths in scene.files.values() for path in paths)

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of one patch, or none if it has no labelled pixel."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        with ExitStack() as stack:
            opened = {role: stack.enter_context(open_raster(paths[0])) for role, paths in scene.files.items()}
            images = {sensor: self._image(sensor, opened[sensor]) for sensor in self._bands}
            record = patch_record(
                scene,
                tally,
                images=images,
                products={sensor: _PRODUCTS[sensor] for sensor in images},
                labels=self._labels(opened["labels"]) if "labels" in opened else None,
                split=self.split(scene),
            )
        if record is not None:
            yield record

    def _image(self, sensor: str, dataset: rasterio.DatasetReader) -> Raster:
        known = SENSORS[sensor]
        _require_count(dataset, len(known.bands), f"{known.title} file of {self._layout.title}", known.bands)
        facts = describe_image(dataset, sensor, product=_PRODUCTS[sensor], file_bands=known.bands)
        return read_image(dataset, facts, self._bands[sensor], fill=True)

    def _labels(self, dataset: rasterio.DatasetReader) -> tuple[NDArray[np.uint8], Grid]:
        """Class ids (H, W) of the first band, 255 where the file declares no data."""
        _require_count(dataset, self._layout.label_bands, f"{self._layout.labels} file of {self._layout.title}")
        values_BHW, missing, grid = read_pixels(dataset)
        encoded = self._legend.encode(values_BHW[0], dataset.name, dataset.nodatavals[0])
        return np.where(missing.in_band(0), np.uint8(IGNORE), encoded), grid


def _require_count(dataset: rasterio.DatasetReader, count: int, what: str, names: Sequence[str] = ()) -> None:
    if dataset.count != count:
        raise BandError(
            f"a {what} has another number of bands",
            got=dataset.count,
            expected=f"{count}" + (f": {', '.join(names)}" if names else ""),
            where=dataset.name,
            do="take the file as published, or prepare your own files with layout geotiff_folders",
        )


def _rois_and_scene(place: str) -> tuple[str, str]:
    """("ROIs1158_spring", "63") of "ROIs1158_spring_63_p30"."""
    season, part, scene = place.rpartition("_p")[0].split("_", 2)
    return f"{season}_{part}", scene


def _find(root: Path, layout: RoisLayout, kinds: set[str]) -> dict[str, dict[str, Path]]:
    """Place -> role -> file. A place is named like its files without the kind: ROIs0000_test_0_p12."""
    parts = sorted(part for part in root.iterdir() if part.name in layout.parts) if root.is_dir() else []
    found: dict[str, dict[str, Path]] = {}
    for part in parts:
        folders = [path for path in sorted(part.iterdir()) if _FOLDER.fullmatch(path.name) and path.is_dir()]
        for folder in (path for path in folders if path.name.partition("_")[0] in kinds):
            for path in sorted(folder.glob("[!.]*.tif")):
                place, kind = _place_of(path, layout.parts[part.name], folder.name.partition("_")[0], layout)
                role = "labels" if kind == layout.labels else kind
                other = found.setdefault(place, {}).setdefault(role, path)
                if other != path:
                    raise DataError(
                        f"two files of {layout.title} are of one patch",
                        got=f"{other} and {path}",
                        expected="one",
                        where=root,
                        do="leave one of the two copies of the archive",
                    )
    if not found:
        raise _not_found(root, layout, kinds)
    return found


def _not_found(root: Path, layout: RoisLayout, kinds: set[str]) -> MissingDataError:
    listed = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else []
    folders = ", ".join(f"{kind}_<name>" for kind in sorted(kinds))
    return MissingDataError(
        f"{layout.title} is not there",
        got=", ".join(listed) if root.is_dir() else "no such folder",
        expected=("dfc-train-new.csv and the like, or " if layout is DFC2020 else "")
        + f"folders {', '.join(sorted(layout.parts))}, in them {folders}, "
        f"in those {next(iter(layout.parts.values()))}_<kind>_<scene>_p<patch>.tif",
        where=root,
        do="set root to the folder that holds the unpacked archive",
    )


def _place_of(path: Path, rois: str, kind: str, layout: RoisLayout) -> tuple[str, str]:
    match = _FILE.fullmatch(path.name)
    if match is None or match["rois"] != rois or match["kind"] != kind:
        raise DataError(
            f"a file does not belong to its folder of {layout.title}",
            got=path.name,
            expected=f"{rois}_{kind}_<scene>_p<patch>.tif",
            where=path.parent,
            do="take it out of the archive's folders",
        )
    return f"{rois}_{match['scene']}_p{match['patch']}", kind
