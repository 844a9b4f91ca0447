"""Checkpoints under kill -9, power cuts, full disks, rot and malice: whole or refused, never half."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cromss.config import PretrainConfig
from cromss.errors import CheckpointError, ResumeError
from cromss.files import remove_stale, sha256
from cromss.models import saved
from cromss.models.networks import NetworkSpec, SegmentationNetwork, build_network
from cromss.training.checkpoint import (
    TrainingState,
    latest_valid,
    load_network,
    load_training,
    load_weights,
    prune,
    random_state,
    save_checkpoint,
    step_name,
    verify_checkpoint,
)
from cromss.training.resume import find_resume

SPEC = NetworkSpec(
    inputs={"s2": 3},
    branches=("s2",),
    num_classes=2,
    encoder="tu-cromss_narrow",
    encoder_depth=3,
    decoder="pspnet",
    decoder_channels=(8,),
)
FILES = ("card.json", "manifest.json", "training.json", "training.safetensors", "weights.safetensors")


def training_state(network: SegmentationNetwork) -> TrainingState:
    optimizer = torch.optim.Adam(network.parameters())
    network({"s2": torch.rand(2, 3, 16, 16)})["s2"].mean().backward()
    optimizer.step()
    return TrainingState(optimizer=optimizer.state_dict(), scheduler=None, progress={"step": 1}, random=random_state())


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SegmentationNetwork:
    torch.manual_seed(0)
    network = build_network(SPEC)
    folder = tmp_path_factory.mktemp("warm") / "a"
    save_checkpoint(folder, network=network, card={})
    load_network(folder)  # so that libraries are loaded before any test measures time and memory
    return network


@pytest.fixture
def run(network: SegmentationNetwork, tmp_path: Path) -> Path:
    """A run with one sound checkpoint, step 1."""
    folder = tmp_path / "checkpoints" / step_name(1)
    save_checkpoint(folder, network=network, card={"step": 1}, training=training_state(network))
    return tmp_path


def save_next(run: Path, network: SegmentationNetwork, step: int = 2) -> Path:
    folder = run / "checkpoints" / step_name(step)
    save_checkpoint(folder, network=network, card={"step": step}, training=training_state(network))
    return folder


# ---- kill -9


CHILD = """
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[2])
from test_checkpoint_faults import SPEC, build_network, save_checkpoint, step_name, training_state

torch.manual_seed(0)
network = build_network(SPEC)
state = training_state(network)
for line in sys.stdin:
    saver = os.fork()  # a process for each save, without importing torch again
    if saver == 0:
        print(os.getpid(), flush=True)
        folder = Path(sys.argv[1]) / step_name(int(line))
        save_checkpoint(folder, network=network, card={}, training=state)
        os._exit(0)
    os.waitpid(saver, 0)
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_kill_9_during_a_save_tears_nothing(network: SegmentationNetwork, run: Path) -> None:
    folder, state = run / "checkpoints", training_state(network)
    begin = time.monotonic()
    for step in range(2, 7):
        save_checkpoint(folder / step_name(step), network=network, card={}, training=state)
    window = 2 * (time.monotonic() - begin) / 5  # seconds within which the kill comes
    command = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
    generator = np.random.default_rng(0)
    present = leftovers = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for step in range(10, 210):
            parent.stdin.write(f"{step}\n")
            parent.stdin.flush()
            saver = int(parent.stdout.readline())
            time.sleep(float(generator.uniform(0, window)))
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(saver, signal.SIGKILL)
            assert parent.stdout.readline() == "ended\n"
            newest = folder / step_name(step)
            window *= (
                0.95 if newest.exists() else 1.05
            )  # however busy the machine is, both ends are seen about as often
            if newest.exists():
                present += 1
                verify_checkpoint(newest)
                assert latest_valid(run) == newest
            leftovers += len(remove_stale(folder))
            assert all(entry.name.startswith("step-") for entry in folder.iterdir())
            if step % 20 == 0:
                prune(run, 1)
        parent.stdin.close()
    assert 10 <= present <= 190
    assert leftovers >= 10
    load_network(run)
    load_training(run)


# ---- power cuts


