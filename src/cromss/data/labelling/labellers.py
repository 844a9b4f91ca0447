"""Which labeller a source is: from the settings to a function that makes the labels of one image.

In: a `LabelsConfig`. Out: `Labeller`, image -> (`LabelMap`, grid); it reads the image's file and whatever else the
source needs, and raises DataError for what makes this image unusable. Where a fit over all images comes first
(`dawid_skene`), `vote_counter` is the part of it that each image has.
"""

from __future__ import annotations

import datetime
import glob
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.config import LabelsConfig
from cromss.data.band_names import read_band_names, with_names
from cromss.data.labelling import agreement, catalog, earth_engine
from cromss.data.labelling.polygons import burn_polygons, read_polygons
from cromss.data.labelling.soft import LabelMap, from_memberships, from_probabilities
from cromss.data.labelling.spectral import BANDS, CLOUD, spectral_memberships, sun_zenith
from cromss.data.labelling.tags import classify_tags, tag_table
from cromss.data.labelling.warped import warp_labels
from cromss.data.soft_labels import as_probabilities, class_order
from cromss.data.sources.file_patterns import find_files
from cromss.data.stac_catalogue import day
from cromss.errors import BandError, ConfigError, MissingDataError, RangeError
from cromss.geo.bands import get_sensor
from cromss.geo.images import describe_image, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import get_legend
from cromss.geo.raster import Grid, Raster, grid_of, open_raster, read_raster, require_same_grid
from cromss.geo.remap import read_remap, remap, remap_table

__all__ = ["ImageFile", "Labeller", "make_labeller", "vote_counter"]

_ROWS = 256  # of a strip: enough for the unit of its values to be judged, and one row of usual blocks


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image that wants labels. season: None where the pattern has none."""

    id: str
    season: str | None
    path: Path


Labeller = Callable[[ImageFile], tuple[LabelMap, Grid]]


def make_labeller(config: LabelsConfig, legend: Legend, fitted: agreement.Annotators | None = None) -> Labeller:
    """The labeller of `config.source`; fitted: what was fitted to all images, for fuse_by `dawid_skene`.

    Raises ConfigError and MissingDataError for settings that lead nowhere.
    """
    if config.source == "fuse":
        return _fuse(config, legend, fitted)
    makers: Mapping[str, Callable[[LabelsConfig, Legend], Labeller]] = {
        "rules": _rules,
        "polygons": _polygons,
        "maps": _maps,
        "stac": _stac,
        "probabilities": _probabilities,
        "earth_engine": _earth_engine,
    }
    return makers[config.source](config, legend)


def _rules(config: LabelsConfig, legend: Legend) -> Labeller:
    table = remap_table(get_legend("dynamic_world"), legend) if legend.name != "dynamic_world" else None
    if table is not None and config.write_probabilities:
        raise ConfigError("the rules have probabilities for Dynamic World's classes only", got=legend.name)

    strange = [name for name in config.band_names if name != "s2"]
    if strange:
        raise ConfigError("the rules look at Sentinel-2 alone", got=f"band_names of {strange}", expected="{s2: {...}}")
    names = read_band_names(config.band_names.get("s2"), config.root, "band_names of s2")
    sensor = with_names(get_sensor("s2"), names)

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        with open_raster(image.path) as dataset:
            facts = describe_image(dataset, sensor, product=config.s2_product, offset=config.s2_offset)
            sun = _sun(dataset, config.sun_zenith) if facts.product == "L1C" else None
            parts = []
            for top in range(0, dataset.height, _ROWS):
                window = (top, 0, min(_ROWS, dataset.height - top), dataset.width)
                raster = read_image(dataset, facts, BANDS, window)
                membership_KHW = spectral_memberships(raster.values_BHW, BANDS, facts.product, sun)
                parts.append(from_memberships(membership_KHW, raster.valid_HW, CLOUD, config.write_probabilities))
            labelled, grid = _stack(parts), grid_of(dataset)
        return (labelled if table is None else _remapped(labelled, table)), grid

    return label


def _sun(dataset: rasterio.DatasetReader, setting: float | None) -> float:
    """The sun's angle over an image in degrees, as the settings say, or else from its date and place."""
    if setting is not None:
        return setting
    date = _date(dataset)
    if date is None or dataset.crs is None:
        raise MissingDataError(
            "nothing says how high the sun stood over an L1C image",
            got=f"tag DATE {date}, CRS {dataset.crs}",
            expected="a tag DATE such as 2021-06-30 and a CRS, or the setting sun_zenith",
            where=dataset.name,
            do="set the tag (gdal_edit.py -mo DATE=2021-06-30 FILE), or give --sun_zenith in degrees",
        )
    _, south, _, north = catalog.footprint(grid_of(dataset))
    return sun_zenith(date, (south + north) / 2)


