"""SSL4EO-S12 v1.0: places with up to four seasons, Sentinel-1 and Sentinel-2 as one GeoTIFF a band.

In: the root of `{s1,s2c,s2a}/<7-digit id>/<product id>/<band>.tif` (s2c is L1C, s2a L2A), and, if there are any, noisy
labels of its Sentinel-2 seasons. Out: a `PlaceRecord` a place, 264 x 264 px of 10 m; what `ssl4eo_bands` changes in a
band image is counted in the tally.

Seasons of the two sensors are paired by date: each is the other's nearest, at most 45 days apart (the publisher looks
for both within about a month of four dates of a year). A season without a partner is an orphan.
Boxes of seasons and sensors may differ by 16 px of 10 m: the boxes are approximate (those of s1 and s2 of the published
sample differ by 4 px), and near the edge of a UTM zone a lat/lon box is up to 12 px larger than the square in it. The
pixels are taken to lie on the grid of the first season; nothing is moved, and the largest distance of a place is noted.
Source: the authors' download and reading scripts, and a published place.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.data.sources.ssl4eo_bands import SeasonImage, box_distance, read_season
from cromss.data.sources.usable import require_usable
from cromss.errors import DamagedFileError, GridError, MissingDataError
from cromss.geo.bands import get_sensor, require_product_bands
from cromss.geo.legend import IGNORE
from cromss.geo.raster import Grid

__all__ = ["FOLDERS", "LAYOUT", "MAX_BOX_PX", "NoisyLabels", "Ssl4eoS12", "pair_by_date", "product_date", "season_date"]

LAYOUT = "{s1,s2c,s2a}/<7-digit id>/<product id>/<band>.tif"
FOLDERS: Mapping[str, str] = {"GRD": "s1", "L1C": "s2c", "L2A": "s2a"}

MAX_BOX_PX = 16.0
"""How far apart, in pixels of 10 m, the boxes of two images, or of an image and its labels, may be."""

_MAX_DAYS = 45
_DATES = {
    "s1": re.compile(r"S1[A-D]_[A-Z0-9]{2}_GRD[A-Z]_[A-Z0-9]{4}_(\d{8})T\d{6}_\d{8}T\d{6}_\w+"),
    "s2": re.compile(r"(\d{8})T\d{6}_\d{8}T\d{6}_T\d{2}[A-Z]{3}"),
}
_ID = re.compile(r"\d{7}")


class NoisyLabels(Protocol):
    """Label maps of the Sentinel-2 seasons of some places."""

    @property
    def seasons(self) -> Mapping[str, Sequence[str]]:
        """Place -> the names of its seasons that have labels."""
        ...

    def name(self, place: str, season: str) -> Path:
        """Where the map of a season is, for messages."""
        ...

    def disk(self, place: str, season: str) -> Path:
        """The file on disk that holds the map of a season."""
        ...

    def read(self, place: str, season: str, tally: Tally) -> tuple[NDArray[np.uint8], Grid]:
        """Class ids (264, 264), 255 for none, and the grid of the file."""
        ...


class Ssl4eoS12:
    """Reads places of SSL4EO-S12 v1.0; with labels only the places and seasons that have them.

    bands: sensor -> the bands to keep, by name. product: of s2, L1C or L2A. split_of: place -> split.
    Raises MissingDataError for a root without the layout, DamagedFileError for a season of another name, BandError for
    bands that the product does not have.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        bands: Mapping[str, Sequence[str]],
        product: str = "L1C",
        split_of: Callable[[str], str] | None = None,
        labels: NoisyLabels | None = None,
    ) -> None:
        self.sensors = tuple(bands)
        self._root, self._bands, self._split_of, self._labels = Path(root), bands, split_of, labels
        self._products = {sensor: "GRD" if sensor == "s1" else product for sensor in bands}
        for sensor, names in bands.items():
            require_product_bands(sensor, self._products[sensor], names)
        self._folders = {sensor: self._folder(self._products[sensor]) for sensor in self.sensors}
        self.scenes: list[Scene] = []
        self.orphans: list[Orphan] = []
        for place in sorted(labels.seasons if labels else self._places()):
            self._find(place)
        if not self.scenes:
            raise MissingDataError(
                "no place has a season of every sensor",
                got=f"{len(self.orphans)} places or seasons without partners",
                expected=f"{LAYOUT} with dates at most {_MAX_DAYS} days apart",
                where=self._root,
            )

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of a place. Raises DataError of the fitting kind for anything that makes it unusable."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        images = {
            sensor: [
                read_season(folder, sensor, self._products[sensor], self._bands[sensor], tally)
                for folder in scene.files[sensor]
            ]
            for sensor in self.sensors
        }
        grids = [
            (str(path), image.grid) for s in self.sensors for path, image in zip(scene.files[s], images[s], strict=True)
        ]
        labels, label_grids = self._read_labels(scene, tally)
        far = _require_near([*grids, *((name, grid) for name, grid in label_grids if grid.crs is not None)])
        valid = np.logical_and.reduce([np.stack([image.valid_HW for image in season]) for season in images.values()])
        usable = valid if labels is None else valid & (labels != IGNORE)
        require_usable(valid, usable, [str(path) for path in scene.files[self.sensors[0]]], [n for n, _ in label_grids])
        grid = grids[0][1]
        tally.georeferenced = grid.crs is not None
        yield PlaceRecord(
            id=scene.id,
            seasons=scene.seasons,
            images={sensor: _stack(images[sensor]) for sensor in self.sensors},
            products=self._products,
            labels=labels,
            valid=valid,
            split=self.split(scene),
            grid=grid,
            notes=self._notes(scene, far),
        )

    def split(self, scene: Scene) -> str:
        """The split of a place."""
        return self._split_of(scene.id) if self._split_of else ""

    def files(self, scene: Scene) -> Iterator[Path]:
        """Every band file of a place, and where its labels are."""
        for sensor in self.sensors:
            for folder in scene.files[sensor]:
                yield from (folder / f"{name}.tif" for name in get_sensor(sensor).products[self._products[sensor]])
        if self._labels:
            yield from (self._labels.disk(scene.id, season) for season in scene.seasons)

    def _folder(self, product: str) -> Path:
        folder = self._root / FOLDERS[product]
        if not folder.is_dir():
            raise MissingDataError(
                f"there is no folder of {product} images",
                got=sorted(entry.name for entry in self._root.iterdir())[:10] if self._root.is_dir() else "no folder",
                expected=f"{FOLDERS[product]} in {LAYOUT}",
                where=self._root,
                do="correct root; the archives of the publisher must be unpacked side by side",
            )
        return folder

    def _places(self) -> set[str]:
        found = {path.name for folder in self._folders.values() for path in folder.iterdir()}
        places = {name for name in found if _ID.fullmatch(name)}
        if not places:
            raise MissingDataError(
                "no folder is named as a place of SSL4EO-S12",
                got=sorted(found)[:5] or "nothing",
                expected="names of 7 digits",
                where=self._root,
                do="correct root or layout",
            )
        return places

    def _find(self, place: str) -> None:
        """Note the scene of a place, and its seasons without partners."""
        listed = {sensor: _seasons(folder / place, sensor) for sensor, folder in self._folders.items()}
        lead = "s2" if "s2" in listed or self._labels else "s1"
        names = list(self._labels.seasons[place]) if self._labels else listed[lead]
        partners = {sensor: pair_by_date(names, lead, listed[sensor], sensor) for sensor in self.sensors}
        if self._labels and "s2" in listed:  # labels belong to one acquisition, not to one near in time
            partners["s2"] = {name: name for name in names if name in listed["s2"]}
        complete = [name for name in names if all(name in partners[sensor] for sensor in self.sensors)]
        for name in (name for name in names if name not in complete):
            missing = tuple(sensor for sensor in self.sensors if name not in partners[sensor])
            self.orphans.append(Orphan(id=place, season=name, missing=missing, found=(f"{lead} {name}",)))
        for sensor in (sensor for sensor in self.sensors if not self._labels and sensor != lead):
            for name in sorted(set(listed[sensor]) - set(partners[sensor].values())):
                self.orphans.append(Orphan(id=place, season=name, missing=(lead,), found=(f"{sensor} {name}",)))
        if complete:
            files = {s: tuple(self._folders[s] / place / partners[s][name] for name in complete) for s in self.sensors}
            if self._labels:
                files["labels"] = tuple(self._labels.name(place, name) for name in complete)
            self.scenes.append(Scene(id=place, seasons=tuple(complete), files=files))

    def _read_labels(self, scene: Scene, tally: Tally) -> tuple[NDArray[np.uint8] | None, list[tuple[str, Grid]]]:
        if self._labels is None:
            return None, []
        read = [self._labels.read(scene.id, season, tally) for season in scene.seasons]
        names = [str(self._labels.name(scene.id, season)) for season in scene.seasons]
        return np.stack([layer for layer, _ in read]), [(n, grid) for n, (_, grid) in zip(names, read, strict=True)]

    def _notes(self, scene: Scene, far: float) -> dict[str, str]:
        dates = {
            f"{sensor}_date": ",".join(season_date(path.name, sensor).isoformat() for path in scene.files[sensor])
            for sensor in self.sensors
        }
        return {**dates, "boxes_apart_px": f"{far:.1f}"}


