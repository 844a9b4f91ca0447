"""LMDBs whose values try to run code, grow without end or are damaged: none does harm, each ends in an error."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archive_patches import write_lmdb
from cromss.data.sources.lmdb_file import LmdbFile
from cromss.errors import CheckpointError, DamagedFileError
from cromss.pickles import read_pickle

pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")


class Call:
    """Pickles as a call of `function(*arguments)`, with a state if given."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class ByReduceEx(Call):
    """Pickles by copyreg.__newobj_ex__ where the protocol has it."""

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.parts


def payloads(mark: Path) -> dict[str, Any]:
    """Values whose unpickling would create the file `mark`."""
    command, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    run, image = Call(os.system, command), bytes(16)
    scalar = np.int64(1).__reduce__()[0]
    return {
        "as the value": run,
        "as the bytes": (run, (4, 4), 1),
        "as the shape": (image, run, 1),
        "in the shape": (image, (4, run), 1),
        "as the id": (image, (4, 4), run),
        "eval as the id": (image, (4, 4), Call(eval, code)),
        "exec as the id": (image, (4, 4), Call(exec, code)),
        "a method as the id": (image, (4, 4), Call(Path.touch, mark)),
        "by the state of an object": (image, (4, 4), Call(argparse.Namespace, state={"a": run})),
        "as the type of a number": (image, (4, 4), Call(scalar, run, b"1")),
        "as the bytes of a number": (image, (4, 4), Call(scalar, np.dtype("i8"), run)),
        "in a number of objects": (image, (4, 4), Call(scalar, np.dtype("O"), pickle.dumps(run))),
        "as the state of a type": (image, (4, 4), Call(np.dtype, "i8", False, True, state=(3, run, None))),
        "in a list": [image, (4, 4), run],
        "as a key": ({run: 1}, (4, 4), 1),
        "by another reduction": (image, (4, 4), ByReduceEx(os.system, command)),
        "after the value": (image, (4, 4), 1, run),
    }


def test_no_payload_runs_and_each_is_refused(tmp_path: Path) -> None:
    mark, tried = tmp_path / "mark", 0
    values = {
        f"{protocol} {title}": pickle.dumps(content, protocol)
        for title, content in payloads(mark).items()
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    write_lmdb(tmp_path / "bad.lmdb", values)
    lmdb = LmdbFile(tmp_path / "bad.lmdb")
    assert sorted(lmdb.keys) == sorted(values)
    for key in values:
        with pytest.raises(DamagedFileError):
            lmdb.array(key, "uint8", 2, parts=3)
        with pytest.raises(DamagedFileError):
            lmdb.id(key)
        tried += 1
        assert not mark.exists(), key
    assert tried == len(values) == 6 * len(payloads(mark))


def test_the_payloads_are_live_when_python_itself_reads_them(tmp_path: Path) -> None:
    mark, ran = tmp_path / "mark", 0
    for content in payloads(mark).values():
        with contextlib.suppress(TypeError, ValueError, AttributeError, SystemError):
            pickle.loads(pickle.dumps(content))  # noqa: S301
        ran += mark.exists()
        mark.unlink(missing_ok=True)
    assert ran >= len(payloads(mark)) - 1


def nested(levels: int) -> bytes:
    """A tuple of two of the same, level by level: small to store, endless to walk."""
    return b"\x80\x04)" + b"2\x86" * levels


@pytest.mark.parametrize(
    "program",
    [
        nested(5000) + b".",
        b"\x80\x04}" + nested(60)[2:] + b"K\x01s.",  # as a key, which would be hashed
        nested(60) + b"\x8c\x01a\x93.",  # as the name of a module
        nested(60) + nested(60)[2:] + b"R.",  # as a function, called with itself
        b"\x80\x04cnumpy\ndtype\n" + nested(60)[2:] + b"\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93" + nested(60)[2:] + b"\x85R.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of almost 2^63
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"\x80\x04" + b"(" * 100_000 + b".",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
    ],
)
def test_a_program_that_would_grow_ends_soon(program: bytes, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "bad.lmdb", {"0": program})
    start = time.monotonic()
    lmdb = LmdbFile(tmp_path / "bad.lmdb")
    with pytest.raises(DamagedFileError):
        lmdb.array("0", "uint8", 2, parts=3)
    assert time.monotonic() - start < 5


def test_a_dict_of_a_checkpoint_has_plain_keys() -> None:
    with pytest.raises(CheckpointError, match="odd key"):
        read_pickle(b"\x80\x04}" + nested(60)[2:] + b"K\x01s.", "x", error=CheckpointError)
