"""The rules on colours: indices, the air in front of the ground, memberships, and what they reach on real scenes."""

from __future__ import annotations

import datetime
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from cromss.data.labelling.soft import from_memberships
from cromss.data.labelling.spectral import (
    BANDS,
    CLOUD,
    INDICES,
    RULES,
    path_reflectance,
    spectral_index,
    spectral_memberships,
    sun_zenith,
)
from cromss.errors import ArgumentError
from cromss.geo.images import describe_image, read_image
from cromss.geo.legends import get_legend
from cromss.geo.raster import open_raster, read_raster

NAMES = get_legend("dynamic_world").names
# surface reflectance * 10000 in B2 B3 B4 B8 B8A B11: what textbooks draw
TYPICAL = {
    "water": (300, 250, 150, 100, 90, 50),
    "trees": (200, 350, 220, 2400, 2600, 1300),
    "grass": (350, 700, 450, 3800, 4000, 2500),
    "flooded_vegetation": (450, 600, 650, 1250, 1350, 1300),
    "crops": (500, 800, 1100, 1500, 1700, 2500),
    "shrub_and_scrub": (500, 800, 1200, 2200, 2400, 3500),
    "built": (1000, 1150, 1250, 1800, 1900, 2100),
    "bare": (1300, 1900, 2600, 3200, 3300, 4300),
    "snow_and_ice": (7000, 6900, 6800, 6500, 6300, 900),
}


def _label(spectrum, product="L2A", sun=None):
    values = np.array(spectrum, np.uint16)[:, None, None]
    membership = spectral_memberships(values, BANDS, product, sun)
    return from_memberships(membership, np.ones((1, 1), bool), CLOUD)


def _twin(spectrum):
    """Memberships of one L2A pixel, written out."""
    r = {band: max(value / 10_000, 0.001) for band, value in zip(BANDS, spectrum, strict=True)}
    q = dict(r)
    q["NDVI"] = (r["B8"] - r["B4"]) / (r["B8"] + r["B4"])
    q["MNDWI"] = (r["B3"] - r["B11"]) / (r["B3"] + r["B11"])
    q["NDMI"] = (r["B8A"] - r["B11"]) / (r["B8A"] + r["B11"])
    q["BSI"] = (r["B11"] + r["B4"] - r["B8"] - r["B2"]) / (r["B11"] + r["B4"] + r["B8"] + r["B2"])
    q["RBI"] = (r["B4"] - r["B2"]) / (r["B4"] + r["B2"])
    result = [0.0] * 10
    for rule in RULES:
        degree = 1.0
        for c in rule.conditions:
            soft = 0.05 if c.quantity in INDICES else 0.02
            distance = (q[c.quantity] - c.threshold) / soft * (1 if c.above else -1)
            degree = min(degree, 1 / (1 + math.exp(-max(min(distance, 60), -60))))
        result[rule.class_id] = max(result[rule.class_id], degree)
    return result


@pytest.mark.parametrize("name", TYPICAL)
def test_a_textbook_spectrum_gets_its_class(name):
    labelled = _label(TYPICAL[name])
    assert NAMES[labelled.labels_HW[0, 0]] == name
    assert labelled.confidence_HW[0, 0] >= 35


def test_memberships_equal_a_slow_twin():
    spectra = np.random.default_rng(0).integers(0, 9000, (200, len(BANDS)))
    spectra = np.concatenate([spectra, np.array(list(TYPICAL.values()))])
    fast = spectral_memberships(spectra.T[:, None].astype(np.uint16), BANDS, "L2A")[:, 0].T
    np.testing.assert_allclose(fast, [_twin(spectrum) for spectrum in spectra], atol=2e-5)
    assert fast.min() >= 0
    assert fast.max() <= 1


def test_bands_are_taken_by_name_and_others_do_not_matter():
    values = np.random.default_rng(1).integers(100, 5000, (len(BANDS) + 1, 4, 4)).astype(np.uint16)
    plain = spectral_memberships(values[:-1], BANDS, "L1C", 40)
    order = [len(BANDS), *reversed(range(len(BANDS)))]
    names = ["B9", *reversed(BANDS)]
    assert (spectral_memberships(values[order], names, "L1C", 40) == plain).all()


@pytest.mark.parametrize(
    ("bands", "product"), [(BANDS[:-1], "L2A"), (BANDS, "L3"), ((*BANDS, "B9"), "L2A"), (BANDS, "L1C")]
)
def test_what_the_rules_cannot_read_is_refused(bands, product):
    with pytest.raises(ArgumentError, match="cannot read this image"):
        spectral_memberships(np.ones((len(BANDS), 2, 2), np.uint16), bands, product)