def product_date(name: str, sensor: str) -> datetime.date | None:
    """The day of an acquisition, from the id of its product; None for another name."""
    match = _DATES[sensor].fullmatch(name)
    try:
        return datetime.date.fromisoformat(match.group(1)) if match else None
    except ValueError:
        return None


def season_date(name: str, sensor: str) -> datetime.date:
    """The day of an acquisition, from the name of its folder. Raises DamagedFileError for another name."""
    day = product_date(name, sensor)
    if day is None:
        example = {"s1": "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457", "s2": ""}[sensor]
        raise DamagedFileError(
            "a folder is not named like an acquisition",
            got=name,
            expected=f"a name like {example or '20200604T054639_20200604T054831_T43RCP'}",
            do="correct root or layout; folders of other things do not belong into a place",
        )
    return day


def pair_by_date(names: Sequence[str], lead: str, others: Sequence[str], sensor: str) -> dict[str, str]:
    """Name of the leading sensor -> name of the other, where each is the other's nearest within 45 days."""
    days = {name: season_date(name, lead).toordinal() for name in names}
    other_days = {name: season_date(name, sensor).toordinal() for name in others}
    pairs = {}
    for name, day in days.items():
        nearest = min(other_days, key=lambda other: (abs(other_days[other] - day), other), default=None)
        if nearest is None or abs(other_days[nearest] - day) > _MAX_DAYS:
            continue
        back = min(days, key=lambda one: (abs(days[one] - other_days[nearest]), one))
        if back == name:
            pairs[name] = nearest
    return pairs


def _seasons(folder: Path, sensor: str) -> list[str]:
    """The seasons of a place by date; none where it has no folder."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(names, key=lambda name: (season_date(name, sensor), name))


def _require_near(boxes: Sequence[tuple[str, Grid]]) -> float:
    """The largest distance of a box from the first, px; boxes without a CRS are left out unless the first has none."""
    (first, grid), *others = boxes
    far = 0.0
    for name, other in others:
        if grid.crs is None and other.crs is None:
            continue
        apart = box_distance(grid, other)
        far = max(far, apart)
        if apart > MAX_BOX_PX:
            raise GridError(
                "two files of one place do not cover the same ground",
                got=f"boxes up to {apart:.1f} px of 10 m apart" if np.isfinite(apart) else "one without a CRS",
                expected=f"at most {MAX_BOX_PX:g} px",
                where=f"{first}\n      and {name}",
                do="fetch the place again, or leave it out",
            )
    return far


def _stack(images: Sequence[SeasonImage]) -> NDArray[np.generic]:
    return np.stack([image.values_BHW for image in images])
