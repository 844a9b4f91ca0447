"""Open a training store: its description, the sizes of its shards and its index, each checked before anything is read.

In: the folder of a store. Out: store.json as a dict and the index as a table, both as they were written, or an error
that says which file is not. Afterwards a row of the index can be followed without looking: it lies inside its shard.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cromss.data.store_layout import FORMAT, INDEX_FILE, LABEL_KINDS, META_FILE, SHARD_FOLDER, digest
from cromss.errors import DamagedFileError, MissingDataError, StoreError
from cromss.files import read_json

__all__ = ["EXTENT_PARTS", "check_index", "check_shard_sizes", "numbers", "read_index", "read_meta"]

EXTENT_PARTS = ("offset", "length", "crc32")
"""The columns that the index holds for each array, as "<array>_<part>"."""


def numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of the index as numbers, one a row."""
    return np.asarray(table[name].to_numpy())


def read_meta(path: Path) -> dict[str, Any]:
    """The content of store.json. Raises MissingDataError, StoreError or DamagedFileError."""
    if not path.is_dir():
        raise MissingDataError("no store is here", where=path, do="write one with `cromss prepare`")
    if not (path / META_FILE).exists():
        begun = (path / SHARD_FOLDER).is_dir()
        raise StoreError(
            "the store is not finished" if begun else "this folder is no store",
            got=f"no {META_FILE}",
            where=path,
            do="run the command that began it once more: it continues after the last whole shard"
            if begun
            else "name a folder that `cromss prepare` or `cromss synthesize` wrote",
        )
    meta = read_json(path / META_FILE)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        got = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise StoreError("this is not a store that can be read", got=got, expected=FORMAT, where=path / META_FILE)
    written = digest({name: value for name, value in meta.items() if name != "digest"})
    if written != meta.get("digest"):
        raise DamagedFileError(
            "the description of a store is not what was written",
            got=written,
            expected=meta.get("digest"),
            where=path / META_FILE,
        )
    return meta


def check_shard_sizes(path: Path, meta: dict[str, Any]) -> None:
    """Raise StoreError, with names, when a shard is missing, too many, or not as long as it was written."""
    expected = {shard["file"]: shard["bytes"] for shard in meta["shards"]}
    folder = path / SHARD_FOLDER
    found = {f"{SHARD_FOLDER}/{e.name}": e.stat().st_size for e in os.scandir(folder)} if folder.is_dir() else {}
    wrong = [
        f"{name}: {found.get(name, 'absent')}, expected {expected.get(name, 'no such file')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise StoreError(
            f"{len(wrong)} shards of a store are missing, too many, or not as long as they were (bytes)",
            got="; ".join(wrong[:5]),
            where=path,
            do="copy the store again, or write it again from its sources",
        )


def read_index(path: Path, meta: dict[str, Any]) -> pa.Table:
    """The index without its columns `grid` and `notes`. Raises StoreError or DamagedFileError."""
    file = path / INDEX_FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError("the index of a store cannot be read", got=error, where=file) from None
    got = hashlib.sha256(content).hexdigest()
    if got != meta["index"]["sha256"]:
        raise DamagedFileError(
            "the index of a store is not what was written", got=got, expected=meta["index"]["sha256"], where=file
        )
    arrays = (*meta["sensors"], *LABEL_KINDS)
    columns = ["place", "id", "season", "season_name", "split", "shard", "height", "width"]
    columns += [f"{name}_product" for name in meta["sensors"]]
    columns += [f"{array}_{part}" for array in arrays for part in EXTENT_PARTS]
    texts = ["season_name", "split", *(f"{name}_product" for name in meta["sensors"])]
    return pq.read_table(pa.BufferReader(content), columns=columns, read_dictionary=texts, use_threads=False)


def check_index(path: Path, meta: dict[str, Any], table: pa.Table) -> None:
    """Raise StoreError unless every row lies inside its shard, with the length that its type and size ask for."""
    sizes = np.array([shard["bytes"] for shard in meta["shards"]], dtype=np.int64)
    shard, season, place = (numbers(table, name).astype(np.int64) for name in ("shard", "season", "place"))
    pixels = numbers(table, "height").astype(np.int64) * numbers(table, "width")
    first = season == 0
    sound = table.num_rows > 0 and bool(first[0]) and shard.min() >= 0 and shard.max() < len(sizes)
    sound = sound and bool(((np.diff(season) == 1) | first[1:]).all()) and np.array_equal(place, np.cumsum(first) - 1)
    for array in (*meta["sensors"], *LABEL_KINDS):
        sensor = meta["sensors"].get(array)
        cell = len(sensor["bands"]) * np.dtype(sensor["dtype"]).itemsize if sensor else 1
        offset, length = numbers(table, f"{array}_offset"), numbers(table, f"{array}_length")
        whole = (length == pixels * cell) | ((length == 0) & (sensor is None))
        sound = sound and bool((whole & (offset >= 0) & (offset + length <= sizes[shard])).all())
    if not sound:
        raise StoreError("the index of a store does not fit its shards", where=path, do="write the store again")
