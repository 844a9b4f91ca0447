"""Whether a TIFF is all there, and no larger than its file bears out: every part that its directories point to must lie
inside the file, and every block of the size that they claim must be listed.

In: a path. Out: nothing, or DamagedFileError, or RangeError for a claim that no honest file makes. The raster library
is lenient where it matters: it drops metadata that was cut off (band names, the no-data value) with a warning, and
reads blocks that were never written, or are not even listed, as zeros. A few hundred bytes may claim any size.

A TIFF is a header, then a chain of directories; an entry is tag, type, count and a value or its position; the pixels
are blocks (strips or tiles) whose positions and lengths are two such values. TIFF 6.0 and BigTIFF, either byte order.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cromss.errors import DamagedFileError, RangeError

__all__ = ["MAX_BYTES", "check_tiff"]

MAX_BYTES = 2 * 1024**3
"""The most that one read, and so one block, may hold, in bytes: a guard against headers that claim a huge size."""

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {3: "H", 4: "I", 16: "Q"}  # types of sizes and positions, as formats of struct and of numpy
_BLOCK_OFFSETS, _BLOCK_LENGTHS = (273, 324), (279, 325)  # of strips, of tiles
_NODATA = 42113  # GDAL_NODATA
_MAX_PACKED_BLOCK = 2**28
"""The most that a compressed block may unpack to, in bytes; real ones hold 0.1 to 10 MB."""

_MAX_CLAIM = 1_000_000
"""Bytes of pixels a byte of file: a raster without one written block of 256 x 256 x 13 uint16 has 212,992."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _BANDS, _ROWS, _PLANES = 256, 257, 258, 259, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_MAX_ENTRIES = 2**16  # of a directory, one for each tag
_MAX_DIRECTORIES = 1000  # overviews, masks and pages; a longer chain is a loop


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How numbers are written: byte order, an offset, a count of entries, and an entry, which ends in an offset."""

    order: str
    offset: struct.Struct
    entries: struct.Struct
    entry: struct.Struct


class _Value(NamedTuple):
    """`size` numbers of a type: their bytes where the entry itself holds them, or else their position in the file."""

    kind: int
    size: int
    content: bytes | None
    position: int


def check_tiff(path: str | Path, *, gaps_allowed: bool = True, content: bytes | None = None) -> None:
    """Raise DamagedFileError unless the TIFF is whole, RangeError where it claims far more than its bytes can hold.

    Blocks that were never written are gaps: they pass only where `gaps_allowed` and the file declares a no-data value.
    content: the bytes of a TIFF that is no file of its own; `path` then only names it.
    """
    path = Path(path)
    with path.open("rb") if content is None else io.BytesIO(content) as file:
        size = file.seek(0, io.SEEK_END)
        layout, position = _header(file, path, size)
        number = 0
        while position:
            if number == _MAX_DIRECTORIES:
                raise DamagedFileError("the directories of a TIFF do not end", got=number, where=path)
            values, position = _directory(file, layout, position, size, path)
            blocks = _check_claim(file, layout, values, size, path)
            gaps = _check_blocks(file, layout, values, blocks, size, path)
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
    file.seek(0)
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
    offset, entries, first = ("I", "H", 4) if magic == 42 else ("Q", "Q", 8)
    layout = _Layout(
        order=order,
        offset=struct.Struct(order + offset),
        entries=struct.Struct(order + entries),
        entry=struct.Struct(f"{order}HH{offset}{first}s"),
    )
    return layout, layout.offset.unpack_from(head, first)[0]


def _directory(file: BinaryIO, layout: _Layout, position: int, size: int, path: Path) -> tuple[dict[int, _Value], int]:
    """The values of one directory, all inside the file, and the position of the next (0: none)."""
    begin = position + layout.entries.size
    if begin > size:
        raise _cut(path, size, "a directory", begin)
    file.seek(position)
    (count,) = layout.entries.unpack(file.read(layout.entries.size))
    end = begin + count * layout.entry.size + layout.offset.size
    if end > size:
        raise _cut(path, size, "a directory", end)
    if count > _MAX_ENTRIES:
        raise DamagedFileError("a directory of a TIFF has more entries than there are tags", got=count, where=path)
    content = file.read(end - begin)
    values = {}
    for tag, kind, number, inline in layout.entry.iter_unpack(content[: -layout.offset.size]):
        length = _TYPE_BYTES.get(kind, 1) * number
        if length <= layout.offset.size:
            values[tag] = _Value(kind, number, inline, 0)
            continue
        (where,) = layout.offset.unpack(inline)
        if where + length > size:
            raise _cut(path, size, f"tag {tag}", where + length)
        values[tag] = _Value(kind, number, None, where)
    (following,) = layout.offset.unpack(content[-layout.offset.size :])
    return values, following


def _check_claim(file: BinaryIO, layout: _Layout, values: dict[int, _Value], size: int, path: Path) -> int:
    """How many blocks one directory must list; raises for sizes that are absurd.

    blocks = ceil(height / block height) ceil(width / block width), times the bands where each has blocks of its own
    """

    def first(tag: int, default: int) -> int:
        value = values.get(tag)
        if value is None or not value.size:
            return default
        kind = _WHOLE.get(value.kind, "B")
        content = value.content or _content(file, value, struct.calcsize(kind))
        return int(struct.unpack_from(layout.order + kind, content)[0])

    if not {_WIDTH, _HEIGHT, *_BLOCK_OFFSETS} & set(values):
        return 0  # no image: the raster library refuses it if it comes first
    width, height, bands = first(_WIDTH, 0), first(_HEIGHT, 0), first(_BANDS, 1)
    block_width = first(_TILE_WIDTH, width)
    block_height = first(_TILE_HEIGHT, min(first(_ROWS, height), height))
    if min(width, height, bands, block_width, block_height) < 1:
        raise DamagedFileError(
            "a raster has no size",
            got=f"{bands} x {height} x {width} px in blocks of {block_height} x {block_width}",
            expected="at least 1 pixel",
            where=path,
            do="fetch or write the file again",
        )
    apart, bits = first(_PLANES, 1) == 2, first(_BITS, 1)
    block_bytes = block_height * block_width * bits * (1 if apart else bands) // 8
    claimed = height * width * bits * bands // 8
    limit = MAX_BYTES if first(_COMPRESSION, 1) == 1 else _MAX_PACKED_BLOCK
    if block_bytes > limit or (claimed > MAX_BYTES and claimed > _MAX_CLAIM * size):
        raise RangeError(
            "a raster claims to be far larger than its file can be",
            got=f"{bands} x {height} x {width} px, {claimed} bytes in blocks of {block_bytes}; {size} bytes of file",
            expected=f"blocks of at most {limit} bytes, and at most {_MAX_CLAIM} bytes of pixels a byte of file",
            where=path,
            do="check where the file comes from; store a true one in blocks: gdal_translate -co TILED=YES IN OUT",
        )
    return -(-height // block_height) * -(-width // block_width) * (bands if apart else 1)


def _check_blocks(
    file: BinaryIO, layout: _Layout, values: dict[int, _Value], blocks: int, size: int, path: Path
) -> int:
    """The number of gaps among the blocks of one directory; raises when one is not listed or ends outside the file."""
    offsets = _numbers(file, layout, values, _BLOCK_OFFSETS)
    lengths = _numbers(file, layout, values, _BLOCK_LENGTHS)
    if not offsets.size == lengths.size == blocks:
        raise DamagedFileError(
            "the blocks of a raster do not add up",
            got=f"{offsets.size} positions, {lengths.size} lengths",
            expected=f"{blocks} of each",
            where=path,
            do="fetch or write the file again",
        )
    written = (offsets > 0) & (lengths > 0)
    end = int((offsets + lengths).max(initial=0, where=written))
    if end > size:
        raise _cut(path, size, "the last block", end)
    return blocks - int(np.count_nonzero(written))


def _numbers(file: BinaryIO, layout: _Layout, values: dict[int, _Value], tags: tuple[int, ...]) -> NDArray[np.int64]:
    """The whole numbers of the first of `tags` that is there, or none."""
    for value in (values[tag] for tag in tags if tag in values):
        kind = _WHOLE.get(value.kind, "B")
        raw = _content(file, value, value.size * struct.calcsize(kind))
        return np.frombuffer(raw, layout.order + kind).astype(np.int64)
    return np.zeros(0, np.int64)


def _content(file: BinaryIO, value: _Value, length: int) -> bytes:
    """The first bytes of a value."""
    if value.content is not None:
        return value.content[:length]
    file.seek(value.position)
    return file.read(length)
