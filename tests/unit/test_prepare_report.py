"""The page of a prepared set: one file, the same bytes every time, for every kind of set."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from cromss import cli
from cromss.data.prepare import REPORT_FILE
from cromss.errors import ArgumentError
from cromss.maps.figures import offsets_figure, ridges_figure
from cromss.maps.prepare_report import HTML_FILE, prepare
from shifted_scenes import record
from small_scenes import grid, settings, write_labels, write_s1, write_s2, write_scene


def write_record(root, name, seed, **shift) -> None:
    one = record(name, seed, **shift)
    where = grid(one.valid.shape[1])
    write_s1(root / "s1" / f"{name}.tif", one.images["s1"][0], where)
    write_s2(root / "s2" / f"{name}.tif", one.images["s2"][0], where)
    write_labels(root / "labels" / f"{name}.tif", one.labels[0], where)


@pytest.fixture
def root(tmp_path):
    for seed in range(4):
        write_record(tmp_path / "in", f"p{seed}", seed, row=5 if seed == 2 else 0)
    return tmp_path / "in"


def text_of(path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text()))


def test_the_page_shows_findings_and_every_part(root, tmp_path):
    report = prepare(settings(root, tmp_path / "out", validation_share=0.3))
    page = (tmp_path / "out" / HTML_FILE).read_text()
    text = text_of(tmp_path / "out" / HTML_FILE)
    for heading in ("What to look at", "Example places", "Splits and classes", "Shifts", "Bands", "Left out"):
        assert f">{heading}</h2>" in page
    assert report["shifts"]["s2-s1"]["shifted"] == 1
    assert "1 of the 4 images in which a shift can be measured" in text
    assert "Sentinel-1 off Sentinel-2 by 5." in text
    assert page.count('src="data:image/png') == 4 * 3 + 4


@pytest.mark.slow
def test_the_page_needs_no_other_file(root, tmp_path):
    prepare(settings(root, tmp_path / "out"))
    page = (tmp_path / "out" / HTML_FILE).read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


@pytest.mark.slow
def test_the_same_set_gives_the_same_bytes(root, tmp_path):
    for name in ("first", "second"):
        prepare(settings(root, tmp_path / name))
    for file in (HTML_FILE, REPORT_FILE):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"labels": None},
        {"s1": None},
        {"s2": None, "s2_bands": "all"},
        {"s1": None, "labels": None},
        {"s2_bands": "B8,B11"},
        {"truth": "labels/{id}.tif"},
        {"tile": 60},
        {"shift_samples": 0},
    ],
)
def test_every_kind_of_set_has_a_page(changes, root, tmp_path):
    prepare(settings(root, tmp_path / "out", **changes))
    text = text_of(tmp_path / "out" / HTML_FILE)
    assert "Bands" in text
    assert ("Shifts" in text) == (changes.get("shift_samples") != 0 and changes != {"s1": None, "labels": None})
    assert ("None" in text) is False


def test_seasons_that_disagree_are_shown(tmp_path):
    for season, value in (("spring", 4), ("summer", 2)):
        write_scene(tmp_path / "in", f"p/{season}", 0)
        write_labels(tmp_path / "in" / "labels" / "p" / f"{season}.tif", np.full((16, 16), value, np.uint8))
    patterns = {role: role + "/{id}/{season}.tif" for role in ("s1", "s2", "labels")}
    report = prepare(settings(tmp_path / "in", tmp_path / "out", **patterns))
    assert report["season_changes"]["changing_share"] == 1
    assert "crops to grass" in text_of(tmp_path / "out" / HTML_FILE)


@pytest.mark.slow
def test_what_was_left_out_is_listed_with_its_reason(root, tmp_path):
    write_labels(root / "labels" / "p1.tif", np.full((120, 120), 17, np.uint8))
    shutil.copy(root / "s2" / "p0.tif", root / "s2" / "alone<b>.tif")
    prepare(settings(root, tmp_path / "out", on_bad="skip"))
    page, text = (tmp_path / "out" / HTML_FILE).read_text(), text_of(tmp_path / "out" / HTML_FILE)
    assert "labels/p1.tif" in text
    assert "17 (14400 pixels)" in text
    assert "alone&lt;b&gt;" in page
    assert "<b>" not in page


@pytest.mark.slow
def test_the_command_says_where_the_page_is_and_what_it_found(root, tmp_path, capsys):
    arguments = ["prepare", "--root", str(root), "--out", str(tmp_path / "out"), "--s2_offset", "0"]
    assert cli.main(arguments) == 0
    caught = capsys.readouterr()
    assert str(tmp_path / "out" / HTML_FILE) in caught.err
    assert "look: Sentinel-1 lies off Sentinel-2" in caught.out


@pytest.mark.slow
def test_a_real_scene_with_displaced_radar_is_the_farthest_off(sentinel_mini, tmp_path):
    names = ["ben_33UUP_20170613_34_71", "ben_33UUP_20170613_33_70", "ben_33UUP_20170613_38_88"]
    for name in names:
        for role, folder in (("s1", "s1"), ("s2", "s2"), ("labels", "dynamic_world")):
            source = sentinel_mini / "pretrain" / folder / f"{name}.tif"
            if role == "s1" and name == names[0]:
                source = sentinel_mini / "broken" / "s1_rolled_3px.tif"
            (tmp_path / "in" / role).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / role / f"{name}.tif").symlink_to(source)
    report = prepare(settings(tmp_path / "in", tmp_path / "out", s2_bands="12"))
    assert report["shifted_places"][0]["id"] == names[0]
    assert report["shifted_places"][0]["length"] > 3
    assert names[0] in report["findings"][0]["what"]


def test_figures_refuse_what_they_can_not_draw():
    with pytest.raises(ArgumentError, match="do not match, or are empty"):
        ridges_figure({"B2": np.zeros(10, int)}, np.arange(11.0), marks={}, x_label="DN")
    with pytest.raises(ArgumentError, match="do not match, or are empty"):
        ridges_figure({"B2": np.ones(9, int)}, np.arange(11.0), marks={}, x_label="DN")
    with pytest.raises(ArgumentError, match="no points"):
        offsets_figure({"a": []}, circle=1.0, x_label="", y_label="")
