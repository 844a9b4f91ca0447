"""Arrays in an LMDB whose values are pickles of (bytes, shape) or (bytes, shape, id), read without unpickling.

In: the path of an LMDB, and keys. Out: arrays with their ids. The pickles are stepped through by `cromss.pickles` with
a vocabulary of one thing: a whole number of NumPy, which ids may be. A value that names any other class or function is
refused, and so is one whose bytes do not fill its shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cromss.data.sources.lmdb_tree import Extent, find_values, require_value
from cromss.errors import DamagedFileError, MissingDataError
from cromss.pickles import Global, Vocabulary, read_pickle

__all__ = ["LmdbFile", "data_file"]

MAX_SIDE = 2**16
"""The most that any side of an array may be; the authors' largest is 264."""

_LONG = 4096  # bytes; longer parts of a value are not read for its id


@dataclasses.dataclass(frozen=True)
class _Dtype:
    code: str


_INTEGERS = {f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)}
_SCALARS = (Global("numpy.core.multiarray", "scalar"), Global("numpy._core.multiarray", "scalar"))


def _call(function: Any, arguments: Any) -> Any:
    """A whole number of NumPy is scalar(dtype(code, False, True), bytes); nothing else is known."""
    if not isinstance(function, Global):
        raise ValueError("a call of what is no function")
    if function == Global("numpy", "dtype") and isinstance(arguments[0], str) and arguments[0] in _INTEGERS:
        return _Dtype(arguments[0])
    if function in _SCALARS and isinstance(arguments[0], _Dtype) and isinstance(arguments[1], bytes):
        code, raw = arguments[0].code, arguments[1]
        if len(raw) != int(code[1:]):
            raise ValueError("a number of another size than its type")
        return int.from_bytes(raw, "little", signed=code[0] == "i")
    raise ValueError(f"it calls {function.module}.{function.name}")


def _build(made: Any, state: Any) -> Any:
    """The state of a type is its version, byte order and more."""
    if isinstance(made, _Dtype) and isinstance(state, tuple) and state[1:2] in (("<",), ("|",)):
        return made
    raise ValueError("a state that is not of a little-endian number")


_NUMBERS = Vocabulary(call=_call, build=_build)


def data_file(path: Path) -> Path:
    """The file that holds the data of an LMDB. Raises MissingDataError where there is none."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        near = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        raise MissingDataError(
            "an LMDB is absent",
            got=f"beside it: {', '.join(near) or 'nothing'}",
            expected="a folder with data.mdb, or one file",
            where=path,
            do="correct root (layout cromss_lmdb: or name the file by s1, s2 or labels)",
        )
    return file


class _Skim:
    """A pickle in a file, as pickletools reads it; long parts are skipped, and stand as their length."""

    def __init__(self, file: BinaryIO, extent: Extent) -> None:
        self.file, self.position, self.end = file, extent.offset, extent.offset + extent.size

    def read(self, count: int, /) -> bytes | range:
        count = max(0, min(count, self.end - self.position))
        self.position += count
        if count > _LONG:
            return range(count)
        self.file.seek(self.position - count)
        return self.file.read(count)

    def readline(self) -> bytes:
        raise ValueError("an opcode of text, which no protocol since 2 has for plain data")


class LmdbFile:
    """The arrays of an LMDB by key. Its tree is read once, at the start; a value when it is asked for.

    Raises MissingDataError, and DamagedFileError as `find_values`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, data_file(path)
        self._extents = {key.decode("latin-1"): extent for key, extent in find_values(self.file).items()}

    @property
    def keys(self) -> Set[str]:
        """All keys."""
        return self._extents.keys()

    def id(self, key: str) -> str | int:
        """The id of a value (bytes, shape, id), without reading the bytes."""
        with self._open(key) as (file, extent):
            _, _, found = self._parts(key, _Skim(file, extent), 3)
        if isinstance(found, bool) or not isinstance(found, int | str):
            raise self._other(key, f"an id of type {type(found).__name__}", "a number or a text")
        return found

    def array(self, key: str, dtype: str, dimensions: int, *, parts: int) -> NDArray[Any]:
        """The array of a value of `parts` parts. Raises DamagedFileError unless its bytes fill its shape."""
        with self._open(key) as (file, extent):
            file.seek(extent.offset)
            raw, shape, *_ = self._parts(key, file.read(extent.size), parts)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if len(shape) != dimensions or len(raw) != size:
            raise self._other(
                key, f"{len(raw)} bytes for shape {shape}", f"{dimensions} dimensions of {dtype}, so {size} bytes"
            )
        return np.frombuffer(raw, dtype).reshape(shape).copy()

    @contextlib.contextmanager
    def _open(self, key: str) -> Iterator[tuple[BinaryIO, Extent]]:
        if key not in self._extents:
            raise self._other(key, "no such key", "a value")
        with self.file.open("rb") as file:
            require_value(file, self._extents[key], self.file)
            yield file, self._extents[key]

    def _parts(self, key: str, program: bytes | _Skim, count: int) -> tuple[Any, ...]:
        content = read_pickle(program, f"{self.path}, key {key}", vocabulary=_NUMBERS)
        if not isinstance(content, tuple) or len(content) != count:
            number = len(content) if isinstance(content, tuple) else 0
            got = f"a {type(content).__name__}" + (f" of {number}" if number else "")
            raise self._other(key, got, "(bytes, shape, id)" if count == 3 else "(bytes, shape)")
        raw, shape = content[:2]
        sides_fit = isinstance(shape, tuple) and all(type(side) is int and 0 < side <= MAX_SIDE for side in shape)
        if not isinstance(raw, bytes | range) or not sides_fit or len(shape) > 4:
            types = ", ".join(type(part).__name__ for part in content)
            raise self._other(key, f"({types})", "bytes and a shape of up to 4 sides")
        return content

    def _other(self, key: str, got: str, expected: str) -> DamagedFileError:
        return DamagedFileError(
            "a value of an LMDB is not as the authors of CromSS write it",
            got=got,
            expected=expected,
            where=f"{self.path}, key {key}",
            do="write the LMDB again with their scripts",
        )
