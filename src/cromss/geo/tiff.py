"""Whether a TIFF is all there: every part that its directories point to must lie inside the file.

In: a path. Out: nothing, or DamagedFileError. The raster library is lenient where it matters: it drops metadata that
was cut off (band names, the no-data value) with a warning, and reads blocks that were never written as zeros.

A TIFF is a header, then a chain of directories; an entry is tag, type, count and a value or its position; the pixels
are blocks (strips or tiles) whose positions and lengths are two such values. TIFF 6.0 and BigTIFF, either byte order.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cromss.errors import DamagedFileError

__all__ = ["check_tiff"]

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BLOCK_OFFSETS, _BLOCK_LENGTHS = (273, 324), (279, 325)  # of strips, of tiles
_NODATA = 42113  # GDAL_NODATA
_MAX_DIRECTORIES = 1000  # overviews, masks and pages; a longer chain is a loop


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How numbers are written: byte order, and the formats of an offset, a count of entries, and an entry."""

    order: str
    offset: str
    entries: str
    inline: int

    @property
    def entry_bytes(self) -> int:
        return 4 + 2 * self.inline


@dataclass(frozen=True, kw_only=True)
class _Value:
    kind: int
    count: int
    position: int


def check_tiff(path: str | Path, *, gaps_allowed: bool = True, content: bytes | None = None) -> None:
    """Raise DamagedFileError unless the TIFF is whole.

    Blocks that were never written are gaps: they pass only where `gaps_allowed` and the file declares a no-data value.
    content: the bytes of a TIFF that is no file of its own; `path` then only names it.
    """
    path = Path(path)
    size = path.stat().st_size if content is None else len(content)
    with path.open("rb") if content is None else io.BytesIO(content) as file:
        layout, position = _header(file, path, size)
        number = 0
        while position:
            if number == _MAX_DIRECTORIES:
                raise DamagedFileError("the directories of a TIFF do not end", got=number, where=path)
            values, position = _directory(file, layout, position, size, path)
            gaps = _check_blocks(file, layout, values, size, path)
            if gaps and number == 0 and not (gaps_allowed and _NODATA in values):
                raise DamagedFileError(
                    "a raster has blocks that were never written",
                    got=f"{gaps} blocks without data"
                    + ("" if _NODATA in values else ", and no declared no-data value"),
                    expected="a whole GeoTIFF",
                    where=path,
                    do="write the file again, or declare its no-data value if the gaps are meant",
                )
            number += 1


def _cut(path: Path, size: int, what: str, end: int) -> DamagedFileError:
    return DamagedFileError(
        "a raster is cut short",
        got=f"{size} bytes; {what} ends at {end}",
        expected="a whole GeoTIFF",
        where=path,
        do="fetch or write the file again",
    )


def _header(file: BinaryIO, path: Path, size: int) -> tuple[_Layout, int]:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    magic = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 4 else 0
    if magic not in (42, 43):
        raise DamagedFileError(
            "a file is not a TIFF",
            got=f"{size} bytes, beginning with {head[:4]!r}",
            expected="a GeoTIFF",
            where=path,
            do="fetch or write the file again",
        )
    if len(head) < (8 if magic == 42 else 16):
        raise _cut(path, size, "the header", 8 if magic == 42 else 16)
    if magic == 42:
        return _Layout(order=order, offset="I", entries="H", inline=4), struct.unpack(f"{order}I", head[4:8])[0]
    return _Layout(order=order, offset="Q", entries="Q", inline=8), struct.unpack(f"{order}Q", head[8:16])[0]


def _directory(file: BinaryIO, layout: _Layout, position: int, size: int, path: Path) -> tuple[dict[int, _Value], int]:
    """The values of one directory, all inside the file, and the position of the next (0: none)."""
    head = struct.calcsize(layout.entries)
    if position + head > size:
        raise _cut(path, size, "a directory", position + head)
    file.seek(position)
    (count,) = struct.unpack(layout.order + layout.entries, file.read(head))
    end = position + head + count * layout.entry_bytes + layout.inline
    if end > size:
        raise _cut(path, size, "a directory", end)
    values = {}
    for index in range(count):
        start = position + head + index * layout.entry_bytes
        file.seek(start)
        raw = file.read(layout.entry_bytes)
        tag, kind, number = struct.unpack(f"{layout.order}HH{layout.offset}", raw[: -layout.inline])
        length = _TYPE_BYTES.get(kind, 1) * number
        where = start + layout.entry_bytes - layout.inline
        if length > layout.inline:
            (where,) = struct.unpack(layout.order + layout.offset, raw[-layout.inline :])
            if where + length > size:
                raise _cut(path, size, f"tag {tag}", where + length)
        values[tag] = _Value(kind=kind, count=number, position=where)
    file.seek(end - layout.inline)
    (following,) = struct.unpack(layout.order + layout.offset, file.read(layout.inline))
    return values, following


def _check_blocks(file: BinaryIO, layout: _Layout, values: dict[int, _Value], size: int, path: Path) -> int:
    """The number of gaps among the blocks of one directory; raises when a block ends outside the file."""
    offsets = _numbers(file, layout, values, _BLOCK_OFFSETS)
    lengths = _numbers(file, layout, values, _BLOCK_LENGTHS)
    if offsets.size != lengths.size:
        raise DamagedFileError(
            "the blocks of a raster do not add up",
            got=f"{offsets.size} positions, {lengths.size} lengths",
            expected="one length a position",
            where=path,
            do="fetch or write the file again",
        )
    written = (offsets > 0) & (lengths > 0)
    end = int((offsets + lengths)[written].max(initial=0))
    if end > size:
        raise _cut(path, size, "the last block", end)
    return int((~written).sum())


def _numbers(file: BinaryIO, layout: _Layout, values: dict[int, _Value], tags: tuple[int, ...]) -> NDArray[np.int64]:
    """The whole numbers of the first of `tags` that is there, or none."""
    for value in (values[tag] for tag in tags if tag in values):
        file.seek(value.position)
        kind = {3: "u2", 4: "u4", 16: "u8"}.get(value.kind, "u1")
        raw = file.read(value.count * np.dtype(kind).itemsize)
        return np.frombuffer(raw, layout.order + kind).astype(np.int64)
    return np.zeros(0, np.int64)
