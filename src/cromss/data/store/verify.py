"""Read every byte of a training store and say what is not as it was written.

In: the folder of a finished store. Out: counts of what was checked, or an error that names the damaged places.
Opening checks the description, the index and the sizes; here each shard is read once, for its SHA-256 and for the CRC32
of each of its arrays, which tells whose bytes they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zlib_ng.zlib_ng import crc32

from cromss.data.store.layout import INDEX_FILE, META_FILE, ShardHeader, read_header
from cromss.data.store.reader import Store
from cromss.data.store.remote_source import is_remote
from cromss.errors import DamagedFileError, DataError, StoreError
from cromss.workers import Each, here

__all__ = ["verify_store"]

_SHOWN = 20  # damaged arrays named in an error


def verify_store(path: str | Path, each: Each = here) -> dict[str, Any]:
    """Check every byte of the store in folder `path`; return counts of what was checked. each: who reads the shards.

    Raises what `Store.open` raises, and DamagedFileError naming the places, seasons and arrays that differ.
    """
    if is_remote(path):
        raise StoreError(
            "a remote store is not verified from here: every read of it is",
            where=path,
            do="run `cromss verify` on the machine that holds its files",
        )
    path = Path(path)
    with Store.open(path) as store:
        damage, arrays = [], 0
        shards = store.meta["shards"]
        for number, (found, count) in enumerate(each(_verify_shard, path, shards)):
            shard = shards[number]
            damage += [text or f"{shard['file']}: {_span(store.ids_in_shard(number))}" for text in found]
            arrays += count
        if damage:
            more = f"; and {len(damage) - _SHOWN} more" if len(damage) > _SHOWN else ""
            raise DamagedFileError(
                f"the store is damaged in {len(damage)} places",
                got="; ".join(damage[:_SHOWN]) + more,
                expected="every byte as it was written",
                where=path,
                do="copy the store again, or write it again from its sources",
            )
        files = [shard["bytes"] for shard in store.meta["shards"]]
        size = sum(files) + sum((path / name).stat().st_size for name in (INDEX_FILE, META_FILE))
        counts = {"places": len(store), "samples": store.meta["samples"], "arrays": arrays, "shards": len(files)}
        return {**counts, "bytes": size, "fingerprint": store.fingerprint}


def _verify_shard(store: Path, shard: Mapping[str, Any]) -> tuple[list[str], int]:
    """The arrays of a shard that differ, and how many it holds; "" stands for damage outside all arrays."""
    path = store / shard["file"]
    try:
        header = read_header(path)
        wrong, got = _check_arrays(path, header)
    except (DataError, OSError):
        return [""], 0
    return wrong or ([] if got == shard["sha256"] else [""]), len(header.extents)


def _span(ids: list[str]) -> str:
    return f"its header, which all its places need: {', '.join(ids)}"


def _check_arrays(path: Path, header: ShardHeader) -> tuple[list[str], str]:
    """The arrays whose CRC32 differs, and the SHA-256 of the whole file, in one pass."""
    wrong = []
    with path.open("rb") as file:
        total = hashlib.sha256(file.read(header.data_offset))
        for name, extent in sorted(header.extents.items(), key=lambda item: item[1].offset):
            content = file.read(extent.length)
            total.update(content)
            if crc32(content) != extent.crc32:
                wrong.append(f"{name} in {path.name}")
    return wrong, total.hexdigest()
