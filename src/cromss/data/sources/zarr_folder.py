"""Arrays of a Zarr store that is a folder (version 2 or 3), as xarray writes it: their facts, and windows of them.

In: a folder. Out: named arrays with dimensions, attributes and the value of no data; and parts of them, read lazily.
Metadata may name any codec, so only compressors of bytes are allowed, never one that unpickles. A chunk that is absent
stands for the fill value: that is no data where the array declares it so; elsewhere an absent chunk is refused.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ConfigError, DamagedFileError, MissingDataError, RangeError
from cromss.geo.raster import MAX_BYTES

__all__ = ["ZarrArray", "ZarrFolder"]

_CODECS = {"blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta", "vlen-utf8", "bytes", "crc32c"}
_CODECS |= {"transpose", "sharding_indexed"}
_BLOSC_HEADER = 16  # bytes; the last four are the length of the chunk (Blosc 1 format)
_TYPES_V3 = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)|string|fixed_length_utf32|numpy.datetime64")
_TYPES_V2 = re.compile(r"[<>|][biufUM]\d+(\[\w+\])?")


class ZarrFolder:
    """A store. Raises ConfigError without the package zarr, MissingDataError for a folder that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            raise MissingDataError(
                "a Zarr store is absent",
                got="no such folder" if not path.is_dir() else "a folder without zarr.json or .zgroup",
                where=path,
                do="give the folder of a cube as xarray's to_zarr writes it",
            )
        try:
            self._zarr: Any = importlib.import_module("zarr")
        except ImportError:
            do = "pip install 'cromss[zarr]'"
            raise ConfigError("this layout needs the package zarr", got="no such package", do=do) from None

    @cached_property
    def names(self) -> list[str]:
        """The arrays of the store."""
        return sorted(path.parent.name for name in (".zarray", "zarr.json") for path in self.path.glob(f"*/{name}"))

    def array(self, name: str) -> ZarrArray:
        """An array, once its metadata is known to be safe. Raises MissingDataError, DamagedFileError."""
        folder = self.path / name
        if name not in self.names:
            raise MissingDataError(
                "a cube has no such variable", got=", ".join(self.names), expected=name, where=self.path,
                do="correct the section cube",
            )  # fmt: skip
        try:
            if (folder / "zarr.json").is_file():
                return self._version_3(name, folder, _json(folder / "zarr.json"))
            attributes = _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
            return self._version_2(name, folder, _json(folder / ".zarray"), attributes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFileError("an array has strange metadata", got=repr(error), where=folder) from None

    def _version_2(self, name: str, folder: Path, content: Mapping[str, Any], attributes: dict[str, Any]) -> ZarrArray:
        filters = [entry["id"] for entry in content["filters"] or ()]
        codecs = [*filters, *([content["compressor"]["id"]] if content["compressor"] else [])]
        kind = str(content["dtype"])
        text = kind == "|O" and filters == ["vlen-utf8"]
        _require_safe(folder, kind, codecs, bool(_TYPES_V2.fullmatch(kind)) or text)
        fill = content["fill_value"]
        return ZarrArray(
            folder=folder,
            opened=self._open(folder, 2),
            shape=tuple(content["shape"]),
            chunks=tuple(content["chunks"]),
            dimensions=tuple(attributes.get("_ARRAY_DIMENSIONS", ())),
            attributes=attributes,
            fill=None if fill is None or text else float(fill) if kind[1] in "iufb" else None,
            keys=("", str(content.get("dimension_separator", "."))),
            blosc=codecs[-1:] == ["blosc"],
            # xarray takes the fill value of version 2 for that of no data
            nodata=_number(attributes.get("_FillValue", fill if kind[1] in "iuf" else None)),
        )

    def _version_3(self, name: str, folder: Path, content: Mapping[str, Any]) -> ZarrArray:
        kind = content["data_type"]
        kind = str(kind["name"] if isinstance(kind, Mapping) else kind)
        codecs = list(_codecs(content["codecs"]))
        _require_safe(folder, kind, codecs, bool(_TYPES_V3.fullmatch(kind)))
        numeric = re.match(r"u?int|float|bool", kind) is not None
        attributes = dict(content.get("attributes", {}))
        return ZarrArray(
            folder=folder,
            opened=self._open(folder, 3),
            shape=tuple(content["shape"]),
            chunks=tuple(content["chunk_grid"]["configuration"]["chunk_shape"]),
            dimensions=tuple(content.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS", ())),
            attributes=attributes,
            fill=float(content["fill_value"]) if numeric else None,
            nodata=_number(attributes.get("_FillValue")),
            keys=_keys_v3(content["chunk_key_encoding"]),
            blosc=codecs[-1:] == ["blosc"],
        )

    def _open(self, folder: Path, version: int) -> Any:
        try:
            return self._zarr.open_array(str(folder), mode="r", zarr_format=version)
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise DamagedFileError("an array can not be opened", got=error, where=folder) from None


@dataclass(frozen=True, kw_only=True, eq=False)
class ZarrArray:
    """An array of a store. chunks: what one file holds. fill: what absent chunks stand for. nodata: what is no data.

    keys: what the names of chunks begin with, and what parts their numbers. blosc: whether they are in that format.
    """

    folder: Path
    opened: Any
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any]
    fill: float | None
    nodata: float | None
    keys: tuple[str, str]
    blosc: bool

    @property
    def dtype(self) -> str:
        return str(self.opened.dtype)

    def files(self) -> Iterator[Path]:
        """Every file of the array."""
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file())

    def require_whole(self) -> None:
        """Raise DamagedFileError where chunks are absent and do not stand for no data."""
        if self.nodata is not None and self.fill is not None and _equal(self.nodata, self.fill):
            return
        expected = math.prod(-(-length // size) for length, size in zip(self.shape, self.chunks, strict=True))
        there = sum(1 for path in self.files() if path.name not in (".zarray", ".zattrs", "zarr.json"))
        if there != expected:
            raise DamagedFileError(
                "an array lacks chunks, and they do not stand for no data",
                got=f"{there} chunks; fill value {self.fill}, no data {self.nodata}",
                expected=f"{expected} chunks, for shape {self.shape} in chunks of {self.chunks}",
                where=self.folder,
                do="copy the cube again, write all chunks, or declare its fill value as _FillValue",
            )

    def read(self, *part: Any) -> NDArray[Any]:
        """A part, by an index or slice a dimension. Raises RangeError above `MAX_BYTES`, DamagedFileError."""
        spans = [len(range(size)[p]) if isinstance(p, slice) else 1 for p, size in zip(part, self.shape, strict=True)]
        needed = math.prod(spans) * np.dtype(self.opened.dtype).itemsize
        if needed > MAX_BYTES:
            raise RangeError(
                "a part of a cube is too large to be read in one piece",
                got=f"{needed} bytes",
                expected=f"at most {MAX_BYTES}",
                where=self.folder,
                do="cut the cube into patches (tile)",
            )
        self._require_lengths(part)
        try:
            return np.asarray(self.opened[part])
        except (RuntimeError, ValueError, OSError, EOFError, KeyError) as error:
            raise DamagedFileError(
                "an array can not be read",
                got=f"{type(error).__name__}: {error}",
                where=self.folder,
                do="copy the cube again",
            ) from None

    def _require_lengths(self, part: Sequence[Any]) -> None:
        """Refuse chunks in Blosc's format that are cut short: its library reads on behind their end."""
        if not self.blosc:
            return
        spans = []
        for wanted, size, chunk in zip(part, self.shape, self.chunks, strict=True):
            numbers = range(size)[wanted] if isinstance(wanted, slice) else range(wanted, wanted + 1)
            spans.append(range(numbers[0] // chunk, numbers[-1] // chunk + 1))
        prefix, separator = self.keys
        for index in itertools.product(*spans):
            path = self.folder / (prefix + separator.join(map(str, index)))
            if path.is_file():
                with path.open("rb") as file:
                    header = file.read(_BLOSC_HEADER)
                held = int.from_bytes(header[12:16], "little") if len(header) == _BLOSC_HEADER else _BLOSC_HEADER
                if held != path.stat().st_size:
                    raise DamagedFileError(
                        "a chunk has another length than it says",
                        got=f"{path.stat().st_size} bytes",
                        expected=held,
                        where=path,
                        do="copy the cube again",
                    )


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _keys_v3(encoding: Mapping[str, Any]) -> tuple[str, str]:
    default = encoding["name"] == "default"
    separator = str((encoding.get("configuration") or {}).get("separator", "/" if default else "."))
    return (f"c{separator}" if default else ""), separator


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError("metadata does not parse", got=error, where=path) from None
    if not isinstance(content, dict):
        raise DamagedFileError("metadata is no mapping", got=type(content).__name__, where=path)
    return content


def _codecs(entries: Any) -> Iterator[str]:
    """The names of codecs, also of those inside shards."""
    for entry in entries:
        yield str(entry["name"])
        settings = entry.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            yield from _codecs(settings.get(inner, ()))


def _require_safe(folder: Path, kind: str, codecs: list[str], plain: bool) -> None:
    strange = [name for name in codecs if name not in _CODECS]
    if strange or not plain:
        raise DamagedFileError(
            "an array is stored in a way that is not allowed",
            got=f"type {kind}, codecs {codecs}",
            expected=f"numbers or text, in {', '.join(sorted(_CODECS))}",
            where=folder,
        )


def _number(value: Any) -> float | None:
    """A fill value as xarray writes it: a number, a word such as "NaN", or a float64 in base 64."""
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    try:
        return float(value)
    except ValueError:
        return float(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
