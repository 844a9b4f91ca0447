"""On two devices every test pixel is still counted once, and stopped or killed transfers leave finished runs usable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cromss.config import EvaluateConfig
from cromss.data.store import Store
from cromss.files import read_json
from cromss.training.evaluate import evaluate

pytestmark = pytest.mark.slow

SETTINGS = """
init: random
encoder: tu-cromss_narrow
decoder_channels: [16, 16, 8, 8, 8]
mode: fine_tuned
batch_size: 3
crop: 32
accelerator: cpu
threads: 1
"""


def start(store: Path, out: Path, *more: str) -> subprocess.Popen:
    """The command in a process of its own; what it says goes to `<out>.log`."""
    settings = out.with_suffix(".yaml")
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "cromss", "transfer", "--config", str(settings)]
    command += ["--data", str(store), "--out", str(out), *more]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)


def test_two_devices_count_every_test_pixel_once(toy_store, tmp_path):
    out = tmp_path / "out"
    process = start(toy_store, out, "--devices", "2", "--steps", "3")
    assert process.wait(timeout=240) == 0, out.with_suffix(".log").read_text()
    store = Store.open(toy_store)
    labels = np.stack([store.read_labels(int(place)) for place in store.select("test")])
    (run,) = read_json(out / "scores.json")["runs"]
    assert run["scores"]["pixels"] == (labels != 255).sum() == np.sum(run["scores"]["matrix"])
    # the scores are those of the network that was saved, not of ranks whose BatchNorm statistics differ
    network = out / "runs" / "draw-0.seed-0" / "network"
    evaluate(EvaluateConfig(checkpoint=str(network), data=str(toy_store), out=str(tmp_path / "again")))
    assert read_json(tmp_path / "again" / "scores.json")["scores"]["s2"]["matrix"] == run["scores"]["matrix"]


TWO_SEEDS = ("--seeds", "[0,1]", "--steps", "40")


@pytest.fixture(scope="module")
def whole(toy_store, tmp_path_factory):
    """The runs of a transfer that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert start(toy_store, out, *TWO_SEEDS).wait(timeout=240) == 0, out.with_suffix(".log").read_text()
    return read_json(out / "scores.json")["runs"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["stopped", "killed"])
def test_a_transfer_cut_short_keeps_its_finished_runs_and_ends_as_if_uninterrupted(
    toy_store, whole, tmp_path, sent, code
):
    cut = start(toy_store, tmp_path / "cut", *TWO_SEEDS)
    first, second = (tmp_path / "cut/runs" / f"draw-0.seed-{seed}" for seed in (0, 1))
    give_up = time.monotonic() + 240
    while not ((second / "log.jsonl").exists() and (second / "log.jsonl").stat().st_size):
        assert cut.poll() is None, (tmp_path / "cut.log").read_text()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    cut.send_signal(sent)
    assert cut.wait(timeout=60) == code
    assert ("stopped by a signal" in (tmp_path / "cut.log").read_text()) == (sent == signal.SIGTERM)
    assert (first / "result.json").exists()
    assert not (second / "result.json").exists()
    kept = (first / "result.json").stat().st_mtime_ns
    again = start(toy_store, tmp_path / "cut", *TWO_SEEDS)
    assert again.wait(timeout=240) == 0
    assert (first / "result.json").stat().st_mtime_ns == kept
    assert read_json(tmp_path / "cut/scores.json")["runs"] == whole