def _date(dataset: rasterio.DatasetReader) -> datetime.date | None:
    """The day of the tag DATE, None where there is none. Raises MissingDataError where it is no date."""
    text = dataset.tags().get("DATE")
    try:
        return None if text is None else day(text)
    except ConfigError as error:
        raise MissingDataError(
            "the tag DATE of an image is no date", got=text, expected=error.expected, where=dataset.name,
            do="correct the tag (gdal_edit.py -mo DATE=2021-06-30 FILE)",
        ) from None  # fmt: skip


def _stack(parts: Sequence[LabelMap]) -> LabelMap:
    """Strips of rows as one map."""
    confidences = [part.confidence_HW for part in parts if part.confidence_HW is not None]
    percents = [part.percent_CHW for part in parts if part.percent_CHW is not None]
    notes: Counter[str] = Counter()
    for part in parts:
        notes.update(part.notes)
    return LabelMap(
        labels_HW=np.concatenate([part.labels_HW for part in parts]),
        confidence_HW=np.concatenate(confidences) if confidences else None,
        percent_CHW=np.concatenate(percents, axis=1) if percents else None,
        notes=notes,
    )


def _remapped(labelled: LabelMap, table: NDArray[np.uint8]) -> LabelMap:
    """Labels in another legend; a class that the target cannot say loses its confidence too, counted."""
    labels_HW = remap(labelled.labels_HW, table)
    lost = (labelled.labels_HW != IGNORE) & (labels_HW == IGNORE)
    confidence = labelled.confidence_HW
    return LabelMap(
        labels_HW=labels_HW,
        confidence_HW=None if confidence is None else np.where(lost, np.uint8(IGNORE), confidence),
        notes=Counter({**labelled.notes, "no such class in the legend": int(lost.sum())}),
    )


def _polygons(config: LabelsConfig, legend: Legend) -> Labeller:
    path = _needed(config.polygons, "polygons")
    table = tag_table(legend, config.tags)

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid = _grid(image)
        polygons = read_polygons(path, grid, table, config.layer)
        names, untold = classify_tags(polygons.columns, len(polygons), table)
        told = [index for index, name in enumerate(names) if name is not None]
        labels_HW, contested = burn_polygons(
            polygons.shapes[told],
            [legend.names.index(str(names[index])) for index in told],
            grid,
            config.overlap,
            polygons.sizes[told],
        )
        notes = Counter({f"polygons without a class: {tag}": count for tag, count in untold.items()})
        notes.update({"polygons": len(told), "features that are no areas": polygons.not_areas})
        notes["in polygons of several classes"] = contested
        return LabelMap(labels_HW=labels_HW, notes=notes), grid

    return label


def _maps(config: LabelsConfig, legend: Legend) -> Labeller:
    pattern = _needed(config.maps, "maps")
    tiles = sorted(glob.glob(pattern)) if "://" not in pattern else [pattern]  # noqa: PTH207 - absolute patterns too
    labeller = _warping(config, legend, lambda grid: tiles)
    if not tiles:
        raise MissingDataError("no label map is there", expected=f"GeoTIFFs {pattern}", do="correct maps")
    return labeller


