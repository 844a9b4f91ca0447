"""The files of a store behind an address: arrays by range requests, several at a time, through a cache on disk.

In: an address, and the arrays wanted. Out: their bytes, each checked against its CRC32 at every read.

    in the cache and right          taken
    in the cache and wrong          deleted, then as if it had not been there
    not in the cache                fetched; neighbours in one request; up to CONNECTIONS requests at a time
    fetched and wrong               fetched once more, then reported as wrong
    fetched and right               kept in the cache, by the SHA-256 of its shard, its offset and its length

store.json is fetched at each opening, as it says which store this is; the index is fetched once and then cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.store.disk_cache import DiskCache, default_folder, default_limit
from cromss.data.store.files import Wanted, cut, wrong_parts
from cromss.data.store.layout import META_FILE
from cromss.data.store.remote_source import RemoteSource
from cromss.errors import MissingDataError

__all__ = ["CONNECTIONS", "RemoteFiles"]

CONNECTIONS = 16
"""Requests at a time, a process."""

_ROUND = 4 * CONNECTIONS
"""Requests whose answers are in memory together: about 100 MB of the largest arrays of the paper's set."""

_Job = tuple[int, list[Wanted]]
"""A shard, and a run of neighbouring arrays in it."""


class RemoteFiles:
    """The files of the store at `address`; cache: folder and bytes, None for the defaults of `store.disk_cache`."""

    remote = True

    def __init__(self, address: str, cache: Path | None = None, cache_bytes: int | None = None) -> None:
        self.source = RemoteSource(address)
        self.cache = DiskCache(cache or default_folder(), cache_bytes or default_limit())
        self._shards: list[Mapping[str, Any]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    def where(self, name: str) -> str:
        """The address of a file."""
        return self.source.where(name)

    def description(self) -> bytes:
        """The content of store.json. Raises MissingDataError or StoreError."""
        self.source.connect()
        try:
            return self.source.get(META_FILE)
        except MissingDataError as error:
            raise MissingDataError(
                "no finished store is at this address",
                got=error.got,
                where=error.where,
                do="check the address: it is the folder that holds store.json, which is written last",
            ) from None

    def whole(self, entry: Mapping[str, Any]) -> bytes:
        """The content of a file, from the cache where its SHA-256 is right. Raises StoreError."""
        name, size, expected = str(entry["file"]), int(entry["bytes"]), str(entry["sha256"])
        kept = np.empty(size, np.uint8)
        if self.cache.fill("index", expected, kept):
            if hashlib.sha256(kept.data).hexdigest() == expected:
                return kept.tobytes()
            self.cache.drop("index", expected)
        self.source.connect()
        content = self.source.get(name, 0, size, size)
        if hashlib.sha256(content).hexdigest() == expected:
            self.cache.put("index", expected, content)
        return content

    def check_shards(self, shards: Sequence[Mapping[str, Any]]) -> None:
        """Ask for a byte of the first shard, so that a server without range requests is found now.

        The length of each shard is checked by every request for some of it. Raises StoreError.
        """
        self._shards = list(shards)
        first = self._shards[0]
        self.source.connect()
        self.source.get(str(first["file"]), int(first["bytes"]) - 1, 1, int(first["bytes"]))

    def fill(self, shard: int, wanted: Sequence[Wanted], buffer: NDArray[np.uint8]) -> dict[int, int]:
        """Put arrays into `buffer`; return position -> CRC32 of those that are wrong. Raises StoreError."""
        parts = cut(wanted, buffer)
        missing = [
            i for i, (item, part) in enumerate(zip(wanted, parts, strict=True)) if not self._kept(shard, item, part)
        ]
        targets = {wanted[i]: parts[i] for i in missing}
        for _ in range(2):
            self._fetch(_jobs({shard: [*targets]}), targets)
            targets = {item: part for item, part in targets.items() if wrong_parts([item], [part])}
            if not targets:
                return {}
        self.source.require_unchanged(str(self._shards[shard]["file"]))
        return wrong_parts(wanted, parts)

    def prefetch(self, wanted: Mapping[int, Sequence[Wanted]]) -> None:
        """Bring what the cache lacks into it. What comes wrong is left out: reading it fetches it again and judges."""
        lacking = {
            shard: [item for item in items if not (self.cache.folder / self._group(shard) / _name(item)).exists()]
            for shard, items in wanted.items()
        }
        jobs = iter(_jobs(lacking))
        while some := list(islice(jobs, _ROUND)):
            targets = {item: np.empty(item[3], np.uint8) for _, items in some for item in items}
            self._fetch(some, targets)

    def close(self) -> None:
        """Close the connections; they are opened again when needed."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=False, cancel_futures=True)  # this may run in any thread, one of the pool's too
        self._pool = None
        self.source.close()

    def _kept(self, shard: int, item: Wanted, part: NDArray[np.uint8]) -> bool:
        """Read an array from the cache; what is wrong there is deleted."""
        if not self.cache.fill(self._group(shard), _name(item), part):
            return False
        if wrong_parts([item], [part]):
            self.cache.drop(self._group(shard), _name(item))
            return False
        return True

    def _fetch(self, jobs: Sequence[_Job], targets: Mapping[Wanted, NDArray[np.uint8]]) -> None:
        """Fetch runs of arrays into `targets`; keep in the cache those that are right."""
        for (shard, items), content in zip(jobs, self._contents(jobs), strict=True):
            start = 0
            for item in items:
                targets[item][:] = np.frombuffer(content, np.uint8, item[3], start)
                start += item[3]
                if not wrong_parts([item], [targets[item]]):
                    self.cache.put(self._group(shard), _name(item), targets[item].data)

    def _contents(self, jobs: Sequence[_Job]) -> Iterable[bytes]:
        self.source.connect()  # before there are threads that could each do so
        if len(jobs) == 1:
            return [self._content(jobs[0])]
        if self._pool is None or self._pid != os.getpid():  # threads do not survive a fork
            self._pool, self._pid = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cromss fetch"), os.getpid()
        return self._pool.map(self._content, jobs)

    def _content(self, job: _Job) -> bytes:
        shard, items = job
        entry = self._shards[shard]
        length = items[-1][2] + items[-1][3] - items[0][2]
        return self.source.get(str(entry["file"]), items[0][2], length, int(entry["bytes"]))

    def _group(self, shard: int) -> str:
        return str(self._shards[shard]["sha256"])[:32]


def _name(item: Wanted) -> str:
    return f"{item[2]}-{item[3]}"


def _jobs(wanted: Mapping[int, Sequence[Wanted]]) -> list[_Job]:
    """Neighbouring arrays of a shard as one job each."""
    jobs = []
    for shard, items in wanted.items():
        ordered = sorted(set(items), key=lambda item: item[2])
        begin = 0
        for end in range(1, len(ordered) + 1):
            last = ordered[end - 1]
            if end == len(ordered) or ordered[end][2] != last[2] + last[3]:
                jobs.append((shard, ordered[begin:end]))
                begin = end
    return jobs
