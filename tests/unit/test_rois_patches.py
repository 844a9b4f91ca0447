"""SEN12MS and DFC2020 become places: joined by name, bands in the published order, splits as published."""

from __future__ import annotations

import numpy as np
import pytest

from archive_patches import write_dfc2020, write_dfc2020_lists, write_rois_patch, write_sen12ms
from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.sources.rois_patches import IGBP_TO_DFC2020, SEN12MS_HOLD_OUT, igbp_as_dfc2020
from cromss.data.store import Store
from cromss.errors import BandError, ConfigError, DataError, GridError, LabelError, MissingDataError
from cromss.geo.legends import LEGENDS
from cromss.geo.raster import read_raster
from small_scenes import grid, s1_values, s2_values, write


def settings(root, out, layout="dfc2020", legend="dfc2020", **changes):
    return PrepareConfig(root=str(root), out=str(out), layout=layout, legend=legend, **changes)


def held(out):
    """Place id -> split and arrays of a store."""
    with Store.open(out) as store:
        splits = {int(place): split for split in ("train", "validation", "test") for place in store.select(split)}
        return {name: (splits[place], store.read(place, 0)) for place, name in enumerate(store.ids)}


@pytest.mark.parametrize(
    ("style", "folder"),
    [("authors", "test/{}_test"), ("published", "ROIs0000_test/{}_0")],
    ids=["authors", "published"],
)
def test_both_layouts_of_dfc2020_become_the_same_places(style, folder, tmp_path):
    write_dfc2020(tmp_path / "in", style=style)
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    places = held(tmp_path / "out")
    assert sorted(places) == [
        *(f"ROIs0000_test_0_p{n}" for n in range(2)),
        *(f"ROIs0000_validation_0_p{n}" for n in range(4)),
    ]
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 4, "test": 2}
    split, sample = places["ROIs0000_test_0_p1"]
    assert split == "test"
    for sensor in ("s1", "s2"):
        path = tmp_path / "in" / folder.format(sensor) / f"ROIs0000_test_{sensor}_0_p1.tif"
        assert (sample[sensor] == read_raster(path).values_BHW.astype(sample[sensor].dtype)).all()
    codes = read_raster(tmp_path / "in" / folder.format("dfc") / "ROIs0000_test_dfc_0_p1.tif").values_BHW[0]
    authors_order = {10: 0, 1: 1, 4: 2, 5: 3, 6: 4, 2: 5, 7: 6, 9: 7}
    assert (sample["labels"] == np.vectorize(authors_order.get)(codes)).all()


@pytest.mark.parametrize("root", ["in", "in/dfc2020_s1s2", ""], ids=["unpacked", "itself", "downloaded"])
def test_the_packing_of_copernicus_bench_is_read_with_its_own_splits(root, tmp_path):
    write_dfc2020_lists(tmp_path / "in")
    (tmp_path / "in/dfc2020_s1s2/s1/ROIs0000_test_s1_0_p4.tif").unlink()
    write_rois_patch(tmp_path / "in/dfc2020_s1s2", "{kind}", "ROIs0000_test_{kind}_0_p9.tif", labels="dfc")  # no list
    if not root:
        (tmp_path / "dfc2020").symlink_to("in")
    report = prepare(settings(tmp_path / root, tmp_path / "out"))
    assert {split: count["places"] for split, count in report["splits"].items()} == {
        "train": 3, "validation": 1, "test": 1,
    }  # fmt: skip
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [
        ("ROIs0000_test_0_p4", ("s1",)), ("ROIs0000_test_0_p9", ("a line in a list of a split",)),
    ]  # fmt: skip
    split, sample = held(tmp_path / "out")["ROIs0000_test_0_p5"]
    assert split == "test"
    for sensor in ("s1", "s2"):
        path = tmp_path / "in/dfc2020_s1s2" / sensor / f"ROIs0000_test_{sensor}_0_p5.tif"
        assert (sample[sensor] == read_raster(path).values_BHW.astype(sample[sensor].dtype)).all()
    codes = read_raster(tmp_path / "in/dfc2020_s1s2/dfc/ROIs0000_test_dfc_0_p5.tif").values_BHW[0]
    authors_order = {0: 255, 10: 0, 1: 1, 4: 2, 5: 3, 6: 4, 2: 5, 7: 6, 9: 7}
    assert (sample["labels"] == np.vectorize(authors_order.get)(codes)).all()


