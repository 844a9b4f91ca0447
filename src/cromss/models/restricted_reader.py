"""Reading tensors out of a file that torch.save wrote, without ever running what is in it.

Such a file is a zip of `<name>/data.pkl`, a program for Python's pickle machine, and `<name>/data/<key>`, raw numbers.
The pickle machine would import and call whatever the program names; so this module does not use it. It steps through
the opcodes itself and builds dicts, lists, tuples, strings and numbers. Two calls mean something to it: "this is a
tensor" and "this is an OrderedDict". Every other class or function becomes an inert `Stub` that holds its name and
nothing else, and is never looked up.

In: the path of a .ckpt, .pt or .pth. Out: an `Archive`: its `content`, with a `TensorRef` for each tensor, and
`tensor(ref)`.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cromss.errors import CheckpointError

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
_DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, EOFError, struct.error)


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a class or function. Only a name."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Stub:
    """What an unknown class or function would have made; holds the name."""

    kind: Any


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
            self.content = _Machine(self._read(f"{self._root}data.pkl", MAX_PROGRAM), self.path).run()
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


_MARK = object()
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)


class _Machine:
    """Steps through a pickle program: a method for each family of opcodes, a stack, a memo, nothing to call."""

    def __init__(self, program: bytes, path: Path) -> None:
        self.program, self.path = program, path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        name = "start"
        try:
            for opcode, argument, _ in pickletools.genops(self.program):
                name = opcode.name
                if name == "STOP":
                    return self.stack.pop()
                self._step(name, argument)
        except _DAMAGED as error:
            what = "the program inside the file is damaged or unusual"
            raise CheckpointError(what, got=f"{error!r} at {name}", where=self.path) from None
        raise CheckpointError("the program inside the file does not end", where=self.path)

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("PROTO", "FRAME"):
            pass
        elif not (self._step_memo(name, argument) or self._step_container(name) or self._step_call(name, argument)):
            raise ValueError("opcode not allowed here")

    def _step_memo(self, name: str, argument: Any) -> bool:
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        else:
            return False
        return True

    def _step_container(self, name: str) -> bool:
        if name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [self.stack.pop()] if name == "APPEND" else self._marked()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._take(2) if name == "SETITEM" else self._marked()
            if isinstance(self.stack[-1], dict):
                self.stack[-1].update(_pairs(items))
        elif name == "TUPLE" or name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self._marked() if name == "TUPLE" else self._take(int(name[-1]))))
        elif name in ("LIST", "FROZENSET"):
            self.stack.append(self._marked())
        elif name == "DICT":
            self.stack.append(_pairs(self._marked()))
        else:
            return False
        return True

    def _step_call(self, name: str, argument: Any) -> bool:
        if name == "GLOBAL":
            self.stack.append(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            self.stack.append(Global(*self._take(2)))
        elif name == "BINPERSID":
            self.stack.append(_storage(self.stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            self.stack.append(_made(*self._take(2)))
        elif name == "NEWOBJ_EX":
            self.stack.append(Stub(self._take(3)[0]))
        elif name == "OBJ":
            self.stack.append(Stub(self._marked()[0]))
        elif name == "INST":
            self._marked()
            self.stack.append(Stub(argument))
        elif name == "BUILD":
            self.stack.pop()  # the attributes of a stub; nobody asks for them
        else:
            return False
        return True

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise IndexError("no mark on the stack")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


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
        return dict(arguments[0]) if arguments else {}
    return Stub(function)
