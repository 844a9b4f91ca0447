"""A place record refuses parts that do not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.record import PlaceRecord
from cromss.errors import ArgumentError
from small_scenes import grid


def parts():
    return {
        "id": "a",
        "seasons": ("x", "y"),
        "images": {"s1": np.zeros((2, 2, 16, 16), np.float32)},
        "products": {"s1": "GRD"},
        "valid": np.ones((2, 16, 16), bool),
        "labels": np.zeros((2, 16, 16), np.uint8),
        "grid": grid(),
        "split": "train",
    }


def test_parts_that_fit_are_taken():
    record = PlaceRecord(**parts())
    assert record.truth is None
    assert record.seasons == ("x", "y")


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a/b"},
        {"seasons": ()},
        {"seasons": ("x",)},
        {"seasons": ("x", "x")},
        {"seasons": ("x", "y/z")},
        {"split": "dev"},
        {"images": {}, "products": {}},
        {"products": {"s2": "L1C"}},
        {"images": {"s1": np.zeros((2, 2, 16, 15), np.float32)}},
        {"images": {"s1": np.zeros((2, 16, 16), np.float32)}},
        {"valid": np.ones((2, 16, 16), np.uint8)},
        {"labels": np.zeros((2, 16, 16), np.int64)},
        {"truth": np.zeros((1, 16, 16), np.uint8)},
        {"grid": grid(8)},
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_id(change):
    with pytest.raises(ArgumentError):
        PlaceRecord(**{**parts(), **change})
