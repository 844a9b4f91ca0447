"""Patches of different splits share no pixel and keep their distance, within a scene and across scenes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from cromss.data.blocks import NEAR_ANOTHER_SPLIT, Neighbours, SplitBlocks
from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.errors import GridError, MissingDataError
from small_scenes import grid, write_labels, write_s1, write_s2
from small_scenes import s1_values as s1
from small_scenes import s2_values as s2
from small_scenes import settings as prepare_settings

UTM = CRS.from_epsg(32633)


def blocks(side=40, buffer=0, seed=0, validation=0.3, test=0.3):
    return SplitBlocks(side=side, buffer=buffer, seed=seed, validation_share=validation, test_share=test)


def scene(x, y, height, width, pixel=10.0, crs=UTM):
    """A grid whose upper left corner lies x and y pixels east and north of coordinate 0."""
    return grid(height=height, width=width, transform=Affine(pixel, 0, x * pixel, 0, -pixel, y * pixel), crs=crs)


def require_apart(scenes, buffer):
    """Scenes that are refused, with their errors."""
    neighbours = Neighbours(buffer)
    found = {name: neighbours.refuse(name, where) for name, where in scenes}
    return {name: error for name, error in found.items() if error is not None}


def patches(rule, grids, tile):
    """(split, west, south, east, north) in pixels, of every patch that is kept."""
    kept = []
    for whole in grids:
        for row, column in itertools.product(
            range(0, whole.height - tile + 1, tile), range(0, whole.width - tile + 1, tile)
        ):
            patch = whole.window(row, column, tile, tile)
            split = rule.split_of(patch)
            if split:
                kept.append((split, *(edge / whole.transform.a for edge in patch.bounds)))
    return kept


def gap(a, b):
    """Pixels between boxes a and b (..., 4) along the axis that parts them most; negative where they overlap."""
    return np.stack([a[..., :2] - b[..., 2:], b[..., :2] - a[..., 2:]]).max(axis=(0, -1))


def least_gap(kept):
    boxes = {split: np.array([box for name, *box in kept if name == split]) for split, *_ in kept}
    return min((gap(boxes[a][:, None], boxes[b]).min() for a, b in itertools.combinations(boxes, 2)), default=np.inf)


OFFSETS = st.one_of(st.integers(-90, 90), st.floats(-90, 90, allow_nan=False, width=32))


@settings(deadline=None, max_examples=60)
@given(
    side=st.integers(8, 60),
    buffer=st.integers(0, 20),
    tile=st.integers(3, 16),
    seed=st.integers(0, 999),
    corners=st.lists(st.tuples(OFFSETS, OFFSETS, st.integers(16, 90), st.integers(16, 90)), min_size=1, max_size=4),
)
def test_patches_of_two_splits_are_a_buffer_apart_wherever_their_scenes_lie(side, buffer, tile, seed, corners):
    grids = [scene(34000 + x, 531000 + y, height, width) for x, y, height, width in corners]
    kept = patches(blocks(side, buffer, seed), grids, tile)
    assert least_gap(kept) >= buffer - 1e-5


@pytest.mark.parametrize("buffer", [0, 3, 6])
def test_patches_at_every_offset_come_as_near_as_the_buffer_allows_and_no_nearer(buffer):
    """1,600 scenes of one patch, one at each whole offset: no other patch of whole pixels can be there."""
    grids = [scene(34000 + x, 531000 + y, 7, 7) for x in range(40) for y in range(40)]
    kept = patches(blocks(18, buffer, seed=3), grids, 7)
    assert {split for split, *_ in kept} == {"train", "validation", "test"}
    assert least_gap(kept) == pytest.approx(buffer, abs=1e-5)


def test_without_blocks_near_it_of_another_split_a_patch_is_kept_whole():
    rule = blocks(side=32, buffer=4, validation=0.2, test=0.2)
    grids = [scene(34005, 531007, 320, 320)]
    over_two = [
        patch for patch in patches(rule, grids, 16) if np.floor(patch[1] / 32) != np.floor((patch[3] - 1e-3) / 32)
    ]
    assert over_two, "patches lie over two blocks of one split"


def test_a_patch_that_fills_its_block_is_kept_where_no_buffer_is_asked_for():
    whole = scene(34000, 531008, 96, 96)
    assert len(patches(blocks(side=16), [whole], 16)) == 36


def test_blocks_hold_in_degrees_where_pixel_sizes_differ_in_their_last_digits():
    pixels = (8.983152841195215e-05, 8.983152841195e-05)
    grids = [scene(134000, 531008 + n, 200, 200, pixel, CRS.from_epsg(4326)) for n, pixel in enumerate(pixels)]
    kept = patches(blocks(side=48, buffer=7), grids, 8)
    assert {split for split, *_ in kept} == {"train", "validation", "test"}
    assert least_gap(kept) >= 7 - 1e-3
    assert require_apart([("a", grids[0]), ("b", grids[1])], 7) == {}


def test_scenes_of_one_place_agree_although_their_crs_is_written_in_another_way():
    written = CRS.from_wkt(UTM.to_wkt())
    one, other = scene(34000, 531000, 200, 200), scene(34000, 531000, 200, 200, crs=written)
    assert patches(blocks(buffer=2), [one], 10) == patches(blocks(buffer=2), [other], 10)
    assert require_apart([("a", one), ("b", other)], 2) == {}


def test_touching_scenes_of_another_crs_or_pixel_size_are_refused_and_named():
    one = scene(49990, 531000, 100, 100)
    same_ground = grid(height=100, width=100, transform=Affine(10, 0, 60000, 0, -10, 5310000), crs=CRS.from_epsg(32634))
    coarse, far = scene(25000, 265500, 50, 50, 20.0), scene(30000, 531000, 50, 50, 10.0, CRS.from_epsg(32634))
    found = require_apart([("one", one), ("coarse", coarse), ("far", far), ("next", scene(50090, 531000, 9, 9))], 10)
    assert set(found) == {"coarse"}
    assert "coarse" in str(found["coarse"])
    assert "one" in str(found["coarse"])
    assert "20 x 20" in str(found["coarse"])
    assert require_apart([("one", one), ("zone 34", same_ground)], 10) == {}, "these lie far from each other"


def test_neighbouring_zones_that_overlap_are_refused():
    """A scene at the eastern edge of zone 33, and the same ground in zone 34."""
    from rasterio.warp import transform_bounds

    one = scene(71500, 531000, 100, 100)
    west, _, _, north = transform_bounds(one.crs, "EPSG:32634", *one.bounds)
    other = grid(height=100, width=100, transform=Affine(10, 0, west, 0, -10, north), crs=CRS.from_epsg(32634))
    assert set(require_apart([("a", one), ("b", other)], 0)) == {"b"}


@pytest.mark.parametrize("changes", [{"crs": None}, {"transform": Affine(9.9, 1.4, 0, 1.4, -9.9, 0)}])
def test_a_scene_without_crs_or_rotated_has_no_place_in_blocks(changes):
    with pytest.raises(GridError, match="no place in blocks"):
        blocks().split_of(grid(**changes))


def write_overlapping(root, seed=0):
    """Three scenes of one CRS that overlap each other, one of them off by a third of a pixel."""
    for number, (x, y) in enumerate([(0, 0), (45, -20), (20.333, -51)]):
        where = grid(96, transform=Affine(10, 0, 340800 + 10 * x, 0, -10, 5314800 + 10 * y))
        rng = np.random.default_rng([seed, number])
        write_s1(root / "s1" / f"{number}.tif", s1(rng, 96), where)
        write_s2(root / "s2" / f"{number}.tif", s2(rng, 96), where)
        write_labels(root / "labels" / f"{number}.tif", rng.integers(0, 9, (96, 96)).astype(np.uint8), where)


SHARES = {"validation_share": 0.25, "test_share": 0.25}


@pytest.mark.slow
def test_a_store_of_overlapping_scenes_holds_no_two_patches_of_different_splits_within_the_buffer(tmp_path):
    write_overlapping(tmp_path / "in")
    report = prepare(
        prepare_settings(tmp_path / "in", tmp_path / "store", tile=8, split_blocks=24, split_buffer=5, **SHARES)
    )
    kept = []
    with Store.open(tmp_path / "store") as store:
        for split in ("train", "validation", "test"):
            kept += [(split, *(edge / 10 for edge in store.grid(int(index)).bounds)) for index in store.select(split)]
    assert {split for split, *_ in kept} == {"train", "validation", "test"}
    assert least_gap(kept) >= 5 - 1e-5
    left_out = report["patches_left_out"][NEAR_ANOTHER_SPLIT]
    assert left_out + len(kept) == 3 * 12 * 12
    entry = json.loads((tmp_path / "store" / "prepare-report.json").read_text())["split_blocks"]
    assert entry["side_px"] == 24
    assert entry["buffer_px"] == 5
    assert entry["grids"] == [{"crs": "EPSG:32633", "pixel_width": 10.0, "pixel_height": 10.0}]
    assert set(entry["blocks_with_patches"]) == {"train", "validation", "test"}


@pytest.mark.slow
def test_a_split_that_no_block_was_drawn_into_is_an_error(tmp_path):
    write_overlapping(tmp_path / "in")
    with pytest.raises(MissingDataError, match="no patch is in"):
        prepare(prepare_settings(tmp_path / "in", tmp_path / "store", tile=8, split_blocks=5000, **SHARES))


def test_whole_scenes_are_drawn_by_their_blocks_too(tmp_path):
    """Places that were cut before: 36 of 16 pixels side by side, and no two of different splits touch."""
    for number in range(36):
        row, column = divmod(number, 6)
        where = grid(16, transform=Affine(10, 0, 340800 + 160 * column, 0, -10, 5314800 - 160 * row))
        write_s2(tmp_path / "in" / "s2" / f"{number}.tif", s2(np.random.default_rng(number)), where)
    report = prepare(
        prepare_settings(tmp_path / "in", tmp_path / "store", s1=None, labels=None, split_blocks=32, split_buffer=1,
                         shift_samples=0, seed=1, **SHARES)
    )  # fmt: skip
    kept = []
    with Store.open(tmp_path / "store") as store:
        for split in ("train", "validation", "test"):
            kept += [(split, *(edge / 10 for edge in store.grid(int(index)).bounds)) for index in store.select(split)]
    assert least_gap(kept) >= 1
    assert len(kept) + report["patches_left_out"][NEAR_ANOTHER_SPLIT] == 36


def test_many_scenes_of_two_pixel_sizes_are_compared_with_all_before():
    scenes = [(f"fine {n}", scene(34000 + 100 * n, 531000, 50, 50)) for n in range(200)]
    scenes += [(f"coarse {n}", scene(17000 + 50 * n, 265500 - 500 * (n % 2), 25, 25, 20.0)) for n in range(200)]
    refused = require_apart(scenes, 4)
    assert set(refused) == {f"coarse {n}" for n in range(0, 200, 2)}
    assert "fine 198" in str(refused["coarse 198"])
