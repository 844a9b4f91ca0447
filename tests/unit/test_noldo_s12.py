"""NoLDO-S12: noisy labels joined with their images, expert tiles with published splits, from folders and zip files."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.sources.file_tree import FileTree
from cromss.data.sources.noldo_labels import NolLabels
from cromss.data.sources.noldo_tiles import NoldoTiles
from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_s12 import Ssl4eoS12
from cromss.errors import BandError, ConfigError, DamagedFileError, DataError, GridError, LabelError, MissingDataError
from cromss.geo.bands import SENSORS
from cromss.geo.legends import get_legend
from cromss.geo.raster import read_raster
from published_archives import S2_SEASONS, box, write_expert, write_nol, write_ssl4eo, write_tile, zip_folder
from records import contents
from small_scenes import grid, s2_values, settings, write

ALL = {sensor: SENSORS[sensor].bands for sensor in ("s1", "s2")}
DW, OSM = get_legend("dynamic_world"), get_legend("osm13")
TRAIN = "-0.0520777954_32.9493499204-20190816"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two places with four seasons; labels of the first alone."""
    root = tmp_path_factory.mktemp("nol")
    ids = write_ssl4eo(root, places=2)
    write_nol(root, ids[:1])
    return root


@pytest.fixture
def tiles(tmp_path):
    write_expert(tmp_path / "dw", "dw")
    return tmp_path / "dw"


def read_all(root):
    source = NoldoTiles(root, "dw", legend=DW, bands=ALL)
    return [record for scene in source.scenes for record in source.records(scene)]


def nol_record(images, labels, **options):
    source = Ssl4eoS12(images, bands=ALL, labels=NolLabels(labels, DW))
    (record,) = source.records(source.scenes[0], options.get("tally"))
    return record


def test_noisy_labels_are_joined_with_the_images_of_the_same_acquisition(images):
    source = Ssl4eoS12(images, bands=ALL, labels=NolLabels(images, DW))
    assert [scene.id for scene in source.scenes] == ["0000200"]
    assert source.orphans == []
    (record,) = source.records(source.scenes[0])
    assert record.seasons == S2_SEASONS
    for number, season in enumerate(S2_SEASONS):
        path = images / "dw_noisy_labels" / "0000200" / season / "label.tif"
        assert (record.labels[number] == read_raster(path).values_BHW[0]).all()


def test_labels_go_with_sentinel_1_alone_by_the_day_of_their_acquisition(images):
    source = Ssl4eoS12(images, bands={"s1": ALL["s1"]}, labels=NolLabels(images, DW))
    (record,) = source.records(source.scenes[0])
    assert record.seasons == S2_SEASONS
    assert record.notes["s1_date"] == "2020-06-07,2020-09-03,2020-11-20,2021-03-05"


