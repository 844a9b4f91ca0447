"""Bytes fetched from afar, kept on a disk of this machine up to a limit; the least recently used go first.

In: a name and bytes. Out: the same bytes, or none. Any number of processes may share a folder: an entry appears whole
(by rename), the sum of all entries is counted in a file under a lock, and room is made before an entry appears; only
what is being written at the moment comes on top. An entry is only as good as the disk: whoever reads one checks it
against a checksum of his own, so nothing is fsynced.

    <folder>/<group>/<name>    the entries; the time of their last use is their time of modification
    <folder>/.usage            bytes in all entries, as text; also the lock
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ConfigError, StoreError
from cromss.files import commit

__all__ = ["DEFAULT_LIMIT", "DiskCache", "default_folder", "default_limit"]

DEFAULT_LIMIT = 20_000_000_000
"""Bytes, where neither a caller nor CROMSS_CACHE_GB says otherwise."""

KEPT_SHARE = 0.9
"""When room is needed, entries go until this share of the limit is left, so that not every write has to look."""

_USAGE = ".usage"
_STALE = 3600  # seconds after which a temporary file is what a killed process left behind


def default_folder() -> Path:
    """$CROMSS_CACHE_DIR, or `cromss` in the user's folder for caches."""
    given = os.environ.get("CROMSS_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "cromss"


def default_limit() -> int:
    """$CROMSS_CACHE_GB in bytes, or DEFAULT_LIMIT. Raises ConfigError for what is not a number above 0."""
    text = os.environ.get("CROMSS_CACHE_GB")
    if text is None:
        return DEFAULT_LIMIT
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise ConfigError("CROMSS_CACHE_GB is no size", got=text, expected="gigabytes above 0, e.g. 20")
    return limit


class DiskCache:
    """Entries in `folder`, at most `limit` bytes of them; one larger than that is not kept.

    Raises StoreError when the folder cannot be written. Nothing but the paths is held, so it may cross processes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        if limit <= 0:
            raise ConfigError("a cache cannot have this size", got=f"{limit} bytes", expected="above 0")
        self.folder, self.limit = Path(folder), limit
        with self._refusing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _USAGE).touch()

    def fill(self, group: str, name: str, part: NDArray[np.uint8]) -> bool:
        """Read an entry into `part`; False when there is none of this length."""
        try:
            handle = os.open(self.folder / group / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            whole = os.fstat(handle).st_size == part.size and _read_all(handle, part)
            if whole:
                os.utime(handle)
            return whole
        except OSError:  # a failing disk is a cache that has nothing: the bytes are fetched again
            return False
        finally:
            os.close(handle)

    def put(self, group: str, name: str, content: bytes | memoryview) -> None:
        """Keep `content` under this name, in place of what is there."""
        size, path = len(content), self.folder / group / name
        if size > self.limit:
            return
        # the lock is let go last, after `commit` has renamed
        with self._refusing(), contextlib.ExitStack() as held, commit(path, durable=False) as temporary:
            temporary.write_bytes(content)
            lock = held.enter_context(self._locked())
            used = _read_usage(lock) + size - _size(path)
            if used > self.limit:
                used = self._make_room(size) + size
            _write_usage(lock, used)

    def drop(self, group: str, name: str) -> None:
        """Delete an entry, if it is there."""
        path = self.folder / group / name
        with self._refusing(), self._locked() as lock:
            size = _size(path)
            path.unlink(missing_ok=True)
            _write_usage(lock, max(0, _read_usage(lock) - size))

    def usage(self) -> int:
        """Bytes in all entries, as counted."""
        with self._locked() as lock:
            return _read_usage(lock)

    def _make_room(self, size: int) -> int:
        """Delete the least recently used until `size` more fit; return the bytes that are left."""
        entries = [entry for group in os.scandir(self.folder) if group.is_dir() for entry in os.scandir(group)]
        facts = []
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has just become an entry
                state = entry.stat()
                facts.append((state.st_mtime_ns, state.st_size, Path(entry.path)))
        fresh = time.time_ns() - _STALE * 10**9
        for used, _, path in facts:
            if path.name.startswith(".") and used < fresh:
                path.unlink(missing_ok=True)
        facts = sorted(fact for fact in facts if not fact[2].name.startswith("."))
        left, aim = sum(length for _, length, _ in facts), max(0.0, self.limit * KEPT_SHARE - size)
        for _, length, path in facts:
            if left <= aim:
                break
            path.unlink(missing_ok=True)
            left -= length
        return left

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """A handle of the usage file, held by this thread of this process alone."""
        handle = os.open(self.folder / _USAGE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                "the cache of remote stores cannot be written",
                got=error,
                where=self.folder,
                do=f"free some disk (it takes up to {self.limit / 1e9:g} GB), or set CROMSS_CACHE_DIR, CROMSS_CACHE_GB",
            ) from None


def _read_all(handle: int, part: NDArray[np.uint8]) -> bool:
    view = memoryview(part)  # type: ignore[arg-type]  # numpy's stubs do not say that arrays are buffers
    while view:
        count = os.readv(handle, [view])
        if count == 0:
            return False
        view = view[count:]
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_usage(lock: int) -> int:
    text = os.pread(lock, 32, 0)
    return int(text) if text.strip().isdigit() else 0


def _write_usage(lock: int, used: int) -> None:
    os.pwrite(lock, f"{used:<32d}".encode(), 0)