def _stac(config: LabelsConfig, legend: Legend) -> Labeller:
    where = _needed(config.stac, "stac")
    find = catalog.tile_finder(where, config.collection, config.asset, config.start, config.end)
    return _warping(config, legend, find)


def _warping(config: LabelsConfig, legend: Legend, find: Callable[[Grid], Sequence[str]]) -> Labeller:
    """Labels from the tiles that `find` names for a grid, brought onto it and into the legend."""
    source, table = _source_legend(config, legend)

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid = _grid(image)
        found, given = warp_labels(find(grid), grid, source)
        notes = Counter({f"from {Path(tile).name}": count for tile, count in given.items()})
        notes["outside the map"] = int((found == IGNORE).sum())
        return _remapped(LabelMap(labels_HW=found, notes=notes), table), grid

    return label


def _probabilities(config: LabelsConfig, legend: Legend) -> Labeller:
    find = _partners("probabilities", config, _needed(config.probabilities, "probabilities"))

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid, path = _grid(image), find(image)
        parts = []
        with open_raster(path) as dataset:
            require_same_grid(grid, grid_of(dataset), image.path, path)
            order = class_order(dataset.descriptions, legend, path)
            for top in range(0, grid.height, _ROWS):
                raster = read_raster(dataset, (top, 0, min(_ROWS, grid.height - top), grid.width))
                shares = as_probabilities(raster.values_BHW[order], ~raster.valid_HW, legend.num_classes, path)
                parts.append(from_probabilities(shares, raster.valid_HW, config.write_probabilities))
        return _stack(parts), grid

    return label


def vote_counter(config: LabelsConfig, legend: Legend) -> Callable[[ImageFile], Counter[int]]:
    """A function that counts the votes of the maps in one image, as `agreement.count_map` does."""
    votes = _voting(config, legend)
    return lambda image: agreement.count_map(votes(image, _grid(image)))


def _voting(config: LabelsConfig, legend: Legend) -> Callable[[ImageFile, Grid], NDArray[np.uint8]]:
    """A function that reads the maps to fuse (K, H, W)."""
    if len(config.fuse) < 2 or len(config.confidences) not in (0, len(config.fuse)):
        raise ConfigError(
            "fusing takes two or more label maps, and a confidence for each or for none",
            got=f"{len(config.fuse)} maps, {len(config.confidences)} confidences",
            do='give e.g. --fuse \'["a/labels/{id}.tif", "b/labels/{id}.tif"]\'',
        )
    if len(set(config.fuse)) < len(config.fuse):
        raise ConfigError(
            "one label map cannot be fused with itself",
            got=config.fuse,
            expected="different maps: one that is there twice would agree with itself",
            do="name each map once",
        )
    if config.fuse_by == "agree" and config.votes > len(config.fuse):
        raise ConfigError(
            "no pixel can have so many votes",
            got=f"votes {config.votes}, {len(config.fuse)} maps",
            expected=f"votes of at most {len(config.fuse)}",
            do="lower votes, or name more maps",
        )
    if config.confidences and config.fuse_by != "majority":
        raise ConfigError("only majority looks at confidences", got=f"fuse_by {config.fuse_by}", do="leave them out")
    source, table = _source_legend(config, legend)
    finders = [_partners("fuse", config, pattern) for pattern in config.fuse]

    def votes(image: ImageFile, grid: Grid) -> NDArray[np.uint8]:
        return np.stack([remap(_votes(find(image), grid, image, source), table) for find in finders])

    return votes