@pytest.mark.parametrize("prefix", ["", "ssl4eo_s12_nol/"])
def test_the_zip_file_of_noisy_labels_reads_as_its_folder_does(images, tmp_path, prefix):
    for name in ("dw_noisy_labels", "dw_complete_ids.csv"):
        copy = shutil.copytree if (images / name).is_dir() else shutil.copy
        copy(images / name, tmp_path / name)
    archive = zip_folder(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip", prefix)
    assert (nol_record(images, archive).labels == nol_record(images, images).labels).all()
    assert NolLabels(archive, DW).disk("0000200", S2_SEASONS[0]) == archive


def test_a_table_without_a_head_and_with_row_numbers_reads_the_same(images, tmp_path):
    expected = NolLabels(images, DW).seasons
    for text in (f"200,{','.join(S2_SEASONS)}\n", f",ids,sub1,sub2,sub3,sub4\n0,200,{','.join(S2_SEASONS)}\n"):
        (tmp_path / "dw_complete_ids.csv").write_text(text)
        assert NolLabels(tmp_path, DW).seasons == expected


@pytest.mark.parametrize(
    "row", ["200,a,b,c", "abc,a,b,c,d", "200,a,a,b,c", "12345678,a,b,c,d", "200,a,b,c,d\n200,a,b,c,d"]
)
def test_a_table_that_differs_is_refused_with_its_row(tmp_path, row):
    (tmp_path / "dw_complete_ids.csv").write_text(f"ids,sub1,sub2,sub3,sub4\n{row}\n")
    with pytest.raises(DamagedFileError, match="row"):
        NolLabels(tmp_path, DW)


def test_a_season_that_the_table_names_and_the_images_lack_is_an_orphan(images, tmp_path):
    shutil.copytree(images, tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "s2c" / "0000200" / S2_SEASONS[2])
    source = Ssl4eoS12(tmp_path / "in", bands=ALL, labels=NolLabels(tmp_path / "in", DW))
    assert source.scenes[0].seasons == (*S2_SEASONS[:2], S2_SEASONS[3])
    assert [(orphan.season, orphan.missing) for orphan in source.orphans] == [(S2_SEASONS[2], ("s2",))]


def test_labels_are_not_joined_with_an_acquisition_of_some_days_later(images, tmp_path):
    shutil.copytree(images, tmp_path / "in")
    season = tmp_path / "in" / "s2c" / "0000200" / S2_SEASONS[2]
    season.rename(season.with_name(S2_SEASONS[2].replace("20201126T", "20201129T")))
    source = Ssl4eoS12(tmp_path / "in", bands=ALL, labels=NolLabels(tmp_path / "in", DW))
    assert source.scenes[0].seasons == (*S2_SEASONS[:2], S2_SEASONS[3])
    assert [(orphan.season, orphan.missing) for orphan in source.orphans] == [(S2_SEASONS[2], ("s2",))]


def test_label_maps_of_nearly_the_size_are_resampled_by_nearest_and_counted(images, tmp_path):
    write_nol(tmp_path, ["0000200"], side=262)
    tally = Tally()
    record = nol_record(images, tmp_path, tally=tally)
    assert tally.changed["label maps resampled to 264 x 264 px (nearest)"] == 4
    assert set(np.unique(record.labels)) <= set(range(9))


@pytest.mark.parametrize(
    ("values", "where", "error", "text"),
    [
        (np.zeros((130, 130), np.int16), box(130, 10), GridError, "256 to 272"),
        (np.full((264, 264), 9, np.int16), box(264, 10), LabelError, "9"),
        (np.full((264, 264), -1, np.int16), box(264, 10), LabelError, "-1"),
        (np.zeros((264, 264), np.int16), box(264, 10, down=40), GridError, "at most 16 px"),
        (np.zeros((2, 264, 264), np.int16), box(264, 10), BandError, "one band"),
    ],
)
def test_label_maps_that_differ_are_refused_with_their_file(images, tmp_path, values, where, error, text):
    write_nol(tmp_path, ["0000200"])
    write(tmp_path / "dw_noisy_labels" / "0000200" / S2_SEASONS[1] / "label.tif", values, where)
    with pytest.raises(error, match=text) as caught:
        nol_record(images, tmp_path)
    assert "label.tif" in str(caught.value.where)


def test_the_layout_of_noisy_labels_goes_into_a_store(images, tmp_path):
    report = prepare(settings(images, tmp_path / "out", layout="noldo_s12_nol", s2_bands="9"))
    assert (report["places"], report["samples"]) == (1, 4)
    assert report["splits"]["train"]["labelled_share"] == 1


@pytest.mark.parametrize("task", ["dw", "osm"])
def test_expert_classes_count_from_1_and_what_is_not_annotated_is_ignored(tmp_path, task):
    write_expert(tmp_path, task)
    source = NoldoTiles(tmp_path, task, legend={"dw": DW, "osm": OSM}[task], bands=ALL)
    (record,) = source.records(source.scenes[0])
    raw = read_raster(source.scenes[0].files["labels"][0]).values_BHW[0]
    classes = {"dw": 9, "osm": 13}[task]
    assert (record.labels[0][raw == 0] == 255).all()
    assert (record.labels[0][raw == classes] == classes - 1).all()
    assert (record.labels[0][(raw > 0) & (raw <= classes)] == raw[(raw > 0) & (raw <= classes)] - 1).all()
    if task == "dw":
        assert (record.labels[0][raw == 10] == 255).all()


def test_splits_are_the_published_ones_and_names_get_their_decimal_points(tiles):
    source = NoldoTiles(tiles, "dw", legend=DW, bands=ALL)
    splits = {scene.id: source.split(scene) for scene in source.scenes}
    assert splits == {
        "-0.0520777954_32.9493499204-20190816": "train",
        "-1.0520777954_32.9493499204-20190816": "train",
        "-2.0520777954_32.9493499204-20190816": "train",
        "-0.6481384406_6.8231873947-20190226": "test",
        "-1.6481384406_6.8231873947-20190226": "test",
    }


def test_validation_is_drawn_from_training_tiles_alone(tiles, tmp_path):
    options = {"layout": "noldo_s12_dw", "validation_share": 0.5, "seed": 2}
    report = prepare(settings(tiles, tmp_path / "out", **options))
    assert report["splits"]["test"]["places"] == 2
    assert report["splits"]["validation"]["places"] >= 1
    for change in ({"test_share": 0.1}, {"split": "x.csv"}, {"legend": "osm13"}, {"s2": "x/{id}.tif"}):
        with pytest.raises((ConfigError, MissingDataError)):
            prepare(settings(tiles, tmp_path / "other", **{**options, "validation_share": 0.0, **change}))


@pytest.mark.slow
def test_the_zip_file_makes_the_same_store_as_its_folder(tiles, tmp_path):
    (tmp_path / "zipped").mkdir()
    zip_folder(tiles, tmp_path / "zipped" / "ssl4eo_s12_dw.zip", "ssl4eo_s12_dw/")
    for name, root in (("a", tiles), ("b", tmp_path / "zipped"), ("c", tmp_path / "zipped" / "ssl4eo_s12_dw.zip")):
        prepare(settings(root, tmp_path / name, layout="noldo_s12_dw", tile=32))
    shards = [{n: data for n, data in contents(tmp_path / name).items() if n.startswith("shards/")} for name in "abc"]
    assert shards[0] == shards[1] == shards[2]
    assert shards[0]


def test_where_a_label_file_has_several_bands_the_classes_are_in_index_1(tiles):
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 10, (3, 64, 64)).astype(np.uint8)
    write(tiles / "dw_train" / "label_dw" / f"dw_{TRAIN}.tif", labels, grid(64))
    source = NoldoTiles(tiles, "dw", legend=DW, bands=ALL)
    (scene,) = (scene for scene in source.scenes if scene.id == TRAIN)
    (record,) = source.records(scene)
    assert (record.labels[0] == labels[1] - 1).all()