def test_the_air_adds_most_in_the_blue_and_what_the_formula_says():
    # optical depth of the standard atmosphere at 0.55 um is 0.098 (Hansen and Travis 1974); B3 lies at 0.5598 um
    depth = (
        path_reflectance("B3", 40) * 4 * math.cos(math.radians(40)) / (0.75 * (1 + math.cos(math.radians(140)) ** 2))
    )
    assert depth == pytest.approx(0.098 * (0.55 / 0.5598) ** 4.1, rel=0.01)
    added = [path_reflectance(band, 40) for band in BANDS]
    assert added == sorted(added, reverse=True)
    assert 0.05 < added[0] < 0.07
    assert added[-1] < 0.001
    assert path_reflectance("B2", 70) > 1.5 * path_reflectance("B2", 30)
    assert path_reflectance("B2", 89) == path_reflectance("B2", 80)


def test_the_sun_stands_where_almanacs_say():
    # tropic of Cancer at the June solstice: 22.5 degrees before noon; pole at the December solstice: below the horizon
    assert sun_zenith(datetime.date(2021, 6, 21), 23.44) == pytest.approx(20.6, abs=0.2)
    assert sun_zenith(datetime.date(2021, 3, 21), 0) == pytest.approx(22.5, abs=0.3)
    assert sun_zenith(datetime.date(2021, 12, 21), 90) == pytest.approx(113.4, abs=0.2)
    assert sun_zenith(datetime.date(2021, 12, 21), -35) == pytest.approx(
        sun_zenith(datetime.date(2021, 6, 21), 35), abs=1
    )


def test_an_l1c_image_is_seen_through_the_air():
    for name, sun in itertools.product(("water", "trees", "built", "snow_and_ice"), (20, 65)):
        above = [v + 10_000 * path_reflectance(band, sun) for band, v in zip(BANDS, TYPICAL[name], strict=True)]
        assert NAMES[_label(np.rint(above), "L1C", sun).labels_HW[0, 0]] == name


def test_clouds_and_missing_pixels_get_no_label_and_clouds_are_counted():
    cloud = np.array((5000, 5000, 5000, 5500, 5500, 4000), np.uint16)[:, None, None].repeat(2, axis=2)
    labelled = from_memberships(spectral_memberships(cloud, BANDS, "L2A"), np.array([[True, False]]), CLOUD)
    assert (labelled.labels_HW == 255).all()
    assert (labelled.confidence_HW == 255).all()
    assert labelled.notes["hidden by clouds"] == 1


def test_an_index_lies_between_minus_one_and_one_even_where_there_is_no_light():
    dark = spectral_memberships(np.zeros((len(BANDS), 1, 1), np.uint16), BANDS, "L1C", 75)
    assert np.isfinite(dark).all()
    light = {band: np.array([[0.001, 1.0]], np.float32) for band in BANDS}
    for name in INDICES:
        assert np.abs(spectral_index(name, light)).max() <= 1


def test_every_class_has_a_rule_and_every_rule_a_reason():
    assert {rule.class_id for rule in RULES} == set(range(CLOUD + 1))
    assert all(rule.why for rule in RULES)


def test_the_docs_show_the_rules_as_they_stand():
    table = (Path(__file__).parents[2] / "docs" / "labels-table.md").read_text(encoding="utf-8")
    for rule in RULES:
        conditions = ", ".join(f"{c.quantity} {'>' if c.above else '<'} {c.threshold:g}" for c in rule.conditions)
        assert f"| {conditions} | {rule.why} |" in table, "run docs/measure_labels.py again"


def test_real_scenes_agree_with_dynamic_world_as_the_docs_say(sentinel_mini):
    """Places that no threshold was set on: every second tile by name, as docs/labels.md has it."""
    tiles = sorted({path.stem.split("_")[1] for path in (sentinel_mini / "pretrain" / "s2").glob("*.tif")})
    counts = np.zeros((2, 2), np.int64)  # [agrees, is sure]
    for path in sorted((sentinel_mini / "pretrain" / "s2").glob("*.tif")):
        if path.stem.split("_")[1] not in tiles[1::2]:
            continue
        with open_raster(path) as dataset:
            facts = describe_image(dataset, "s2")
            image = read_image(dataset, facts, BANDS)
        membership = spectral_memberships(image.values_BHW, BANDS, facts.product, 25)  # of the two summer scenes in L1C
        rules = from_memberships(membership, image.valid_HW, CLOUD)
        world = read_raster(sentinel_mini / "pretrain" / "dynamic_world" / path.name).values_BHW[0]
        both = (rules.labels_HW != 255) & (world != 255)
        agrees, sure = (rules.labels_HW == world)[both], rules.confidence_HW[both] >= 70
        np.add.at(counts, (agrees.astype(int), sure.astype(int)), 1)
    assert counts[1].sum() / counts.sum() == pytest.approx(0.715, abs=0.002)
    assert counts[1, 1] / counts[:, 1].sum() > 0.9
    assert counts[1, 0] / counts[:, 0].sum() < 0.65
