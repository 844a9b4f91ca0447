"""Where the values of an LMDB lie in its file.

In: a data file of LMDB 0.9 (format 1, little-endian, 64 bit). Out: key -> offset and size of its value, in bytes.

The library that writes such files maps them into memory and trusts them: a flipped bit in a page of its tree can end
the process with a bus error. So the tree is walked here with ordinary reads, every number checked against the length of
the file and every page against its own number and kind. Only plain databases are known: no duplicates, none inside.

    page       number u64, pad u16, kind u16, then the end of the list of nodes and the start of the nodes, u16 each
               (overflow: the number of pages, u32), then 2 bytes a node: where it starts in the page
    node       low u16, high u16, flags u16, length of the key u16, key; in a leaf: the value, or the page that it
               starts on, of length low + 2^16 high; in a branch: the page low + 2^16 high + 2^32 flags, and no value
    meta       pages 0 and 1: magic u32, format u32, address u64, map size u64, two databases, last page u64,
               transaction u64; a database: page size u32 (in the first), flags u16, depth u16, pages of three kinds,
               entries, root, u64 each. The later transaction counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cromss.errors import DamagedFileError

__all__ = ["Extent", "find_values", "require_value"]

_MAGIC, _FORMAT = 0xBEEFC0DE, 1
_META = struct.Struct("<IIQQ" + "IHHQQQQQ" * 2 + "QQ")
_BRANCH, _LEAF, _OVERFLOW, _META_KIND = 1, 2, 4, 8
_BIG = 1  # flag of a node whose value lies on pages of its own
_HEAD, _NODE = 16, 8  # bytes
_NO_ROOT = 2**64 - 1
_MAX_DEPTH = 32  # as the library itself allows


@dataclass(frozen=True)
class Extent:
    """Where a value lies. page: the first of its own pages and their size; None for a value inside of a leaf."""

    offset: int
    size: int
    page: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Tree:
    file: BinaryIO
    path: Path
    length: int
    page_size: int

    def page(self, number: int) -> bytes:
        """The bytes of a branch or a leaf, after checking its number and kind."""
        if not 0 <= number < self.length // self.page_size:
            raise _damaged(self.path, f"page {number}", f"one of {self.length // self.page_size}")
        self.file.seek(number * self.page_size)
        content = self.file.read(self.page_size)
        _require_page(content, number, (_BRANCH, _LEAF), self.path)
        return content

    def nodes(self, content: bytes) -> Iterator[tuple[int, bytes, int]]:
        """Of each node: low + 2^16 high + 2^32 flags, key, and where its value starts in the page."""
        lower, upper = struct.unpack_from("<HH", content, 12)
        if not _HEAD <= lower <= upper <= len(content) or lower % 2:
            raise _damaged(self.path, f"nodes from {upper}, their list to {lower}", f"within {len(content)}")
        for (start,) in struct.iter_unpack("<H", content[_HEAD:lower]):
            if not upper <= start <= len(content) - _NODE:
                raise _damaged(self.path, f"a node at {start}", f"{upper} to {len(content) - _NODE}")
            low, high, flags, key_size = struct.unpack_from("<HHHH", content, start)
            end = start + _NODE + key_size
            if end > len(content):
                raise _damaged(self.path, f"a key to {end}", f"within {len(content)}")
            yield low | high << 16 | flags << 32, content[start + _NODE : end], end


def find_values(path: Path) -> dict[bytes, Extent]:
    """Key -> where its value lies, in the order of the keys.

    Raises DamagedFileError for a file that is no such LMDB, is cut short, or whose pages do not fit together.
    """
    with path.open("rb") as file:
        return _find_values(file, path)


def require_value(file: BinaryIO, extent: Extent, path: Path) -> None:
    """Raise DamagedFileError unless the pages of a value say that they are such, and hold it."""
    if extent.page is None:
        return
    number, size = extent.page
    file.seek(number * size)
    head = file.read(_HEAD)
    _require_page(head, number, (_OVERFLOW,), path)
    (pages,) = struct.unpack_from("<I", head, 12)
    if pages * size < _HEAD + extent.size:
        raise _damaged(path, f"{extent.size} bytes on {pages} pages from {number}", "pages enough")


def _require_page(content: bytes, number: int, kinds: tuple[int, ...], path: Path) -> None:
    own, _, kind = struct.unpack_from("<QHH", content)
    if own != number or kind not in kinds:
        wanted = " or ".join(map(str, kinds))
        raise _damaged(path, f"page {own} of kind {kind}", f"page {number} of kind {wanted}")


def _find_values(file: BinaryIO, path: Path) -> dict[bytes, Extent]:
    length = file.seek(0, 2)
    page_size, entries, root, last_page = _read_meta(file, path, length)
    if length < (last_page + 1) * page_size:
        raise DamagedFileError(
            "an LMDB is cut short",
            got=f"{length} bytes",
            expected=f"{(last_page + 1) * page_size}",
            where=path,
            do="fetch or write it again",
        )
    tree = _Tree(file, path, length, page_size)
    found: dict[bytes, Extent] = {}
    if root != _NO_ROOT:
        last = b""
        for key, extent in _walk(tree, root, _MAX_DEPTH):
            if key <= last:
                raise _damaged(path, f"key {key[:40]!r} after {last[:40]!r}", "keys in order")
            found[key], last = extent, key
    if len(found) != entries:
        raise _damaged(path, f"{len(found)} keys", f"{entries}, as it says itself")
    return found


def _read_meta(file: BinaryIO, path: Path, length: int) -> tuple[int, int, int, int]:
    """(page size, number of entries, root, last page) of the later transaction."""
    metas = []
    position = 0
    for number in range(2):
        file.seek(position)
        head = file.read(_HEAD + _META.size)
        if len(head) < _HEAD + _META.size:
            break
        magic, version, *rest = _META.unpack_from(head, _HEAD)
        if magic != _MAGIC or version != _FORMAT or not struct.unpack_from("<H", head, 10)[0] & _META_KIND:
            break
        page_size, entries, root, last_page, transaction = rest[2], rest[16], rest[17], rest[18], rest[19]
        if page_size not in (2**power for power in range(9, 17)) or rest[11]:
            break
        metas.append((transaction, page_size, entries, root, last_page))
        position = page_size
        if struct.unpack_from("<Q", head)[0] != number:
            break
    if len(metas) != 2:
        raise DamagedFileError(
            "a file is not a plain LMDB",
            got=f"{length} bytes, {len(metas)} of its 2 first pages as expected",
            expected="an LMDB of format 1 with one plain database",
            where=path,
            do="fetch or write it again",
        )
    return max(metas)[1:]


def _walk(tree: _Tree, number: int, depth: int) -> Iterator[tuple[bytes, Extent]]:
    """All keys below a page, in order, with the extents of their values."""
    if depth == 0:
        raise _damaged(tree.path, "a tree that does not end", f"at most {_MAX_DEPTH} levels")
    content = tree.page(number)
    is_leaf = struct.unpack_from("<H", content, 10)[0] & _LEAF
    for packed, key, end in tree.nodes(content):
        if not is_leaf:
            yield from _walk(tree, packed, depth - 1)
            continue
        size, flags = packed & 0xFFFFFFFF, packed >> 32
        yield key, _extent(tree, number, content, size, flags, end)


def _extent(tree: _Tree, number: int, content: bytes, size: int, flags: int, end: int) -> Extent:
    if flags not in (0, _BIG):
        raise _damaged(tree.path, f"a value with flags {flags}", "a plain value")
    if flags == 0:
        if end + size > len(content):
            raise _damaged(tree.path, f"a value to {end + size}", f"within {len(content)}")
        return Extent(number * tree.page_size + end, size)
    if end + 8 > len(content):
        raise _damaged(tree.path, f"a page number to {end + 8}", f"within {len(content)}")
    (first,) = struct.unpack_from("<Q", content, end)
    begin = first * tree.page_size + _HEAD
    if begin + size > tree.length:
        raise _damaged(tree.path, f"a value of {size} bytes from page {first}", f"within {tree.length} bytes")
    return Extent(begin, size, (first, tree.page_size))


def _damaged(path: Path, got: str, expected: str) -> DamagedFileError:
    return DamagedFileError(
        "the pages of an LMDB do not fit together",
        got=got,
        expected=expected,
        where=path,
        do="fetch or write it again",
    )
