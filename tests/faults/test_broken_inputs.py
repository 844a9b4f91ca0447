"""Every deliberately broken file is refused at prepare, with the file, what it got and expected, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cromss.data.prepare import prepare
from cromss.errors import BandError, ConfigError, CromssError, DamagedFileError, GridError, LabelError, RangeError
from small_scenes import settings

SCENE = "ben_33UUP_20170613_34_71"
FAULTS = {
    "s2_truncated.tif": (DamagedFileError, "ends at"),
    "s2_zero_byte.tif": (DamagedFileError, "0 bytes"),
    "s1_other_crs.tif": (GridError, "EPSG:32634"),
    "s2_shifted_half_pixel.tif": (GridError, "shifted by 0.5 px in x and 0.5 px in y"),
    "s2_wrong_band_count.tif": (BandError, "12: B1"),
    "s1_linear_power.tif": (RangeError, "linear power"),
    "s2_reflectance_float.tif": (RangeError, "float32"),
    "labels_class_17.tif": (LabelError, "17 (400 pixels)"),
    "labels_int16_minus1.tif": (LabelError, "-1 (900 pixels)"),
    "s1_nan_block.tif": (RangeError, "1600 of 14400 pixels"),
    "labels_all_nodata.tif": (LabelError, "no labelled pixel"),
}


def with_broken(sentinel_mini: Path, folder: Path, broken: str | None) -> Path:
    """The scene and three whole neighbours, with one file of the scene replaced."""
    names = [SCENE, *sorted(path.stem for path in (sentinel_mini / "pretrain" / "s2").glob("ben_33UUP_*_3?_*.tif"))[:3]]
    for role, source in (("s1", "s1"), ("s2", "s2"), ("labels", "dynamic_world")):
        (folder / role).mkdir(parents=True)
        for name in dict.fromkeys(names):
            original = sentinel_mini / "pretrain" / source / f"{name}.tif"
            replaced = broken is not None and name == SCENE and broken.startswith(role)
            (folder / role / f"{name}.tif").symlink_to(sentinel_mini / "broken" / broken if replaced else original)
    return folder


def test_the_list_of_faults_is_complete(sentinel_mini):
    assert {path.name for path in (sentinel_mini / "broken").iterdir()} == {*FAULTS, "s1_rolled_3px.tif"}


@pytest.mark.parametrize("broken", FAULTS)
def test_a_broken_file_is_refused_and_no_store_appears(broken, sentinel_mini, tmp_path):
    root = with_broken(sentinel_mini, tmp_path / "in", broken)
    kind, words = FAULTS[broken]
    with pytest.raises(CromssError) as caught:
        prepare(settings(root, tmp_path / "out", s2_bands="12"))
    error = caught.value
    assert type(error) is kind
    assert words in str(error)
    assert f"{broken.partition('_')[0]}/{SCENE}.tif" in str(error.where)
    assert error.got is not None
    assert error.expected is not None
    assert error.do
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", FAULTS)
def test_a_broken_file_can_be_left_out_and_is_listed(broken, sentinel_mini, tmp_path):
    root = with_broken(sentinel_mini, tmp_path / "in", broken)
    report = prepare(settings(root, tmp_path / "out", s2_bands="12", on_bad="skip"))
    assert [row["id"] for row in report["refusals"]] == [SCENE]
    assert report["places"] == len(list((root / "s1").iterdir())) - 1


def test_content_that_is_shifted_on_a_true_grid_is_named_and_refused_where_a_limit_is_given(sentinel_mini, tmp_path):
    """s1_rolled_3px.tif says nothing wrong about itself: only the ground that it shows tells."""
    root = with_broken(sentinel_mini, tmp_path / "in", "s1_rolled_3px.tif")
    report = prepare(settings(root, tmp_path / "reported", s2_bands="12"))
    assert report["refusals"] == []
    named = {row["id"]: row["length"] for row in report["shifted_places"]}
    assert named.pop(SCENE) > 3
    assert max(named.values()) < 3, "the others lie as they were published"
    with pytest.raises(GridError, match="s1 shows the ground elsewhere than s2") as caught:
        prepare(settings(root, tmp_path / "out", s2_bands="12", max_shift=3.0))
    assert f"s1/{SCENE}.tif" in str(caught.value.where)
    assert f"s2/{SCENE}.tif" in str(caught.value.where)
    assert f"so 3.8 px, in {SCENE}" in caught.value.got
    assert not (tmp_path / "out").exists()
    left = prepare(settings(root, tmp_path / "out", s2_bands="12", max_shift=3.0, on_bad="skip"))
    assert [row["id"] for row in left["refusals"]] == [SCENE]
    assert left["places"] == report["places"] - 1
    assert {row["id"] for row in left["shifted_places"]} == {*named}


def test_sound_scenes_are_not_refused_for_their_content(sentinel_mini, tmp_path):
    root = with_broken(sentinel_mini, tmp_path / "in", None)
    assert prepare(settings(root, tmp_path / "out", s2_bands="12", max_shift=3.0, shift_samples=0))["refusals"] == []


@pytest.mark.parametrize("limit", [0.0, 1.0, 13.0, float("nan")])
def test_a_limit_that_no_measurement_can_hold_is_refused(limit, tmp_path):
    with pytest.raises(ConfigError, match="can not be held to this limit"):
        prepare(settings(tmp_path, tmp_path / "out", max_shift=limit))
