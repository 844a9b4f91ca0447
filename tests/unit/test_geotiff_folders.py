"""Folders of GeoTIFFs become place records, whole or in patches."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.sources.own_images import OwnImages
from cromss.data.sources.source import Tally
from cromss.errors import BandError, ConfigError, GridError, LabelError, RangeError
from cromss.geo.legend import IGNORE
from cromss.geo.legends import get_legend
from cromss.geo.raster import read_raster, write_raster
from small_scenes import S2_BANDS, grid, s1_values, s2_values, write_labels, write_s1, write_s2, write_scene

RNG = np.random.default_rng
SPLIT_VALUES = {"train": 1, "test": 2, "validation": 3}


def folders(root, roles=("s1", "s2", "labels"), pattern="{id}.tif", **options):
    patterns = {role: str(root / role / pattern) for role in roles}
    options = {"legend": get_legend("dynamic_world"), "bands": {"s1": ("VV", "VH"), "s2": S2_BANDS}, **options}
    return OwnImages(patterns, **options)


def test_a_record_holds_what_the_files_hold(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_scene(tmp_path, "b", seed=2)
    records = list(folders(tmp_path, split_of=lambda name: {"a": "train", "b": "test"}[name]))
    assert [(record.id, record.split) for record in records] == [("a", "train"), ("b", "test")]
    for record in records:
        for sensor in ("s1", "s2"):
            stored = read_raster(tmp_path / sensor / f"{record.id}.tif").values_BHW
            assert (record.images[sensor][0] == stored).all()
            assert record.images[sensor].dtype == stored.dtype
        assert (record.labels[0] == read_raster(tmp_path / "labels" / f"{record.id}.tif").values_BHW[0]).all()
        assert record.products == {"s1": "GRD", "s2": "L1C"}
        assert record.grid == grid()
        assert record.valid.all()


def test_records_are_read_one_at_a_time(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_scene(tmp_path, "b", seed=2)
    records = iter(folders(tmp_path))
    assert next(records).id == "a"
    (tmp_path / "s2" / "b.tif").unlink()
    write_s2(tmp_path / "s2" / "b.tif", s2_values(RNG(9)))
    assert (next(records).images["s2"][0] == s2_values(RNG(9))).all()


def test_seasons_are_stacked_in_the_order_of_their_names(tmp_path):
    for number, season in enumerate(["summer", "autumn"]):
        write_s2(tmp_path / "s2" / "a" / f"{season}.tif", s2_values(RNG(number)), tags={"LEVEL": "L1C", "DATE": season})
    (record,) = folders(tmp_path, roles=("s2",), pattern="{id}/{season}.tif")
    assert record.seasons == ("autumn", "summer")
    assert (record.images["s2"][1] == s2_values(RNG(0))).all()
    assert record.labels is None
    assert record.notes == {"s2_date": "autumn,summer"}


def test_seasons_of_different_products_are_refused(tmp_path):
    for level in ("L1C", "L2A"):
        write_s2(tmp_path / "s2" / "a" / f"{level}.tif", s2_values(RNG(0)), tags={"LEVEL": level})
    with pytest.raises(BandError, match="different s2 products"):
        list(folders(tmp_path, roles=("s2",), pattern="{id}/{season}.tif", bands={"s2": ("B2",)}))


def test_a_pixel_is_valid_when_every_sensor_has_data(tmp_path):
    s1, s2, labels = s1_values(RNG(0)), s2_values(RNG(0)), np.full((16, 16), 3, np.uint8)
    s1[:, 0, 0], s2[:, 1, 1], labels[2, 2] = np.nan, 0, IGNORE
    write_s1(tmp_path / "s1" / "a.tif", s1)
    write_s2(tmp_path / "s2" / "a.tif", s2)
    write_labels(tmp_path / "labels" / "a.tif", labels)
    (record,) = folders(tmp_path)
    assert np.argwhere(~record.valid[0]).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(record.labels[0] == IGNORE).tolist() == [[2, 2]]


def test_patches_lie_on_the_grid_of_the_scene_and_carry_their_own(tmp_path):
    write_scene(tmp_path, "a", seed=1, side=20)
    whole = read_raster(tmp_path / "s2" / "a.tif").values_BHW
    source, tally = folders(tmp_path, tile=8), Tally()
    records = list(source.records(source.scenes[0], tally))
    assert [record.id for record in records] == [f"a_r{r:05d}_c{c:05d}" for r in (0, 8) for c in (0, 8)]
    for record, (row, column) in zip(records, [(0, 0), (0, 8), (8, 0), (8, 8)], strict=True):
        assert (record.images["s2"][0] == whole[:, row : row + 8, column : column + 8]).all()
        assert record.grid == grid(20).window(row, column, 8, 8)
    assert tally.pixels_left_over == 20 * 20 - 16 * 16


def test_a_scene_smaller_than_a_patch_is_refused(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    with pytest.raises(GridError, match="smaller than a patch"):
        list(folders(tmp_path, tile=17))


def test_patches_without_labels_or_data_are_counted(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    labels, s2 = np.full((16, 16), IGNORE, np.uint8), s2_values(RNG(0))
    labels[:8] = 4
    s2[:, :8, 8:] = 0
    write_labels(tmp_path / "labels" / "a.tif", labels)
    write_s2(tmp_path / "s2" / "a.tif", s2)
    source, tally = folders(tmp_path, tile=8), Tally()
    assert [record.id for record in source.records(source.scenes[0], tally)] == ["a_r00000_c00000"]
    assert tally.left_out == {"without a labelled pixel": 2, "without a pixel of data": 1}


def test_no_label_is_trained_on_outside_the_split_of_its_patch(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    split = np.ones((16, 16), np.uint8)
    split[:, 6:] = 2  # the left patches are 3/4 train, 1/4 test
    split[:8, 12:] = 0
    write_raster(tmp_path / "split" / "a.tif", split, grid())
    source, tally = folders(tmp_path, ("s1", "s2", "labels", "split"), tile=8, split_values=SPLIT_VALUES), Tally()
    records = {record.id: record for record in source.records(source.scenes[0], tally)}
    assert [record.split for record in records.values()] == ["train", "test", "train", "test"]
    for record in records.values():
        row, column = (int(part[1:]) for part in record.id.split("_")[1:])
        inside = split[row : row + 8, column : column + 8] == SPLIT_VALUES[record.split]
        assert (record.labels[0][~inside] == IGNORE).all()
        assert (record.labels[0][inside] != IGNORE).all()
    assert tally.labels_outside_split == 2 * 16 + 32


def test_patches_outside_all_splits_are_counted(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    split = np.zeros((16, 16), np.uint8)
    split[:8, :8] = 3
    write_raster(tmp_path / "split" / "a.tif", split, grid())
    source, tally = folders(tmp_path, ("s1", "s2", "labels", "split"), tile=8, split_values=SPLIT_VALUES), Tally()
    assert [record.split for record in source.records(source.scenes[0], tally)] == ["validation"]
    assert tally.left_out == {"outside all splits": 3}


def test_a_value_that_names_no_split_is_refused(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_raster(tmp_path / "split" / "a.tif", np.full((16, 16), 7, np.uint8), grid())
    with pytest.raises(LabelError, match="name no split"):
        list(folders(tmp_path, ("s1", "s2", "labels", "split"), split_values=SPLIT_VALUES))


def test_a_value_between_two_splits_is_refused_not_rounded(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_raster(tmp_path / "split" / "a.tif", np.full((16, 16), 1.5, np.float32), grid())
    with pytest.raises(LabelError, match="name no split"):
        list(folders(tmp_path, ("s1", "s2", "labels", "split"), split_values=SPLIT_VALUES))


def test_no_data_of_a_raster_of_splits_is_in_no_split_even_if_0_names_one(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    split = np.zeros((16, 16), np.uint8)
    split[:, :8], split[:, 8] = 255, 1
    write_raster(tmp_path / "split" / "a.tif", split, grid(), nodata=255)
    (record,) = folders(tmp_path, ("s1", "s2", "labels", "split"), split_values={"train": 0, "test": 1})
    assert record.split == "train"
    assert (record.labels[0][:, :9] == IGNORE).all()
    assert (record.labels[0][:, 9:] != IGNORE).all()


def test_seasons_of_a_place_in_different_splits_are_refused(tmp_path):
    for season, split in (("x", 1), ("y", 1)):
        write_scene(tmp_path, f"a/{season}", seed=1)
        write_raster(tmp_path / "split" / "a" / f"{season}.tif", np.full((16, 16), split, np.uint8), grid())
    roles, options = ("s1", "s2", "labels", "split"), {"pattern": "{id}/{season}.tif", "split_values": SPLIT_VALUES}
    assert [record.split for record in folders(tmp_path, roles, **options)] == ["train"]
    write_raster(tmp_path / "split" / "a" / "y.tif", np.full((16, 16), 2, np.uint8), grid())
    with pytest.raises(LabelError, match="different splits") as caught:
        list(folders(tmp_path, roles, **options))
    assert str(caught.value.where).count(".tif") == 2


def test_an_image_without_data_is_named_also_where_it_is_not_the_first(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_s2(tmp_path / "s2" / "a.tif", np.zeros((13, 16, 16), np.uint16), nodata=0)
    with pytest.raises(RangeError, match="no pixel with data") as caught:
        list(folders(tmp_path))
    assert caught.value.where == str(tmp_path / "s2" / "a.tif")


def test_a_scene_without_labels_or_data_is_refused(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_labels(tmp_path / "labels" / "a.tif", np.full((16, 16), IGNORE, np.uint8))
    for tile in (None, 8):
        with pytest.raises(LabelError) as caught:
            list(folders(tmp_path, tile=tile))
        assert "labels" in str(caught.value.where)
    write_s1(tmp_path / "s1" / "a.tif", np.full((2, 16, 16), np.nan, np.float32))
    with pytest.raises(RangeError, match="no pixel with data"):
        list(folders(tmp_path))


def test_exact_labels_ride_along_where_they_exist(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_scene(tmp_path, "b", seed=2)
    write_labels(tmp_path / "truth" / "b.tif", np.full((16, 16), 5, np.uint8))
    first, second = folders(tmp_path, ("s1", "s2", "labels", "truth"))
    assert first.truth is None
    assert (second.truth == 5).all()


def test_a_label_file_with_several_bands_is_refused(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    write_labels(tmp_path / "labels" / "a.tif", np.zeros((2, 16, 16), np.uint8))
    with pytest.raises(BandError, match="one band"):
        list(folders(tmp_path))


def test_a_source_needs_images_and_known_roles(tmp_path):
    with pytest.raises(ConfigError, match="needs images"):
        folders(tmp_path, roles=("labels",))
    with pytest.raises(ConfigError, match="needs pixels"):
        folders(tmp_path, tile=0)


def test_files_stay_open_no_longer_than_their_scene(tmp_path):
    from pathlib import Path

    for name in "abcdefgh":
        write_scene(tmp_path, name, seed=1)
    handles = [len(list(Path("/proc/self/fd").iterdir())) for _ in folders(tmp_path)]
    assert max(handles) == min(handles)
