"""Splits that can not be held apart are refused by name, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from cromss.cli import main
from small_scenes import grid, s2_values, write_labels, write_s2, write_scene

SHARES = ["--validation_share", "0.4", "--test_share", "0.2"]


def run(root, out, *flags):
    return main(["prepare", "--root", str(root), "--out", str(out), *flags])


def write_s2_scene(root, name, where):
    side = where.width
    write_s2(root / "s2" / f"{name}.tif", s2_values(np.random.default_rng(0), side), where)
    write_labels(root / "labels" / f"{name}.tif", np.ones((side, side), np.uint8), where)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--split_blocks", "0", *SHARES], "blocks need a side"),
        (["--split_blocks", "32", "--split_buffer", "-1", *SHARES], "not negative"),
        (["--split_blocks", "32"], "none is given"),
        (["--split_buffer", "4"], "none are asked for"),
        (["--tile", "8", "--split_blocks", "10", "--split_buffer", "4", *SHARES], "split_blocks of at least 12"),
        (["--split_blocks", "32", "--split", "{id}.tif", "--test_share", "0"], "exclude each other"),
        (["--split_blocks", "32", "--layout", "ssl4eo_s12", *SHARES], "no use for the setting split_blocks"),
        (
            ["--split_blocks", "32", "--validation_share", "0.9", "--test_share", "0.2"],
            "shares of the splits do not fit",
        ),
    ],
)
def test_settings_that_make_no_blocks_are_refused(tmp_path, capsys, flags, words):
    write_scene(tmp_path / "in", "a", seed=1)
    assert run(tmp_path / "in", tmp_path / "out", *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_overlapping_scenes_of_two_zones_are_refused_with_both_named_or_the_second_left_out(tmp_path, capsys):
    one = grid(64, transform=grid().transform.translation(715000, 5310000) @ grid().transform.scale(10, -10))
    west, _, _, north = transform_bounds(one.crs, "EPSG:32634", *one.bounds)
    other = grid(64, transform=one.transform.translation(west, north) @ one.transform.scale(10, -10))
    write_s2_scene(tmp_path, "east-33", one)
    write_s2_scene(tmp_path, "west-34", grid(64, transform=other.transform, crs=CRS.from_epsg(32634)))
    flags = ["--s1", "null", "--tile", "8", "--split_blocks", "16", "--validation_share", "0.5", "--shift_samples", "0"]
    assert run(tmp_path, tmp_path / "out", *flags) == 2
    message = capsys.readouterr().err
    assert "different grids of blocks" in message
    assert "east-33" in message
    assert "west-34" in message
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, tmp_path / "out", *flags, "--on_bad", "skip") == 0
    assert "1 refused scenes" in capsys.readouterr().out


def test_a_scene_without_crs_is_refused(tmp_path, capsys):
    write_s2_scene(tmp_path, "nowhere", grid(64, crs=None))
    assert run(tmp_path, tmp_path / "out", "--s1", "null", "--tile", "8", "--split_blocks", "16", *SHARES) == 2
    assert "no place in blocks" in capsys.readouterr().err