def _fuse(config: LabelsConfig, legend: Legend, fitted: agreement.Annotators | None) -> Labeller:
    votes = _voting(config, legend)
    weighers = [_partners("confidences", config, pattern) for pattern in config.confidences]

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid = _grid(image)
        votes_KHW = votes(image, grid)
        weight_KHW = np.stack([_weights(find(image), grid, image) for find in weighers]) if weighers else None
        parts = []
        for top in range(0, grid.height, _ROWS):
            strip_KHW = votes_KHW[:, top : top + _ROWS]
            if config.fuse_by == "agree":
                parts.append(agreement.agree(strip_KHW, config.votes))
            elif fitted is not None:
                parts.append(agreement.posterior(strip_KHW, fitted))
            else:
                weights = None if weight_KHW is None else weight_KHW[:, top : top + _ROWS]
                parts.append(agreement.majority(strip_KHW, legend.num_classes, weights))
        return _stack(parts), grid

    return label


def _earth_engine(config: LabelsConfig, legend: Legend) -> Labeller:
    if legend.name != "dynamic_world":
        raise ConfigError("Earth Engine gives Dynamic World's classes", got=legend.name, expected="dynamic_world")
    engine = earth_engine.connect(config.project)

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        with open_raster(image.path) as dataset:
            grid, date = grid_of(dataset), _date(dataset)
        period = earth_engine.period(date, config.start, config.end, config.days, image.path)
        return earth_engine.dynamic_world(engine, grid, period, image.path), grid

    return label


def _source_legend(config: LabelsConfig, legend: Legend) -> tuple[Legend, NDArray[np.uint8]]:
    source = legend if config.map_legend is None else get_legend(config.map_legend)
    return source, remap_table(source, legend, None if config.remap is None else read_remap(config.remap))


def _partners(role: str, config: LabelsConfig, pattern: str) -> Callable[[ImageFile], Path]:
    """Find the file of `role` that belongs to an image: of its season, or of its place where files have no season."""
    found = find_files(role, str(Path(config.root) / pattern))

    def find(image: ImageFile) -> Path:
        path = found.get((image.id, image.season), found.get((image.id, None)))
        if path is None:
            raise MissingDataError(
                f"an image has no file of {role}",
                got=f"image {image.path}",
                expected=pattern,
                do="make that file, or leave such images out with on_bad=skip",
            )
        return path

    return find


def _votes(path: Path, grid: Grid, image: ImageFile, source: Legend) -> NDArray[np.uint8]:
    raster = _one_band(path)
    require_same_grid(grid, raster.grid, image.path, path)
    encoded = source.of_file(raster.tags, path).encode(raster.values_BHW[0], path, raster.nodata)
    return np.where(raster.valid_HW, encoded, np.uint8(IGNORE))


def _weights(path: Path, grid: Grid, image: ImageFile) -> NDArray[np.float32]:
    """Confidences as weights 0..1, 0 where there is none."""
    raster = _one_band(path)
    require_same_grid(grid, raster.grid, image.path, path)
    percent_HW = np.where(raster.valid_HW, raster.values_BHW[0], 0)
    low, high = percent_HW.min(), percent_HW.max()  # NaN if there is one
    if not (low >= 0 and high <= 100) or (high <= 1 and (percent_HW % 1 != 0).any()):
        raise RangeError(
            "confidences are not in percent",
            got=f"{low:g} to {high:g}" + (", as fractions of 1" if low >= 0 and high <= 1 else ""),
            expected="0..100",
            where=path,
            do="convert them to percent, or declare the fill value as no-data",
        )
    return np.asarray(percent_HW / 100, np.float32)


def _one_band(path: Path) -> Raster:
    """A raster of labels or confidences. Raises BandError for one of several bands."""
    raster = read_raster(path)
    if len(raster.values_BHW) != 1:
        raise BandError(
            "a raster to fuse must have one band",
            got=f"{len(raster.values_BHW)} bands",
            expected=1,
            where=path,
            do="give the label maps, or the confidences of their labels; or take one band (gdal_translate -b N)",
        )
    return raster


def _grid(image: ImageFile) -> Grid:
    with open_raster(image.path) as dataset:
        return grid_of(dataset)


def _needed(value: str | None, name: str) -> str:
    if value is None:
        raise ConfigError(f"source {name} needs the setting {name}", got="null", do=f"give --{name}")
    return value