@pytest.mark.parametrize(
    "line", ["../../secret_dfc.tif", "ROIs0000_test_dfc_0_p0.tif", "label.tif", "dfc_dfc.tif", "a_dfc.txt"]
)
def test_a_list_with_a_line_that_is_no_label_file_is_refused_by_its_number(line, tmp_path):
    write_dfc2020_lists(tmp_path / "in")
    with (tmp_path / "in/dfc2020_s1s2/dfc-val-new.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="can not be used") as caught:
        prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert str(caught.value.where).endswith("dfc-val-new.csv, line 3")


def test_an_absent_list_and_a_share_of_what_the_lists_say_are_refused(tmp_path):
    write_dfc2020_lists(tmp_path / "in")
    with pytest.raises(ConfigError, match="validation split of its own"):
        prepare(settings(tmp_path / "in", tmp_path / "out", validation_share=0.2))
    (tmp_path / "in/dfc2020_s1s2/dfc-test-new.csv").unlink()
    with pytest.raises(DataError, match="list of a split is not there"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))
    for name in ("train", "val", "test"):
        (tmp_path / f"in/dfc2020_s1s2/dfc-{name}-new.csv").write_text("")
    with pytest.raises(DataError, match="lists of the splits are empty"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_a_validation_split_is_drawn_from_what_is_published_for_training(tmp_path):
    write_dfc2020(tmp_path / "in", validation=12)
    report = prepare(settings(tmp_path / "in", tmp_path / "out", validation_share=0.5))
    counts = {split: count["places"] for split, count in report["splits"].items()}
    assert counts["test"] == 2
    assert counts["train"] + counts["validation"] == 12
    assert counts["validation"] > 0
    with pytest.raises(ConfigError, match="test split of its own"):
        prepare(settings(tmp_path / "in", tmp_path / "other", test_share=0.5))


def test_a_table_of_the_users_own_goes_before_the_published_splits(tmp_path):
    write_dfc2020(tmp_path / "in")
    (tmp_path / "in" / "mine.csv").write_text("id,split\nROIs0000_test_0_p0,train\nROIs0000_validation_0_p0,test\n")
    prepare(settings(tmp_path / "in", tmp_path / "out", split="mine.csv"))
    splits = {name: split for name, (split, _) in held(tmp_path / "out").items()}
    assert splits == {"ROIs0000_test_0_p0": "train", "ROIs0000_validation_0_p0": "test"}


def test_patches_are_joined_by_name_and_those_that_lack_a_file_are_listed(tmp_path):
    write_dfc2020(tmp_path / "in")
    (tmp_path / "in/validation/s1_validation/ROIs0000_validation_s1_0_p2.tif").unlink()
    (tmp_path / "in/test/dfc_test/ROIs0000_test_dfc_0_p0.tif").unlink()
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [
        ("ROIs0000_test_0_p0", ("labels",)),
        ("ROIs0000_validation_0_p2", ("s1",)),
    ]
    assert report["places"] == 4


def test_one_sensor_or_no_labels_can_be_asked_for(tmp_path):
    write_dfc2020(tmp_path / "in")
    report = prepare(settings(tmp_path / "in", tmp_path / "out", s1=None, labels=None, legend="dynamic_world"))
    assert set(held(tmp_path / "out")["ROIs0000_test_0_p0"][1]) == {"s2", "valid"}
    assert report["splits"]["train"]["labelled_share"] == 0


def test_a_patch_of_unused_classes_alone_is_counted_and_left_out(tmp_path):
    write_dfc2020(tmp_path / "in")
    write(tmp_path / "in/test/dfc_test/ROIs0000_test_dfc_0_p0.tif", np.full((16, 16), 3, np.uint16), grid())
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert report["patches_left_out"] == {"without a labelled pixel": 1}
    assert "ROIs0000_test_0_p0" not in held(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "values", "error", "text"),
    [
        ("s2", s2_values(np.random.default_rng(0))[:12], BandError, "expected: 13: B1, B2"),
        ("s1", s1_values(np.random.default_rng(0))[:1], BandError, "expected: 2: VV, VH"),
        ("dfc", np.ones((2, 16, 16), np.uint16), BandError, "dfc file of DFC2020"),
        ("dfc", np.full((16, 16), 11, np.uint16), LabelError, r"11 \(256 pixels\)"),
        ("s1", s1_values(np.random.default_rng(0), 20), GridError, "16 x 16"),
    ],
    ids=["bands of s2", "bands of s1", "bands of labels", "unknown class", "size"],
)
def test_a_file_that_differs_is_refused_with_what_was_expected(kind, values, error, text, tmp_path):
    write_dfc2020(tmp_path / "in")
    path = tmp_path / f"in/test/{kind}_test/ROIs0000_test_{kind}_0_p0.tif"
    write(path, values, grid(values.shape[-1]))
    with pytest.raises(error, match=text) as caught:
        prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert path.name in str(caught.value)


