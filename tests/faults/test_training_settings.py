"""Settings that cannot work are refused before anything is trained, by name and with what to do."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from cromss.config import PretrainConfig
from cromss.errors import (
    ArgumentError,
    BandError,
    ConfigError,
    CromssError,
    MissingDataError,
    ModelError,
    NonFiniteError,
)
from cromss.training import pretrain as pretraining
from cromss.training.devices import launch
from cromss.training.guard import StepGuard
from cromss.training.optimization import build_optimizer
from cromss.training.pretrain import pretrain
from cromss.training.pretrain_setup import Setup
from records import make_record, write_store


def _config(store, out, **changes):
    small = {
        "encoder": "tu-cromss_narrow", "decoder_channels": (16, 16, 8, 8, 8), "crop": 32, "workers": 0, "steps": 2,
        "batch_size": 4, "pictures_every": 0, "log_every": 1, "threads": 1,
    }  # fmt: skip
    return PretrainConfig(data=str(store), out=str(out), **{**small, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": "single", "branches": 3}, ConfigError, "branches and sensors do not go together"),
        ({"precision": "16-mixed", "accelerator": "cpu"}, ConfigError, "16-mixed needs a GPU"),
        ({"batch_size": 64}, ConfigError, "lower batch_size"),
        ({"crop": 40}, ModelError, "multiples of 32"),
        ({"crop": 96}, ConfigError, "set crop to 64"),
        ({"s2_bands": "B2,B99"}, BandError, "B99"),
        ({"encoder": "resnet5O"}, ModelError, "resnet50"),
        ({"decoder_channels": (16, 8)}, ModelError, "channels"),
        ({"losses": ()}, CromssError, "loss"),
        ({"lr": -1.0}, ConfigError, "learning rate"),
        ({"flip": 1.5}, ArgumentError, "flip"),
        ({"final_ratio": 0.0}, ArgumentError, "ratio"),
        ({"steps": 0}, ConfigError, "steps is out of range"),
        ({"steps": None, "epochs": 0}, ConfigError, "epochs is out of range"),
        ({"batch_size": 0}, ConfigError, "batch_size is out of range"),
        ({"seed": -1}, ConfigError, "seed is out of range"),
        ({"threads": 0}, ConfigError, "threads is out of range"),
        ({"devices": 0}, ConfigError, "devices is out of range"),
        ({"workers": -1}, ConfigError, "workers is out of range"),
        ({"log_every": 0}, ConfigError, "log_every is out of range"),
        ({"validate_every": 0}, ConfigError, "validate_every is out of range"),
        ({"checkpoint_every": 0}, ConfigError, "checkpoint_every is out of range"),
        ({"keep_checkpoints": 0}, ConfigError, "keep_checkpoints is out of range"),
        ({"validation_share": -0.1}, ConfigError, "validation_share is out of range"),
        ({"consistency_weight": float("nan")}, ConfigError, "consistency_weight is out of range"),
        ({"weight_decay": -1.0}, ConfigError, "weight_decay"),
        ({"plateau_factor": 1.0}, ConfigError, "plateau_factor"),
        ({"schedule": "exponential", "exponential_gamma": 0.0}, ConfigError, "exponential_gamma"),
    ],
    ids=str,
)
def test_an_impossible_setting_is_refused_and_nothing_is_saved(toy_store, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        pretrain(_config(toy_store, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "final").exists()
    assert not (tmp_path / "run" / "checkpoints").exists() or error is not ConfigError


def test_auto_never_takes_a_device_that_cannot_add_up_scores(toy_store, tmp_path, monkeypatch):
    """Apple's GPU has no float64."""
    monkeypatch.setattr("lightning_fabric.accelerators.mps.MPSAccelerator.is_available", lambda: True)
    assert launch(_config(toy_store, tmp_path / "run")).device.type in {"cpu", "cuda"}


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="nowhere"):
        pretrain(_config(tmp_path / "nowhere", tmp_path / "run"))


def test_a_bad_pixel_leaves_no_trace_in_the_network(toy_store, tmp_path, monkeypatch):
    """The guard stands before the forward: not even a BatchNorm buffer has seen the batch."""
    networks = []
    build = pretraining.build_network

    def keep(spec):
        networks.append(build(spec))
        return networks[-1]

    class Spoiled:
        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            for batch in self.batches:
                batch["s1"][1, 0, 5, 5] = float("nan")
                yield batch

    setup = pretraining.Setup.training_batches
    monkeypatch.setattr(pretraining, "build_network", keep)
    monkeypatch.setattr(pretraining.Setup, "training_batches", lambda self, start: Spoiled(setup(self, start)))
    torch.manual_seed(0)
    with pytest.raises(NonFiniteError, match="toy-"):
        pretrain(_config(toy_store, tmp_path / "run", validation_share=0.0))
    counted = [value for name, value in networks[0].state_dict().items() if name.endswith("num_batches_tracked")]
    assert counted
    assert all(int(value) == 0 for value in counted)


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_mixed_precision_cancels_a_bad_step_too(spoil):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 3, 1))
    optimizer = build_optimizer("adam", network.parameters(), lr=0.1, weight_decay=0.0)
    network, optimizer = fabric.setup(network, optimizer)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss = network(torch.randn(2, 2, 8, 8)).float().square().mean() * (float("nan") if spoil == "loss" else 1.0)
    fabric.backward(loss)
    if spoil == "gradient":
        next(network.parameters()).grad[0, 0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="sample-0"):
        StepGuard(fabric, network, optimizer).step(loss, 0, ["sample-0"])
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_priors_on_the_device_need_equally_many_seasons_and_are_left_to_the_workers_unless_asked_for(tmp_path):
    records = [make_record(number, height=64, width=64, seasons=2 + number % 2) for number in range(8)]
    store = write_store(tmp_path / "store", records)
    with pytest.raises(ConfigError, match="equally many seasons") as caught:
        Setup(_config(store, tmp_path / "run", batch_size=2, prior_on="device"))
    assert "2, 3 seasons" in str(caught.value)
    assert Setup(_config(store, tmp_path / "run", batch_size=2), accelerated=True).prior_on == "worker"
    even = write_store(tmp_path / "even", records[::2])
    assert Setup(_config(even, tmp_path / "run", batch_size=2), accelerated=True).prior_on == "device"
    assert Setup(_config(even, tmp_path / "run", batch_size=2)).prior_on == "worker"
