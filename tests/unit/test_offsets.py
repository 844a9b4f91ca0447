"""The offset of newer Sentinel-2 files is taken off once, by what the file or the user says, and never guessed."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.errors import ConfigError, DataError, RangeError
from cromss.geo.offsets import offset_of, take_off
from small_scenes import s2_values, settings, write_s2, write_scene


@pytest.mark.parametrize(
    ("tags", "setting", "offset"),
    [
        ({}, None, 0),
        ({}, 1000, 1000),
        ({"RADIO_ADD_OFFSET": "-1000"}, None, 1000),
        ({"BOA_ADD_OFFSET": "-1000,-1000, -1000"}, 1000, 1000),
        ({"BOA_ADD_OFFSET": "0"}, None, 0),
    ],
)
def test_the_offset_is_what_the_file_or_else_the_user_says(tags, setting, offset):
    assert offset_of(tags, setting, "a.tif") == offset


@pytest.mark.parametrize("text", ["", "1000", "-1000,-900", "-1000.5", "none", "-20000"])
def test_a_tag_that_can_not_be_used_is_refused(text):
    with pytest.raises(DataError, match=r"a\.tif"):
        offset_of({"BOA_ADD_OFFSET": text}, None, "a.tif")


def test_tags_and_setting_must_agree():
    with pytest.raises(DataError, match="s2_offset = 0"):
        offset_of({"RADIO_ADD_OFFSET": "-1000"}, 0, "a.tif")


@pytest.mark.parametrize("setting", [-1000, 20000])
def test_a_setting_that_was_never_added_is_refused(setting):
    with pytest.raises(ConfigError, match="s2_offset"):
        offset_of({}, setting, "a.tif")


def test_values_come_back_and_negative_reflectance_becomes_zero():
    plain = np.random.default_rng(0).integers(0, 5000, (2, 20, 20)).astype(np.uint16)
    given = plain + np.uint16(1000)
    given[1, 0, :3] = [999, 940, 1]
    values, clipped = take_off(given, np.ones((20, 20), bool), 1000, "a.tif")
    assert values.dtype == np.uint16
    assert clipped == 1
    assert (values[1, 0, :3] == 0).all()
    plain[1, 0, :3] = 0
    assert (values == plain).all()


def test_pixels_without_data_do_not_count_as_dark():
    given = np.full((2, 20, 20), 1500, np.uint16)
    given[:, :10] = 0
    valid = given[0] > 0
    assert take_off(given, valid, 1000, "a.tif")[1] == 0


def test_dark_water_just_below_black_is_no_error():
    assert take_off(np.full((2, 20, 20), 980, np.uint16), np.ones((20, 20), bool), 1000, "a.tif")[1] == 2


def test_an_offset_that_was_never_added_shows_in_the_values():
    with pytest.raises(RangeError, match=r"darker than their offset(.|\n)*a\.tif"):
        take_off(np.full((2, 20, 20), 400, np.uint16), np.ones((20, 20), bool), 1000, "a.tif")


@pytest.mark.parametrize("by_tag", [True, False])
def test_the_store_holds_values_without_the_offset(by_tag, tmp_path):
    plain = {}
    for seed, name in enumerate("abc"):
        write_scene(tmp_path / "in", name, seed)
        plain[name] = s2_values(np.random.default_rng(seed))
        tags = {"tags": {"LEVEL": "L1C", "RADIO_ADD_OFFSET": "-1000"}} if by_tag else {}
        write_s2(tmp_path / "in" / "s2" / f"{name}.tif", plain[name] + np.uint16(1000), **tags)
    report = prepare(settings(tmp_path / "in", tmp_path / "out", **({} if by_tag else {"s2_offset": 1000})))
    assert report["changed"] == {"s2 band images less an offset of 1000 DN": 39}
    with Store.open(tmp_path / "out") as store:
        for place, name in enumerate(store.ids):
            assert (store.read(place, 0)["s2"] == plain[name]).all()
