"""Displaced content is found where there is something to see, and nothing is claimed where there is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from cromss.errors import ArgumentError
from cromss.geo.bands import SENSORS
from cromss.geo.raster import read_raster
from cromss.geo.shifts import REACH_PX, Planes, Shift, class_planes, find_peak, image_planes, shift_surface
from shifted_scenes import ROOM, SIDE, cut, fields, optical, radar

S1, S2 = SENSORS["s1"].bands, SENSORS["s2"].bands


def of_s1(values: np.ndarray, valid: np.ndarray | None = None) -> Planes:
    return image_planes("s1", values, np.ones(values.shape[1:], bool) if valid is None else valid, S1)


def of_s2(values: np.ndarray, valid: np.ndarray | None = None) -> Planes:
    return image_planes("s2", values, np.ones(values.shape[1:], bool) if valid is None else valid, S2)


def near(shift: Shift, row: float, column: float, tolerance: float) -> bool:
    return shift.measurable and abs(shift.rows - row) <= tolerance and abs(shift.columns - column) <= tolerance


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 0), (0, -3), (-5, 4), (10, -10), (12, 12)])
def test_an_image_of_another_sensor_is_found_where_it_was_put(row, column):
    classes = fields(0)
    first, second = of_s2(cut(optical(classes, 1))), of_s1(cut(radar(classes, 2), row, column))
    assert near(find_peak(shift_surface(first, second)), row, column, 0.5)
    assert near(find_peak(shift_surface(second, first)), -row, -column, 0.5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 0), (0, -3), (-5, 4), (10, -10)])
def test_a_map_is_found_where_it_was_put_and_its_numbers_do_not_matter(row, column):
    classes = fields(3)
    image, labels = of_s2(cut(optical(classes, 1))), cut(classes, row, column)
    for names in (np.arange(5), np.array([4, 0, 3, 1, 2])):
        found = find_peak(shift_surface(image, class_planes(names.astype(np.uint8)[labels]), with_values=True))
        assert near(found, row, column, 0.5)


@pytest.mark.slow
def test_unrelated_places_are_not_measurable():
    found = []
    for seed in range(40):
        first, second = of_s2(cut(optical(fields(seed), 1))), of_s1(cut(radar(fields(seed + 100), 2)))
        found.append(find_peak(shift_surface(first, second)).measurable)
    assert sum(found) <= 1


def test_along_a_straight_border_no_shift_is_claimed():
    classes = np.zeros((SIDE + 2 * ROOM,) * 2, np.uint8)
    classes[np.add.outer(np.arange(148), -2 * np.arange(148)) > -70] = 1
    found = find_peak(shift_surface(of_s2(cut(optical(classes, 1))), of_s1(cut(radar(classes, 2), 3, 1))))
    assert not found.measurable


@pytest.mark.parametrize("value", [0, 7, 255])
def test_one_class_or_none_is_not_measurable(value):
    labels = class_planes(np.full((SIDE, SIDE), value, np.uint8))
    found = find_peak(shift_surface(of_s2(cut(optical(fields(0), 1))), labels, with_values=True))
    assert found == Shift(rows=0.0, columns=0.0, confidence=0.0, distinction=0.0)
    assert not found.measurable


@pytest.mark.parametrize(("share", "measurable"), [(0.08, False), (0.3, True)])
def test_a_map_of_hardly_more_than_one_class_is_not_measurable(share, measurable):
    field = np.random.default_rng(0).normal(size=(SIDE + 2 * ROOM,) * 2)
    smooth = uniform_filter(uniform_filter(field, 9), 9)
    classes = (smooth > np.quantile(smooth, 1 - share)).astype(np.uint8)
    labels = class_planes(cut(classes, 2, 0))
    assert find_peak(shift_surface(of_s2(cut(optical(classes, 1))), labels, with_values=True)).measurable == measurable


def test_a_flat_image_or_one_without_data_is_not_measurable():
    other = of_s1(cut(radar(fields(0), 1)))
    flat = of_s2(np.full((13, SIDE, SIDE), 900, np.uint16))
    empty = of_s2(cut(optical(fields(0), 1)), np.zeros((SIDE, SIDE), bool))
    assert not find_peak(shift_surface(flat, other)).measurable
    assert not find_peak(shift_surface(empty, other)).measurable


def test_a_small_patch_is_not_measurable():
    classes = fields(0)[:40, :40]
    assert shift_surface(of_s2(optical(classes, 1)), of_s1(radar(classes, 2))) is None


def test_a_shift_beyond_reach_is_not_measurable():
    classes = fields(0)
    found = find_peak(shift_surface(of_s2(cut(optical(classes, 1))), of_s1(cut(radar(classes, 2), REACH_PX + 2, 0))))
    assert not found.measurable


def test_missing_pixels_do_not_hold_the_images_in_place():
    """A hole that both share lies at shift 0, whatever the content does."""
    classes = fields(5)
    valid = np.ones((SIDE, SIDE), bool)
    valid[40:80, 30:95] = valid[:10] = False
    s1 = cut(radar(classes, 2), 4, -3).copy()
    s1[:, ~valid] = np.nan
    s2 = cut(optical(classes, 1)).copy()
    s2[:, ~valid] = 0
    assert near(find_peak(shift_surface(of_s2(s2, valid), of_s1(s1, valid))), 4, -3, 0.5)


def test_the_surface_is_the_squared_correlation_of_whitened_planes():
    """Against sums over pixels, for planes that are white already and have no slow trend."""
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(2, 64, 64)).astype(np.float32) for _ in range(2))
    b[0] += np.roll(a[1], (3, -2), (0, 1))
    used = np.ones((64, 64), bool)
    planes = [Planes(values_FHW=one, edges_FHW=one, used_HW=used) for one in (a, b)]
    surface = shift_surface(*planes)
    assert surface is not None
    white = []
    for one in (a, b):
        share = uniform_filter(np.ones((64, 64)), 33, mode="constant")
        local = np.stack([uniform_filter(plane.astype(float), 33, mode="constant") / share for plane in one])
        flat = (one - local).reshape(2, -1)
        flat -= flat.mean(axis=1, keepdims=True)
        white.append(np.linalg.solve(np.linalg.cholesky(flat @ flat.T / 4096), flat).reshape(2, 64, 64))
    for row, column in [(0, 0), (3, -2), (-7, 5), (18, -18)]:
        total = 0.0
        here = (slice(max(0, -row), 64 - max(0, row)), slice(max(0, -column), 64 - max(0, column)))
        there = (slice(max(0, row), 64 + min(0, row)), slice(max(0, column), 64 + min(0, column)))
        for i in range(2):
            for j in range(2):
                total += float((white[0][i][here] * white[1][j][there]).sum()) ** 2
        assert surface[18 + row, 18 + column] == pytest.approx(total / white[0][0][here].size, rel=2e-3, abs=1e-2)


def test_rasters_of_different_size_or_bands_are_refused():
    s2 = optical(fields(0), 1)
    with pytest.raises(ArgumentError, match="differ in size"):
        shift_surface(of_s2(s2), of_s2(s2[:, :100]))
    with pytest.raises(ArgumentError, match="do not fit together"):
        image_planes("s2", s2[:12], np.ones(s2.shape[1:], bool), S2)


def test_real_radar_rolled_by_three_pixels_is_found(sentinel_mini):
    name = "ben_33UUP_20170613_34_71.tif"
    s2 = of_s2(read_raster(sentinel_mini / "pretrain" / "s2" / name).values_BHW)
    before = find_peak(shift_surface(s2, of_s1(read_raster(sentinel_mini / "pretrain" / "s1" / name).values_BHW)))
    rolled = find_peak(shift_surface(s2, of_s1(read_raster(sentinel_mini / "broken" / "s1_rolled_3px.tif").values_BHW)))
    assert before.measurable
    assert near(rolled, before.rows + 3, before.columns + 3, 0.5)


def test_the_real_scene_known_to_lie_off_is_said_to(sentinel_mini):
    name = "ssl4eo_0000200_20200604.tif"
    images = [read_raster(sentinel_mini / "pretrain" / sensor / name).values_BHW for sensor in ("s2", "s1")]
    shift = find_peak(shift_surface(of_s2(images[0]), of_s1(images[1])))
    assert shift.measurable
    assert 1 <= shift.length <= 2.5
