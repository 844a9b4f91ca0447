"""Writing files so that a crash, a full disk or a power cut never leaves half of one under its final name.

In: a final path and whatever fills it. Out: either the whole file (or folder) under that path, or the path as it was.
The order is fixed: write to a hidden neighbour, fsync it, rename it over the final path, fsync the parent folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cromss.errors import BusyError, DamagedFileError, MissingDataError

__all__ = [
    "commit",
    "commit_folder",
    "lock",
    "read_json",
    "remove_folder",
    "remove_stale",
    "settle",
    "sha256",
    "write_json",
]

_MARK = ".tmp-"


def _neighbour(path: Path) -> Path:
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def commit(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving without error it becomes `path`, durably and at once.

    On an error nothing is left behind and `path` is as it was before. durable False waits for no disk: for files that
    may be lost in a power cut because they can be had again, and that are checked by whoever reads them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _neighbour(path)
    try:
        yield temporary
        if durable:
            settle(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def settle(temporary: Path, path: Path) -> None:
    """Give a written file in the same folder its final name, durably and at once."""
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


@contextlib.contextmanager
def commit_folder(path: str | Path, *, many: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving without error it becomes `path`, durably and at once.

    `path` must not exist yet: a folder is never replaced, because a rename cannot do that in one step.
    many: flush all disks once, not file after file, which takes hours for millions of files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _neighbour(path)
    temporary.mkdir()
    try:
        yield temporary
        if many:
            os.sync()
        else:
            for inner in sorted(temporary.rglob("*")):
                _fsync(inner)
            _fsync(temporary)
        temporary.rename(path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold `path` against other processes; the system lets go of it when this process ends, however that happens.

    The empty lock file stays: deleting it would let two processes lock two files of one name.
    Raises BusyError, at once, where another process holds it.
    """
    path = Path(path)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another process is at work in this folder",
                got=f"{path.name} is held",
                expected="one process at a time",
                where=path.parent,
                do="wait until it has ended, or choose another folder",
            ) from None
        yield


def remove_folder(path: str | Path) -> None:
    """Delete a folder so that it is never seen half deleted: rename it to a hidden neighbour, then delete that.

    If killed in between, `remove_stale` deletes the rest.
    """
    path = Path(path)
    hidden = path.rename(_neighbour(path))
    _fsync(path.parent)
    shutil.rmtree(hidden)


def remove_stale(folder: str | Path, name: str = "*") -> list[str]:
    """Delete what a killed process left half-written directly in `folder`, of one final name only if it is given.

    Returns the names removed.
    """
    removed = []
    for entry in sorted(Path(folder).glob(f".{name}{_MARK}*")):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        removed.append(entry.name)
    return removed


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, durably. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    with commit(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises MissingDataError if it is absent, DamagedFileError if it does not parse."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingDataError("a file is absent", where=path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError("a JSON file does not parse", got=error, where=path) from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
