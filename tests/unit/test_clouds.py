"""Clouds: what masks mean, how many pixels they hide, and what `prepare` does about labels under them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.data.survey.clouds import CLEAR, CLOUD, UNKNOWN, parse_cloud_values
from cromss.data.survey.findings import _clouds as findings_of
from cromss.errors import ConfigError, DataError, RangeError
from cromss.geo.raster import read_raster
from cromss.maps.prepare_report import prepare as prepare_with_page
from small_scenes import grid, s2_values, settings, write, write_s2, write_scene

NONE = np.zeros((1, 4), bool)
MASK = "clouds/{id}.tif"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("scl", [0, 3, 8, 10], [UNKNOWN, CLEAR, CLOUD, CLOUD]),
        ("qa60", [0, 1024, 2048, 3072], [CLEAR, CLOUD, CLOUD, CLOUD]),
        ("s2cloudless", [0, 39, 40, 100], [CLEAR, CLEAR, CLOUD, CLOUD]),
        ("1", [0, 1, 2, 255], [CLEAR, CLOUD, CLEAR, CLEAR]),
        ("3, 8,9", [3, 8, 9, 10], [CLOUD, CLOUD, CLOUD, CLEAR]),
        (">=65", [0, 64, 65, 100], [CLEAR, CLEAR, CLOUD, CLOUD]),
    ],
)
def test_values_of_a_mask_mean_what_their_preset_or_list_says(text, values, expected):
    assert parse_cloud_values(text).cover(np.array([values]), NONE, "a.tif").tolist() == [expected]


def test_no_data_of_a_mask_is_unknown():
    missing = np.array([[True, False, False, True]])
    assert parse_cloud_values("1").cover(np.ones((1, 4), np.uint8), missing, "a").tolist() == [[255, 1, 1, 255]]


@pytest.mark.parametrize("text", ["cloud", "", "-1", ">40", "8;9", "1.5"])
def test_words_that_mean_nothing_are_refused(text):
    with pytest.raises(ConfigError, match="cannot be understood"):
        parse_cloud_values(text)


@pytest.mark.parametrize(("text", "value"), [("scl", 12), ("qa60", 4096), ("s2cloudless", 101), ("scl", -1)])
def test_a_mask_of_another_kind_is_refused_by_name(text, value):
    with pytest.raises(RangeError, match="does not hold values of") as caught:
        parse_cloud_values(text).cover(np.array([[0, 0, 0, value]]), NONE, "a.tif")
    assert caught.value.where == "a.tif"


@pytest.mark.parametrize(
    ("text", "value"),
    [("qa60", 0.5), ("s2cloudless", 0.9), ("scl", 8.2), ("1", 0.97), ("scl", np.nan), (">=0.5", np.nan)],
)
def test_fractions_and_nan_are_refused_where_a_mask_cannot_hold_them(text, value):
    with pytest.raises(RangeError, match="does not hold values of"):
        parse_cloud_values(text).cover(np.full((1, 4), value, np.float32), NONE, "a.tif")
    hidden = parse_cloud_values(text).cover(np.full((1, 4), value, np.float32), ~NONE, "a.tif")
    assert (hidden == UNKNOWN).all()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scenes, the upper quarter of the first under cloud by SCL, a row of it unknown."""
    for number, name in enumerate("ab"):
        write_scene(tmp_path, name, seed=number)
        scl = np.full((16, 16), 4, np.uint8)
        if name == "a":
            scl[:4], scl[4] = 9, 0
        write(tmp_path / "clouds" / f"{name}.tif", scl, grid())
    return tmp_path


@pytest.mark.slow
def test_the_report_tells_the_share_of_cloud_of_each_split_and_labels_stay_as_they_are(root, tmp_path, capsys):
    (root / "split.csv").write_text("id,split\na,train\nb,test\n")
    report = prepare_with_page(
        settings(root, tmp_path / "store", cloud_mask=MASK, cloud_values="scl", split="split.csv")
    )
    assert report["clouds"] == {
        "by": {"mask": 2},
        "labels_left_out": False,
        "splits": {
            "test": {"cloud_share": 0.0, "unknown_pixels": 0},
            "train": {"cloud_share": 64 / 240, "unknown_pixels": 16},
        },
    }
    assert "train: 26.7% under cloud by the mask" in capsys.readouterr().out
    assert any("26.7% of the pixels of train are under cloud" in found["what"] for found in report["findings"])
    page = (tmp_path / "store" / "prepare-report.html").read_text()
    assert "under cloud, %" in page
    store = Store.open(tmp_path / "store")
    assert np.array_equal(store.read_labels(0)[0], read_raster(root / "labels" / "a.tif").values_BHW[0])