def test_every_file_is_durable_before_the_folder_gets_its_name(
    network: SegmentationNetwork, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str, int]] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("fsync", str(path), path.stat().st_size if path.is_file() else -1))
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        events.append(("rename", f"{self} -> {target}", -1))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    folder = save_next(run, network)
    temporary = Path(events[0][1]).parent
    assert temporary.parent == folder.parent
    assert temporary.name.startswith(f".{folder.name}.tmp-")
    expected = [("fsync", str(temporary / name), (folder / name).stat().st_size) for name in FILES]
    expected += [
        ("fsync", str(temporary), -1),
        ("rename", f"{temporary} -> {folder}", -1),
        ("fsync", str(folder.parent), -1),
    ]
    assert events == expected


# ---- disks that are full, read-only, broken or gone


def fail(code: int) -> Callable[..., Any]:
    def raising(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return raising


@contextlib.contextmanager
def limited_file_size(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def patched(owner: object, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, replacement)
        yield


def vanish(tensors: object, path: Path) -> None:
    shutil.rmtree(path.parent)
    path.write_bytes(b"")


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "files may not grow (EFBIG)": lambda: limited_file_size(4096),
    "no space left when the tensors are written": lambda: patched(saved, "save_file", fail(errno.ENOSPC)),
    "no space left when the manifest is written": lambda: patched(Path, "write_bytes", fail(errno.ENOSPC)),
    "fsync fails (EIO)": lambda: patched(os, "fsync", fail(errno.EIO)),
    "no permission to make the folder": lambda: patched(Path, "mkdir", fail(errno.EACCES)),
    "read-only when it should get its name": lambda: patched(Path, "rename", fail(errno.EROFS)),
    "the folder vanishes": lambda: patched(saved, "save_file", vanish),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_fails_says_so_and_leaves_what_was_there(
    fault: str, network: SegmentationNetwork, run: Path
) -> None:
    with pytest.raises(CheckpointError, match="NOT saved"), FAULTS[fault]():
        save_next(run, network)
    assert [entry.name for entry in (run / "checkpoints").iterdir()] == [step_name(1)]
    load_network(run)
    assert load_training(run).progress == {"step": 1}
    verify_checkpoint(save_next(run, network))


def save_ten(run: Path, network: SegmentationNetwork) -> None:
    for step in range(10):
        save_next(run, network, step)


def test_a_disk_that_is_really_full(network: SegmentationNetwork, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with pytest.raises(CheckpointError, match="NOT saved"):
            save_ten(tmp_path, network)
        left = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir())
        assert left
        assert left == [step_name(step) for step in range(len(left))]
        load_network(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ---- rot


@pytest.mark.slow
def test_400_cuts_and_flips_are_all_found_and_the_one_before_is_taken(network: SegmentationNetwork, run: Path) -> None:
    folder = save_next(run, network)
    sound = {name: (folder / name).read_bytes() for name in FILES}
    generator = np.random.default_rng(0)
    for trial in range(400):
        name = FILES[trial % len(FILES)]
        content = bytearray(sound[name])
        position = int(generator.integers(len(content)))
        if trial < 200:
            del content[position:]
        else:
            content[position] ^= 1 << int(generator.integers(8))
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            verify_checkpoint(folder)
        assert latest_valid(run) == run / "checkpoints" / step_name(1)
        (folder / name).write_bytes(sound[name])
    assert latest_valid(run) == folder


def test_a_run_with_nothing_but_damaged_checkpoints_is_not_begun_anew(network: SegmentationNetwork, run: Path) -> None:
    save_next(run, network)
    for folder in (run / "checkpoints").iterdir():
        (folder / FILES[0]).write_bytes(b"rot")
    with pytest.raises(ResumeError, match="damaged") as caught:
        find_resume(run, PretrainConfig(data="store", out=str(run)), "fingerprint")
    assert step_name(1) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(name: str, network: SegmentationNetwork, run: Path) -> None:
    folder = save_next(run, network)
    (folder / name).unlink()
    with pytest.raises(CheckpointError):
        verify_checkpoint(folder)
    assert latest_valid(run) == run / "checkpoints" / step_name(1)


# ---- malice: the manifest fits, the content does not


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def floats(header: dict[str, Any]) -> list[str]:
    return [name for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"]


def edited(change: Callable[[dict[str, Any], bytearray], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        header, data = split(folder / "weights.safetensors")
        raw = bytearray(data)
        change(header, raw)
        (folder / "weights.safetensors").write_bytes(joined(header, bytes(raw)))

    return apply


def overlap(header: dict[str, Any], _: bytearray) -> None:
    name = next(name for name in header if name.endswith("running_mean"))
    header[name]["data_offsets"] = header[name.replace("running_mean", "running_var")]["data_offsets"]


def beyond(header: dict[str, Any], raw: bytearray) -> None:
    del raw[-8:]


def other_type(header: dict[str, Any], _: bytearray) -> None:
    header[floats(header)[0]]["dtype"] = "I32"


def other_shape(header: dict[str, Any], _: bytearray) -> None:
    name = next(name for name in floats(header) if len(header[name]["shape"]) == 4)
    header[name]["shape"] = header[name]["shape"][::-1]


def missing_key(header: dict[str, Any], _: bytearray) -> None:
    name = floats(header)[0]
    header["other." + name] = header.pop(name)


def not_a_number(value: float) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], raw: bytearray) -> None:
        start, _ = header[floats(header)[0]]["data_offsets"]
        raw[start : start + 4] = struct.pack("<f", value)

    return change


def weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "weights.safetensors").write_bytes(content) and None


def card(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "card.json").read_text())
        change(content)
        (folder / "card.json").write_text(json.dumps(content))

    return apply


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "header of 2^63 bytes": (weights(struct.pack("<Q", 2**63) + b"{}"), "too long"),
    "header longer than the file": (weights(struct.pack("<Q", 10**6) + b"{}"), "cannot be read"),
    "header that is no JSON": (weights(struct.pack("<Q", 3) + b"{x}"), "cannot be read"),
    "tensors that overlap": (edited(overlap), "cannot be read"),
    "tensors beyond the end": (edited(beyond), "cannot be read"),
    "wrong type": (edited(other_type), "other shape or type"),
    "wrong shape": (edited(other_shape), "other shape or type"),
    "missing and unexpected names": (edited(missing_key), r"missing: branches\S+; unexpected: other\."),
    "NaN": (edited(not_a_number(float("nan"))), "not finite"),
    "infinity": (edited(not_a_number(float("-inf"))), "not finite"),
    "deeply nested card": (text("card.json", "[" * 10**5), "cannot be read"),
    "card that is a list": (text("card.json", "[]"), "no table"),
    "card of 20 MB": (text("card.json", json.dumps({"format": "x" * 20_000_000})), "too large"),
    "network that fills the memory": (
        card(lambda c: c["network"].update(decoder_channels=[4096], encoder="resnet152", num_classes=4096)),
        "do not belong",
    ),
    "network beyond any size": (card(lambda c: c["network"].update(num_classes=10**12)), "cannot be built"),
    "encoder from the network": (card(lambda c: c["network"].update(encoder="tu-hf-hub:a/b")), "cannot be built"),
    "network with unknown fields": (card(lambda c: c["network"].update(x=1)), "cannot be built"),
}


def forge(folder: Path) -> None:
    """A manifest that fits the files as they are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_content_is_refused_quickly_and_in_little_memory(title: str, run: Path) -> None:
    change, message = HOSTILE[title]
    folder = run / "checkpoints" / step_name(1)
    change(folder)
    forge(folder)
    peak, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=message):
        load_network(folder)
    assert time.process_time() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB


def test_hostile_weights_leave_a_network_as_it_was(network: SegmentationNetwork, run: Path) -> None:
    folder = run / "checkpoints" / step_name(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    HOSTILE["NaN"][0](folder)
    forge(folder)
    with pytest.raises(CheckpointError):
        load_weights(folder, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_manifest_cannot_name_files_elsewhere(run: Path) -> None:
    folder = run / "checkpoints" / step_name(1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = manifest["files"].pop("training.json")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    with pytest.raises(CheckpointError, match="lists other files"):
        verify_checkpoint(folder)


@pytest.mark.parametrize("tree", ['{"$tensor": "x"}', "{}", '{"optimizer": {"$call": "f"}}', "[1]"])
def test_a_hostile_training_state_is_refused(tree: str, run: Path) -> None:
    folder = run / "checkpoints" / step_name(1)
    (folder / "training.json").write_text(tree)
    forge(folder)
    with pytest.raises(CheckpointError):
        load_training(folder)
