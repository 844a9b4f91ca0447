"""Arrays in a zipped Zarr store (version 2), read only after their metadata and their chunks are known to be whole.

In: a `.zarr.zip` file, or the bytes of one. Out: named arrays, their attributes, and slices of them.
Three habits of the format are checked here: a chunk that is absent would be read as fill values, so every chunk must be
in the archive; metadata may name any codec, so only compressors of bytes are allowed, never one that unpickles; and a
compressed chunk says how long it is and what it unpacks to, which must be true before a decompressor believes it.
The zip file's checksums are compared as chunks are read.
"""

from __future__ import annotations

import datetime
import fnmatch
import importlib
import itertools
import json
import lzma
import math
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ConfigError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.geo.raster import MAX_BYTES
from cromss.geo.zipped import open_archive, read_member

__all__ = ["ZarrShard", "decode_times"]

_COMPRESSORS = (None, "blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma")
_FILTERS = ("vlen-utf8", "shuffle", "delta")
_UNITS = {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1.0}
_UNITS |= {"minutes": 60.0, "hours": 3600.0, "days": 86400.0}
# what the package and its decompressors raise for bytes that make no sense
_UNREADABLE: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, EOFError, KeyError)
_UNREADABLE += (RuntimeError, ValueError, TypeError, OverflowError)
_BLOSC_HEADER = 16  # bytes; two of its numbers are the length unpacked and the length of the chunk (Blosc 1 format)


