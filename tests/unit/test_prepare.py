"""Preparing a store: everything checked first, everything left out counted, the same store every time."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from cromss.data.prepare import REPORT_FILE, prepare
from cromss.data.store import Store, verify_store
from cromss.data.store.shard import ShardBuilder
from cromss.errors import BandError, ConfigError, DataError, StoreError
from cromss.geo.legend import IGNORE
from cromss.geo.raster import read_raster, write_raster
from small_scenes import S2_BANDS, grid, s2_values, settings, write_labels, write_s2, write_scene


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abcdef"):
        write_scene(tmp_path / "in", name, seed)
    return tmp_path / "in"


def test_the_store_holds_what_the_files_hold(root, tmp_path):
    report = prepare(settings(root, tmp_path / "out"))
    assert verify_store(tmp_path / "out")["places"] == 6
    with Store.open(tmp_path / "out") as store:
        assert sorted(store.ids) == list("abcdef")
        for place, name in enumerate(store.ids):
            sample = store.read(place, 0)
            for sensor in ("s1", "s2"):
                assert (sample[sensor] == read_raster(root / sensor / f"{name}.tif").values_BHW).all()
            assert (sample["labels"] == read_raster(root / "labels" / f"{name}.tif").values_BHW[0]).all()
    assert json.loads((tmp_path / "out" / REPORT_FILE).read_text()) == report
    assert (report["scenes"], report["places"], report["samples"]) == (6, 6, 6)


def test_the_store_keeps_the_asked_bands_in_the_asked_order(root, tmp_path):
    prepare(settings(root, tmp_path / "out", s2_bands="B4,B3,B2"))
    with Store.open(tmp_path / "out") as store:
        stored = store.read(0, 0)["s2"]
        assert (stored == read_raster(root / "s2" / f"{store.ids[0]}.tif").values_BHW[[3, 2, 1]]).all()


def test_the_report_gives_shares_of_classes_and_no_data(root, tmp_path):
    labels, s2 = np.full((16, 16), IGNORE, np.uint8), s2_values(np.random.default_rng(0))
    labels[:8], labels[:2] = 4, 1
    s2[:, :4] = 0
    for name in "abcdef":
        write_labels(root / "labels" / f"{name}.tif", labels)
        write_s2(root / "s2" / f"{name}.tif", s2)
    train = prepare(settings(root, tmp_path / "out"))["splits"]["train"]
    assert train["no_data_share"] == 0.25
    assert train["labelled_share"] == 0.5
    assert {name: share for name, share in train["class_shares"].items() if share} == {"trees": 0.25, "crops": 0.75}


def test_one_refusal_is_raised_as_it_is_and_no_store_appears(root, tmp_path):
    write_s2(root / "s2" / "c.tif", s2_values(np.random.default_rng(0))[:12], band_names=S2_BANDS[:12])
    with pytest.raises(BandError, match=r"s2.c\.tif"):
        prepare(settings(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_many_refusals_are_listed_in_one_error(root, tmp_path):
    for number in range(25):
        write_scene(root, f"x{number:02d}", number)
        write_labels(root / "labels" / f"x{number:02d}.tif", np.full((16, 16), 17, np.uint8))
    with pytest.raises(DataError) as caught:
        prepare(settings(root, tmp_path / "out"))
    text = str(caught.value)
    assert "25 of 31 scenes can not be used" in text
    assert text.count("17 (256 pixels)") == 20
    assert "and 5 more" in text
    assert "on_bad=skip" in text


def test_skipping_leaves_bad_scenes_out_and_lists_them(root, tmp_path):
    write_labels(root / "labels" / "c.tif", np.full((16, 16), 17, np.uint8))
    report = prepare(settings(root, tmp_path / "out", on_bad="skip"))
    with Store.open(tmp_path / "out") as store:
        assert sorted(store.ids) == list("abdef")
    (row,) = json.loads((tmp_path / "out" / REPORT_FILE).read_text())["refusals"]
    assert row == report["refusals"][0]
    assert (row["id"], row["error"]) == ("c", "LabelError")
    assert row["where"].endswith("labels/c.tif")


def test_skipping_everything_is_an_error(root, tmp_path):
    for name in "abcdef":
        write_labels(root / "labels" / f"{name}.tif", np.full((16, 16), 17, np.uint8))
    with pytest.raises(DataError, match="6 of 6"):
        prepare(settings(root, tmp_path / "out", on_bad="skip"))


def test_a_bad_patch_keeps_its_whole_scene_out(root, tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    labels[15, 15] = 17
    write_labels(root / "labels" / "c.tif", labels)
    report = prepare(settings(root, tmp_path / "out", on_bad="skip", tile=8))
    assert report["places"] == 5 * 4
    with Store.open(tmp_path / "out") as store:
        assert not any(name.startswith("c_") for name in store.ids)


def test_the_order_of_bands_in_the_files_does_not_matter_when_all_agree(root, tmp_path):
    backwards = {}
    for name in "abcdef":
        backwards[name] = read_raster(root / "s2" / f"{name}.tif").values_BHW[::-1]
        write_s2(root / "s2" / f"{name}.tif", backwards[name], band_names=S2_BANDS[::-1])
    prepare(settings(root, tmp_path / "out"))
    with Store.open(tmp_path / "out") as store:
        for place, name in enumerate(store.ids):
            assert (store.read(place, 0)["s2"] == backwards[name][::-1]).all()


def test_all_patches_of_a_place_fall_into_one_split(root, tmp_path):
    prepare(settings(root, tmp_path / "out", tile=8, validation_share=0.4, test_share=0.3))
    with Store.open(tmp_path / "out") as store:
        splits = {}
        for name, split in zip(store.ids, store.splits, strict=True):
            splits.setdefault(name[0], set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(set.union(*splits.values())) == 3


def test_a_table_gives_the_splits_and_what_it_does_not_name_is_listed(root, tmp_path):
    (root / "split.csv").write_text("id,split\na,train\nb,test\nc,validation\nz,test\n")
    report = prepare(settings(root, tmp_path / "out", split="split.csv"))
    with Store.open(tmp_path / "out") as store:
        assert dict(zip(store.ids, store.splits, strict=True)) == {"a": "train", "b": "test", "c": "validation"}
    assert report["scenes_without_split"] == ["d", "e", "f"]
    assert report["split_ids_without_scene"] == ["z"]


def test_a_split_and_shares_exclude_each_other(root, tmp_path):
    with pytest.raises(ConfigError, match="exclude each other"):
        prepare(settings(root, tmp_path / "out", split="split.csv", test_share=0.5))


def test_a_raster_of_splits_keeps_test_pixels_out_of_training(root, tmp_path):
    split = np.full((16, 16), 1, np.uint8)
    split[:, 10:] = 2
    for name in "abcdef":
        write_raster(root / "split" / f"{name}.tif", split, grid())
    report = prepare(settings(root, tmp_path / "out", split="split/{id}.tif", tile=8))
    assert {name: count["places"] for name, count in report["splits"].items()} == {"train": 12, "test": 12}
    assert report["labels_outside_split"] == 6 * 16 * 2
    with Store.open(tmp_path / "out") as store:
        for place in store.select("train"):
            column = int(store.ids[place].split("_c")[1])
            labels = store.read_labels(place)[0]
            assert (labels[:, split[0, column : column + 8] == 2] == IGNORE).all()


def test_a_finished_store_is_not_touched(root, tmp_path):
    prepare(settings(root, tmp_path / "out"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="finished store"):
        prepare(settings(root, tmp_path / "out"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def _interrupt(monkeypatch, after):
    """Stop the writing of the store at the given place."""
    added, count = ShardBuilder.add, itertools.count()

    def add(builder, record):
        if next(count) == after:
            raise KeyboardInterrupt
        added(builder, record)

    monkeypatch.setattr(ShardBuilder, "add", add)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_an_interrupted_run_is_continued_to_the_same_bytes(after, root, tmp_path, monkeypatch):
    prepare(settings(root, tmp_path / "whole", shard_places=2))
    with monkeypatch.context() as patch:
        _interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(root, tmp_path / "out", shard_places=2))
    with pytest.raises(StoreError, match="not finished"):
        Store.open(tmp_path / "out")
    prepare(settings(root, tmp_path / "out", shard_places=2))
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()
    names = [{path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("whole", "out")]
    assert names[0] == names[1]


def test_an_interrupted_run_is_not_continued_with_other_settings_or_changed_files(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(root, tmp_path / "out", shard_places=2))
    with pytest.raises(StoreError, match="other settings"):
        prepare(settings(root, tmp_path / "out", shard_places=2, validation_share=0.3))
    write_labels(root / "labels" / "a.tif", np.zeros((16, 16), np.uint8))
    with pytest.raises(StoreError, match="files that have changed"):
        prepare(settings(root, tmp_path / "out", shard_places=2))


def test_a_store_without_labels_can_be_prepared(root, tmp_path):
    report = prepare(settings(root, tmp_path / "out", labels=None, s1=None))
    assert report["splits"]["train"]["labelled_share"] == 0
    assert report["splits"]["train"]["class_shares"]["water"] is None


def test_places_without_georeference_are_counted(tmp_path):
    from affine import Affine

    root, where = tmp_path / "in", grid(transform=Affine.identity(), crs=None)
    write_s2(root / "s2" / "a.tif", s2_values(np.random.default_rng(0)), where)
    write_labels(root / "labels" / "a.tif", np.zeros((16, 16), np.uint8), where)
    assert prepare(settings(root, tmp_path / "out", s1=None))["scenes_without_georeference"] == 1


def test_a_short_account_is_printed(root, tmp_path, capsys):
    prepare(settings(root, tmp_path / "out"))
    text = capsys.readouterr().out
    assert "6 places, 6 samples from 6 scenes" in text
    assert REPORT_FILE in text
