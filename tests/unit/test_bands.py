"""Bands by name, published scaling, and refusal of values in another unit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cromss.errors import ArgumentError, BandError, RangeError
from cromss.geo.bands import Normalization, band_name, check_values, published_normalization, resolve_bands


@pytest.mark.parametrize(("subset", "number"), [("all", 13), ("13", 13), ("12", 12), ("10", 10), ("9", 9), ("3", 3)])
def test_a_subset_is_named_by_its_number_of_bands(subset, number):
    bands = resolve_bands("s2", subset)
    assert len(bands) == number == len(set(bands))


def test_the_papers_nine_bands_are_those_of_dynamic_world():
    assert resolve_bands("s2", "9") == ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")


def test_names_resolve_in_any_writing_and_keep_their_order():
    assert resolve_bands("s2", "b8a, B02 B12") == ("B8A", "B2", "B12")
    assert resolve_bands("s1", ["vh", "VV"]) == ("VH", "VV")
    assert band_name("s2", "SCL") is None


def test_an_unknown_band_names_the_nearest():
    with pytest.raises(BandError, match="did you mean 'B8A'"):
        resolve_bands("s2", "B2,B88A")
    with pytest.raises(BandError, match="did you mean 's2'"):
        resolve_bands("S2", "all")


@pytest.mark.parametrize("bands", ["", [], "B2,B2", ["B02", "B2"]])
def test_no_band_or_a_repeated_band_is_refused(bands):
    with pytest.raises(BandError, match="empty or repeat"):
        resolve_bands("s2", bands)


def test_the_paper_scaling_maps_two_deviations_to_zero_and_one_and_clips_beyond():
    scaling = published_normalization("s1", "all")
    mean = np.array(scaling.statistics["GRD"]["mean"])[:, None, None]
    std = np.array(scaling.statistics["GRD"]["std"])[:, None, None]
    for deviations, expected in [(-3, 0.0), (-2, 0.0), (-1, 0.25), (0, 0.5), (2, 1.0), (9, 1.0)]:
        scaled = scaling.apply(np.broadcast_to(mean + deviations * std, (2, 2, 3, 5)), "GRD")
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_standard_scaling_gives_mean_zero_and_deviation_one():
    scaling = published_normalization("s2", "9", kind="standard")
    mean, std = (np.array(scaling.statistics["L2A"][name])[:, None, None] for name in ("mean", "std"))
    values = np.random.default_rng(0).normal(mean, std, (9, 64, 64))
    scaled = scaling.apply(values, "L2A")
    assert abs(scaled.mean()) < 0.02
    assert abs(scaled.std() - 1) < 0.02


def test_scaling_of_integers_is_exact_to_float32_and_leaves_its_input_alone():
    scaling = published_normalization("s2", "13")
    values = np.arange(13 * 4, dtype=np.uint16).reshape(13, 2, 2) * 1000
    before = values.copy()
    mean, std = (np.array(scaling.statistics["L1C"][name])[:, None, None] for name in ("mean", "std"))
    np.testing.assert_allclose(
        scaling.apply(values, "L1C"), ((values - mean + 2 * std) / (4 * std)).clip(0, 1), atol=2e-6
    )
    assert (values == before).all()


def test_not_a_number_stays_not_a_number():
    assert np.isnan(published_normalization("s1", "all").apply(np.full((2, 1, 1), np.nan), "GRD")).all()


def test_bands_with_b10_have_no_statistics_of_l2a():
    scaling = published_normalization("s2", "13")
    assert list(scaling.statistics) == ["L1C"]
    with pytest.raises(BandError, match="L2A has no B10"):
        scaling.apply(np.zeros((13, 2, 2)), "L2A")


def test_the_wrong_number_of_bands_is_refused():
    with pytest.raises(BandError, match="wrong number of bands"):
        published_normalization("s2", "9").apply(np.zeros((13, 2, 2)), "L1C")


@pytest.mark.parametrize(("sensor", "bands"), [("s1", "2"), ("s2", "13"), ("s2", "9")])
def test_a_normalization_survives_json(sensor, bands):
    scaling = published_normalization(sensor, bands)
    assert Normalization.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


@pytest.mark.parametrize(
    "change", [{"kind": "minmax"}, {"bands": ["VV"]}, {"bands": None}, {"statistics": {}}, {"statistics": 3}]
)
def test_a_damaged_normalization_is_refused(change):
    with pytest.raises(ArgumentError):
        Normalization.from_dict({**published_normalization("s1", "2").to_dict(), **change})


def test_a_deviation_of_zero_is_refused():
    content = published_normalization("s1", "2").to_dict()
    content["statistics"]["GRD"]["std"][1] = 0.0
    with pytest.raises(ArgumentError, match="std above 0"):
        Normalization.from_dict(content)


def test_the_statistics_of_l1c_are_those_that_the_authors_undo_their_eight_bits_with(oracle):
    with np.load(oracle / "priors.npz") as arrays:
        eight_bit, reflectance = arrays["raw_s2"][1], arrays["img13norm_season1"][2:]
    numbers = published_normalization("s2", "13").statistics["L1C"]
    mean, std = (np.array(numbers[name])[:, None, None] for name in ("mean", "std"))
    np.testing.assert_allclose((eight_bit / 255 * 4 * std + mean - 2 * std) / 10000, reflectance, atol=1e-6)


VALID = np.ones((8, 8), bool)


def test_plausible_values_pass():
    rng = np.random.default_rng(0)
    check_values("s1", rng.normal(-15, 5, (2, 8, 8)), VALID, ("VV", "VH"), "x.tif")
    check_values("s2", rng.integers(0, 65535, (3, 8, 8)), VALID, ("B4", "B3", "B2"), "x.tif")


@pytest.mark.parametrize(
    ("sensor", "values", "message"),
    [
        ("s1", np.full((2, 8, 8), 0.05), "linear power"),
        ("s1", np.full((2, 8, 8), -1e38), "beyond what dB can be"),
        ("s2", np.full((2, 8, 8), 0.2), "looks like reflectance"),
        ("s2", np.full((2, 8, 8), 1), "looks like reflectance"),
        ("s2", np.full((2, 8, 8), 1500.0), "not given as digital numbers"),
        ("s2", np.full((2, 8, 8), -9999) + 20000 * np.eye(8, dtype=int), "beyond what DN can be"),
    ],
)
def test_values_of_another_unit_are_refused_with_range_and_file(sensor, values, message):
    with pytest.raises(RangeError, match=message) as caught:
        check_values(sensor, values, VALID, ("B2", "B3"), "x.tif")
    assert caught.value.where == "x.tif"
    assert caught.value.got
    assert caught.value.do


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_counted_unless_they_are_no_data(value):
    values = np.random.default_rng(0).normal(-15, 5, (2, 8, 8))
    values[1, 2, 3:6] = value
    with pytest.raises(RangeError, match="3 of 64 pixels"):
        check_values("s1", values, VALID, ("VV", "VH"), "x.tif")
    valid = VALID.copy()
    valid[2, 3:6] = False
    check_values("s1", values, valid, ("VV", "VH"), "x.tif")
    check_values("s1", values, np.zeros_like(valid), ("VV", "VH"), "x.tif")
