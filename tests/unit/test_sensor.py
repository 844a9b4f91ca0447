"""A sensor is one value: what cannot be one is refused, and it comes back from JSON as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch import nn

from cromss.data.sources.own_images import _LAYERS, ROLES
from cromss.data.store.layout import LABEL_KINDS, PROBABILITIES
from cromss.data.survey.band_moments import BandMoments
from cromss.errors import ArgumentError, BandError, MissingDataError
from cromss.geo.bands import band_name, get_sensor, known_sensor, published_normalization, resolve_bands
from cromss.geo.sensor import RESERVED, SENSORS, Sensor

DEM = {"name": "dem", "title": "Heights", "unit": "m", "bands": ("elevation", "slope"), "valid_min": -500.0}
DEM |= {"valid_max": 9000.0}


def test_a_definition_comes_back_from_json_as_it_was():
    sensor = Sensor(**DEM, missing="all", aliases={"band 1": "elevation"})
    assert known_sensor("dem", json.loads(json.dumps(sensor.to_dict()))) == sensor


def test_the_definition_of_a_known_sensor_is_the_catalogues_with_the_names_of_the_files():
    renamed = SENSORS["s2"].with_aliases({" Blue ": "B2"})
    back = known_sensor("s2", json.loads(json.dumps(renamed.to_dict())))
    assert back == renamed
    assert back.statistics == SENSORS["s2"].statistics
    assert band_name(back, "BLUE") == "B2"
    assert band_name(back, "b03") == "B3"
    assert band_name("s2", "blue") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Dem"},
        {"name": "fused"},
        {"name": "labels"},
        {"name": "train"},
        {"name": "a/b"},
        {"unit": " "},
        {"bands": ()},
        {"bands": ("slope", "Slope")},
        {"bands": ("all",)},
        {"bands": ("with blank",)},
        {"valid_min": 9000.0},
        {"valid_max": float("inf")},
        {"missing": "some"},
        {"dtype": "float64"},
        {"dtype": "uint8"},
        {"aliases": {"h": "height"}},
    ],
    ids=str,
)
def test_what_cannot_be_a_sensor_is_refused(changes):
    with pytest.raises(ArgumentError):
        Sensor(**DEM | changes)


def test_no_sensor_has_a_name_that_a_network_could_not_keep_a_branch_under():
    words = {name for name in dir(nn.ModuleDict()) if name[0].islower() and not name.endswith("_")}
    assert words <= RESERVED


@pytest.mark.parametrize(
    ("dtype", "valid_max", "files", "others"),
    [
        ("float32", 9000, {"float32", "float64", "int16", "uint16", "int32", "uint8"}, {"complex64"}),
        ("float32", 2e9, {"float32", "int16"}, {"int32"}),
        ("int16", 9000, {"int16", "int32", "uint16", "uint8"}, {"float32"}),
    ],
)
def test_a_file_is_taken_if_its_valid_values_are_kept_as_they_are(dtype, valid_max, files, others):
    sensor = Sensor(**DEM | {"valid_max": valid_max, "dtype": dtype})
    assert all(sensor.takes(name) for name in files)
    assert not any(sensor.takes(name) for name in others)


def test_bands_are_found_whatever_their_case_and_a_misspelt_one_with_the_nearest():
    sensor = Sensor(**DEM)
    assert resolve_bands(sensor, "Slope, ELEVATION") == ("slope", "elevation")
    assert resolve_bands(sensor, "all") == ("elevation", "slope")
    with pytest.raises(BandError, match="'slope'"):
        resolve_bands(sensor, "slop")


def test_a_sensor_is_scaled_by_its_statistics_and_refused_without():
    sensor = Sensor(**DEM)
    with pytest.raises(MissingDataError, match="no statistics of dem"):
        published_normalization(sensor, "all")
    with pytest.raises(MissingDataError):
        published_normalization(sensor.with_statistics({"dem": {"slope": (5.0, 2.0)}}), "all")
    scaled = published_normalization(sensor.with_statistics({"dem": {"slope": (5.0, 2.0)}}), "slope", "standard")
    assert (scaled.unit, scaled.bands) == ("m", ("slope",))
    assert scaled.apply(np.full((1, 1, 1), 9.0), "dem").item() == 2.0


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BandError, match="'dem'"):
        get_sensor("den", {"dem": Sensor(**DEM), "s2": SENSORS["s2"]})


def test_moments_of_parts_are_numpys_of_the_whole_also_around_a_large_mean():
    rng = np.random.default_rng(0)
    images = [rng.normal([[[300.0]], [[4e5]]], [[[0.01]], [[2.0]]], (2, 40, 50)).astype(np.float64) for _ in range(7)]
    valid = [rng.random((40, 50)) < 0.8 for _ in images]
    valid[2][:] = False
    whole, parts = BandMoments(bands=("a", "b")), BandMoments(bands=("a", "b"))
    for image, mask in zip(images, valid, strict=True):
        whole.add(image, mask)
        part = BandMoments(bands=("a", "b"))
        part.add(image, mask)
        parts.merge(part)
    pixels = np.concatenate([image[:, mask] for image, mask in zip(images, valid, strict=True)], axis=1)
    for moments in (whole, parts):
        table = moments.table()
        assert moments.pixels == pixels.shape[1]
        for index, band in enumerate("ab"):
            assert table[band][0] == pytest.approx(pixels[index].mean(), rel=1e-13)
            assert table[band][1] == pytest.approx(pixels[index].std(), rel=1e-9)


def test_moments_of_no_pixel_are_no_statistics():
    moments = BandMoments(bands=("a",))
    moments.add(np.zeros((1, 2, 2)), np.zeros((2, 2), bool))
    assert moments.table() == {}


def test_no_sensor_has_a_name_that_a_part_of_a_place_has():
    assert {*ROLES, *_LAYERS, *LABEL_KINDS, PROBABILITIES} - set(SENSORS) <= RESERVED
