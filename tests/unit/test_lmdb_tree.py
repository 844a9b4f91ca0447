"""The walk through an LMDB finds what the library that wrote it finds, whatever its size and history."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.sources.lmdb_tree import find_values, require_value
from cromss.errors import DamagedFileError

lmdb = pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")


def write(path, rng, keys, sizes, transactions=1, deleted=0.0):
    """An LMDB with random values; some keys are deleted again, so that it has free pages."""
    with lmdb.open(str(path), map_size=2**28, sync=False) as environment:
        for part in np.array_split(np.array(keys), transactions):
            with environment.begin(write=True) as transaction:
                for key in part:
                    transaction.put(str(key).encode(), rng.bytes(int(rng.choice(sizes))))
        with environment.begin(write=True) as transaction:
            for key in keys:
                if rng.random() < deleted:
                    transaction.delete(str(key).encode())


def found(file):
    """Key -> value, as the walk finds them."""
    with file.open("rb") as handle:
        values = {}
        for key, extent in find_values(file).items():
            require_value(handle, extent, file)
            handle.seek(extent.offset)
            values[key] = handle.read(extent.size)
    return values


@pytest.mark.parametrize(
    ("count", "sizes", "transactions", "deleted"),
    [
        (0, [1], 1, 0.0),
        (1, [0], 1, 0.0),
        (50, [10, 5000, 70_000], 1, 0.0),
        (3000, [0, 1, 100, 2000, 9000], 5, 0.3),
        (20_000, [3], 3, 0.5),
    ],
    ids=["empty", "one empty value", "large values", "three levels", "many keys"],
)
def test_the_walk_finds_what_the_library_finds(count, sizes, transactions, deleted, tmp_path):
    rng = np.random.default_rng(count)
    write(tmp_path / "a", rng, list(range(count)), sizes, transactions, deleted)
    with lmdb.open(str(tmp_path / "a"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        theirs = dict(transaction.cursor())
    ours = found(tmp_path / "a/data.mdb")
    assert list(ours) == list(theirs)
    assert ours == theirs


def test_the_later_transaction_counts(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        write(tmp_path / "a", rng, list(range(number, number + 3)), [20], deleted=0.2)
        with lmdb.open(str(tmp_path / "a"), readonly=True, lock=False) as environment, environment.begin() as reading:
            assert found(tmp_path / "a/data.mdb") == dict(reading.cursor())


def test_databases_inside_and_duplicates_are_refused(tmp_path):
    with lmdb.open(str(tmp_path / "a"), max_dbs=2) as environment:
        environment.open_db(b"inner")
    with pytest.raises(DamagedFileError, match="a value with flags"):
        find_values(tmp_path / "a/data.mdb")


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_the_tree_ends_in_an_error_or_in_what_is_within_the_file(tmp_path):
    write(tmp_path / "a", np.random.default_rng(0), list(range(300)), [4, 200, 6000], deleted=0.2)
    file = tmp_path / "a/data.mdb"
    whole, values = file.read_bytes(), found(file)
    page = 4096
    tree = {extent.offset // page for extent in find_values(file).values() if extent.page is None} | {0, 1}
    rng, refused, same, other = np.random.default_rng(1), 0, 0, 0
    for number in rng.choice(sorted(tree), 1500):
        content = bytearray(whole)
        content[int(number) * page + int(rng.integers(page))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        try:
            now = found(file)
        except DamagedFileError:
            refused += 1
            continue
        same += now == values
        other += now != values
        assert sum(map(len, now.values())) <= len(whole) * len(now)
    assert refused > 50
    assert same > 50
    assert other > 50  # bits of values, which have no checksum


def test_any_cut_is_refused(tmp_path):
    write(tmp_path / "a", np.random.default_rng(0), list(range(60)), [4, 6000])
    file = tmp_path / "a/data.mdb"
    whole = file.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 120).astype(int):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError):
            found(file)
