"""A run that stops anywhere and continues is the same run: weights, optimizer and log agree to the last bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from cromss.config import PretrainConfig, to_mapping
from cromss.errors import ConfigError, ResumeError
from cromss.files import read_json, write_json
from cromss.training import pretrain as pretraining
from cromss.training.checkpoint import load_card, load_network, load_training
from cromss.training.pretrain import pretrain
from cromss.training.runlog import read_log
from cromss.training.stop import EXIT_STOPPED, StopSignal


def _config(store, out, **changes):
    settings = {
        "encoder": "tu-cromss_narrow",
        "decoder_channels": (16, 16, 8, 8, 8),
        "crop": 32,
        "batch_size": 4,
        "steps": 7,
        "workers": 0,
        "log_every": 1,
        "lr": 1e-3,
        "ramp_epochs": 2,
        "validate_every": 1,
        "pictures_every": 0,
        "threads": 1,
        "checkpoint_every": 100,
    }
    return PretrainConfig(data=str(store), out=str(out), **{**settings, **changes})


class _StopAfter(StopSignal):
    """Asks for the stop once so many questions were asked: one a step."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def requested(self):
        self.left -= 1
        return self.left < 0


def _run_until(config, steps, monkeypatch):
    monkeypatch.setattr(pretraining, "StopSignal", lambda: _StopAfter(steps))
    with pytest.raises(SystemExit) as left:
        pretrain(config)
    monkeypatch.undo()
    assert left.value.code == EXIT_STOPPED


def _state(run):
    network, _ = load_network(run / "final")
    return network.state_dict()


def _losses(run):
    return [(row["step"], row["loss"], row["lr"]) for row in read_log(run / "log.jsonl") if row["kind"] == "train"]


@pytest.fixture(scope="module")
def whole(toy_store, tmp_path_factory):
    """An uninterrupted run: 12 places, batches of 4, so 3 steps an epoch and 7 steps in all."""
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(_config(toy_store, out))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [[0], [1], [3], [4], [6], [4, 1]], ids=str)
def test_a_stopped_and_continued_run_differs_by_nothing(whole, toy_store, tmp_path, monkeypatch, stops, workers):
    """Stops before the first step, after it, at an epoch's end, in mid-epoch, before the last step, and twice."""
    config = _config(toy_store, tmp_path / "run", workers=workers)
    for stop in stops:
        _run_until(config, stop, monkeypatch)
    pretrain(config)
    expected, found = _state(whole), _state(tmp_path / "run")
    assert max(float((expected[name].double() - found[name].double()).abs().max()) for name in expected) == 0.0
    assert _losses(tmp_path / "run") == _losses(whole)


@pytest.mark.slow
def test_optimizer_and_schedule_continue_too(whole, toy_store, tmp_path, monkeypatch):
    config = _config(toy_store, tmp_path / "run")
    _run_until(config, 4, monkeypatch)
    pretrain(config)
    expected, found = load_training(whole / "checkpoints"), load_training(tmp_path / "run" / "checkpoints")
    for index, state in expected.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found.optimizer["state"][index][name]))
    assert expected.scheduler == found.scheduler
    assert torch.equal(expected.random["cpu"], found.random["cpu"])


