"""The authors' LMDBs become stores that hold the same numbers, bit for bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from archive_patches import pretraining_arrays, write_dfc2020_lmdb, write_lmdb, write_pretraining_lmdb
from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.errors import (
    BandError,
    ConfigError,
    DamagedFileError,
    DataError,
    GridError,
    LabelError,
    MissingDataError,
    RangeError,
)

pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")


def settings(root, out, layout="cromss_lmdb", **changes):
    if layout == "cromss_lmdb":
        changes = {"edition": "uint8", **changes}
    else:
        changes = {"legend": "dfc2020", **changes}
    return PrepareConfig(root=str(root), out=str(out), layout=layout, **changes)


def held(out, seasons=1):
    """Place id -> split and the arrays of each season."""
    with Store.open(out) as store:
        splits = {int(place): split for split in ("train", "validation", "test") for place in store.select(split)}
        return {
            name: (splits[place], [store.read(place, season) for season in range(seasons)])
            for place, name in enumerate(store.ids)
        }


@pytest.mark.parametrize("bands", [13, 12], ids=["L1C", "L2A"])
def test_the_store_holds_every_8_bit_value_of_the_lmdb(bands, tmp_path):
    write_pretraining_lmdb(tmp_path / "in", bands=bands)
    report = prepare(settings(tmp_path / "in", tmp_path / "out", s2_bands=str(bands)))
    places = held(tmp_path / "out", 4)
    assert sorted(places) == ["0000007", "0000012", "0000300", "0004111"]
    for name, (split, samples) in places.items():
        arrays = pretraining_arrays(int(name), bands=bands)
        assert split == "train"
        for season, sample in enumerate(samples):
            for role in ("s1", "s2", "labels"):
                assert (sample[role] == arrays[role][season]).all()
            assert sample["s2"].dtype == np.uint8
    assert report["changed"] == {
        "s1 band images turned back from 8 bits": 4 * 4 * 2,
        "s2 band images turned back from 8 bits": 4 * 4 * bands,
    }
    assert report["scenes_without_georeference"] == 4


def test_asked_bands_are_taken_by_name(tmp_path):
    write_pretraining_lmdb(tmp_path / "in")
    prepare(settings(tmp_path / "in", tmp_path / "out", s2_bands="B12,B4", s1_bands="VH"))
    sample = held(tmp_path / "out", 4)["0000300"][1][2]
    arrays = pretraining_arrays(300)
    assert (sample["s2"] == arrays["s2"][2][[12, 3]]).all()
    assert (sample["s1"] == arrays["s1"][2][[1]]).all()


def test_other_files_can_be_named_and_a_sensor_left_out(tmp_path):
    names = {"s1": "mine_s1", "s2": "0k_251k_uint8_s2a", "labels": "osm"}
    write_pretraining_lmdb(tmp_path / "in", bands=12, names=names)
    changes = {"s1": None, "s2": "0k_251k_uint8_s2a.lmdb", "labels": "osm.lmdb", "s2_bands": "9"}
    report = prepare(settings(tmp_path / "in", tmp_path / "out", validation_share=0.5, **changes))
    assert report["places"] == 4
    assert set(report["splits"]) == {"train", "validation"}
    with Store.open(tmp_path / "out") as store:
        assert store.products(0) == {"s2": "L2A"}


def test_keys_that_are_not_in_all_files_are_listed(tmp_path):
    import lmdb

    write_pretraining_lmdb(tmp_path / "in")
    with (
        lmdb.open(str(tmp_path / "in/dw_labels.lmdb")) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.delete(b"2")
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [("key 2", ("labels",))]
    assert sorted(held(tmp_path / "out")) == ["0000007", "0000012", "0004111"]


def test_files_of_different_lists_of_ids_are_refused(tmp_path):
    write_pretraining_lmdb(tmp_path / "in")
    write_pretraining_lmdb(tmp_path / "in", ids=(7, 12, 4111, 300), names={"s1": "0k_251k_uint8_s1"})
    with pytest.raises(DataError, match="different places under one key"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_an_id_that_comes_twice_is_refused(tmp_path):
    write_pretraining_lmdb(tmp_path / "in", ids=(7, 7))
    with pytest.raises(DamagedFileError, match="2 values, 1 ids"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_the_native_edition_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="set edition to uint8"):
        prepare(settings(tmp_path, tmp_path / "out", edition="native"))


def value(array, *identity):
    return pickle.dumps((array.tobytes(), array.shape, *identity))


IMAGE = np.zeros((4, 13, 16, 16), np.uint8)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (value(IMAGE), DamagedFileError, r"a tuple of 2\n  expected: \(bytes, shape, id\)"),
        (value(IMAGE, 1.5), DamagedFileError, "float"),
        (pickle.dumps([1, 2, 3]), DamagedFileError, "got: a list"),
        (pickle.dumps((b"abc", (4, 13, 16, 16), 7)), DamagedFileError, "3 bytes for shape"),
        (pickle.dumps((b"abc", (4, -13, 16, 16), 7)), DamagedFileError, "a shape of up to 4 sides"),
        (pickle.dumps((b"", (2**40, 2**40), 7)), DamagedFileError, "a shape of up to 4 sides"),
        (pickle.dumps(("abc", (3,), 7)), DamagedFileError, r"\(str, tuple, int\)"),
        (value(IMAGE[0], 7), DamagedFileError, "4 dimensions of uint8"),
        (value(IMAGE[:, :5], 7), BandError, r"expected: 13 \(L1C\) or 12 \(L2A\)"),
        (value(IMAGE[:3], 7), GridError, r"s2 \(3, 16, 16\)"),
        (b"\x80\x04", DamagedFileError, "does not end|damaged"),
        (b"garbage", DamagedFileError, "damaged or unusual"),
    ],
)
def test_a_value_that_differs_is_refused_with_its_key(content, error, text, tmp_path):
    write_pretraining_lmdb(tmp_path / "in", ids=(7,))
    write_lmdb(tmp_path / "in/0k_251k_uint8_s2c.lmdb", {"0": content})
    with pytest.raises(error, match=text) as caught:
        prepare(settings(tmp_path / "in", tmp_path / "out"))
    assert "0k_251k_uint8_s2c.lmdb" in str(caught.value)


def test_labels_beyond_the_legend_are_refused(tmp_path):
    write_pretraining_lmdb(tmp_path / "in", ids=(7,))
    labels = np.full((4, 16, 16), 9, np.uint8)
    write_lmdb(tmp_path / "in/dw_labels.lmdb", {"0": value(labels, 7)})
    with pytest.raises(LabelError, match=r"9 \(1024 pixels\)"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_dfc2020_becomes_places_with_the_splits_that_the_authors_use(tmp_path):
    write_dfc2020_lmdb(tmp_path / "in")
    report = prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb"))
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 4, "test": 2}
    places = held(tmp_path / "out")
    assert sorted(places) == ["test_00000", "test_00001", *(f"validation_{number:05d}" for number in range(4))]
    from small_scenes import s1_values, s2_values

    rng = np.random.default_rng([1, *b"test"])
    labels = rng.integers(0, 9, (4, 4)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    sample = places["test_00001"][1][0]
    assert (sample["labels"] == np.where(labels == 8, 255, labels)).all()
    assert (sample["s1"] == s1_values(rng)).all()
    assert (sample["s2"] == s2_values(rng)).all()
    with Store.open(tmp_path / "out") as store:
        assert store.legend.names[0] == "water"


def test_one_part_or_one_sensor_of_dfc2020_is_enough(tmp_path):
    write_dfc2020_lmdb(tmp_path / "in", test=1)
    (tmp_path / "in/DFC2020_s12_test.lmdb/data.mdb").rename(tmp_path / "away")
    for path in (tmp_path / "in/DFC2020_s12_test.lmdb").iterdir():
        path.unlink()
    (tmp_path / "in/DFC2020_s12_test.lmdb").rmdir()
    report = prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb", s2=None, validation_share=0.5))
    assert set(report["splits"]) == {"train", "validation"}
    assert set(held(tmp_path / "out")["validation_00000"][1][0]) == {"s1", "labels", "valid"}


def test_other_arrays_of_dfc2020_are_refused_or_counted(tmp_path):
    import lmdb

    def change(key, content):
        with lmdb.open(str(tmp_path / "in/DFC2020_s12_test.lmdb")) as environment, environment.begin(write=True) as put:
            put.put(key, content) if content is not None else put.delete(key)

    write_dfc2020_lmdb(tmp_path / "in")
    change(b"s1_0", value(np.zeros((2, 16, 16), np.float32) - 9))
    with pytest.raises(DamagedFileError, match="3 dimensions of float64, so 4096 bytes"):
        prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb"))
    change(b"s1_0", value(np.full((2, 16, 16), np.nan)))
    with pytest.raises(RangeError, match="not finite"):
        prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb"))
    change(b"s1_0", None)
    change(b"lbl_1", value(np.full((16, 16), 8, np.uint8)))
    report = prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb"))
    assert report["patches_left_out"] == {"without a labelled pixel": 1}
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [("test_00000", ("s1",))]


def test_lmdbs_of_other_scripts_are_refused_with_their_keys(tmp_path):
    write_lmdb(tmp_path / "in/DFC2020_s12_test.lmdb", {"img_0": b"", "lbl_0": b""})
    with pytest.raises(DamagedFileError, match="got: img_0"):
        prepare(settings(tmp_path / "in", tmp_path / "out", "dfc2020_lmdb"))
    with pytest.raises(MissingDataError, match=r"(?s)beside it: DFC2020_s12_test\.lmdb"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))


def test_a_file_that_is_no_lmdb_or_cut_short_is_refused(tmp_path):
    write_pretraining_lmdb(tmp_path / "in", side=64)
    data = tmp_path / "in/0k_251k_uint8_s2c.lmdb/data.mdb"
    whole = data.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 40).astype(int):
        data.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError):
            prepare(settings(tmp_path / "in", tmp_path / "out"))
    data.write_bytes(b"no LMDB at all" * 1000)
    with pytest.raises(DamagedFileError, match="not a plain LMDB"):
        prepare(settings(tmp_path / "in", tmp_path / "out"))
