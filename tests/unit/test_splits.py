"""Splits by table, by keyed draw, and by raster."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.splits import draw_split, majority_split, read_split_table
from cromss.errors import ConfigError, DamagedFileError, LabelError, MissingDataError

IDS = [f"place{number:05d}" for number in range(5000)]
VALUES = {"train": 1, "test": 2, "validation": 3}


def test_a_draw_keeps_its_shares():
    drawn = [draw_split(name, 0, 0.2, 0.3) for name in IDS]
    assert abs(drawn.count("validation") / 5000 - 0.2) < 0.02
    assert abs(drawn.count("test") / 5000 - 0.3) < 0.02


def test_a_draw_depends_on_id_and_seed_alone():
    assert [draw_split(name, 7, 0.5, 0) for name in IDS] == [draw_split(name, 7, 0.5, 0) for name in IDS]
    assert [draw_split(name, 7, 0.5, 0) for name in IDS] != [draw_split(name, 8, 0.5, 0) for name in IDS]


def test_a_larger_share_keeps_the_places_of_a_smaller_one():
    small = {name for name in IDS if draw_split(name, 0, 0, 0.1) == "test"}
    large = {name for name in IDS if draw_split(name, 0, 0, 0.2) == "test"}
    assert small < large


def test_shares_of_none_and_all_are_exact():
    assert {draw_split(name, 0, 0, 0) for name in IDS} == {"train"}
    assert {draw_split(name, 0, 0, 1) for name in IDS} == {"test"}


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, 1.1), (0.6, 0.6), (float("nan"), 0)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError):
        draw_split("a", 0, *shares)


def test_a_table_is_read(tmp_path):
    (tmp_path / "split.csv").write_text("\ufeffsplit,id,note\ntrain,a,x\ntest, b ,y\n", encoding="utf-8")
    assert read_split_table(tmp_path / "split.csv") == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,group\na,train\n", DamagedFileError),
        ("id,split\n", DamagedFileError),
        ("", DamagedFileError),
        ("id,split\na,train\na,test\n", DamagedFileError),
        ('id,split\n"a,train\n', DamagedFileError),
        ("id,split\na,trian\n", LabelError),
        ("id,split\na\n", LabelError),
    ],
)
def test_a_damaged_table_is_refused(text, error, tmp_path):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(error) as caught:
        read_split_table(tmp_path / "split.csv")
    assert str(tmp_path) in str(caught.value.where)


def test_an_absent_table_is_refused(tmp_path):
    with pytest.raises(MissingDataError):
        read_split_table(tmp_path / "split.csv")


def test_a_patch_goes_where_most_of_its_usable_pixels_lie():
    split = np.array([[1, 1, 1, 2, 2, 0]])
    assert majority_split(split, np.ones((1, 6), bool), VALUES)[0] == "train"
    name, inside = majority_split(split, np.array([[True, False, False, True, True, True]]), VALUES)
    assert name == "test"
    assert inside.tolist() == [[False, False, False, True, True, False]]


def test_a_tie_never_goes_to_train():
    assert majority_split(np.array([[1, 2]]), np.ones((1, 2), bool), VALUES)[0] == "test"


def test_pixels_outside_all_splits_give_none():
    name, inside = majority_split(np.zeros((2, 2), np.uint8), np.ones((2, 2), bool), VALUES)
    assert name == ""
    assert not inside.any()