@pytest.mark.slow
@pytest.mark.parametrize("prior_on", ["worker", "device"])
def test_two_runs_of_one_recipe_are_equal_wherever_priors_are_made(whole, toy_store, tmp_path, prior_on):
    pretrain(_config(toy_store, tmp_path / "run", workers=2, prior_on=prior_on))
    expected, found = _state(whole), _state(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_finished_run_is_not_run_again(whole, toy_store):
    before = (whole / "log.jsonl").read_bytes()
    result = pretrain(_config(toy_store, whole))
    assert result["step"] == 7
    assert (whole / "log.jsonl").read_bytes() == before


CHANGES = {
    "fusion": "middle", "encoder": "resnet18", "decoder_channels": (16, 16, 8, 8, 4), "lr": 2e-3, "seed": 1,
    "batch_size": 2, "crop": 64, "losses": ("ce",), "prior": "t", "final_ratio": 0.6, "s2_bands": "9", "steps": 8,
    "method": "no_selection", "normalization": "standard", "optimizer": "sgd", "threads": 2, "sigma": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_changed_setting_is_refused_and_named(whole, toy_store, name):
    with pytest.raises(ResumeError) as caught:
        pretrain(_config(toy_store, whole, **{name: CHANGES[name]}))
    assert f"{name}: " in str(caught.value)
    assert "--allow_change" in str(caught.value)


def test_settings_that_cannot_change_a_weight_may_differ(whole, toy_store):
    free = {"workers": 1, "log_every": 3, "keep_checkpoints": 5, "pictures_every": 4, "worker_timeout": 9.0}
    assert pretrain(_config(toy_store, whole, **free))["step"] == 7


def test_other_data_are_refused(whole, toy_store, tmp_path):
    from conftest import toy_records
    from cromss.data.store import StoreWriter
    from cromss.geo.bands import SENSORS
    from cromss.geo.legends import get_legend

    bands = {"s1": SENSORS["s1"].bands, "s2": SENSORS["s2"].bands}
    writer = StoreWriter(tmp_path / "other", legend=get_legend("dynamic_world"), sensors=bands)
    for record in toy_records(20, seed=1):
        writer.add(record)
    writer.finish({})
    with pytest.raises(ResumeError, match="data: "):
        pretrain(_config(tmp_path / "other", whole))


def test_never_refuses_a_folder_with_a_run(whole, toy_store):
    with pytest.raises(ResumeError, match="already"):
        pretrain(_config(toy_store, whole, resume="never"))


def test_a_finished_run_says_that_allowed_changes_come_too_late(whole, toy_store):
    with pytest.raises(ResumeError, match="steps: 9, was 7"):
        pretrain(_config(toy_store, whole, steps=9, allow_change=("steps",)))


def test_a_run_killed_before_it_wrote_its_result_is_finished_with_all_its_scores(whole, toy_store, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    pretrain(_config(toy_store, tmp_path / "run"))
    expected, found = (read_json(run / "result.json") for run in (whole, tmp_path / "run"))
    assert found["validation"] == expected["validation"]
    assert load_card(tmp_path / "run")["scores"] == load_card(whole)["scores"]


def test_a_final_network_without_a_run_is_not_replaced(whole, toy_store, tmp_path):
    shutil.copytree(whole / "final", tmp_path / "run" / "final")
    with pytest.raises(ResumeError, match="nothing to continue from"):
        pretrain(_config(toy_store, tmp_path / "run"))


def test_a_senseless_name_in_allow_change_is_refused(toy_store, tmp_path):
    with pytest.raises(ConfigError, match="learning"):
        pretrain(_config(toy_store, tmp_path / "run", allow_change=("learning",)))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
def test_a_signal_saves_and_leaves_with_143_and_the_run_continues(whole, toy_store, tmp_path, number, to_group):
    config = _config(toy_store, tmp_path / "run", workers=2)
    write_json(tmp_path / "job.json", to_mapping(replace(config, out=str(tmp_path / "run"))))
    command = [sys.executable, "-m", "cromss", "pretrain", "--config", str(tmp_path / "job.json")]
    child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 90
    while child.poll() is None and time.monotonic() < deadline and not (log.exists() and "train" in log.read_text()):
        time.sleep(0.02)
    try:
        (os.killpg if to_group else os.kill)(child.pid, number)
    except ProcessLookupError:
        pytest.fail(f"the run ended before the signal: {child.communicate()[1]}")
    _, said = child.communicate(timeout=60)
    if child.returncode == 0:
        pytest.skip("the run was over before the signal reached it")
    assert child.returncode == EXIT_STOPPED, said
    pretrain(config)
    expected, found = _state(whole), _state(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
