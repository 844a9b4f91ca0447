"""BigEarthNet v2 becomes places: s1, s2 and map joined by the published table, all bands on the grid of 10 m."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from affine import Affine

from archive_patches import (
    BEN_BANDS,
    ben_folders,
    ben_names,
    write_bigearthnet,
    write_bigearthnet_patch,
    write_bigearthnet_table,
)
from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.errors import BandError, ConfigError, DamagedFileError, DataError, GridError, LabelError, MissingDataError
from cromss.geo.raster import read_raster
from small_scenes import grid, write


def settings(root, out, **changes):
    fields = {"layout": "bigearthnet", "legend": "bigearthnet19", "s2_bands": "12", **changes}
    return PrepareConfig(root=str(root), out=str(out), **fields)


def run(root, **changes):
    """Prepare, and return the report and place id -> (split, arrays)."""
    report = prepare(settings(root, root / "store", **changes))
    with Store.open(root / "store") as store:
        splits = {int(place): split for split in ("train", "validation", "test") for place in store.select(split)}
        return report, {name: (splits[place], store.read(place, 0)) for place, name in enumerate(store.ids)}


def test_parts_are_joined_by_the_table_and_splits_are_as_published(tmp_path):
    write_bigearthnet(tmp_path)
    report, places = run(tmp_path)
    assert {name: split for name, (split, _) in places.items()} == {
        **{ben_names(number)[0]: "train" for number in range(4)},
        ben_names(4)[0]: "validation",
        ben_names(5)[0]: "test",
    }
    assert report["orphans"] == []
    for number in range(6):
        folders, sample = ben_folders(tmp_path, number), places[ben_names(number)[0]][1]
        vv = read_raster(folders["s1"] / f"{folders['s1'].name}_VV.tif").values_BHW[0]
        b8 = read_raster(folders["s2"] / f"{folders['s2'].name}_B08.tif").values_BHW[0]
        codes = read_raster(folders["labels"] / f"{folders['labels'].name}_reference_map.tif").values_BHW[0]
        assert (sample["s1"][0] == vv).all()
        assert (sample["s2"][7] == b8).all()
        expected = {111: 0, 112: 0, 211: 2, 231: 4, 311: 8, 312: 9, 512: 17, 122: 255, 999: 255}
        assert (sample["labels"] == np.vectorize(expected.get)(codes)).all()


def test_coarse_bands_stay_in_step_with_the_ground_and_are_counted(tmp_path):
    write_bigearthnet_patch(tmp_path, 0, side=120)
    write_bigearthnet_table(tmp_path, {0: "train"})
    ramp = np.arange(20, dtype=np.uint16)[None].repeat(20, axis=0) * 60 + 1000  # 1 DN a metre... of 60 m pixels
    folder = ben_folders(tmp_path, 0)["s2"]
    path = folder / f"{folder.name}_B09.tif"
    write(path, ramp, grid(20, transform=Affine(60, 0, 300000, 0, -60, 5331600)), nodata=0)
    report, places = run(tmp_path)
    assert report["changed"] == {
        "s2 band images of 20 m resampled to 10 m (cubic)": 6,
        "s2 band images of 60 m resampled to 10 m (cubic)": 2,
    }
    b9 = places[ben_names(0)[0]][1]["s2"][9].astype(float)
    centre_m = (np.arange(120) + 0.5) * 10
    inside = slice(12, 108)  # away from the edge, where the kernel has neighbours
    assert (
        np.abs(b9[:, inside] - (1000 + centre_m - 30)[inside]).max() <= 1
    )  # in step with the ground, not half a pixel off


def test_the_asked_bands_alone_are_read(tmp_path):
    write_bigearthnet(tmp_path)
    folder = ben_folders(tmp_path, 0)["s2"]
    (folder / f"{folder.name}_B01.tif").write_bytes(b"damaged")
    _, places = run(tmp_path, s2_bands="B11,B4")
    sample = places[ben_names(0)[0]][1]
    assert (sample["s2"][1] == read_raster(folder / f"{folder.name}_B04.tif").values_BHW[0]).all()
    assert sample["s2"].shape == (2, 24, 24)
    with pytest.raises(DataError, match=r"B01\.tif"):
        prepare(settings(tmp_path, tmp_path / "other"))


def test_pixels_in_reach_of_missing_ones_are_no_data(tmp_path):
    write_bigearthnet_patch(tmp_path, 0, side=120)
    write_bigearthnet_table(tmp_path, {0: "train"})
    folder = ben_folders(tmp_path, 0)["s2"]
    for band, size in BEN_BANDS.items():
        path = folder / f"{folder.name}_{band}.tif"
        values = read_raster(path).values_BHW[0]
        values[:, : 240 // size] = 0
        write(path, values, grid(1200 // size, transform=Affine(size, 0, 300000, 0, -size, 5331600)), nodata=0)
    _, places = run(tmp_path)
    valid = places[ben_names(0)[0]][1]["valid"]
    assert not valid[:, : 24 + 12].any()
    assert valid[:, 24 + 12 :].all()


def test_incomplete_patches_are_listed_and_what_the_table_leaves_out_is_counted(tmp_path):
    write_bigearthnet(tmp_path)
    write_bigearthnet_table(tmp_path, {0: "train", 1: "train", 2: "train", 90: "train", 91: "test"})
    write_bigearthnet_table(
        tmp_path, {3: "train", 92: "train"}, "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
    )
    shutil.rmtree(ben_folders(tmp_path, 1)["s1"])
    for role in ("s2", "labels"):
        shutil.rmtree(ben_folders(tmp_path, 2)[role])
    report, places = run(tmp_path)
    assert sorted(places) == [ben_names(0)[0]]
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [
        (ben_names(1)[0], ("s1",)),
        (ben_names(2)[0], ("s2", "labels")),
        ("2 rows of metadata.parquet", ("any folder",)),
        ("1 patches of metadata_for_patches_with_snow_cloud_or_shadow.parquet", ("row of metadata.parquet",)),
        *((name, ("row of metadata.parquet",)) for name in sorted([*ben_names(4), *ben_names(5)])),
    ]


def test_without_the_table_s2_and_map_are_joined_by_name_and_s1_can_not_be(tmp_path):
    write_bigearthnet(tmp_path)
    (tmp_path / "metadata.parquet").unlink()
    with pytest.raises(MissingDataError, match=r"only it joins BigEarthNet-S1"):
        prepare(settings(tmp_path, tmp_path / "other"))
    report, places = run(tmp_path, s1=None, validation_share=0.5)
    assert len(places) == 6
    assert set(report["splits"]) == {"train", "validation"}


def test_published_splits_exclude_shares_but_not_a_table_of_the_users_own(tmp_path):
    write_bigearthnet(tmp_path)
    with pytest.raises(ConfigError, match="validation split of its own"):
        prepare(settings(tmp_path, tmp_path / "other", validation_share=0.1))
    (tmp_path / "mine.csv").write_text(f"id,split\n{ben_names(5)[0]},train\n")
    _, places = run(tmp_path, split="mine.csv")
    assert {name: split for name, (split, _) in places.items()} == {ben_names(5)[0]: "train"}


def test_b10_is_refused_because_l2a_has_none(tmp_path):
    write_bigearthnet(tmp_path)
    with pytest.raises(BandError, match="s2_bands=12"):
        prepare(settings(tmp_path, tmp_path / "out", s2_bands="all"))


@pytest.mark.parametrize(
    ("role", "ending", "values", "where", "error", "text"),
    [
        ("s2", "B05", np.ones((12, 12), np.int32), {"size": 20}, BandError, "1 band of uint16"),
        ("s2", "B05", np.ones((24, 24), np.uint16), {"size": 15}, GridError, "10, 20 or 60 m"),
        ("s2", "B05", np.ones((10, 10), np.uint16), {"size": 20}, GridError, "20 x 20"),
        ("s2", "B05", np.ones((12, 12), np.uint16), {"size": 20, "left": 300010}, GridError, "shifted by 1 px in x"),
        ("s1", "VV", np.ones((24, 24), np.float32) - 9, {"size": 10, "left": 301200}, GridError, "shifted by"),
        ("s1", "VV", np.ones((24, 24), np.float32), {"size": 10}, DataError, "linear power"),
        ("labels", "reference_map", np.full((24, 24), 17, np.uint16), {"size": 10}, LabelError, r"17 \(576 pixels\)"),
    ],
    ids=["type", "pixel size", "size", "shift", "shift of s1", "unit", "class"],
)  # fmt: skip
def test_a_file_that_differs_is_refused(role, ending, values, where, error, text, tmp_path):
    write_bigearthnet(tmp_path)
    folder = ben_folders(tmp_path, 0)[role]
    size = where["size"]
    placed = grid(len(values), transform=Affine(size, 0, where.get("left", 300000), 0, -size, 5331600))
    write(folder / f"{folder.name}_{ending}.tif", values, placed)
    if (role, ending, len(where)) == ("s1", "VV", 1):
        write(folder / f"{folder.name}_VH.tif", values, placed)
    with pytest.raises(error, match=text) as caught:
        prepare(settings(tmp_path, tmp_path / "out"))
    assert folder.name in str(caught.value)


def test_a_root_that_differs_is_refused_with_what_was_expected_and_found(tmp_path):
    write_bigearthnet(tmp_path)
    (tmp_path / "BigEarthNet-S2").rename(tmp_path / "BigEarthNet-v1.0")
    with pytest.raises(MissingDataError, match=r"(?s)BigEarthNet-v1.0.*expected: BigEarthNet-S2/<scene>/<patch>"):
        prepare(settings(tmp_path, tmp_path / "out"))
    (tmp_path / "BigEarthNet-v1.0").rename(tmp_path / "BigEarthNet-S2")
    scene = next((tmp_path / "BigEarthNet-S2").iterdir())
    scene.rename(scene.with_name("S2A_other"))
    with pytest.raises(DataError, match="lies in another scene"):
        prepare(settings(tmp_path, tmp_path / "out"))


def test_a_damaged_or_other_table_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_bigearthnet(tmp_path)
    whole = (tmp_path / "metadata.parquet").read_bytes()
    (tmp_path / "metadata.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match="does not parse"):
        prepare(settings(tmp_path, tmp_path / "out"))
    pq.write_table(pa.table({"name": ["a"], "split": ["train"]}), tmp_path / "metadata.parquet")
    with pytest.raises(DamagedFileError, match="patch_id"):
        prepare(settings(tmp_path, tmp_path / "out"))
    write_bigearthnet_table(tmp_path, {0: "val"})
    with pytest.raises(LabelError, match="val"):
        prepare(settings(tmp_path, tmp_path / "out"))


def test_parts_of_different_archives_are_refused(tmp_path):
    write_bigearthnet(tmp_path)
    shutil.rmtree(tmp_path / "Reference_Maps")
    write_bigearthnet_patch(tmp_path / "other", 77)
    (tmp_path / "other/Reference_Maps").rename(tmp_path / "Reference_Maps")
    with pytest.raises(MissingDataError, match="no patch of BigEarthNet has all its parts"):
        prepare(settings(tmp_path, tmp_path / "out"))


def test_real_files_are_read(sentinel_mini, tmp_path):
    native = sentinel_mini / "native/bigearthnet"
    changes = {"s1": None, "labels": None}
    prepare(settings(native, tmp_path / "s2", **changes))
    with Store.open(tmp_path / "s2") as store:
        sample = store.read(0, 0)
        assert store.ids == ["S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43"]
        assert sample["s2"].shape == (12, 120, 120)
        assert sample["valid"].all()
        assert store.grid(0).transform == Affine(10, 0, 390000, 0, -10, 5348400)
        folder = next(native.glob("BigEarthNet-S2/*/*"))
        b1 = read_raster(folder / f"{folder.name}_B01.tif").values_BHW[0].astype(float)
        assert abs(sample["s2"][0].mean() / b1.mean() - 1) < 0.01
    prepare(settings(native, tmp_path / "s1", s2=None, labels=None))
    with Store.open(tmp_path / "s1") as store:
        assert store.read(0, 0)["s1"].shape == (2, 120, 120)
    with pytest.raises(MissingDataError, match="no patch of BigEarthNet has all its parts"):
        prepare(settings(native, tmp_path / "pair", s1=None))  # map and s2 are of different places


def test_a_real_map_of_corine_becomes_classes(sentinel_mini, tmp_path):
    native = sentinel_mini / "native/bigearthnet"
    write_bigearthnet_patch(tmp_path, 26, side=120)
    name = ben_names(26)[0]
    source = next(native.glob("Reference_Maps/*/*/*.tif"))
    assert source.parent.name == name
    shutil.copy(source, ben_folders(tmp_path, 26)["labels"])
    report, places = run(tmp_path, s1=None)
    labels = places[name][1]["labels"]
    assert {int(value): int(count) for value, count in zip(*np.unique(labels, return_counts=True), strict=True)} == {
        2: 7075, 4: 1154, 8: 4131, 10: 2040
    }  # fmt: skip
    assert report["splits"]["train"]["class_shares"]["arable_land"] == 7075 / 14400