def test_twelve_bands_are_taken_as_l2a_and_thirteen_as_l1c(tmp_path):
    write_tile(tmp_path / "dw_train", "dw", TRAIN, 0, bands=12)
    write_tile(tmp_path / "dw_train", "dw", TRAIN.replace("-0.", "-1."), 1, bands=13)
    bands = {"s2": ("B2", "B11", "B12")}
    source = NoldoTiles(tmp_path, "dw", legend=DW, bands=bands)
    products = {scene.id: record.products["s2"] for scene in source.scenes for record in source.records(scene)}
    assert products[TRAIN] == "L2A"
    (record,) = source.records(source.scenes[[scene.id for scene in source.scenes].index(TRAIN)])
    raw = read_raster(tmp_path / "dw_train" / "image_s2" / f"s2_{TRAIN}.tif").values_BHW
    assert (record.images["s2"][0] == raw[[1, 10, 11]]).all()
    source = NoldoTiles(tmp_path, "dw", legend=DW, bands=bands, s2_product="L1C")
    with pytest.raises(DataError, match="another product"):
        list(source.records(source.scenes[[scene.id for scene in source.scenes].index(TRAIN)]))


def test_tiles_that_lack_a_file_are_orphans_and_a_tile_of_two_training_folders_is_used_once(tiles):
    (tiles / "dw_train" / "image_s1" / f"s1_{TRAIN}.tif").unlink()
    write_tile(tiles / "dw_train_small", "dw", TRAIN.replace("-0.", "-1."), 1)
    source = NoldoTiles(tiles, "dw", legend=DW, bands=ALL)
    assert [scene.id for scene in source.scenes if source.split(scene) == "train"] == [
        "-1.0520777954_32.9493499204-20190816",
        "-2.0520777954_32.9493499204-20190816",
    ]
    first, second = source.orphans
    assert (first.id, first.missing) == (TRAIN, ("s1",))
    assert "dw_train" in second.missing[0]
    assert "dw_train_small" in second.found[0]


