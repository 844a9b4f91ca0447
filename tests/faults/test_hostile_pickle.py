"""Files of torch.save that try to run code when they are read: none does, and damage ends in a CheckpointError."""

from __future__ import annotations

import argparse
import ast
import io
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cromss.errors import CromssError
from cromss.models import restricted_reader
from cromss.models.reference_import import import_reference
from cromss.models.restricted_reader import Archive, Stub

SOURCE = Path(restricted_reader.__file__).parents[1]


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class Dictionary(dict):  # type: ignore[type-arg]
    """Pickles as a call that fills a dict item by item."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (), None, None, iter(self.items()))


def payloads(mark: Path) -> dict[str, Any]:
    """Objects whose unpickling would create the file `mark`."""
    command, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    weights = {"net.encoder.conv1.weight": torch.rand(2, 2)}
    return {
        "os.system at the top": Call(os.system, command),
        "os.system as a value": {"state_dict": weights, "x": Call(os.system, command)},
        "os.system within state_dict": {"state_dict": {**weights, "net.encoder.bn": Call(os.system, command)}},
        "os.system as a key": {"state_dict": {Call(os.system, command): torch.rand(2)}},
        "eval": {"state_dict": Call(eval, code)},
        "exec": {"state_dict": weights, "hyper_parameters": Call(exec, code)},
        "open": {"x": Call(open, str(mark), "w")},
        "getattr chain": {"x": Call(getattr, Call(__import__, "os"), "system"), "y": Call(__import__, "os")},
        "map over os.system": {"x": Call(list, Call(map, os.system, [command]))},
        "state by BUILD": {"x": Call(argparse.Namespace, state={"a": Call(os.system, command)})},
        "in a namespace": {"hyper_parameters": argparse.Namespace(a=Call(os.system, command))},
        "items of a dict": Dictionary({"a": Call(os.system, command)}),
        "torch.load again": {"x": Call(torch.load, str(mark) + ".pt")},
        "tensor of a payload": {"x": Call(torch._utils._rebuild_tensor_v2, Call(os.system, command), 0, (1,), (1,))},
    }


PROGRAMS = {
    "global and reduce": b"cposix\nsystem\n(X%cX%stR.",
    "instance": b"(X%cX%siposix\nsystem\n.",
    "object": b"(cposix\nsystem\nX%cX%so.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x06systemX%cX%s\x86\x93.",
    "extension registry": b"\x80\x02\x82\x01)R.",
    "no end": b"\x80\x02}",
    "no mark": b"\x80\x02t.",
    "empty stack": b"\x80\x02R.",
    "list as key": b"\x80\x02}]]s.",
    "unknown opcode": b"\x80\x02\xff.",
    "memo absent": b"\x80\x02h\x07.",
    "out-of-band buffer": b"\x80\x05\x97.",
}


def write(path: Path, program: bytes, **extra: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for name, content in extra.items():
            archive.writestr(f"a/data/{name}", content)
    return path


def test_no_payload_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    tried = 0
    for title, content in payloads(mark).items():
        for protocol in (2, 4, 5):
            buffer = io.BytesIO()
            try:
                torch.save(content, buffer, pickle_protocol=protocol)
            except (pickle.PicklingError, TypeError, AttributeError):
                continue
            tried += 1
            path = tmp_path / "bad.ckpt"
            path.write_bytes(buffer.getvalue())
            with pytest.raises(CromssError):
                import_reference(path, tmp_path / "out", bands={"s2": "9"})
            assert not mark.exists(), title
            try:
                with Archive(path) as archive:
                    assert archive.content is not None
            except CromssError:
                pass
            assert not mark.exists(), title
    assert tried == 3 * len(payloads(mark))


def test_the_payloads_are_live_when_python_itself_reads_them(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps({"state_dict": Call(os.system, f"touch {mark}")}))  # noqa: S301
    assert mark.exists()


@pytest.mark.parametrize("title", PROGRAMS)
def test_hand_written_programs_end_in_an_error_or_in_stubs(title: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"touch {mark}".encode()
    program = PROGRAMS[title].replace(b"X%c", b"X" + len(command).to_bytes(4, "little") + command).replace(b"X%s", b"")
    try:
        with Archive(write(tmp_path / "a.pt", program)) as archive:
            assert isinstance(archive.content, Stub | restricted_reader.Global)
    except CromssError:
        pass
    assert not mark.exists()


def test_damage_anywhere_ends_in_an_error_or_in_the_same_numbers(tmp_path: Path) -> None:
    tensor = torch.arange(100.0)
    torch.save({"state_dict": {"w": tensor}, "hyper_parameters": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    generator = np.random.default_rng(0)

    def refused(content: bytes) -> bool:
        """Whether reading ends in an error; what does not must hold the same numbers."""
        (tmp_path / "b.pt").write_bytes(content)
        try:
            with Archive(tmp_path / "b.pt") as archive:
                state = archive.content.get("state_dict") if isinstance(archive.content, dict) else None
                if isinstance(state, dict) and "w" in state:
                    assert torch.equal(archive.tensor(state["w"]), tensor)
        except CromssError:
            return True
        return False

    assert all(refused(whole[: generator.integers(len(whole))]) for _ in range(100))
    flips = 0
    for _ in range(300):
        content = bytearray(whole)
        content[generator.integers(len(whole))] ^= 1 << int(generator.integers(8))
        flips += refused(bytes(content))
    assert flips >= 100  # the others hit padding, or fields of the zip that nobody reads


def reduce_tensor(key: bytes, offset: int, size: int, stride: int) -> bytes:
    numbers = b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in (offset, size, stride))
    j_offset, j_size, j_stride = numbers[:5], numbers[5:10], numbers[10:]
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key
    storage += b"X\x03\x00\x00\x00cpuK\x04tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + j_offset + j_size + b"\x85" + j_stride + b"\x85tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


@pytest.mark.parametrize(
    ("key", "offset", "size", "stride"),
    [
        (b"0", 0, 5, 1),
        (b"0", 4, 1, 1),
        (b"0", 0, 2**30, 0),
        (b"0", 0, -1, 1),
        (b"0", -1, 1, 1),
        (b"0", 0, 2, 4),
        (b"../0", 0, 1, 1),
        (b"9", 0, 1, 1),
    ],
)
def test_a_tensor_cannot_reach_beyond_its_numbers(
    key: bytes, offset: int, size: int, stride: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.pt", reduce_tensor(key, offset, size, stride), **{"0": bytes(16)})
    start = time.monotonic()
    with pytest.raises(CromssError), Archive(path) as archive:
        archive.tensor(archive.content["w"])
    assert time.monotonic() - start < 5


def test_a_tensor_within_its_numbers_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", reduce_tensor(b"0", 1, 3, 1), **{"0": torch.arange(4.0).numpy().tobytes()})
    with Archive(path) as archive:
        assert archive.tensor(archive.content["w"]).tolist() == [1, 2, 3]


def test_a_compressed_program_is_refused_before_it_grows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**8))
    with pytest.raises(CromssError, match=r"not as torch\.save"):
        Archive(tmp_path / "a.pt")


def test_no_module_of_the_package_can_unpickle_or_evaluate() -> None:
    banned_modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    banned_calls = {"eval", "exec", "__import__", "torch.load", "numpy.load", "np.load"}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(path.name, alias.name) for alias in node.names if alias.name.split(".")[0] in banned_modules]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in banned_modules:
                found.append((path.name, node.module))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in banned_calls:
                found.append((path.name, ast.unparse(node.func)))
    assert found == []
