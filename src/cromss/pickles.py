"""Reading Python pickles without ever running what is in them.

A pickle is a program for a small machine with a stack and a memo. Python's own machine imports and calls whatever the
program names; so this module does not use it. It steps through the opcodes itself and builds dicts, lists, tuples,
strings, bytes and numbers. What a class or a function means is up to the reader's `Vocabulary`, which gets their names
and arguments and makes plain data of them; without one, a program that names any class or function is refused.

In: the bytes of a program. Out: what it describes; or an error that names the file. Nothing is looked up or called.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cromss.errors import CromssError, DamagedFileError

__all__ = ["Global", "ProgramFile", "Stub", "Vocabulary", "dict_of", "read_pickle"]

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
class Vocabulary:
    """What names mean to a reader; each function makes plain data, or raises ValueError to refuse the program.

    call(function, arguments): what calling it would have made. build(made, state): an object that was given a state.
    persistent(identity): something outside of the program. Absent ones are refused.
    """

    call: Callable[[Any, Any], Any]
    build: Callable[[Any, Any], Any]
    persistent: Callable[[Any], Any] | None = None


class ProgramFile(Protocol):
    """What a program is read from, if not from bytes."""

    def read(self, count: int, /) -> Any: ...

    def readline(self) -> bytes: ...


def read_pickle(
    program: bytes | ProgramFile,
    where: str | Path,
    *,
    vocabulary: Vocabulary | None = None,
    error: type[CromssError] = DamagedFileError,
) -> Any:
    """What a pickle describes; raises `error` for one that is damaged, unusual, or names what is not known here.

    A file may answer a read with anything of the asked length: it stands for bytes in what comes out.
    """
    return _Machine(program, where, vocabulary, error).run()


_MARK = object()
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_KEYS = (str, bytes, int, float, type(None), Global, Stub)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)


class _Machine:
    """Steps through a program: a method for each family of opcodes, a stack, a memo, nothing to call but `words`."""

    def __init__(
        self, program: bytes | ProgramFile, where: str | Path, words: Vocabulary | None, error: type[CromssError]
    ) -> None:
        self.file = io.BytesIO(program) if isinstance(program, bytes) else program
        self.where, self.words, self.error = where, words, error
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        name = "start"
        try:
            for opcode, argument, _ in pickletools.genops(self.file):  # type: ignore[arg-type]
                name = opcode.name
                if name == "STOP":
                    return self.stack.pop()
                self._step(name, argument)
        except _DAMAGED as error:
            what = "the program inside the file is damaged or unusual"
            raise self.error(what, got=f"{error!r} at {name}", where=self.where) from None
        raise self.error("the program inside the file does not end", where=self.where)

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
                self.stack[-1].update(dict_of(items))
        elif name == "TUPLE" or name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self._marked() if name == "TUPLE" else self._take(int(name[-1]))))
        elif name in ("LIST", "FROZENSET"):
            self.stack.append(self._marked())
        elif name == "DICT":
            self.stack.append(dict_of(self._marked()))
        else:
            return False
        return True

    def _step_call(self, name: str, argument: Any) -> bool:
        if self.words is None:
            return False
        if name == "GLOBAL":
            self.stack.append(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            self.stack.append(_named(*self._take(2)))
        elif name == "BINPERSID" and self.words.persistent is not None:
            self.stack.append(self.words.persistent(self.stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            self.stack.append(self.words.call(*self._take(2)))
        elif name == "NEWOBJ_EX":
            self.stack.append(Stub(self._take(3)[0]))
        elif name == "OBJ":
            self.stack.append(Stub(self._marked()[0]))
        elif name == "INST":
            self._marked()
            self.stack.append(Stub(argument))
        elif name == "BUILD":
            self.stack.append(self.words.build(*self._take(2)))
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


def _named(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    return Global(module, name)


def dict_of(items: list[Any]) -> dict[Any, Any]:
    """Key, value, key, value ... as a dict. Raises ValueError for a key that is not plain.

    A tuple is no plain key: hashing tuples of the same tuples takes time that doubles with each level.
    """
    keys = items[::2]
    if not all(isinstance(key, _KEYS) for key in keys):
        raise ValueError("an odd key of a dict")
    return dict(zip(keys, items[1::2], strict=True))