def test_zero_in_every_band_is_no_data_without_a_declared_value(tiles):
    values = s2_values(np.random.default_rng(0), 64)
    values[:, :, :10] = 0
    values[10, :, 10:] = 0  # cirrus alone is no sign of missing data
    write(tiles / "dw_train" / "image_s2" / f"s2_{TRAIN}.tif", values, grid(64))
    source = NoldoTiles(tiles, "dw", legend=DW, bands=ALL)
    (record,) = source.records(next(scene for scene in source.scenes if scene.id == TRAIN))
    assert not record.valid[0, :, :10].any()
    assert record.valid[0, :, 10:].all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("name", DamagedFileError, "lon"),
        ("both_splits", DamagedFileError, "training and in test"),
        ("class", LabelError, "11"),
        ("bands", BandError, "13"),
        ("grid", GridError, "shifted by 1 px"),
        ("empty", MissingDataError, "dw_t"),
        ("truncated", DamagedFileError, "cut short"),
    ],
)
def test_tiles_that_differ_from_the_layout_are_refused(tiles, tmp_path, change, error, text):
    train = tiles / "dw_train"
    root = tiles
    if change == "name":
        (train / "image_s1" / f"s1_{TRAIN}.tif").rename(train / "image_s1" / "s1_tile7.tif")
    elif change == "both_splits":
        write_tile(tiles / "dw_test", "dw", TRAIN, 0)
    elif change == "class":
        write(train / "label_dw" / f"dw_{TRAIN}.tif", np.full((64, 64), 11, np.uint8), grid(64))
    elif change == "bands":
        write(train / "image_s2" / f"s2_{TRAIN}.tif", s2_values(np.random.default_rng(0), 64)[:5], grid(64))
    elif change == "grid":
        write_tile(train, "dw", TRAIN, 0, map=grid(64).window(0, 1, 64, 64))
    elif change == "truncated":
        path = train / "image_s2" / f"s2_{TRAIN}.tif"
        path.write_bytes(path.read_bytes()[:3000])
    else:
        root = tmp_path / "empty"
        root.mkdir()
    with pytest.raises(error, match=text):
        read_all(root)


def test_a_map_up_to_half_a_pixel_off_is_accepted(tiles):
    shifted = grid(64).window(0, 0, 64, 64)
    near = type(shifted)(
        height=64, width=64, crs=shifted.crs, transform=shifted.transform.translation(4, 0) @ shifted.transform
    )
    write_tile(tiles / "dw_train", "dw", TRAIN, 0, map=near)
    source = NoldoTiles(tiles, "dw", legend=DW, bands=ALL)
    assert len(list(source.records(next(scene for scene in source.scenes if scene.id == TRAIN)))) == 1


def test_every_flipped_byte_of_a_zipped_tile_is_found(tiles, tmp_path):
    """The raster library alone does not compare a member with its checksum."""
    archive = zip_folder(tiles, tmp_path / "x.zip")
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(f"dw_train/label_dw/dw_{TRAIN}.tif")
    whole, found = archive.read_bytes(), 0
    start = info.header_offset + 30 + len(info.filename)
    places = np.random.default_rng(0).choice(info.compress_size, 40, replace=False)
    for place in places:
        damaged = bytearray(whole)
        damaged[start + int(place)] ^= 0x10
        archive.write_bytes(damaged)
        tree = FileTree(archive)
        with pytest.raises(DamagedFileError, match="archive"):
            tree.raster(archive / info.filename).close()
        found += 1
    assert found == 40


@pytest.mark.slow
def test_hostile_archives_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(DamagedFileError, match="archive"):
        FileTree(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tif", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.tif", b"2")
    with pytest.raises(DamagedFileError, match="twice"):
        FileTree(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.tif", bytes(300 * 1024**2))
    with pytest.raises(DataError, match="too large"):
        FileTree(path).raster(path / "bomb.tif")
