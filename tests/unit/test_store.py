"""The training store: what is written is what is read, in both editions, at once or in pieces."""

from __future__ import annotations

import pickle
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from safetensors.numpy import load_file

from cromss.data.store import Store, StoreWriter, verify_store
from cromss.data.store import files as store_files
from cromss.data.store.whole_steps import WholeSteps
from cromss.errors import (
    ArgumentError,
    BandError,
    DamagedFileError,
    LabelError,
    MissingDataError,
    RangeError,
    StoreError,
)
from cromss.geo.bands import published_normalization
from cromss.geo.raster import Grid
from records import BANDS, LEGEND, contents, make_record, write_store

MIXED = [
    make_record(0),
    make_record(1, height=24, width=20, seasons=3, truth=True, holes=True, split="test"),
    make_record(2, holes=True, product="L2A"),
    make_record(3, labels=False, truth=True, split="validation"),
    make_record(4, seasons=1),
]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("native") / "store", MIXED, shard_places=2)


def test_native_edition_gives_back_every_array_bit_for_bit(native: Path) -> None:
    with Store.open(native) as store:
        for place, record in enumerate(MIXED):
            for season in range(len(record.seasons)):
                got = store.read(place, season)
                for sensor, values in record.images.items():
                    assert got[sensor].dtype == values.dtype
                    assert np.array_equal(got[sensor], values[season], equal_nan=sensor == "s1")
                assert np.array_equal(got["valid"], record.valid[season])
                for kind in ("labels", "truth"):
                    layer = getattr(record, kind)
                    assert (kind in got) == (layer is not None)
                    assert layer is None or np.array_equal(got[kind], layer[season])


def test_labels_of_all_seasons_come_in_one_array(native: Path) -> None:
    with Store.open(native) as store:
        assert np.array_equal(store.read_labels(1), MIXED[1].labels)
        assert np.array_equal(store.read_labels(1, "truth"), MIXED[1].truth)
        with pytest.raises(MissingDataError, match="place3"):
            store.read_labels(3)


def test_what_is_known_of_a_place_is_kept(native: Path) -> None:
    with Store.open(native) as store:
        assert store.ids == [record.id for record in MIXED]
        assert store.splits.tolist() == [record.split for record in MIXED]
        assert store.select("train").tolist() == [0, 2, 4]
        assert store.shape(1) == (24, 20)
        assert store.seasons(1) == MIXED[1].seasons
        assert store.num_seasons(4) == 1
        assert store.products(2) == {"s1": "GRD", "s2": "L2A"}
        assert store.product_names("s2") == ("L1C", "L2A")
        assert store.legend == LEGEND
        assert store.sensors == BANDS
        assert len(store) == store.meta["places"] == 5
        assert store.meta["samples"] == 10


def test_a_sensor_that_is_not_asked_for_is_not_read(native: Path) -> None:
    with Store.open(native) as store:
        assert store.read(0, 0, sensors=["s2"]).keys() == {"s2", "labels", "valid"}


def test_scratch_buffer_gives_the_same_and_is_used(native: Path) -> None:
    with Store.open(native) as store:
        scratch = np.empty(store.season_bytes(1), np.uint8)
        fresh, kept = store.read(1, 0), store.read(1, 0, scratch=scratch)
        assert all(np.array_equal(fresh[name], kept[name], equal_nan=name == "s1") for name in fresh)
        assert np.shares_memory(kept["s2"], scratch)


def test_grid_survives_the_store(tmp_path: Path) -> None:
    grid = Grid(height=16, width=16, transform=Affine(10, 0, 5e5, 0, -10, 4e6), crs=CRS.from_epsg(32643))
    path = write_store(tmp_path / "store", [replace(make_record(0), grid=grid), make_record(1)])
    with Store.open(path) as store:
        assert store.grid(0) == grid
        assert store.grid(1) is None