def test_labels_under_cloud_are_ignored_on_request_and_counted(root: Path, tmp_path: Path):
    masks = {"cloud_mask": MASK, "cloud_values": "scl", "mask_clouds": True}
    report = prepare(settings(root, tmp_path / "store", **masks))
    labels = Store.open(tmp_path / "store").read_labels(0)[0]
    assert (labels[:4] == 255).all()
    assert np.array_equal(labels[4:], read_raster(root / "labels" / "a.tif").values_BHW[0][4:])
    assert report["changed"] == {"pixels of labels set to 255 under cloud": 64}
    assert not any("cloud" in found["what"] for found in report["findings"])


def test_a_threshold_of_fractions_is_held_against_fractions(root: Path, tmp_path: Path):
    values = np.full((16, 16), 0.4, np.float32)
    values[:4] = 0.6
    for path in (root / "clouds").glob("*.tif"):
        write(path, values, grid())
    report = prepare(settings(root, tmp_path / "store", cloud_mask=MASK, cloud_values=">=0.5", mask_clouds=True))
    assert report["clouds"]["splits"]["train"]["cloud_share"] == 0.25
    with pytest.raises(DataError, match="does not hold values of s2cloudless"):
        prepare(settings(root, tmp_path / "other", cloud_mask=MASK, cloud_values="s2cloudless"))


def test_probabilities_and_all_annotators_are_hidden_with_the_labels(root: Path, tmp_path: Path):
    masks = {"cloud_mask": MASK, "cloud_values": "scl", "mask_clouds": True}
    for name in "ab":
        shares = np.random.default_rng(0).dirichlet(np.ones(9), (16, 16)).transpose(2, 0, 1).astype(np.float32)
        write(root / "soft" / f"{name}.tif", shares, grid())
    prepare(settings(root, tmp_path / "soft-store", probabilities="soft/{id}.tif", **masks))
    soft = Store.open(tmp_path / "soft-store")
    assert np.array_equal(soft.read_labels(0, "probabilities")[0].any(axis=0), soft.read_labels(0)[0] != 255)
    (root / "osm").symlink_to(root / "labels")
    several = {"dw": "labels/{id}.tif", "osm": "osm/{id}.tif"}
    report = prepare(settings(root, tmp_path / "several", annotators=several, **masks))
    store = Store.open(tmp_path / "several")
    assert (store.read_labels(0, "labels.osm")[0, :4] == 255).all()
    assert report["changed"] == {"pixels of labels set to 255 under cloud": 128}


def test_without_a_mask_b10_of_l1c_tells_cirrus_and_nothing_tells_it_of_l2a(tmp_path: Path):
    write_scene(tmp_path, "a", seed=0)
    values = s2_values(np.random.default_rng(0))
    values[10] = 50
    values[10, :8] = 300
    write_s2(tmp_path / "s2" / "a.tif", values)
    report = prepare(settings(tmp_path, tmp_path / "l1c", s2_bands="13"))
    assert report["clouds"]["by"] == {"B10": 1}
    assert report["clouds"]["splits"]["train"]["cloud_share"] == 0.5
    values[10] = 0
    write_s2(tmp_path / "s2" / "a.tif", values, tags={"LEVEL": "L2A", "ABSENT_BANDS": "B10"})
    assert prepare(settings(tmp_path, tmp_path / "l2a", s2_bands="12"))["clouds"] == {}


def test_little_cloud_is_no_finding():
    clouds = {"by": {"mask": 1}, "splits": {"train": {"cloud_share": 0.04, "unknown_pixels": 0}}}
    assert not list(findings_of(clouds))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mask_clouds": True}, "where a mask says"),
        ({"cloud_values": "scl"}, "where a mask says"),
        ({"cloud_mask": MASK}, "which values of the mask"),
        ({"cloud_mask": MASK, "cloud_values": "fog"}, "cannot be understood"),
        ({"cloud_mask": MASK, "layout": "ssl4eo_s12"}, "no use for the setting cloud_mask"),
    ],
)
def test_settings_of_clouds_that_do_not_go_together_are_refused(root: Path, tmp_path: Path, changes, what):
    with pytest.raises(ConfigError, match=what):
        prepare(settings(root, tmp_path / "store", **changes))


def test_a_mask_on_another_grid_or_of_another_kind_is_refused(root: Path, tmp_path: Path):
    masks = {"cloud_mask": MASK, "cloud_values": "scl"}
    write(root / "clouds" / "a.tif", np.full((16, 16), 77, np.uint8), grid())
    with pytest.raises(RangeError, match="does not hold values of scl"):
        prepare(settings(root, tmp_path / "store", **masks))
    write(root / "clouds" / "a.tif", np.zeros((8, 8), np.uint8), grid(8))
    with pytest.raises(DataError, match="grid"):
        prepare(settings(root, tmp_path / "store", **masks))
