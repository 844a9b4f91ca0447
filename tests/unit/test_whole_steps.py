"""Sixteen bits for the range of a sensor: nothing is lost of whole numbers, and half a step of the rest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cromss.data.store.whole_steps import WholeSteps, steps_of
from cromss.errors import ArgumentError, RangeError
from cromss.geo.sensor import SENSORS, Sensor


def sensor(low, high, dtype="float32"):
    return Sensor(name="dem", title="t", unit="m", bands=("a",), valid_min=low, valid_max=high, dtype=dtype)


def test_every_digital_number_comes_back():
    steps, values = steps_of(SENSORS["s2"]), np.arange(65536, dtype=np.uint16)
    stored = steps.apply(values, np.ones(65536, bool), "x")
    assert (stored[0], stored[-1]) == (-32768, 32767)
    assert (steps.undo(stored) == values).all()


@pytest.mark.parametrize(
    ("low", "high", "dtype", "step"),
    [(-90, 60, "float32", 0.005), (-500, 9000, "float32", 0.2), (0, 65.535, "float32", 0.001),
     (-32768, 32767, "int16", 1), (0, 200, "uint8", 1), (-(2**31), 2**31 - 1, "int32", 1e5)],
)  # fmt: skip
def test_the_step_is_a_round_number_that_spans_the_range_and_both_ends_are_held(low, high, dtype, step):
    steps = steps_of(sensor(low, high, dtype))
    assert steps.step == pytest.approx(step)
    values = np.linspace(low, high, 4097)
    back = steps.undo(steps.apply(values, np.ones(values.shape, bool), "x"))
    assert np.abs(back - values).max() <= steps.step / 2 + 1e-6 * max(abs(low), abs(high))


def test_invalid_pixels_may_hold_anything():
    steps = steps_of(SENSORS["s1"])
    values = np.array([[-12.0, np.nan], [np.inf, 1e30]], np.float32)
    valid = np.array([[True, False], [False, False]])
    assert steps.apply(values, valid, "x").tolist() == [[-17168, -32768], [-32768, -32768]]


@pytest.mark.parametrize("value", [-91.0, 300.0])
def test_valid_values_beyond_the_range_are_refused_and_never_clipped(value):
    with pytest.raises(RangeError, match="beyond what edition int16") as caught:
        steps_of(SENSORS["s1"]).apply(np.array([value, -12.0]), np.ones(2, bool), "a, s1")
    assert caught.value.where == "a, s1"


def test_steps_survive_json_and_others_are_refused():
    steps = steps_of(SENSORS["s1"])
    assert WholeSteps.from_dict(steps.to_dict()) == steps
    assert dataclasses.asdict(steps) == steps.to_dict()
    for content in ({}, {"low": 0, "step": 0}, {"low": "a", "step": 1}, {"low": float("nan"), "step": 1}):
        with pytest.raises(ArgumentError, match="no steps"):
            WholeSteps.from_dict(content)