def test_uint8_edition_is_the_published_scaling_with_zero_where_invalid(tmp_path: Path) -> None:
    record = make_record(1, holes=True)
    with Store.open(write_store(tmp_path / "store", [record], edition="uint8")) as store:
        for sensor, product in record.products.items():
            table = published_normalization(sensor, "all").statistics[product]
            mean, std = (np.array(table[name])[:, None, None] for name in ("mean", "std"))
            for season in range(2):
                exact = (record.images[sensor][season].astype(float) - (mean - 2 * std)) / (4 * std) * 255
                exact = np.clip(np.where(record.valid[season], exact, 0), 0, 255)
                got = store.read(0, season)[sensor]
                assert got.dtype == np.uint8
                # floor, but for values that float32 cannot tell from a whole number
                assert (np.abs(got - np.floor(exact)) <= (np.abs(exact - np.round(exact)) < 1e-3)).all()


def test_int16_edition_holds_s2_exactly_and_s1_within_a_four_hundredth_of_a_decibel(tmp_path: Path) -> None:
    record = make_record(1, holes=True)
    with Store.open(write_store(tmp_path / "store", [record], edition="int16")) as store:
        assert (store.scaling("s1"), store.steps("s1")) == (None, WholeSteps(low=-90.0, step=0.005))
        assert store.steps("s2") == WholeSteps(low=0.0, step=1.0)
        for season in range(2):
            got, valid = store.read(0, season), record.valid[season]
            assert got["s1"].dtype == got["s2"].dtype == np.int16
            s1, s2 = (store.steps(sensor).undo(got[sensor]) for sensor in ("s1", "s2"))
            assert (s2 == np.where(valid, record.images["s2"][season], 0)).all()
            assert np.abs(s1 - record.images["s1"][season])[:, valid].max() <= 0.0025 + 1e-5
            assert (got["s1"][:, ~valid] == -(2**15)).all()


def test_native_edition_has_no_steps(native: Path) -> None:
    with Store.open(native) as store:
        assert store.steps("s1") is None


def test_shards_are_plain_safetensors_with_readable_names(native: Path) -> None:
    arrays = load_file(native / "shards" / "00000.safetensors")
    assert np.array_equal(arrays["place0/01/s2"], MIXED[0].images["s2"][1])
    assert np.array_equal(arrays["place1/truth/02"], MIXED[1].truth[2])
    assert np.array_equal(arrays["place1/valid/00"], MIXED[1].valid[0])
    assert "place1/valid/01" not in arrays


def test_the_checksum_is_zlibs() -> None:
    content = np.random.default_rng(0).bytes(1001)
    assert store_files.crc32(content) == zlib.crc32(content)


@pytest.mark.parametrize("edition", ["native", "int16", "uint8"])
def test_a_store_written_in_pieces_is_the_same_byte_for_byte(tmp_path: Path, edition: str) -> None:
    records = [make_record(number, truth=number % 2 == 0) for number in range(7)]
    whole = write_store(tmp_path / "whole", records, shard_places=2, edition=edition)
    for _ in range(3):  # each of these is left without finish()
        writer = StoreWriter(tmp_path / "pieces", legend=LEGEND, sensors=BANDS, shard_places=2, edition=edition)
        for record in [r for r in records if r.id not in writer.done][:3]:
            writer.add(record)
    assert len(writer.done) == 6
    before = (tmp_path / "pieces/shards/00000.safetensors").stat().st_mtime_ns
    pieces = write_store(tmp_path / "pieces", records, shard_places=2, edition=edition)
    assert contents(pieces) == contents(whole)
    assert (tmp_path / "pieces/shards/00000.safetensors").stat().st_mtime_ns == before


def test_a_shard_is_also_full_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cromss.data.store.shard.SHARD_BYTES", 1)
    write_store(tmp_path / "store", [make_record(number) for number in range(3)])
    assert len(list((tmp_path / "store/shards").iterdir())) == 3


def test_an_unfinished_store_says_how_to_finish_it(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "store", legend=LEGEND, sensors=BANDS, shard_places=1).add(make_record(0))
    with pytest.raises(StoreError, match=r"not finished[\s\S]*once more"):
        Store.open(tmp_path / "store")


def test_a_path_without_a_store_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="nowhere"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no store"):
        Store.open(tmp_path)


def test_a_finished_store_is_not_written_again(native: Path) -> None:
    with pytest.raises(StoreError, match="finished store is there"):
        StoreWriter(native, legend=LEGEND, sensors=BANDS)