class ZarrShard:
    """An open shard. Raises ConfigError without the package zarr, MissingDataError, DamagedFileError.

    content: the bytes of a shard that is no file of its own; `path` then only names it. largest: the most that one
    read, or one chunk, may hold unpacked, in bytes.
    """

    def __init__(self, path: str | Path, *, content: bytes | None = None, largest: int = MAX_BYTES) -> None:
        self.path = Path(path)
        self._zarr = _zarr()
        self._largest = largest
        self._archive = open_archive(self.path, content=content)
        self._names = frozenset(self._archive.namelist())

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, once it is known to be whole. Raises MissingDataError, DamagedFileError."""
        return tuple(self._metadata(name)["shape"])

    def chunk(self, name: str) -> tuple[int, ...]:
        """The shape of its chunks."""
        return tuple(self._metadata(name)["chunks"])

    def dtype(self, name: str) -> str:
        """The type of an array, as Zarr writes it, such as "<i2"."""
        return str(self._metadata(name)["dtype"])

    def fill_is_nan(self, name: str) -> bool:
        """Whether an array declares NaN as the value of what was never measured."""
        return str(self._metadata(name)["fill_value"]) == "NaN"

    def require(self, name: str, shape: tuple[int, ...], types: Sequence[str]) -> None:
        """Raise GridError unless an array has this shape, and a type that one of the patterns, such as "<f[48]", fits.

        Raises MissingDataError, DamagedFileError as `shape`.
        """
        if self.shape(name) != shape or not any(fnmatch.fnmatchcase(self.dtype(name), pattern) for pattern in types):
            raise GridError(
                f"the array {name} has another shape or type than the layout says",
                got=f"{self.shape(name)} {self.dtype(name)}",
                expected=f"{shape} {' or '.join(types)}",
                where=self.path,
            )

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of an array."""
        key = f"{name}/.zattrs"
        return self._json(key) if key in self._names else {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` of an array, or all. Raises RangeError above `largest`, DamagedFileError."""
        content = self._metadata(name)
        shape = tuple(content["shape"])
        rows = slice(start, min(stop, shape[0]) if stop is not None else shape[0]) if shape else slice(0, 1)
        item = 64 if content["dtype"] == "|O" else np.dtype(content["dtype"]).itemsize
        needed = item * max((rows.stop - rows.start) * math.prod(shape[1:]), math.prod(content["chunks"]))
        if needed > self._largest:
            raise RangeError(
                "an array is too large", got=needed, expected=f"at most {self._largest}", where=self._at(name)
            )
        try:
            values = self._joined(name, content, rows)
            return _require_text(values)
        except _UNREADABLE as error:
            raise DamagedFileError(
                "an array can not be read", got=error, where=self._at(name), do="fetch the shard again"
            ) from None

    def _joined(self, name: str, content: dict[str, Any], rows: slice) -> NDArray[Any]:
        """Rows of an array from the chunks that hold them, one packed chunk in memory at a time."""
        sizes = content["chunks"]
        bounds = [(0, length) for length in content["shape"]]
        bounds[:1] = [(rows.start, rows.stop) for _ in bounds[:1]]  # of a single number there are no rows
        spans = [range(low // size, -(-high // size)) for (low, high), size in zip(bounds, sizes, strict=True)]
        joined = np.empty(0)
        for number, index in enumerate(itertools.product(*spans)):
            parts = [
                (max(at * size, low), min((at + 1) * size, high))
                for at, size, (low, high) in zip(index, sizes, bounds, strict=True)
            ]
            values = self._opened(name, content, index)[tuple(slice(*part) for part in parts)]
            if number == 0:
                joined = np.empty([high - low for low, high in bounds], values.dtype)
            shifted = zip(parts, bounds, strict=True)
            joined[tuple(slice(low - start, high - start) for (low, high), (start, _) in shifted)] = values
        return joined

    def _opened(self, name: str, content: dict[str, Any], index: tuple[int, ...]) -> Any:
        """The array, of which only one chunk is there: it has been read whole, and is what it says."""
        buffer = importlib.import_module("zarr.core.buffer").default_buffer_prototype().buffer
        key = f"{name}/{content.get('dimension_separator', '.').join(map(str, index)) or '0'}"
        content = {**content, "filters": content["filters"] or None}  # an empty list is none, too
        chunk = read_member(self._archive, key)
        self._require_whole(key, chunk, content)
        held = {f"{name}/.zarray": buffer.from_bytes(json.dumps(content).encode()), key: buffer.from_bytes(chunk)}
        return self._zarr.open_array(held, path=name, mode="r", zarr_format=2)

    def _require_whole(self, key: str, chunk: bytes, content: dict[str, Any]) -> None:
        """Raise DamagedFileError unless a chunk of Blosc has the lengths that it says; others are checked unpacked."""
        if (content["compressor"] or {}).get("id") != "blosc":
            return
        unpacked, packed = (int.from_bytes(chunk[at : at + 4], "little") for at in (4, 12))
        known = content["dtype"] != "|O" and not content["filters"]
        expected = math.prod(content["chunks"]) * np.dtype(content["dtype"]).itemsize if known else unpacked
        if len(chunk) < _BLOSC_HEADER or packed != len(chunk) or unpacked != expected or unpacked > self._largest:
            raise DamagedFileError(
                "a chunk has another length than it says, or than its array has",
                got=f"{len(chunk)} bytes, which say {packed}; unpacked {unpacked}",
                expected=f"{expected} bytes unpacked",
                where=self._at(key),
                do="fetch the shard again",
            )

    def _metadata(self, name: str) -> dict[str, Any]:
        key = f"{name}/.zarray"
        if key not in self._names:
            raise MissingDataError(
                f"a shard has no array {name}",
                got=sorted({entry.split("/")[0] for entry in self._names if "/" in entry}),
                expected=name,
                where=self.path,
                do="check that it is a shard of SSL4EO-S12 v1.1 in Zarr version 2",
            )
        content = self._json(key)
        try:
            _require_sound(content)
            self._require_safe(name, content)
            counts = [-(-length // size) for length, size in zip(content["shape"], content["chunks"], strict=True)]
            there = sum(1 for entry in self._names if re.fullmatch(rf"{re.escape(name)}/\d+([./]\d+)*", entry))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DamagedFileError("an array has strange metadata", got=repr(error), where=self._at(name)) from None
        if there != math.prod(counts):
            raise DamagedFileError(
                "an array lacks chunks",
                got=f"{there} chunks",
                expected=f"{math.prod(counts)}, for shape {content['shape']} in chunks of {content['chunks']}",
                where=self._at(name),
                do="fetch the shard again",
            )
        return content

    def _require_safe(self, name: str, content: dict[str, Any]) -> None:
        compressor = (content["compressor"] or {}).get("id")
        filters = [entry["id"] for entry in content["filters"] or ()]
        plain = bool(re.fullmatch(r"[<>|][iufUM]\d+(\[\w+\])?", content["dtype"]))
        text = np.dtype(content["dtype"]) == object and filters == ["vlen-utf8"]
        if compressor not in _COMPRESSORS or not set(filters) <= set(_FILTERS) or not (plain or text):
            raise DamagedFileError(
                "an array is stored in a way that is not allowed",
                got=f"type {content['dtype']}, compressor {compressor}, filters {filters}",
                expected=f"numbers or text, compressed by {', '.join(str(entry) for entry in _COMPRESSORS if entry)}",
                where=self._at(name),
            )

    def _json(self, key: str) -> dict[str, Any]:
        try:
            content = json.loads(read_member(self._archive, key))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DamagedFileError("metadata does not parse", got=error, where=self.path / key) from None
        if not isinstance(content, dict):
            raise DamagedFileError("metadata is no mapping", got=type(content).__name__, where=self.path / key)
        return content

    def _at(self, name: str) -> Path:
        return self.path / name


def _require_sound(content: dict[str, Any]) -> None:
    """Raise ValueError or KeyError unless the metadata of an array have the types that version 2 of the format says."""
    shape, chunks, compressor = content["shape"], content["chunks"], content["compressor"]
    codecs = [*([] if compressor is None else [compressor]), *(content["filters"] or [])]
    sound = {
        "shape": isinstance(shape, list) and all(type(length) is int and 0 <= length < 2**63 for length in shape),
        "chunks": isinstance(chunks, list) and all(type(size) is int and 0 < size < 2**63 for size in chunks),
        "dtype": isinstance(content["dtype"], str),
        "compressor, filters": all(isinstance(codec, dict) and isinstance(codec.get("id"), str) for codec in codecs),
        "order": content["order"] in ("C", "F"),
        "dimension_separator": content.get("dimension_separator", ".") in (".", "/"),
        "zarr_format": content["zarr_format"] == 2,
    }
    for key, fits in sound.items():
        if not fits:
            raise ValueError(f"{key} of another form")


def _require_text(values: NDArray[Any]) -> NDArray[Any]:
    """The values. Raises ValueError for text with characters that there are not: it can not even be printed."""
    if values.dtype.kind == "U" and values.size:
        codes = np.frombuffer(values.tobytes(), f"{values.dtype.byteorder}u4")
        if codes.max() > sys.maxunicode:
            raise ValueError("text with characters that there are not")
    return values


def decode_times(values: NDArray[Any], attributes: dict[str, Any], where: Path) -> list[str]:
    """Days, as YYYY-MM-DD, of times in the CF convention ("seconds since 2020-01-01", ...) or of datetime64.

    Raises DamagedFileError for another convention, and for numbers that are no time.
    """
    if values.dtype.kind == "M":
        return [str(day) for day in values.astype("datetime64[D]")]
    units = str(attributes.get("units", ""))
    match = re.fullmatch(r"(\w+) since (\d{4}-\d{2}-\d{2})[T ]?([\d:.]*)", units)
    if match is None or match.group(1) not in _UNITS:
        raise DamagedFileError(
            "times are in an unknown unit", got=units, expected="seconds since YYYY-MM-DD, and the like", where=where
        )
    step = _UNITS[match.group(1)]
    try:
        since = datetime.datetime.fromisoformat(match.group(2))
        for part, factor in zip(match.group(3).split(":") if match.group(3) else [], (3600, 60, 1), strict=False):
            since += datetime.timedelta(seconds=float(part) * factor)
        return [(since + datetime.timedelta(seconds=float(value) * step)).date().isoformat() for value in values]
    except (ValueError, OverflowError) as error:
        raise DamagedFileError("times can not be read", got=f"{values} {units}: {error}", where=where) from None


def _zarr() -> Any:
    try:
        return importlib.import_module("zarr")
    except ImportError:
        raise ConfigError(
            "this layout needs the package zarr", got="no such package", do="pip install 'cromss[zarr]'"
        ) from None
