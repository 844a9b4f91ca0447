"""Reading tensors out of a file that torch.save wrote, without ever running what is in it.

Such a file is a zip of `<name>/data.pkl`, a program for Python's pickle machine, and `<name>/data/<key>`, raw numbers.
The program is stepped through by `cromss.pickles`, which calls nothing. Two calls mean something here: "this is a
tensor" and "this is an OrderedDict". Every other class or function becomes an inert `Stub` that holds its name and
nothing else, and is never looked up.

In: the path of a .ckpt, .pt or .pth. Out: an `Archive`: its `content`, with a `TensorRef` for each tensor, and
`tensor(ref)`.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cromss.errors import CheckpointError
from cromss.pickles import Global, Stub, Vocabulary, dict_of, read_pickle

__all__ = ["Archive", "Stub", "TensorRef"]

MAX_PROGRAM = 2**26  # bytes of data.pkl; the authors' largest has under a million
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """Raw numbers in the zip: `data/<key>`."""

    dtype: torch.dtype
    key: str


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A tensor as a view of a storage; offset and stride count elements."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Archive:
    """An open file of torch.save. `content` is what was saved; use it as a context manager."""

    def __init__(self, path: str | Path) -> None:
        """Open the file and read its program. Raises CheckpointError for one that is no such zip, or damaged."""
        self.path = Path(path)
        self._zip = _open(self.path)
        try:
            self._root = self._find_root()
            program = self._read(f"{self._root}data.pkl", MAX_PROGRAM)
            self.content = read_pickle(program, self.path, vocabulary=_TORCH, error=CheckpointError)
            if (
                self._root + "byteorder" in self._zip.namelist()
                and self._read(self._root + "byteorder", 16) != b"little"
            ):
                raise CheckpointError("the numbers are stored big-endian", expected="little", where=self.path)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _find_root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self._zip.namelist() if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(
                "this zip was not written by torch.save", got=f"{len(roots)} data.pkl", where=self.path
            )
        return roots[0]

    def _read(self, name: str, limit: int) -> bytes:
        try:
            entry = self._zip.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
                got = f"{entry.file_size} bytes, compression {entry.compress_type}"
                raise CheckpointError(f"{name} is not as torch.save writes it", got=got, where=self.path)
            return self._zip.read(entry)
        except (KeyError, OSError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{name} is missing or damaged", got=error, where=self.path) from None

    def tensor(self, ref: TensorRef) -> Tensor:
        """The numbers of a tensor, as a tensor of its own. Raises CheckpointError if they are not in the file."""
        item = torch.empty((), dtype=ref.storage.dtype).element_size()
        raw = self._read(f"{self._root}data/{ref.storage.key}", self.path.stat().st_size)
        held, count = len(raw) // item, math.prod(ref.size)
        last = ref.offset + sum((side - 1) * step for side, step in zip(ref.size, ref.stride, strict=True))
        # count <= held keeps a stride of 0 from growing a few bytes into gigabytes
        if count and (last >= held or count > held):
            raise CheckpointError("a tensor reaches beyond its numbers", got=ref, expected=f"{held}", where=self.path)
        if not count:
            return torch.empty(ref.size, dtype=ref.storage.dtype)
        return (
            torch.frombuffer(bytearray(raw), dtype=ref.storage.dtype)
            .as_strided(ref.size, ref.stride, ref.offset)
            .clone()
        )


def _open(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start != b"PK\x03\x04":
            raise CheckpointError(
                "this is no zip, so either damaged or saved by torch before 1.6, whose format only running it can read",
                got=start,
                expected="a file that starts with PK",
                where=path,
                do="save it again with a current torch, on a machine where running what is in it does no harm",
            )
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError("the file cannot be opened as a zip", got=error, where=path) from None


def _storage(identity: Any) -> StorageRef | Stub:
    """A storage's persistent id is ("storage", type, key, device, number of elements)."""
    kind, storage, key = identity[:3]
    if kind == "storage" and isinstance(storage, Global) and storage.module == "torch" and storage.name in DTYPES:
        if not isinstance(key, str) or not key.isalnum():
            raise ValueError("odd name of a storage")
        return StorageRef(DTYPES[storage.name], key)
    return Stub(identity)


def _made(function: Any, arguments: Any) -> Any:
    """What calling `function` would have made, for the few functions that mean data; else a stub. Nothing is called."""
    if function == Global("torch._utils", "_rebuild_tensor_v2") and isinstance(arguments[0], StorageRef):
        storage, offset, size, stride = arguments[:4]
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("odd shape of a tensor")
        return TensorRef(storage, offset, tuple(size), tuple(stride))
    if function == Global("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    if function == Global("collections", "OrderedDict"):
        return dict_of([part for pair in arguments[0] for part in pair]) if arguments else {}
    return Stub(function)


# the attributes that BUILD sets are those of a stub; nobody asks for them
_TORCH = Vocabulary(call=_made, build=lambda made, _: made, persistent=_storage)