def test_a_root_without_the_archive_is_refused_with_what_was_expected_and_found(tmp_path):
    (tmp_path / "in/DFC_Public_Dataset").mkdir(parents=True)
    with pytest.raises(
        MissingDataError, match=r"(?s)DFC_Public_Dataset.*ROIs0000_validation, test, validation, in them dfc_<name>"
    ):
        prepare(settings(tmp_path / "in", tmp_path / "out"))
    with pytest.raises(MissingDataError, match="no such folder"):
        prepare(settings(tmp_path / "nowhere", tmp_path / "out"))
    write_dfc2020(tmp_path / "in", test=0)
    for path in (tmp_path / "in/validation").glob("s1_*/*"):
        path.unlink()
    with pytest.raises(MissingDataError, match="p0 lacks s1"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_a_file_of_another_name_in_the_archive_is_refused(tmp_path):
    write_dfc2020(tmp_path / "in")
    folder = tmp_path / "in/test/s2_test"
    (folder / "ROIs0000_test_s2_0_p0.tif").rename(folder / "patch0.tif")
    with pytest.raises(DataError, match="ROIs0000_test_s2_<scene>_p<patch>"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_two_copies_of_one_patch_are_refused(tmp_path):
    write_dfc2020(tmp_path / "in")
    write_dfc2020(tmp_path / "in", style="published")
    with pytest.raises(DataError, match="two files of DFC2020 are of one patch"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize(("layout", "legend"), [("dfc2020", "igbp"), ("sen12ms", "dynamic_world")])
def test_a_legend_that_is_not_of_these_labels_is_refused(layout, legend, tmp_path):
    with pytest.raises(ConfigError, match="of another legend"):
        prepare(settings(tmp_path, tmp_path / "out", layout=layout, legend=legend))


@pytest.mark.parametrize(
    ("layout", "legend", "product"),
    [("dfc2020", "dfc2020", "L2A"), ("dfc2020_lmdb", "dfc2020", "L2A"), ("bigearthnet", "bigearthnet19", "L1C")],
)
def test_a_product_that_the_archive_does_not_hold_is_refused(layout, legend, product, tmp_path):
    with pytest.raises(ConfigError, match="leave s2_product out"):
        prepare(settings(tmp_path, tmp_path / "out", layout=layout, legend=legend, s2_product=product))


def test_sen12ms_reads_igbp_from_the_first_band_and_holds_out_the_published_scenes(tmp_path):
    write_sen12ms(tmp_path / "in")
    report = prepare(settings(tmp_path / "in", tmp_path / "out", layout="sen12ms", legend="igbp"))
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 4, "test": 2}
    split, sample = held(tmp_path / "out")["ROIs2017_winter_146_p31"]
    assert split == "test"
    path = tmp_path / "in/ROIs2017_winter/lc_146/ROIs2017_winter_lc_146_p31.tif"
    assert (sample["labels"] + 1 == read_raster(path).values_BHW[0]).all()


def test_sen12ms_can_be_prepared_in_the_classes_of_dfc2020(tmp_path):
    write_sen12ms(tmp_path / "in")
    prepare(settings(tmp_path / "in", tmp_path / "out", layout="sen12ms"))
    titles, seen = np.array([*LEGENDS["dfc2020"].names, *["none"] * 248]), set()
    expected = {
        **dict.fromkeys(range(1, 6), "forest"), 6: "shrubland", 7: "shrubland", 8: "none", 9: "none", 10: "grassland",
        11: "wetland", 12: "cropland", 13: "urban", 14: "cropland", 15: "none", 16: "barren", 17: "water",
    }  # fmt: skip
    for name, (_, sample) in held(tmp_path / "out").items():
        season, scene, patch = name.rsplit("_", 2)
        path = tmp_path / f"in/{season}/lc_{scene}/{season}_lc_{scene}_{patch}.tif"
        igbp = read_raster(path).values_BHW[0]
        assert (titles[sample["labels"]] == np.vectorize(expected.get)(igbp)).all()
        seen |= set(igbp.ravel().tolist())
    assert seen == set(expected)
    with Store.open(tmp_path / "out") as store:
        assert store.legend == LEGENDS["dfc2020"]


@pytest.mark.slow
def test_overlapping_patches_of_a_scene_fall_into_one_split(tmp_path):
    scenes = [("ROIs1158_spring", number, 3) for number in range(40, 60)]
    write_sen12ms(tmp_path / "in", scenes=scenes, side=8)
    prepare(settings(tmp_path / "in", tmp_path / "out", layout="sen12ms", validation_share=0.5))
    splits = {}
    for name, (split, _) in held(tmp_path / "out").items():
        splits.setdefault(name.rpartition("_p")[0], set()).add(split)
    assert all(len(one) == 1 for one in splits.values())
    assert set.union(*splits.values()) == {"train", "validation"}


def test_the_tables_are_complete():
    assert sum(len(scenes) for scenes in SEN12MS_HOLD_OUT.values()) == 26
    assert set(IGBP_TO_DFC2020) == set(range(1, 18))
    assert set(igbp_as_dfc2020().codes) == set(LEGENDS["igbp"].codes)


def test_undeclared_nan_of_radar_is_refused_and_can_be_skipped(tmp_path):
    write_sen12ms(tmp_path / "in")
    values = s1_values(np.random.default_rng(0)).astype(np.float64)
    values[0, :2] = np.nan
    write(tmp_path / "in/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif", values, grid())
    with pytest.raises(DataError, match="not finite"):
        prepare(settings(tmp_path / "in", tmp_path / "out", layout="sen12ms"))
    report = prepare(settings(tmp_path / "in", tmp_path / "out", layout="sen12ms", on_bad="skip"))
    assert [refused["id"] for refused in report["refusals"]] == ["ROIs1158_spring_1_p30"]


def test_what_lies_beside_the_patches_is_not_read(tmp_path):
    write_dfc2020(tmp_path / "in")
    write_rois_patch(tmp_path / "in", "extra/{kind}_test", "ROIs0000_extra_{kind}_0_p0.tif", labels="dfc")
    (tmp_path / "in/test/s2_test/._ROIs0000_test_s2_0_p0.tif").write_bytes(b"of another system")
    assert prepare(settings(tmp_path / "in", tmp_path / "out"))["places"] == 6


def test_zero_in_every_band_is_no_data_and_counted(tmp_path):
    write_dfc2020(tmp_path / "in", validation=1, test=0)
    values = s2_values(np.random.default_rng(0))
    values[:, :4] = 0
    values[0, 4:8] = 0  # one dark band is a measurement
    write(tmp_path / "in/validation/s2_validation/ROIs0000_validation_s2_0_p0.tif", values, grid())
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert report["no_data_share"] == 0.25
