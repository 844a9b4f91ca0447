"""Bands are summed up as NumPy does it, and a wrong product or an offset shows in the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.survey.band_statistics import BINS, BandCounts, bin_edges
from cromss.geo.bands import SENSORS
from cromss.geo.images import describe_image, read_image
from cromss.geo.raster import open_raster, read_raster

S2, L2A = SENSORS["s2"].bands, SENSORS["s2"].subsets["12"]


def counts(images, sensor="s2", product="L1C", bands=("B2", "B3")) -> BandCounts:
    result = BandCounts(sensor=sensor, product=product, bands=bands)
    for number, image in enumerate(images):
        result.add(f"image{number}", image, np.ones(image.shape[1:], bool))
    return result


def test_means_and_percentiles_are_those_of_all_pixels():
    images = np.random.default_rng(0).gamma(4, 300, (5, 2, 30, 40)).astype(np.uint16)
    summary = counts(images).summary()
    for index, row in enumerate(summary["bands"]):
        values = images[:, index].astype(np.float64)
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert row["std"] == pytest.approx(values.std(), rel=1e-5)
        for name, share in (("percentile_2", 2), ("median", 50), ("percentile_98", 98)):
            assert row[name] <= np.percentile(values, share) < row[name] + 64 + 1
        assert (row["published_mean"], row["published_std"]) == SENSORS["s2"].statistics["L1C"][row["band"]]
    assert (summary["images"], summary["pixels"]) == (5, 6000)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_the_histogram_is_numpys_and_values_beyond_it_are_in_the_end_bins(dtype):
    image = np.random.default_rng(1).integers(0, 20000, (2, 50, 50)).astype(dtype)
    result = counts([image])
    for index in range(2):
        inside = np.minimum(image[index], bin_edges("s2")[-1] - 1)
        assert (result.histogram_BN[index] == np.histogram(inside, bin_edges("s2"))[0]).all()


def test_decibels_are_binned_with_their_sign():
    image = np.random.default_rng(1).normal(-15, 8, (2, 50, 50)).astype(np.float32)
    image[0, 0, :2] = -80, 50
    result = counts([image], sensor="s1", product="GRD", bands=("VV", "VH"))
    assert result.histogram_BN.sum() == 5000
    assert result.histogram_BN[0, 0] >= 1
    assert result.histogram_BN[0, BINS - 1] == 1
    assert result.summary()["bands"][1]["median"] == pytest.approx(np.median(image[1]), abs=0.5)


def test_pixels_without_data_do_not_count():
    image = np.full((2, 10, 10), 500, np.uint16)
    image[:, :5] = 0
    result = BandCounts(sensor="s2", product="L1C", bands=("B2", "B3"))
    result.add("a", image, image[0] > 0)
    result.add("empty", image, np.zeros((10, 10), bool))
    assert (result.images, result.pixels, result.summary()["bands"][0]["mean"]) == (1, 50, 500)


def test_parts_add_up_to_the_whole():
    images = np.random.default_rng(0).integers(0, 4000, (6, 2, 20, 20)).astype(np.uint16)
    whole, first, second = counts(images), counts(images[:2]), counts(images[2:])
    first.merge(second)
    assert first.summary() | {"examples": 0} == whole.summary() | {"examples": 0}


def test_thin_cloud_is_counted_where_b10_is_kept():
    image = np.full((2, 10, 10), 10, np.uint16)
    image[1, :3] = 121
    assert counts([image], bands=("B9", "B10")).summary()["cirrus_share"] == 0.3
    assert counts([image]).summary()["cirrus_share"] is None


def test_without_b9_the_darkest_blue_tells_the_product_or_nothing():
    looks = [
        counts([np.full((2, 9, 9), dark, np.uint16)], product="L2A").summary()["looks_like"] for dark in (200, 650, 870)
    ]
    assert looks == [{"L2A": 1}, {"unknown": 1}, {"L1C": 1}]


def real(sentinel_mini, bands, product):
    for path in sorted((sentinel_mini / "pretrain" / "s2").glob("*.tif")):
        with open_raster(path) as dataset:
            facts = describe_image(dataset, "s2")
            if facts.product == product:
                yield read_image(dataset, facts, bands).values_BHW
    if product == "L1C":
        for path in sorted((sentinel_mini / "downstream" / "flood_hand").glob("*/s2.tif")):
            yield read_raster(path).values_BHW
        yield read_raster(sentinel_mini / "downstream" / "osm_landuse" / "s2.tif").values_BHW


@pytest.mark.parametrize(("product", "bands"), [("L1C", S2), ("L2A", L2A)])
@pytest.mark.parametrize("added", [0, 1000])
def test_real_scenes_show_their_product_and_their_offset(sentinel_mini, product, bands, added):
    images = [image + np.uint16(added) for image in real(sentinel_mini, bands, product)]
    found = counts(images, product=product, bands=bands).summary()
    assert found["images"] >= 5
    assert set(found["looks_like"]) <= {product, "unknown"}
    assert found["looks_like"][product] > 0.8 * found["images"]
    assert found["looks_offset_by_1000"] == (found["images"] if added else 0)


def test_images_declared_as_the_other_product_are_named(sentinel_mini):
    mixed = counts(list(real(sentinel_mini, L2A, "L2A"))[:8], product="L1C", bands=L2A).summary()
    assert 0 < len(mixed["examples"]["L2A"]) <= 5


@pytest.mark.parametrize(("dark", "offset"), [(None, 4), (3, 2)])
def test_an_offset_is_of_a_whole_file_so_that_one_part_without_it_clears_the_others(dark, offset):
    sums, every = BandCounts(sensor="s2", product="L2A", bands=L2A), np.ones((8, 8), bool)
    for file in ("first", "second"):
        for part in range(2):
            number = part + 2 * (file == "second")
            value = 400 if number == dark else 1400
            sums.add(f"{file}/{part}", np.full((len(L2A), 8, 8), value, np.uint16), every, file=file)
    whole = BandCounts(sensor="s2", product="L2A", bands=L2A)
    whole.merge(sums)
    found = whole.summary()
    assert (found["images"], found["looks_offset_by_1000"]) == (4, offset)
    assert found["examples"]["offset"] == ["first/0", "first/1", "second/0", "second/1"][:offset]


def test_patches_of_a_real_city_do_not_look_offset(sentinel_mini, tmp_path):
    root = sentinel_mini / "downstream" / "osm_landuse"
    paths = {"s1": None, "s2": "s2.tif", "labels": "labels.tif"}
    report = prepare(PrepareConfig(root=str(root), out=str(tmp_path / "out"), s2_bands="9", tile=64, **paths))
    assert report["places"] > 200
    assert not [finding for finding in report["findings"] if "1000 DN" in finding["what"]]
