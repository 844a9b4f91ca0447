"""Resampling: straight lines stay straight, constants constant, and classes are never invented."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.geo.resample import resample_cubic, resample_nearest


@pytest.mark.parametrize("step", [2, 6])
def test_cubic_convolution_keeps_a_ramp_at_the_pixel_centres(step):
    native = np.add.outer(np.arange(20.0), 3 * np.arange(20.0))
    fine = resample_cubic(native, (20 * step, 20 * step))
    centre = (np.arange(20 * step) + 0.5) / step - 0.5
    expected = np.add.outer(centre, 3 * centre)
    inner = slice(2 * step, -2 * step)
    assert np.abs(fine - expected)[inner, inner].max() < 1e-4
    assert fine.dtype == native.dtype


def test_whole_numbers_are_rounded_and_held_in_their_type():
    native = np.zeros((8, 8), np.uint16)
    native[:, 4:] = 65535
    fine = resample_cubic(native, (16, 16))
    assert fine.dtype == np.uint16
    assert fine[:, :6].max() <= 65535 // 2
    assert (fine[:, 5] == 0).all()  # undershoot
    assert (fine[:, 10] == 65535).all()  # overshoot
    assert resample_cubic((native // 4).astype(np.int16), (16, 16)).min() == 0


def test_nearest_takes_the_pixel_under_each_centre_and_invents_no_class():
    labels = np.random.default_rng(0).integers(0, 9, (260, 260)).astype(np.uint8)
    labels[labels == 4] = 255
    resampled = resample_nearest(labels, (264, 264))
    assert set(np.unique(resampled)) <= set(np.unique(labels))
    assert resampled[0, 0] == labels[0, 0]
    assert resampled[-1, -1] == labels[-1, -1]
    assert resampled[131, 200] == labels[int(131.5 * 260 / 264), int(200.5 * 260 / 264)]
    assert (resample_nearest(labels, (260, 260)) == labels).all()
