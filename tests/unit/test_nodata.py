"""No data is where a band holds its declared value or the file's mask hides it, however one asks for it."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.geo.nodata import NoData


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
@pytest.mark.parametrize(
    "declared", [(0.0, 0.0), (None, None), (0.0, None), (1.0, 2.0), (-9999.0, -9999.0), (1.5, 1.5), (1e30, 1e30)]
)
def test_a_band_is_missing_where_it_holds_its_own_no_data_value(kind, declared):
    values_BHW = np.array([[[0, 1, 2]], [[2, 1, 0]]], kind)
    expected = [
        [[value == missing for value in row] for row in band]
        for band, missing in zip(values_BHW, declared, strict=True)
    ]
    assert NoData(values_BHW=values_BHW, declared_B=declared).in_each().tolist() == expected


def test_nan_is_missing_where_it_is_declared():
    values_BHW = np.array([[[np.nan, 1.0]], [[0.0, np.nan]]], np.float32)
    missing = NoData(values_BHW=values_BHW, declared_B=(np.nan, np.nan))
    assert missing.in_each().tolist() == [[[True, False]], [[False, True]]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("masked", [False, True])
def test_any_and_all_bands_agree_with_looking_at_each(seed, masked):
    random = np.random.default_rng(seed)
    values_BHW = random.integers(0, 2, (5, 4, 6)).astype(np.uint16)
    values_BHW[:, 0] = seed % 2  # rows that are all data, or none
    mask_HW = random.integers(0, 2, (4, 6)).astype(bool) if masked else None
    missing = NoData(values_BHW=values_BHW, declared_B=(0.0, 0.0, 1.0, None, 0.0), masked_HW=mask_HW)
    each_BHW = missing.in_each()
    for bands in ([0, 1, 2, 3, 4], [4, 0], [2], [0, 1, 4]):
        assert (missing.in_any(bands) == each_BHW[bands].any(axis=0)).all()
        assert (missing.in_all(bands) == each_BHW[bands].all(axis=0)).all()
