"""Bands of image files by name, their product, their unit and their validity."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.errors import BandError, DataError, RangeError
from cromss.geo.images import describe_image, read_image
from cromss.geo.raster import open_raster, write_raster
from small_scenes import S2_BANDS, grid, s1_values, s2_values, write_s1, write_s2


@pytest.fixture
def values():
    return s2_values(np.random.default_rng(0))


def test_bands_are_taken_by_name_whatever_their_order_in_the_file(tmp_path, values):
    order = np.random.default_rng(1).permutation(13)
    write_s2(tmp_path / "a.tif", values[order], band_names=[S2_BANDS[index] for index in order])
    read = read_image(tmp_path / "a.tif", "s2", ("B12", "B4", "B8A"))
    assert (read.values_BHW == values[[12, 3, 8]]).all()
    assert read.band_names == ("B12", "B4", "B8A")


def test_the_tag_band_order_names_bands_too(tmp_path, values):
    tags = {"LEVEL": "L1C", "BAND_ORDER": ",".join(S2_BANDS)}
    write_s2(tmp_path / "a.tif", values, band_names=(), tags=tags)
    assert (read_image(tmp_path / "a.tif", "s2", ("B2",)).values_BHW == values[1]).all()


def test_bands_without_names_need_a_stated_order(tmp_path, values):
    write_s2(tmp_path / "a.tif", values, band_names=())
    with pytest.raises(BandError, match="have no names") as caught:
        read_image(tmp_path / "a.tif", "s2", ("B2",))
    assert "s2_bands=B1,B2" in caught.value.do
    assert "BAND_ORDER=B1,B2" in caught.value.do  # what helps every command, also those without s2_bands
    with open_raster(tmp_path / "a.tif") as dataset:
        facts = describe_image(dataset, "s2", file_bands=S2_BANDS)
        assert (read_image(dataset, facts, ("B3",)).values_BHW == values[2]).all()
        with pytest.raises(BandError, match="than the settings say"):
            describe_image(dataset, "s2", file_bands=S2_BANDS[:9])


def test_names_that_contradict_each_other_are_refused(tmp_path, values):
    tags = {"LEVEL": "L1C", "BAND_ORDER": ",".join(reversed(S2_BANDS))}
    write_s2(tmp_path / "a.tif", values, tags=tags)
    with pytest.raises(BandError, match="contradicts itself"):
        read_image(tmp_path / "a.tif", "s2", ("B2",))


def test_a_name_that_stands_twice_is_refused(tmp_path, values):
    write_s2(tmp_path / "a.tif", values, band_names=("B1", "B01", *S2_BANDS[2:]))
    with pytest.raises(BandError, match="twice"):
        read_image(tmp_path / "a.tif", "s2", ("B3",))


def test_l2a_has_no_b10_and_the_error_says_which_bands_to_choose(tmp_path, values):
    values[10] = 0
    write_s2(tmp_path / "a.tif", values, tags={"LEVEL": "L2A", "ABSENT_BANDS": "B10"})
    with pytest.raises(BandError, match=r"no B10.*\n.*\n.*\n.*\n.*s2_bands=12"):
        read_image(tmp_path / "a.tif", "s2", S2_BANDS)
    bands = tuple(name for name in S2_BANDS if name != "B10")
    assert read_image(tmp_path / "a.tif", "s2", bands).valid_HW.all()


def test_an_s2_pixel_has_no_data_only_when_all_present_bands_say_so(tmp_path, values):
    values[10] = 0  # B10 of L2A says nothing
    values[:, 2, 3] = 0
    values[1, 5, 5] = 0  # one band in deep shadow
    write_s2(tmp_path / "a.tif", values, tags={"LEVEL": "L2A", "ABSENT_BANDS": "B10"})
    valid = read_image(tmp_path / "a.tif", "s2", ("B2", "B3")).valid_HW
    assert not valid[2, 3]
    assert valid.sum() == 255


def test_an_s1_pixel_has_no_data_when_any_band_says_so(tmp_path):
    values = s1_values(np.random.default_rng(0))
    values[1, 4, 4] = np.nan
    write_s1(tmp_path / "a.tif", values)
    valid = read_image(tmp_path / "a.tif", "s1", ("VV",)).valid_HW
    assert not valid[4, 4]
    assert valid.sum() == 255


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_undeclared_zeros_in_every_band_are_refused_with_a_count(sensor, tmp_path, values):
    written = s1_values(np.random.default_rng(0)) if sensor == "s1" else values
    written[:, :2, :5] = 0
    {"s1": write_s1, "s2": write_s2}[sensor](tmp_path / "a.tif", written, nodata=None)
    with pytest.raises(RangeError, match="10 of 256 pixels"):
        read_image(tmp_path / "a.tif", sensor, ("VV",) if sensor == "s1" else ("B2",))


@pytest.mark.parametrize(("sensor", "declared"), [("s1", np.nan), ("s2", 65535)])
def test_zeros_in_every_band_are_refused_where_another_value_is_declared(sensor, declared, tmp_path, values):
    written = s1_values(np.random.default_rng(0)) if sensor == "s1" else values
    written[:, :2, :5] = 0
    {"s1": write_s1, "s2": write_s2}[sensor](tmp_path / "a.tif", written, nodata=declared)
    with pytest.raises(RangeError, match=f"declares only {declared:g} as no data") as caught:
        read_image(tmp_path / "a.tif", sensor, ("VV",) if sensor == "s1" else ("B2",))
    assert caught.value.got == "10 of 256 pixels"


def test_a_lone_band_may_be_zero_where_no_data_is_declared(tmp_path):
    values = s1_values(np.random.default_rng(0))[:1]
    values[:, 3, 3] = 0
    write_s1(tmp_path / "a.tif", values, band_names=("VV",), nodata=np.nan)
    assert read_image(tmp_path / "a.tif", "s1", ("VV",)).valid_HW.all()


def test_backscatter_without_its_sign_is_refused(tmp_path):
    values = s1_values(np.random.default_rng(0))
    values[:, 0, 0] = 2.0  # bright targets are positive
    write_s1(tmp_path / "a.tif", values)
    assert read_image(tmp_path / "a.tif", "s1", ("VV", "VH")).valid_HW.all()
    write_s1(tmp_path / "a.tif", -values)
    with pytest.raises(RangeError, match="brighter than ground"):
        read_image(tmp_path / "a.tif", "s1", ("VV", "VH"))


@pytest.mark.parametrize(
    ("tags", "setting", "product"),
    [
        ({"LEVEL": "L1C"}, None, "L1C"),
        ({"LEVEL": "Level-2A"}, None, "L2A"),
        ({"PROCESSING_LEVEL": "2A"}, "L2A", "L2A"),
        ({}, "L1C", "L1C"),
    ],
)
def test_the_product_comes_from_the_tag_or_the_setting(tags, setting, product, tmp_path, values):
    write_s2(tmp_path / "a.tif", values, tags=tags)
    with open_raster(tmp_path / "a.tif") as dataset:
        assert describe_image(dataset, "s2", product=setting).product == product


def test_without_a_product_the_error_says_which_setting_to_give(tmp_path, values):
    write_s2(tmp_path / "a.tif", values, tags={})
    with pytest.raises(DataError, match="give s2_product=L1C or s2_product=L2A"):
        read_image(tmp_path / "a.tif", "s2", ("B2",))


def test_a_tag_that_contradicts_the_setting_is_refused(tmp_path, values):
    write_s2(tmp_path / "a.tif", values)
    with open_raster(tmp_path / "a.tif") as dataset:
        with pytest.raises(DataError, match="another product"):
            describe_image(dataset, "s2", product="L2A")
        with pytest.raises(BandError, match="unknown"):
            describe_image(dataset, "s2", product="L3A")


def test_whole_numbers_of_other_types_become_uint16_unchanged(tmp_path, values):
    write_s2(tmp_path / "a.tif", values.astype(np.int32))
    read = read_image(tmp_path / "a.tif", "s2", S2_BANDS)
    assert read.values_BHW.dtype == np.uint16
    assert (read.values_BHW == values).all()


def test_s1_is_read_as_float32(tmp_path):
    values = s1_values(np.random.default_rng(0)).astype(np.float64)
    write_s1(tmp_path / "a.tif", values)
    assert read_image(tmp_path / "a.tif", "s1", ("VH", "VV")).values_BHW.dtype == np.float32


def test_another_unit_in_the_tags_is_refused(tmp_path):
    write_s1(tmp_path / "a.tif", s1_values(np.random.default_rng(0)), tags={"UNITS": "linear power"})
    with pytest.raises(RangeError, match="another unit"):
        read_image(tmp_path / "a.tif", "s1", ("VV",))


@pytest.mark.parametrize(("scale", "offset", "refused"), [(0.0001, 0.0, False), (0.0001, -0.1, True), (2.0, 0.0, True)])
def test_a_declared_scale_other_than_that_of_dn_is_refused(scale, offset, refused, tmp_path, values):
    import rasterio

    write_s2(tmp_path / "a.tif", values)
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = [scale] * 13, [offset] * 13
    if refused:
        with pytest.raises(RangeError, match="scale or offset"):
            read_image(tmp_path / "a.tif", "s2", ("B2",))
    else:
        assert (read_image(tmp_path / "a.tif", "s2", ("B2",)).values_BHW == values[1]).all()


def test_bands_of_other_things_are_left_alone(tmp_path, values):
    more = np.concatenate([values, values[:1]])
    write_raster(tmp_path / "a.tif", more, grid(), nodata=0, band_names=(*S2_BANDS, "SCL"), tags={"LEVEL": "L1C"})
    assert (read_image(tmp_path / "a.tif", "s2", S2_BANDS).values_BHW == values).all()
