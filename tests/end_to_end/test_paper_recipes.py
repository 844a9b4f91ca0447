"""The paper's recipes are complete: each takes one step on small data, with only size and machine changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from cromss.cli import read_config
from cromss.config import PretrainConfig, TransferConfig, from_mapping
from cromss.training.checkpoint import load_card
from cromss.training.pretrain import pretrain
from cromss.training.transfer import transfer

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PRETRAININGS = sorted(RECIPES.glob("paper-[ml]*.yaml"))
TRANSFERS = sorted(RECIPES.glob("paper-transfer-*.yaml"))
SMALL = {
    "crop": 64, "batch_size": 2, "workers": 0, "steps": 1, "accelerator": "cpu", "devices": 1, "precision": "32-true",
}  # fmt: skip

PAPER = {
    "encoder": "resnet50", "decoder_channels": (256, 128, 64, 32, 16), "crop": 256, "flip": 0.5, "rotate": 0.2,
    "prior": "ts",
    "prior_weight": 0.15, "uniform_weight": 0.05, "sigma": 3.0, "losses": ("ce", "dice"), "confidence": "entropy",
    "ramp": "exp", "ramp_epochs": 80, "final_ratio": 0.5, "class_balanced": True, "consistency": "ce",
    "consistency_weight": 1.0, "optimizer": "adam", "lr": 5e-3, "weight_decay": 1e-8, "schedule": "plateau",
    "plateau_factor": 0.5, "plateau_patience": 30, "epochs": 200, "batch_size": 128, "validation_share": 0.01,
    "precision": "16-mixed", "normalization": "paper", "dice": "paper",
}  # fmt: skip


def _read(command, path):
    return read_config([command, "--config", str(path)])


@pytest.mark.parametrize("path", PRETRAININGS, ids=lambda path: path.stem)
def test_a_pretraining_recipe_holds_the_papers_settings(path):
    config = _read("pretrain", path)
    assert {name: getattr(config, name) for name in PAPER} == PAPER
    assert config.fusion == ("middle" if "-mid-" in path.stem else "late")
    assert config.s2_bands == ("13" if "13bands" in path.stem else "9")


def test_the_defaults_are_the_papers():
    config = PretrainConfig(data="a", out="b")
    assert {name: getattr(config, name) for name in PAPER if name != "precision"} == {
        name: value for name, value in PAPER.items() if name != "precision"
    }


@pytest.mark.parametrize("path", [*PRETRAININGS, *TRANSFERS], ids=lambda path: path.stem)
def test_a_recipe_states_command_cost_and_score(path):
    head = path.read_text().split("\ndata:")[0]
    assert all(f"# {word} " in head for word in ("Command", "Cost", "Score"))
    assert f"recipes/{path.name}" in head


@pytest.mark.slow
@pytest.mark.parametrize("path", PRETRAININGS, ids=lambda path: path.stem)
def test_a_pretraining_recipe_takes_a_step(path, toy_store, tmp_path):
    config = dataclasses.replace(_read("pretrain", path), data=str(toy_store), out=str(tmp_path / "run"), **SMALL)
    assert pretrain(config)["step"] == 1
    assert load_card(tmp_path / "run")["network"]["encoder"] == "resnet50"


@pytest.mark.slow
@pytest.mark.parametrize("path", TRANSFERS, ids=lambda path: path.stem)
def test_a_transfer_recipe_takes_a_step(path, toy_store, tmp_path):
    settings = yaml.safe_load(path.read_text())
    changes = {"init": "random", "checkpoint": None, "data": str(toy_store), "out": str(tmp_path / "run"), "seeds": [0]}
    config = from_mapping(TransferConfig, {**settings, **SMALL, **changes, "bands": "13"})
    runs = transfer(config)["runs"]
    assert len(runs) == 1
    assert 0.0 <= runs[0]["scores"]["oa"] <= 1.0