def test_a_begun_store_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "store", legend=LEGEND, sensors=BANDS, shard_places=1).add(make_record(0))
    with pytest.raises(StoreError, match=r"other settings[\s\S]*uint8"):
        StoreWriter(tmp_path / "store", legend=LEGEND, sensors=BANDS, shard_places=1, edition="uint8")
    with pytest.raises(StoreError, match="other settings"):
        StoreWriter(tmp_path / "store", legend=LEGEND, sensors={"s1": BANDS["s1"]}, shard_places=1)


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="at least one place"):
        write_store(tmp_path / "store", [])


def test_records_that_do_not_belong_are_refused_by_name(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", legend=LEGEND, sensors=BANDS)
    good = make_record(0)
    writer.add(good)
    with pytest.raises(StoreError, match=r"twice[\s\S]*place0"):
        writer.add(good)
    nan = make_record(1)
    nan.images["s1"][1, 0, 3, 3] = np.nan
    with pytest.raises(RangeError, match="place1"):
        writer.add(nan)
    strange = make_record(2)
    strange.labels[0, 0, 0] = 9
    with pytest.raises(LabelError, match=r"9 and others[\s\S]*place2"):
        writer.add(strange)
    with pytest.raises(BandError, match="place3"):
        writer.add(replace(make_record(3), images={**good.images, "s2": good.images["s2"][:, :12]}))
    with pytest.raises(BandError, match="place4"):
        writer.add(replace(make_record(4), images={"s1": good.images["s1"]}, products={"s1": "GRD"}))
    with pytest.raises(StoreError, match=r"another type[\s\S]*float32[\s\S]*place5"):
        writer.add(replace(make_record(5), images={**good.images, "s2": good.images["s2"].astype(np.float32)}))
    with Store.open(writer.finish()) as store:
        assert store.ids == ["place0"]


def test_places_and_seasons_that_do_not_exist_are_errors(native: Path) -> None:
    with Store.open(native) as store:
        for place, season in ((5, 0), (-1, 0), (0, 2), (0, -1)):
            with pytest.raises(ArgumentError):
                store.read(place, season)


def test_fingerprint_follows_the_data_and_not_the_report(tmp_path: Path) -> None:
    def written(name: str, number: int, report: dict[str, object]) -> str:
        writer = StoreWriter(tmp_path / name, legend=LEGEND, sensors=BANDS)
        writer.add(make_record(number))
        return Store.open(writer.finish(report)).fingerprint

    assert written("a", 0, {}) == written("b", 0, {"refused": 3})
    assert written("c", 1, {}) != written("d", 0, {})


def test_a_pickled_store_opens_again_unless_it_was_replaced(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", [make_record(0)])
    packed = pickle.dumps(Store.open(path))
    assert np.array_equal(pickle.loads(packed).read(0, 0)["s2"], make_record(0).images["s2"][0])  # noqa: S301 - our own
    path.rename(tmp_path / "old")
    write_store(path, [make_record(1)])
    with pytest.raises(StoreError, match="replaced"):
        pickle.loads(packed)  # noqa: S301 - our own


def test_handles_are_few_and_threads_share_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_files, "MAX_HANDLES", 2)
    records = [make_record(number) for number in range(6)]
    store = Store.open(write_store(tmp_path / "store", records, shard_places=1))
    wrong: list[int] = []

    def read(start: int) -> None:
        for i in range(60):
            place = (start + i) % 6
            if not np.array_equal(store.read(place, 1)["s2"], records[place].images["s2"][1]):
                wrong.append(place)
            assert len(store.files._handles) <= 2

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    store.close()
    assert not store.files._handles
    assert store.read(0, 0)["labels"].shape == (16, 16)
    store.close()


def test_verify_counts_what_it_checked(native: Path) -> None:
    report = verify_store(native)
    assert report["places"] == 5
    assert report["samples"] == 10
    assert report["shards"] == 3
    assert report["bytes"] == sum(len(content) for content in contents(native).values())


def test_a_damaged_array_is_refused_by_name_when_read(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", [make_record(0), make_record(1)])
    shard = path / "shards" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1  # the last array is the label map of the last season
    shard.write_bytes(content)
    with Store.open(path) as store:
        assert store.read(1, 0)["labels"].shape == (16, 16)
        with pytest.raises(DamagedFileError, match=r"labels of a sample[\s\S]*place1/2020-02"):
            store.read(1, 1)
    with pytest.raises(DamagedFileError, match="place1/labels/01"):
        verify_store(path)
