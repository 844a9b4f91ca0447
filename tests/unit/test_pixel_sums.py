"""Histogram, sum and sum of squares in one pass equal NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.survey.pixel_sums import pixel_sums


@pytest.mark.parametrize("kind", ["uint16", "float32", "int32", "uint8"])
def test_sums_and_counts_equal_those_of_numpy(kind):
    values = np.random.default_rng(0).normal(120, 60, (3, 5000)).clip(0, 250).astype(kind)
    counts, total, squares = pixel_sums(values, 50.0, 4.0, 20)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(total, wide.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(squares, (wide**2).sum(axis=1), rtol=1e-12)
    inside = wide.clip(50.0, 130.0)
    expected = [np.histogram(row, bins=20, range=(50.0, 130.0))[0] for row in inside]
    assert np.array_equal(counts, expected)
    assert counts.sum(axis=1).tolist() == [5000] * 3
