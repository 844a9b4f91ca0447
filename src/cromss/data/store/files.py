"""The files of a store in a folder of this machine: whole files, and runs of neighbouring arrays by pread.

In: the name of a file of the store and the arrays wanted of it. Out: their bytes in a buffer, and which of them are not
what was written. `store.remote_files` has the same methods for a store behind an address; `Store` knows no difference.
Nothing is mapped into memory: a file that shrinks while it is read gives an error, not a signal. File handles belong to
one process, and are opened when first needed.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32  # the CRC32 of zlib, about five times as fast

from cromss.data.store.layout import META_FILE, SHARD_FOLDER
from cromss.errors import DamagedFileError, MissingDataError, StoreError

__all__ = ["LocalFiles", "StoreFiles", "Wanted", "cut", "runs", "wrong_parts"]

MAX_HANDLES = 256
"""Shards kept open at a time; the usual limit is 1,024 open files a process."""

Wanted = tuple[int, int, int, int, int]
"""Row of the index, number of the array, byte offset in its shard, length, CRC32."""


class StoreFiles(Protocol):
    """What a `Store` asks of the place where its files lie."""

    remote: bool

    def where(self, name: str) -> str | Path:
        """The full name of a file, for people."""

    def description(self) -> bytes:
        """The content of store.json. Raises MissingDataError or StoreError where there is none."""

    def whole(self, entry: Mapping[str, Any]) -> bytes:
        """The content of a file that store.json describes as `entry`. Raises StoreError."""

    def check_shards(self, shards: Sequence[Mapping[str, Any]]) -> None:
        """Take the list of shards in store.json. Raises StoreError when the shards cannot be those."""

    def fill(self, shard: int, wanted: Sequence[Wanted], buffer: NDArray[np.uint8]) -> dict[int, int]:
        """Put arrays one after the other into `buffer`; return position -> CRC32 of those that are wrong."""

    def prefetch(self, wanted: Mapping[int, Sequence[Wanted]]) -> None:
        """Bring arrays, by shard, to this machine, all at once, where that is faster than one by one."""

    def close(self) -> None:
        """Let go of what is open; it is opened again when needed."""


def cut(wanted: Sequence[Wanted], buffer: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The part of `buffer` of each array, one after the other."""
    parts, start = [], 0
    for _, _, _, length, _ in wanted:
        parts.append(buffer[start : start + length])
        start += length
    return parts


def runs(wanted: Sequence[Wanted]) -> Iterator[tuple[int, int, int]]:
    """(offset in the file, begin, end in the buffer) of each run of arrays that are neighbours in both."""
    run_offset, run_start, start = wanted[0][2], 0, 0
    for _, _, offset, length, _ in wanted:
        if offset != run_offset + start - run_start:
            yield run_offset, run_start, start
            run_offset, run_start = offset, start
        start += length
    yield run_offset, run_start, start


def wrong_parts(wanted: Sequence[Wanted], parts: Sequence[NDArray[np.uint8]]) -> dict[int, int]:
    """Position -> CRC32 of the parts whose CRC32 is not the one in the index."""
    wrong = {}
    for i, part in enumerate(parts):
        if (got := crc32(part)) != wanted[i][4]:
            wrong[i] = got
    return wrong


class LocalFiles:
    """The files of the store in folder `path`."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards: list[str] = []
        self._reset()

    def where(self, name: str) -> Path:
        """The path of a file."""
        return self.path / name

    def description(self) -> bytes:
        """The content of store.json. Raises MissingDataError when there is no folder, StoreError when no store."""
        if not self.path.is_dir():
            raise MissingDataError("no store is here", where=self.path, do="write one with `cromss prepare`")
        if not (self.path / META_FILE).exists():
            begun = (self.path / SHARD_FOLDER).is_dir()
            raise StoreError(
                "the store is not finished" if begun else "this folder is no store",
                got=f"no {META_FILE}",
                where=self.path,
                do="run the command that began it once more: it continues after the last whole shard"
                if begun
                else "name a folder that `cromss prepare` or `cromss synthesize` wrote",
            )
        return self._content(META_FILE)

    def whole(self, entry: Mapping[str, Any]) -> bytes:
        """The content of a file. Raises StoreError."""
        return self._content(str(entry["file"]))

    def check_shards(self, shards: Sequence[Mapping[str, Any]]) -> None:
        """Raise StoreError, with names, when a shard is missing, too many, or not as long as it was written."""
        expected = {shard["file"]: shard["bytes"] for shard in shards}
        folder = self.path / SHARD_FOLDER
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
                where=self.path,
                do="copy the store again, or write it again from its sources",
            )
        self._shards = [str(shard["file"]) for shard in shards]

    def fill(self, shard: int, wanted: Sequence[Wanted], buffer: NDArray[np.uint8]) -> dict[int, int]:
        """Read arrays of one shard; neighbours take one read. Raises StoreError or DamagedFileError."""
        if os.getpid() != self._pid:  # a fork: the parent's handles and lock are not ours
            self._reset()
        with self._lock:
            handle = self._handle(shard)
            for offset, begin, end in runs(wanted):
                self._pread(handle, shard, buffer[begin:end], offset)
        return wrong_parts(wanted, cut(wanted, buffer))

    def prefetch(self, wanted: Mapping[int, Sequence[Wanted]]) -> None:
        """Nothing: what lies here need not be brought."""

    def close(self) -> None:
        """Close the files; they are opened again when the store is read again."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            while self._handles:
                os.close(self._handles.popitem()[1])

    def _content(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise StoreError("a file of a store cannot be read", got=error, where=self.path / name) from None

    def _pread(self, handle: int, shard: int, buffer: NDArray[np.uint8], offset: int) -> None:
        view = memoryview(buffer)  # type: ignore[arg-type]  # numpy's stubs do not say that arrays are buffers
        while view:
            try:
                count = os.preadv(handle, [view], offset)
            except OSError as error:
                where = self.where(self._shards[shard])
                raise DamagedFileError("a shard cannot be read", got=error, where=where) from None
            if count == 0:
                raise DamagedFileError(
                    "a shard has become shorter",
                    got=f"its end before byte {offset + len(view)}",
                    where=self.where(self._shards[shard]),
                )
            view, offset = view[count:], offset + count

    def _reset(self) -> None:
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _handle(self, shard: int) -> int:
        handle = self._handles.get(shard)
        if handle is not None:
            self._handles.move_to_end(shard)
            return handle
        while len(self._handles) >= MAX_HANDLES:
            os.close(self._handles.popitem(last=False)[1])
        path = self.where(self._shards[shard])
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError("a shard cannot be opened", got=error, where=path) from None
        self._handles[shard] = handle
        return handle
