"""Which labeller a source is: from the settings to a function that makes the labels of one image.

In: a `LabelsConfig`. Out: `Labeller`, image -> (`LabelMap`, grid); it reads the image's file and whatever else the
source needs, and raises DataError for what makes this image unusable.
"""

from __future__ import annotations

import datetime
import glob
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.config import LabelsConfig
from cromss.data.band_names import read_band_names, with_names
from cromss.data.labelling import agreement, catalog, earth_engine
from cromss.data.labelling.fusing import fuse
from cromss.data.labelling.image_labeller import (
    ROWS,
    ImageFile,
    Labeller,
    grid_of_image,
    partners_of,
    source_legend,
    stack,
)
from cromss.data.labelling.polygons import burn_polygons, read_polygons
from cromss.data.labelling.soft import LabelMap, from_memberships, from_probabilities
from cromss.data.labelling.spectral import BANDS, CLOUD, spectral_memberships, sun_zenith
from cromss.data.labelling.tags import classify_tags, tag_table
from cromss.data.labelling.warped import warp_labels
from cromss.data.soft_labels import as_probabilities, class_order
from cromss.data.stac_catalogue import day
from cromss.errors import ConfigError, MissingDataError
from cromss.geo.bands import get_sensor
from cromss.geo.images import describe_image, read_image
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import get_legend
from cromss.geo.raster import Grid, grid_of, open_raster, read_raster, require_same_grid
from cromss.geo.remap import remap, remap_table

__all__ = ["make_labeller"]


def make_labeller(config: LabelsConfig, legend: Legend, fitted: agreement.Annotators | None = None) -> Labeller:
    """The labeller of `config.source`; fitted: what was fitted to all images, for fuse_by `dawid_skene`.

    Raises ConfigError and MissingDataError for settings that lead nowhere.
    """
    if config.source == "fuse":
        return fuse(config, legend, fitted)
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
            for top in range(0, dataset.height, ROWS):
                window = (top, 0, min(ROWS, dataset.height - top), dataset.width)
                raster = read_image(dataset, facts, BANDS, window)
                membership_KHW = spectral_memberships(raster.values_BHW, BANDS, facts.product, sun)
                parts.append(from_memberships(membership_KHW, raster.valid_HW, CLOUD, config.write_probabilities))
            labelled, grid = stack(parts), grid_of(dataset)
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
        grid = grid_of_image(image)
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
    source, table = source_legend(config, legend)

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid = grid_of_image(image)
        found, given = warp_labels(find(grid), grid, source)
        notes = Counter({f"from {Path(tile).name}": count for tile, count in given.items()})
        notes["outside the map"] = int((found == IGNORE).sum())
        return _remapped(LabelMap(labels_HW=found, notes=notes), table), grid

    return label


def _probabilities(config: LabelsConfig, legend: Legend) -> Labeller:
    find = partners_of("probabilities", config, _needed(config.probabilities, "probabilities"))

    def label(image: ImageFile) -> tuple[LabelMap, Grid]:
        grid, path = grid_of_image(image), find(image)
        parts = []
        with open_raster(path) as dataset:
            require_same_grid(grid, grid_of(dataset), image.path, path)
            order = class_order(dataset.descriptions, legend, path)
            for top in range(0, grid.height, ROWS):
                raster = read_raster(dataset, (top, 0, min(ROWS, grid.height - top), grid.width))
                shares = as_probabilities(raster.values_BHW[order], ~raster.valid_HW, legend.num_classes, path)
                parts.append(from_probabilities(shares, raster.valid_HW, config.write_probabilities))
        return stack(parts), grid

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


def _needed(value: str | None, name: str) -> str:
    if value is None:
        raise ConfigError(f"source {name} needs the setting {name}", got="null", do=f"give --{name}")
    return value
