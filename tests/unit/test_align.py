"""Rasters on other grids are warped onto one: exactly where they are, without inventing classes or blending no-data."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform, transform_bounds

from cromss.data.sources.own_images import OwnImages
from cromss.data.sources.source import Tally
from cromss.errors import ConfigError, GridError
from cromss.geo.align import align, as_measured
from cromss.geo.bands import SENSORS
from cromss.geo.legend import IGNORE
from cromss.geo.legends import get_legend
from small_scenes import S2_BANDS, grid, s1_values, s2_values, write, write_labels, write_s1, write_s2

SIDE = 48
ROLES = ("s1", "s2", "labels", "truth", "split")
TARGET = grid(SIDE)


def shifted(columns, rows, side=SIDE, scale=1.0, **changes):
    """A grid whose corner lies so many 10 m pixels right of and below that of TARGET."""
    step = 10 * scale
    transform = Affine(step, 0, 340800 + 10 * columns, 0, -step, 5314800 - 10 * rows)
    return grid(side, transform=transform, **changes)


def zone_34():
    """A grid in the neighbouring zone that covers all of TARGET, turned by some degrees against it."""
    west, south, east, north = transform_bounds(TARGET.crs, "EPSG:32634", *TARGET.bounds)
    side = int(max(east - west, north - south) / 10) + 8
    return grid(side, transform=Affine(10, 0, west - 40, 0, -10, north + 40), crs=CRS.from_epsg(32634))


def ramp(where):
    """A smooth field of columns and rows of TARGET, (2, H, W): its values tell where a pixel really is."""
    rows, columns = np.mgrid[0 : where.height, 0 : where.width] + 0.5
    xs, ys = _centres(where, columns, rows)
    if where.crs != TARGET.crs:
        xs, ys = (np.array(axis) for axis in transform(where.crs, TARGET.crs, xs, ys))
    east, north = ((xs - 340800) / 10).reshape(where.shape), ((5314800 - ys) / 10).reshape(where.shape)
    return np.stack([east, north]).astype(np.float32)


def _centres(where, columns, rows):
    a, b, c, d, e, f = where.transform[:6]
    return (a * columns + b * rows + c).ravel(), (d * columns + e * rows + f).ravel()


def read_of(values, valid=None):
    valid = np.ones(values.shape[1:], bool) if valid is None else valid

    def read(window):
        row, column, height, width = window
        assert row >= 0
        assert column >= 0
        part = (slice(row, row + height), slice(column, column + width))
        assert valid[part].shape == (height, width)
        return values[:, part[0], part[1]], valid[part]

    return read


SOURCES = {
    "a fraction of a pixel": shifted(-3.3, -2.7, SIDE + 8),
    "flipped": grid(SIDE + 8, transform=Affine(10, 0, 340800 - 33, 0, 10, 5314800 - 10 * (SIDE + 3))),
    "coarser": shifted(-4, -4, 28, scale=2.0),
    "finer": shifted(-3, -2, 2 * SIDE + 16, scale=0.5),
    "another zone": zone_34(),
}


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_known_shift_or_projection_is_undone_within_a_fiftieth_of_a_pixel(source, method):
    where = SOURCES[source]
    found, valid = align(where, TARGET, "a", "b").read((0, 0, SIDE, SIDE), method, read_of(ramp(where)))
    assert valid.all()
    assert np.abs(found - ramp(TARGET)).max() < 0.02


@pytest.mark.parametrize("source", SOURCES)
def test_nearest_takes_classes_from_no_farther_than_half_a_pixel_and_invents_none(source):
    where = SOURCES[source]
    found, valid = align(where, TARGET, "a", "b").read((0, 0, SIDE, SIDE), "nearest", read_of(ramp(where)))
    assert valid.all()
    half = 0.5 * where.transform.a / 10 + 0.03
    assert np.abs(found - ramp(TARGET)).max() <= half * (1.2 if source == "another zone" else 1)
    classes = np.random.default_rng(0).choice([1, 7, 200], (1, *where.shape))
    found, _ = align(where, TARGET, "a", "b").read((0, 0, SIDE, SIDE), "nearest", read_of(classes))
    assert set(np.unique(found)) <= {1, 7, 200}


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("source", SOURCES)
def test_windows_give_what_the_whole_gives(source, method):
    where = SOURCES[source]
    values = np.random.default_rng(0).normal(size=(2, *where.shape)).astype(np.float32)
    valid = np.random.default_rng(1).random(where.shape) > 0.01
    alignment = align(where, TARGET, "a", "b")
    whole, whole_valid = alignment.read((0, 0, SIDE, SIDE), method, read_of(values, valid))
    for row in range(0, SIDE, 16):
        for column in range(0, SIDE, 12):
            part, part_valid = alignment.read((row, column, 16, 12), method, read_of(values, valid))
            same = (slice(row, row + 16), slice(column, column + 12))
            tolerance = 0.06 if source == "another zone" else 1e-4  # positions there are exact to 0.01 px
            assert (part_valid == whole_valid[same]).mean() > (0.9 if source == "another zone" else 0.9999)
            both = part_valid & whole_valid[same]
            if method != "nearest":
                assert np.abs(part - whole[:, same[0], same[1]])[:, both].max() < tolerance
            else:
                assert (part == whole[:, same[0], same[1]])[:, both].mean() > 0.98


@pytest.mark.parametrize(("method", "reach"), [("bilinear", 1), ("cubic", 2)])
def test_a_pixel_that_touches_no_data_or_the_edge_has_none_and_the_others_are_untouched(method, reach):
    where = shifted(0.5, 0.5)
    values, valid = ramp(where), np.ones(where.shape, bool)
    valid[20, 30] = False
    values[:, 20, 30] = 1e6  # would show anywhere that it is blended
    found, kept = align(where, TARGET, "a", "b").read((0, 0, SIDE, SIDE), method, read_of(values, valid))
    expected = np.ones(TARGET.shape, bool)
    expected[20 - reach + 1 : 20 + reach + 1, 30 - reach + 1 : 30 + reach + 1] = False
    expected[:reach], expected[:, :reach] = False, False  # half a pixel beyond the upper and left edge
    if reach > 1:
        expected[SIDE - reach + 1 :], expected[:, SIDE - reach + 1 :] = False, False
    assert (kept == expected).all()
    assert np.abs(found - ramp(TARGET))[:, kept].max() < 0.02
    assert np.isnan(found[:, ~kept]).all()


def test_values_beyond_the_range_of_a_sensor_are_set_to_its_end_and_counted():
    warped = np.array([[[-3.4, 10.6]], [[5.0, np.nan]]], np.float32)
    values, clipped = as_measured(SENSORS["s2"], warped, np.array([[True, True]]) & np.isfinite(warped).all(axis=0))
    assert values.dtype == np.uint16
    assert values[:, 0, 0].tolist() == [0, 5]
    assert clipped == 1


def test_equal_grids_need_nothing_and_grids_without_common_ground_are_refused_with_both_named():
    assert align(TARGET, TARGET, "a", "b") is None
    with pytest.raises(GridError, match=r"share no ground[\s\S]*one.tif[\s\S]*other.tif"):
        align(shifted(500, 0), TARGET, "one.tif", "other.tif")
    with pytest.raises(GridError, match=r"without a georeference[\s\S]*one.tif"):
        align(grid(SIDE, crs=None), TARGET, "one.tif", "other.tif")


@pytest.fixture
def apart(tmp_path):
    """A place whose sensors, labels, truth and split are all on different grids."""
    rng = np.random.default_rng(0)
    write_s2(tmp_path / "s2" / "a.tif", s2_values(rng, SIDE), TARGET)
    write_s1(tmp_path / "s1" / "a.tif", s1_values(rng, SIDE + 8), shifted(-3.5, -3.5, SIDE + 8))
    classes = rng.choice(np.array([1, 8], np.uint8), (28, 28))
    write_labels(tmp_path / "labels" / "a.tif", classes, SOURCES["coarser"])
    where = SOURCES["another zone"]
    write_labels(tmp_path / "truth" / "a.tif", rng.choice(np.array([0, 5], np.uint8), where.shape), where)
    write(tmp_path / "split" / "a.tif", np.ones((SIDE, SIDE), np.uint8), shifted(10, 0))
    return tmp_path


def folders(root, **options):
    patterns = {role: str(root / role / "{id}.tif") for role in ROLES}
    bands = {"s1": ("VV", "VH"), "s2": S2_BANDS}
    return OwnImages(patterns, legend=get_legend("dynamic_world"), bands=bands, **options)


def test_only_on_request_files_of_other_grids_are_warped_and_each_is_counted(apart):
    with pytest.raises(GridError, match="not on the same grid"):
        list(folders(apart))
    source = folders(apart, split_values={"train": 1}, align_to="s2", tile=24)
    tally = Tally()
    records = list(source.records(source.scenes[0], tally))
    assert tally.changed == {
        "s1 files warped onto the grid of s2, bilinear": 1,
        "labels files warped onto the grid of s2, nearest": 1,
        "truth files warped onto the grid of s2, nearest": 1,
        "split files warped onto the grid of s2, nearest": 1,
    }
    assert [record.grid for record in records] == [
        TARGET.window(r, c, 24, 24) for r, c in ((0, 0), (0, 24), (24, 0), (24, 24))
    ]
    first, second = records[:2]
    assert {*np.unique([record.labels for record in records])} == {1, 8, IGNORE}, "a class was invented"
    assert {*np.unique([record.truth for record in records])} <= {0, 5, IGNORE}, "a class was invented"
    assert (first.labels[0, :, :10] == IGNORE).all(), "the raster of splits begins 10 pixels to the right"
    assert (second.labels[0] != IGNORE).all()
    assert second.valid.all()


def test_a_raster_of_splits_is_warped_by_the_nearest_pixel_for_a_number_between_two_names_no_split(apart):
    side = SIDE + 8
    values = np.random.default_rng(0).choice(np.array([1, 3], np.uint8), (side, side))
    write(apart / "split" / "a.tif", values, shifted(-3.5, -3.5, side))
    source = folders(apart, split_values={"train": 1, "test": 3}, align_to="s2")
    assert len(list(source.records(source.scenes[0]))) == 1


def test_images_are_warped_to_a_sensor_that_the_set_has(apart):
    with pytest.raises(ConfigError, match="align_to dem"):
        folders(apart, align_to="dem")


def test_labels_beside_their_image_are_refused_with_both_files_named(apart):
    write_labels(apart / "labels" / "a.tif", np.ones((9, 9), np.uint8), shifted(4000, 0, 9))
    with pytest.raises(GridError, match=r"share no ground[\s\S]*labels/a.tif[\s\S]*s2/a.tif"):
        list(folders(apart, split_values={"train": 1}, align_to="s2"))
