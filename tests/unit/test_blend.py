from __future__ import annotations

import numpy as np
import pytest

from cromss.maps.blend import Strip, blend_weights, blended_strips, count_windows, window_starts

WINDOWS = [(256, 0.5), (64, 0.25), (33, 0.7), (7, 0.0), (1, 0.5), (2, 0.9)]


@pytest.mark.parametrize(("window", "overlap"), WINDOWS)
def test_windows_cover_every_length_flush_at_both_ends_with_the_overlap_asked_for(window, overlap):
    for length in range(1, 601):
        starts = window_starts(length, window, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - window)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert steps.max(initial=0) <= max(1, int(window * (1 - overlap)))


@pytest.mark.parametrize(("window", "overlap"), WINDOWS)
def test_weights_add_up_to_one_and_are_exactly_one_where_one_window_is_alone(window, overlap):
    for length in [*range(1, 70), 255, 256, 257, 400, 600]:
        starts = window_starts(length, window, overlap)
        total, covers = np.zeros(length), np.zeros(length, int)
        for start, weights in zip(starts, blend_weights(length, window, starts), strict=True):
            total[start : start + len(weights)] += weights
            covers[start : start + len(weights)] += 1
            assert (weights > 0).all()
        np.testing.assert_allclose(total, 1, atol=2e-7)
        assert (total[covers == 1] == 1).all()


def run(class_HW, window, overlap, classify, batch_size=3, valid_HW=None):
    """Blend a scene; the strips joined, and the rows that were asked for."""
    asked = []
    valid_HW = np.ones(class_HW.shape, bool) if valid_HW is None else valid_HW

    def read(top, bottom):
        asked.append((top, bottom))
        return Strip(images={"s2": class_HW[None, top:bottom]}, valid=valid_HW[top:bottom])

    height, width = class_HW.shape
    parts = [
        (top, probability.copy(), valid.copy())
        for top, probability, valid in blended_strips(
            read,
            classify,
            height=height,
            width=width,
            num_classes=5,
            window=window,
            overlap=overlap,
            batch_size=batch_size,
        )
    ]
    assert [top for top, _, _ in parts] == np.cumsum([0, *(len(valid) for _, _, valid in parts)])[:-1].tolist()
    assert [top for top, _ in asked] == [0, *(bottom for _, bottom in asked[:-1])]
    np.testing.assert_array_equal(np.concatenate([valid for _, _, valid in parts]), valid_HW)
    return np.concatenate([probability for _, probability, _ in parts], axis=1)


def one_hot(strips):
    return np.stack([np.moveaxis(np.eye(5, dtype=np.float32)[strip.images["s2"][0]], -1, 0) for strip in strips])


@pytest.mark.parametrize("window", [1, 5, 16, 37])
def test_no_pixel_is_misplaced_at_any_small_size(window):
    generator = np.random.default_rng(1)
    for height, width in [(1, 1), (1, 90), (90, 1), (16, 16), (17, 33), (37, 38), (53, 74), (64, 101)]:
        class_HW = generator.integers(0, 5, (height, width))
        probability = run(class_HW, window, 0.5, one_hot)
        np.testing.assert_array_equal(probability.argmax(axis=0), class_HW)
        np.testing.assert_allclose(probability.max(axis=0), 1, atol=1e-6)


def test_a_scene_of_one_window_keeps_its_values_bit_for_bit():
    values = np.random.default_rng(2).random((5, 40, 64), np.float32)
    probability = run(np.zeros((40, 64), int), 64, 0.5, lambda strips: values[None])
    np.testing.assert_array_equal(probability, values)


def test_the_stream_equals_the_blend_of_the_whole_scene_at_once():
    """A slow twin: every window added into a whole-scene array in float64, then divided by the sum of its weights."""
    class_HW = np.arange(61 * 83).reshape(61, 83)

    def noise(place):
        return np.random.default_rng(int(place)).random((5, 16, 16), np.float32)

    def classify(strips):
        return np.stack([noise(strip.images["s2"][0, 0, 0]) for strip in strips])

    bell = np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    expected, weight = np.zeros((5, 61, 83)), np.zeros((61, 83))
    for top in window_starts(61, 16, 0.4):
        for left in window_starts(83, 16, 0.4):
            place = np.s_[top : top + 16, left : left + 16]
            expected[:, *place] += np.outer(bell, bell) * noise(class_HW[top, left])
            weight[place] += np.outer(bell, bell)
    np.testing.assert_allclose(run(class_HW, 16, 0.4, classify), expected / weight, atol=1e-6)


def test_windows_that_disagree_wholly_leave_no_seam():
    """Each window gives one constant; neighbouring pixels of the blend then differ by a small part of the range."""
    generator = np.random.default_rng(3)

    def classify(strips):
        levels = generator.choice([0.0, 1.0], len(strips))
        return np.stack([np.full((5, 64, 64), level, np.float32) for level in levels])

    blend = run(np.zeros((200, 230), int), 64, 0.5, classify)[0]
    assert np.ptp(blend) > 0.9
    assert max(np.abs(np.diff(blend, axis=0)).max(), np.abs(np.diff(blend, axis=1)).max()) < 0.06


def test_windows_without_a_valid_pixel_are_not_classified():
    valid = np.zeros((100, 100), bool)
    valid[:10, 90:] = True
    seen = []

    def classify(strips):
        seen.extend(strip.valid.sum() for strip in strips)
        return one_hot(strips)

    run(np.zeros((100, 100), int), 32, 0.5, classify, valid_HW=valid)
    assert seen
    assert min(seen) > 0
    assert len(seen) < count_windows(100, 100, 32, 0.5)
