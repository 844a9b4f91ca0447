"""Killing workers and drivers in the middle of preparing or labelling: the same files after all, no process left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cromss.config import LabelsConfig
from cromss.data.labelling.run import label
from cromss.data.prepare import prepare
from records import contents
from small_scenes import settings, write_scene

psutil = pytest.importorskip("psutil", reason="needs the extra `scale` (Dask, which brings psutil)")
pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")

pytestmark = pytest.mark.slow

PLACES = 300  # so many that a command is not done before it is killed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale") / "in"
    for number in range(PLACES):
        write_scene(folder, f"p{number:03d}", number)
    return folder


@pytest.fixture(scope="module")
def whole(root):
    prepare(settings(root, root.parent / "whole", shard_places=1))
    return contents(root.parent / "whole")


def store_of(folder: Path) -> dict[str, bytes]:
    """The files of a store but for the page about it, which the command draws and `prepare` alone does not."""
    return {name: content for name, content in contents(folder).items() if name != "prepare-report.html"}


# Workers report to the scheduler all the time, so that it is surely gone for some report when all is ended.
BUSY_REPORTS = """
import sys, distributed.scheduler
distributed.scheduler.heartbeat_interval = lambda workers: 0.002
from cromss.cli import main
sys.exit(main())
"""


@contextlib.contextmanager
def driver(root: Path, out: Path, program: Sequence[str] = ("-m", "cromss")):
    """The command with two workers, in a process group of its own, and all its processes once shards appear."""
    command = ["prepare", "--root", root, "--out", out, "--shard_places", "1", "--workers", "2"]
    with (
        (root.parent / "stderr.txt").open("w") as errors,  # a pipe would have to be emptied
        subprocess.Popen(
            [sys.executable, *program, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for(lambda: len(list(out.glob("shards/*.safetensors"))) >= 3 or process.poll() is not None, 240)
            assert process.poll() is None, (root.parent / "stderr.txt").read_text()
            yield process, psutil.Process(process.pid).children(recursive=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(family) -> bool:
    return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)


def workers_of(family) -> list:
    return [child for child in family if "spawn_main" in " ".join(child.cmdline())]


def test_a_worker_that_is_killed_is_replaced_and_the_store_is_the_same(root, whole, tmp_path):
    with driver(root, tmp_path / "out") as (process, family):
        assert len(workers_of(family)) == 2
        workers_of(family)[0].kill()
        assert not (tmp_path / "out" / "store.json").exists()
        assert process.wait(timeout=300) == 0, (root.parent / "stderr.txt").read_text()
        wait_for(lambda: gone(family), 30)
    assert store_of(tmp_path / "out") == whole


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_takes_its_workers_along_and_is_continued(number, root, whole, tmp_path):
    out = tmp_path / "out"
    with driver(root, out) as (process, family):
        assert len(workers_of(family)) == 2
        process.send_signal(number)
        assert process.wait(timeout=60) == -number
        wait_for(lambda: gone(family), 30)
    assert not (out / "store.json").exists()
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("shards/*.safetensors")}
    assert 3 <= len(kept) < PLACES
    prepare(settings(root, out, shard_places=1))
    assert contents(out) == whole
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept


@pytest.mark.parametrize("program", [("-m", "cromss"), ("-c", BUSY_REPORTS)], ids=["command", "busy reports"])
def test_ctrl_c_ends_all_processes_with_one_line(program, root, whole, tmp_path):
    with driver(root, tmp_path / "out", program) as (process, family):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130
        wait_for(lambda: gone(family), 30)
    assert (root.parent / "stderr.txt").read_text() == "cromss: interrupted\n"
    prepare(settings(root, tmp_path / "out", shard_places=1))
    assert store_of(tmp_path / "out") == whole


@contextlib.contextmanager
def labelling(root: Path, out: Path):
    """`cromss labels rules` with two workers, in a process group of its own, once label maps appear."""
    command = ["labels", "rules", "--root", root, "--out", out, "--s2_product", "L1C", "--sun_zenith", "40"]
    command += ["--workers", "2", "--on_existing", "keep", "--on_bad", "skip"]
    with subprocess.Popen(
        [sys.executable, "-m", "cromss", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            wait_for(lambda: len(list(out.glob("labels/*.tif"))) >= 3 or process.poll() is not None, 240)
            yield process, psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_labels_that_are_killed_in_the_middle_are_continued_to_the_same_files_and_report(root, tmp_path):
    options = {"source": "rules", "root": str(root), "s2_product": "L1C", "sun_zenith": 40.0, "on_bad": "skip"}
    label(LabelsConfig(out=str(tmp_path / "whole"), **options))
    with labelling(root, tmp_path / "out") as (process, family):
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        wait_for(lambda: gone(family), 30)
    assert not (tmp_path / "out" / "labels-report.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("labels/*.tif")}
    assert 3 <= len(kept) < PLACES
    with labelling(root, tmp_path / "out") as (process, _):
        assert process.wait(timeout=300) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
