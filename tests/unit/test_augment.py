"""Geometry of samples: whole pixels move, alike in every array, with the stated probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.augment import Geometry, draw_geometry


def draw(seed: int, height: int = 20, width: int = 20, **settings: float) -> Geometry:
    options = {"crop": 12, "flip": 0.5, "rotate": 0.2, **settings}
    return draw_geometry(np.random.default_rng(seed), height, width, **options)


def test_every_array_moves_alike_and_only_whole_pixels_move() -> None:
    rows, columns = np.mgrid[:20, :20]
    code = (rows * 20 + columns).astype(np.float32)
    for seed in range(50):
        geometry = draw(seed)
        stacked = geometry.apply(np.stack([code, -code]))
        flat = geometry.apply(code.astype(np.int64))
        assert stacked.shape == (2, 12, 12)
        assert np.array_equal(stacked[0], flat)
        assert np.array_equal(stacked[1], -flat)
        window = code[geometry.top : geometry.top + 12, geometry.left : geometry.left + 12]
        assert np.array_equal(np.sort(flat.ravel()), np.sort(window.ravel()))


def test_no_class_is_invented() -> None:
    labels = np.where(np.mgrid[:20, :20][0] < 10, 0, 8).astype(np.uint8)
    assert all(set(np.unique(draw(seed).apply(labels))) <= {0, 8} for seed in range(50))


def test_orientations_are_those_of_the_square_in_both_directions() -> None:
    tile = np.arange(4).reshape(2, 2)
    seen = {draw(seed, 2, 2, crop=None, rotate=0.5).apply(tile).tobytes() for seed in range(300)}
    expected = {np.rot90(t, k).tobytes() for t in (tile, tile[:, ::-1]) for k in range(4)}
    assert seen == expected


def test_probabilities_are_the_stated_ones() -> None:
    drawn = [draw(seed, flip=0.3, rotate=0.2) for seed in range(3000)]
    for name, expected in (("mirror_columns", 0.3), ("mirror_rows", 0.3)):
        assert np.mean([getattr(g, name) for g in drawn]) == pytest.approx(expected, abs=0.03)
    turns = np.bincount([g.quarter_turns for g in drawn], minlength=4) / 3000
    assert turns == pytest.approx([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3], abs=0.03)
    for name in ("top", "left"):
        assert np.bincount([getattr(g, name) for g in drawn]) == pytest.approx(np.full(9, 3000 / 9), rel=0.25)


def test_a_window_that_is_not_square_keeps_its_shape() -> None:
    turns = {draw(seed, 10, 14, crop=None, rotate=1.0).quarter_turns for seed in range(50)}
    assert turns == {2}
    assert draw(0, 10, 14, crop=None, rotate=1.0).apply(np.zeros((10, 14))).shape == (10, 14)


def test_one_setting_does_not_change_what_another_draws() -> None:
    for seed in range(30):
        plain, flipped = draw(seed, flip=0.0, rotate=1.0), draw(seed, flip=1.0, rotate=1.0)
        assert (plain.top, plain.left, plain.quarter_turns) == (flipped.top, flipped.left, flipped.quarter_turns)
