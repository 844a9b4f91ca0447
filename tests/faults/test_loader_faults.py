"""Workers that die, hang or outlive their main process: named within seconds, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cromss.data.dataset import PatchDataset
from cromss.data.loader import make_loader
from cromss.data.sampling import BatchOrder
from cromss.data.store import Store
from cromss.errors import WorkerError
from cromss.geo.bands import published_normalization
from records import make_record, write_store

SCALES = {"s1": published_normalization("s1", "all"), "s2": published_normalization("s2", "9")}


class Troubled(PatchDataset):
    """Reads until the place numbered `victim` comes, and then does `trouble`."""

    victim, trouble = -1, staticmethod(lambda: None)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        if key[1] == self.victim:
            self.trouble()
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "store"
    return write_store(folder, [make_record(number, seasons=3) for number in range(12)])


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    before = children(os.getpid())
    yield
    left = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(os.getpid()) - before}
    servers = ("forkserver", "resource_tracker")  # Python's own, which it keeps for the next process
    assert [text for text in left.values() if not any(name in text for name in servers)] == []


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def troubled(path: Path, trouble: Any, victim: int = 5) -> Troubled:
    dataset = Troubled(Store.open(path), SCALES, crop=12, seed=2, training=True)
    dataset.victim, dataset.trouble = victim, trouble
    return dataset


def fails(dataset: Troubled, timeout: float) -> tuple[WorkerError, float]:
    """Run until the error; it must name the sample, and the others of its batch."""
    order = BatchOrder(12, 3, seed=1, total_steps=4)
    key, batch = next((key, batch) for batch in order for key in batch if key[1] == dataset.victim)
    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        list(make_loader(dataset, order, 2, timeout=timeout))
    spent = time.monotonic() - start
    assert f"while reading {dataset.describe(key)}" in str(caught.value.got)
    assert all(dataset.describe(other) in str(caught.value.where) for other in batch)
    return caught.value, spent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_worker_is_an_error_that_names_its_sample_at_once(path: Path, number: signal.Signals) -> None:
    error, spent = fails(troubled(path, lambda: os.kill(os.getpid(), number)), timeout=60)
    assert number.name in str(error)
    assert spent < 30
    if number == signal.SIGBUS:
        assert "shared memory" in error.do


def test_an_unforeseen_exception_names_its_sample_and_is_printed(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def trouble() -> None:
        raise ZeroDivisionError("a bug")

    error, _ = fails(troubled(path, trouble), timeout=60)
    assert "exit code 1" in str(error)
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


@pytest.mark.slow
def test_a_sample_that_hangs_is_stopped_by_the_timeout(path: Path) -> None:
    error, spent = fails(troubled(path, lambda: time.sleep(1000)), timeout=3)
    assert "nothing for 3 s" in str(error)
    assert 3 <= spent < 60


@pytest.mark.slow
def test_a_slow_sample_is_no_hang(path: Path) -> None:
    dataset = troubled(path, lambda: time.sleep(2))
    assert len(list(make_loader(dataset, BatchOrder(12, 3, seed=1, total_steps=4), 2, timeout=60))) == 4


def test_a_worker_killed_between_two_batches_is_noticed_at_the_next(path: Path) -> None:
    before = children(os.getpid())
    dataset = troubled(path, lambda: None)
    iterator = iter(make_loader(dataset, BatchOrder(12, 3, seed=1, total_steps=40), 2, timeout=60))
    next(iterator)
    os.kill(min(children(os.getpid()) - before), signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(iterator)


SCRIPT = """
    import signal, sys, time
    import cromss.data.loader as loader
    from cromss.data.dataset import PatchDataset
    from cromss.data.sampling import BatchOrder
    from cromss.data.store import Store
    from cromss.geo.bands import published_normalization

    class Slow(PatchDataset):
        def __getitem__(self, key):
            time.sleep({sleep})
            return super().__getitem__(key)

    store = Store.open(sys.argv[1])
    dataset = Slow(store, {{"s1": published_normalization("s1", "all")}}, crop=12, training=True)
    batches = loader.make_loader(dataset, BatchOrder(12, 3, seed=1, total_steps={steps}), 2)
    iterator = iter(batches)
"""


def start(path: Path, body: str, **values: Any) -> subprocess.Popen[str]:
    code = textwrap.dedent(SCRIPT).format(**values) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("sleep", [0.01, 1000], ids=["working", "hanging"])
def test_workers_leave_when_the_main_process_is_killed(path: Path, sleep: float) -> None:
    body = "print('started', flush=True)\nfor batch in iterator: time.sleep(0.1)\n"
    with start(path, body, sleep=sleep, steps=100_000) as main:
        main.stdout.readline()
        deadline = time.monotonic() + 30
        while len(workers := children(main.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(workers) == 2
        time.sleep(0.5)
        main.kill()
        main.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.mark.slow
def test_a_stop_signal_to_the_whole_group_loses_no_batch(path: Path) -> None:
    body = """
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        count = 0
        for batch in iterator:
            count += 1
            if count == 1:
                print("started", flush=True)
        print(count, len(stopped))
    """
    with start(path, body, sleep=0.1, steps=12) as main:
        assert main.stdout.readline() == "started\n"
        os.killpg(main.pid, signal.SIGTERM)
        assert main.stdout.read().split() == ["12", "1"]
    assert main.returncode == 0


@pytest.mark.slow
def test_leaving_in_the_middle_ends_the_workers_too(path: Path) -> None:
    body = """
        next(iterator)
        kept = iterator  # alive until the very end
        sys.exit(143)
    """
    began = time.monotonic()
    with start(path, body, sleep=0.2, steps=1000) as main:
        assert main.wait(timeout=60) == 143
    assert time.monotonic() - began < 50


@pytest.mark.slow
def test_fork_spawn_and_forkserver_give_identical_batches(path: Path) -> None:
    dataset = PatchDataset(Store.open(path), SCALES, crop=12, prior="ts", seed=2, training=True)
    dataset.store.read(0, 0)  # a handle that is open already must not matter
    order = BatchOrder(12, 3, seed=1, total_steps=6)
    alone = list(make_loader(dataset, order, 0))
    for method in ("fork", "spawn", "forkserver"):
        batches = list(make_loader(dataset, order, 2, start_method=method))
        for one, other in zip(batches, alone, strict=True):
            assert one["id"] == other["id"]
            assert all(torch.equal(one[name], other[name]) for name in other if name != "id")
