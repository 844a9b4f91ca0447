"""Several processes train one network: the same command with `--devices 2`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from cromss.config import PretrainConfig, to_mapping
from cromss.files import read_json, write_json
from cromss.training.checkpoint import load_network
from cromss.training.pretrain import pretrain
from cromss.training.runlog import read_log


def _settings(store, out, **changes):
    small = {
        "encoder": "tu-cromss_narrow", "decoder_channels": (16, 16, 8, 8, 8), "crop": 32, "workers": 0, "steps": 4,
        "log_every": 1, "pictures_every": 0, "threads": 1, "optimizer": "sgd", "lr": 1e-3, "schedule": "constant",
    }  # fmt: skip
    return PretrainConfig(data=str(store), out=str(out), **{**small, **changes})


@pytest.mark.slow
def test_two_processes_take_equal_steps_on_twelve_places_in_batches_of_five(toy_store, tmp_path):
    """12 places do not divide by 2 x 5: one step an epoch, on both ranks, and validation counts every tile once."""
    config = _settings(toy_store, tmp_path / "run", devices=2, batch_size=5)
    write_json(tmp_path / "job.json", to_mapping(config))
    command = [sys.executable, "-m", "cromss", "pretrain", "--config", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    network, card = load_network(tmp_path / "run")
    assert card["step"] == 4
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    noisy = read_json(tmp_path / "run" / "result.json")["validation"]["noisy"]["s2"]
    assert noisy["pixels"] == 4 * 2 * (64 * 64 - 2 * 64)  # 4 places, 2 seasons, two ignored rows each


@pytest.mark.slow
def test_the_loss_of_a_first_step_does_not_depend_on_how_many_devices_share_it(toy_store, tmp_path):
    """Cross-entropy and consistency are sums divided once over all devices; BatchNorm alone sees half a batch."""
    one = _settings(toy_store, tmp_path / "one", batch_size=8, steps=1, losses=("ce",), method="no_selection")
    pretrain(one)
    two = replace(one, out=str(tmp_path / "two"), batch_size=4, devices=2)
    write_json(tmp_path / "job.json", to_mapping(two))
    command = [sys.executable, "-m", "cromss", "pretrain", "--config", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    losses = [next(read_log(tmp_path / name / "log.jsonl"))["loss"] for name in ("one", "two")]
    assert abs(losses[0] - losses[1]) < 0.1 * losses[0]
