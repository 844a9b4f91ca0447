"""Open a training store: its description and its index, each checked before anything is read.

In: the files of a store, here or elsewhere. Out: store.json as a dict and the index as a table, both as they were
written, or an error that says which file is not. Afterwards a row of the index can be followed without looking: it lies
inside its shard.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cromss.data.store.files import StoreFiles
from cromss.data.store.layout import FORMAT, INDEX_FILE, META_FILE, digest, is_soft_layer, layers_of
from cromss.errors import DamagedFileError, StoreError

__all__ = ["EXTENT_PARTS", "check_index", "index_bytes", "numbers", "read_index", "read_meta"]

EXTENT_PARTS = ("offset", "length", "crc32")
"""The columns that the index holds for each array, as "<array>_<part>"."""


def numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of the index as numbers, one a row."""
    return np.asarray(table[name].to_numpy())


def read_meta(files: StoreFiles) -> dict[str, Any]:
    """The content of store.json. Raises MissingDataError, StoreError or DamagedFileError."""
    where = files.where(META_FILE)
    try:
        meta = json.loads(files.description())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamagedFileError("a JSON file does not parse", got=error, where=where) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        got = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise StoreError("this is not a store that can be read", got=got, expected=FORMAT, where=where)
    written = digest({name: value for name, value in meta.items() if name != "digest"})
    if written != meta.get("digest"):
        raise DamagedFileError(
            "the description of a store is not what was written",
            got=written,
            expected=meta.get("digest"),
            where=where,
        )
    return meta


def index_bytes(files: StoreFiles, meta: dict[str, Any]) -> bytes:
    """The index as a file, checked. Raises StoreError or DamagedFileError."""
    content = files.whole(meta["index"])
    got = hashlib.sha256(content).hexdigest()
    if got != meta["index"]["sha256"]:
        raise DamagedFileError(
            "the index of a store is not what was written",
            got=got,
            expected=meta["index"]["sha256"],
            where=files.where(INDEX_FILE),
        )
    return content


def read_index(files: StoreFiles, meta: dict[str, Any]) -> pa.Table:
    """The index without its columns `grid` and `notes`. Raises StoreError or DamagedFileError."""
    arrays = (*meta["sensors"], *layers_of(meta))
    columns = ["place", "id", "season", "season_name", "split", "shard", "height", "width"]
    columns += [f"{name}_product" for name in meta["sensors"]]
    columns += [f"{array}_{part}" for array in arrays for part in EXTENT_PARTS]
    texts = ["season_name", "split", *(f"{name}_product" for name in meta["sensors"])]
    content = pa.BufferReader(index_bytes(files, meta))
    return pq.read_table(content, columns=columns, read_dictionary=texts, use_threads=False)


def check_index(path: str | Path, meta: dict[str, Any], table: pa.Table) -> None:
    """Raise StoreError unless every row lies inside its shard, with the length that its type and size ask for."""
    sizes = np.array([shard["bytes"] for shard in meta["shards"]], dtype=np.int64)
    shard, season, place = (numbers(table, name).astype(np.int64) for name in ("shard", "season", "place"))
    pixels = numbers(table, "height").astype(np.int64) * numbers(table, "width")
    first = season == 0
    sound = table.num_rows > 0 and bool(first[0]) and shard.min() >= 0 and shard.max() < len(sizes)
    sound = sound and bool(((np.diff(season) == 1) | first[1:]).all()) and np.array_equal(place, np.cumsum(first) - 1)
    for array in (*meta["sensors"], *layers_of(meta)):
        sensor = meta["sensors"].get(array)
        cell = len(meta["legend"]["classes"]) if is_soft_layer(array) else 1
        cell = len(sensor["bands"]) * np.dtype(sensor["dtype"]).itemsize if sensor else cell
        offset, length = numbers(table, f"{array}_offset"), numbers(table, f"{array}_length")
        whole = (length == pixels * cell) | ((length == 0) & (sensor is None))
        sound = sound and bool((whole & (offset >= 0) & (offset + length <= sizes[shard])).all())
    if not sound:
        raise StoreError("the index of a store does not fit its shards", where=path, do="write the store again")
