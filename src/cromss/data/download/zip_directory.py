"""How many entries a zip archive lists, counted without holding them: the standard library loads all of them at once.

In: a path. Out: the number, or an error. The directory of a zip stands at its end: a record of its position and length
(22 bytes and a comment; for large archives another of 56 bytes and a locator of 20 before it), and right before those
one entry a file: 46 bytes, a name, extras, a comment. APPNOTE.TXT 6.3, sections 4.3.12 to 4.3.16.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from cromss.errors import ArchiveError, DamagedFileError

__all__ = ["count_zip_entries"]

_END, _END64, _LOCATOR, _ENTRY = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _ENTRY_BYTES = 22, 56, 20, 46
_LONGEST_COMMENT = 2**16 - 1


def count_zip_entries(path: Path, most: int) -> int:
    """Count. Raises ArchiveError for more than `most`, DamagedFileError for a file that is no whole zip."""
    with path.open("rb") as file:
        position, length = _directory(file, path)
        count, read = 0, 0
        while read < length:
            file.seek(position + read)
            head = file.read(_ENTRY_BYTES)
            if len(head) < _ENTRY_BYTES or head[:4] != _ENTRY:
                raise _damaged(path, f"no entry at byte {position + read}")
            count += 1
            if count > most:
                raise ArchiveError(
                    "an archive holds too many files",
                    got=f"over {most}",
                    expected=f"at most {most} files and folders",
                    where=path,
                    do="do not unpack it unless you know where it comes from",
                )
            read += _ENTRY_BYTES + sum(struct.unpack("<HHH", head[28:34]))
    return count


def _directory(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Position and length of the directory, which must end where the records begin."""
    size = path.stat().st_size
    tail_bytes = min(size, _END_BYTES + _LONGEST_COMMENT)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = len(tail) - _END_BYTES
    if at < 0 or tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
        at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise _damaged(path, f"{size} bytes without a zip directory at their end")
    end = size - tail_bytes + at
    (length,) = struct.unpack("<I", tail[at + 12 : at + 16])
    before = end - _LOCATOR_BYTES - _END64_BYTES
    if before >= 0:
        file.seek(before)
        records = file.read(_END64_BYTES + _LOCATOR_BYTES)
        if records[_END64_BYTES:][:4] == _LOCATOR:
            if records[:4] != _END64:
                raise _damaged(path, "no record where the locator of a large archive points")
            (length,) = struct.unpack("<Q", records[40:48])
            end = before
    if length > end:
        raise _damaged(path, f"a directory of {length} bytes in a file of {size}")
    return end - length, length


def _damaged(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError("a file is no whole zip archive", got=why, where=path, do="fetch it again")
