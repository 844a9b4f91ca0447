"""Damage to a store is found and named, whatever byte it hits; a killed writer costs at most one shard."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cromss.data.store import Store, StoreWriter, verify_store
from cromss.data.store.layout import read_header
from cromss.errors import CromssError, DamagedFileError, DataError, StoreError
from records import BANDS, LEGEND, contents, make_record, write_store


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", [make_record(i, height=4, width=4) for i in range(4)], shard_places=2)


FORK = multiprocessing.get_context("fork")


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        value = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


@pytest.mark.slow
def test_each_of_1000_flipped_bits_is_detected_and_its_place_named(small: Path) -> None:
    files = [path for path in sorted(small.rglob("*")) if path.is_file()]
    random = np.random.default_rng(26)
    for number in range(1000):
        path = files[number % len(files)]
        bit = int(random.integers(path.stat().st_size * 8))
        if number % 4 == 0 and path.suffix == ".safetensors":  # arrays are most of a real shard, headers of this one
            start = read_header(path).data_offset
            bit = int(random.integers(start * 8, path.stat().st_size * 8))
        flip(path, bit)
        with pytest.raises(CromssError) as caught:
            verify_store(small)
        if path.suffix == ".safetensors":
            assert isinstance(caught.value, DamagedFileError)
            own = ("place0", "place1") if path.stem == "00000" else ("place2", "place3")
            assert any(name in str(caught.value) for name in own)
        else:
            assert path.name in str(caught.value)
        flip(path, bit)
    assert verify_store(small)["places"] == 4


def test_every_flip_in_an_array_is_found_by_the_read_that_meets_it(small: Path) -> None:
    shard = small / "shards" / "00001.safetensors"
    random = np.random.default_rng(1)
    for name, extent in read_header(shard).extents.items():
        bit = int(random.integers(extent.offset * 8, (extent.offset + extent.length) * 8))
        flip(shard, bit)
        place = int(name.removeprefix("place").split("/")[0])
        season = int(name.split("/")[2 if "labels" in name else 1])
        with Store.open(small) as store, pytest.raises(DamagedFileError, match=f"place{place}/2020-0{season + 1}"):
            store.read(place, season)
        flip(shard, bit)


@pytest.mark.parametrize("damage", ["missing", "shortened", "lengthened", "duplicate", "empty"])
def test_a_shard_that_is_not_as_it_was_is_named_when_the_store_is_opened(small: Path, damage: str) -> None:
    shard = small / "shards" / "00001.safetensors"
    content, named = shard.read_bytes(), shard.name
    if damage == "missing":
        shard.unlink()
    elif damage == "duplicate":
        named = "00002.safetensors"
        shard.with_name(named).write_bytes(content)
    else:
        shard.write_bytes({"shortened": content[:-1], "lengthened": content + b"\0", "empty": b""}[damage])
    for action in (Store.open, verify_store):
        with pytest.raises(StoreError, match=named):
            action(small)


def test_a_shard_in_the_place_of_another_is_detected(small: Path) -> None:
    first, second = (small / "shards" / f"0000{i}.safetensors" for i in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises((DamagedFileError, StoreError)):
        verify_store(small)
    if first.stat().st_size == second.stat().st_size:
        with Store.open(small) as store, pytest.raises(DamagedFileError, match="place2"):
            store.read(2, 0)


def test_a_shard_that_shrinks_while_it_is_read_gives_an_error_and_no_signal(small: Path) -> None:
    with Store.open(small) as store:
        store.read(3, 1)
        os.truncate(small / "shards" / "00001.safetensors", 3000)
        with pytest.raises(DamagedFileError, match=r"become shorter[\s\S]*00001"):
            store.read(3, 1)


def test_a_missing_or_foreign_index_is_an_error(small: Path) -> None:
    index = small / "index.parquet"
    index.write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError, match=r"index\.parquet"):
        Store.open(small)
    index.unlink()
    with pytest.raises(StoreError, match=r"index\.parquet"):
        Store.open(small)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff" * 8,
        (10**9).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (200).to_bytes(8, "little") + b"[" * 200,
    ],
)
def test_a_hostile_shard_header_is_an_error_and_takes_no_memory(tmp_path: Path, header: bytes) -> None:
    folder = tmp_path / "store" / "shards"
    folder.mkdir(parents=True)
    (folder / "00000.safetensors").write_bytes(header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"00000\.safetensors"):
        StoreWriter(tmp_path / "store", legend=LEGEND, sensors=BANDS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.slow
def test_a_writer_killed_20_times_leaves_the_same_store_byte_for_byte(tmp_path: Path) -> None:
    records = [make_record(number) for number in range(200)]
    whole = write_store(tmp_path / "whole", records, shard_places=2)
    path, shards = tmp_path / "killed", tmp_path / "killed" / "shards"
    random = np.random.default_rng(28)
    written: dict[str, int] = {}
    kills = 0
    while kills < 20:
        process = FORK.Process(target=write_store, args=(path, records), kwargs={"shard_places": 2})
        process.start()
        while process.is_alive() and len(list(shards.glob("*.safetensors"))) == len(written):
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.01))
        process.kill()
        process.join()
        if (path / "store.json").exists():  # on a busy machine the writer may be done before it can be killed
            assert contents(path) == contents(whole)
            shutil.rmtree(path)
            written = {}
            continue
        kills += 1
        assert process.exitcode == -signal.SIGKILL
        stamps = {shard.name: shard.stat().st_mtime_ns for shard in shards.glob("*.safetensors")}
        assert written.items() <= stamps.items(), "a finished shard was written again"
        written = stamps
        with pytest.raises(StoreError, match="not finished"):
            Store.open(path)
    assert contents(write_store(path, records, shard_places=2)) == contents(whole)
    assert verify_store(path)["places"] == 200
