"""A recipe for every archive of patches: it prepares an archive of that layout, and the store takes a training step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from archive_patches import (
    write_bigearthnet,
    write_dfc2020,
    write_dfc2020_lmdb,
    write_pretraining_lmdb,
    write_sen12ms,
)
from cromss.cli import main, read_config
from cromss.config import TransferConfig, from_mapping
from cromss.data.sources.patch_layouts import PATCH_LAYOUTS
from cromss.data.store import verify_store
from cromss.training.pretrain import pretrain
from cromss.training.transfer import transfer

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = ("dfc2020", "dfc2020-lmdb", "cromss-lmdb", "sen12ms", "bigearthnet")
SMALL = {
    "crop": 64, "batch_size": 2, "workers": 0, "steps": 1, "accelerator": "cpu", "devices": 1, "precision": "32-true",
}  # fmt: skip


def prepared(name, root, store, *flags):
    """Run the recipe as a user would; return its exit code."""
    path = str(RECIPES / f"prepare-{name}.yaml")
    code = main(["prepare", "--config", path, "--root", str(root), "--out", str(store), *flags])
    verify_store(store)
    return code


def pretrained(store, run, **changes):
    config = read_config(["pretrain", "--config", str(RECIPES / "paper-late-13bands.yaml")])
    changes = {**SMALL, "validation_share": 0.34, "data": str(store), "out": str(run), **changes}
    return pretrain(dataclasses.replace(config, **changes))["step"]


def transferred(store, run):
    settings = yaml.safe_load((RECIPES / "paper-transfer-dfc2020.yaml").read_text())
    changes = {"init": "random", "checkpoint": None, "data": str(store), "out": str(run), "seeds": [0], "bands": "13"}
    return transfer(from_mapping(TransferConfig, {**settings, **SMALL, **changes}))["runs"]


def test_there_is_a_recipe_for_every_layout_of_patches():
    recipes = {name: yaml.safe_load((RECIPES / f"prepare-{name}.yaml").read_text()) for name in NAMES}
    assert {recipe["layout"] for recipe in recipes.values()} == set(PATCH_LAYOUTS)


def test_their_stores_are_where_the_papers_recipes_look_for_them():
    for stem, recipe in (
        ("prepare-dfc2020", "paper-transfer-dfc2020"),
        ("prepare-dfc2020-lmdb", "paper-transfer-dfc2020"),
        ("prepare-cromss-lmdb", "paper-late-13bands"),
    ):
        out = yaml.safe_load((RECIPES / f"{stem}.yaml").read_text())["out"]
        assert yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["data"] == out


@pytest.mark.slow
@pytest.mark.parametrize("style", ["authors", "published"])
def test_dfc2020_takes_a_step_of_transfer(style, tmp_path, capsys):
    write_dfc2020(tmp_path / "in", style=style, validation=3, test=1, side=256)
    assert prepared("dfc2020", tmp_path / "in", tmp_path / "store") == 0
    assert "4 places, 4 samples from 4 scenes" in capsys.readouterr().out
    (run,) = transferred(tmp_path / "store", tmp_path / "run")
    assert 0.0 <= run["scores"]["oa"] <= 1.0


@pytest.mark.slow
def test_the_authors_lmdbs_of_dfc2020_take_a_step_of_transfer(tmp_path):
    pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")
    write_dfc2020_lmdb(tmp_path / "in", validation=3, test=1, side=256)
    assert prepared("dfc2020-lmdb", tmp_path / "in", tmp_path / "store") == 0
    (run,) = transferred(tmp_path / "store", tmp_path / "run")
    assert 0.0 <= run["scores"]["oa"] <= 1.0


@pytest.mark.slow
def test_the_authors_lmdbs_take_a_step_of_pretraining(tmp_path):
    pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")
    write_pretraining_lmdb(tmp_path / "in", ids=range(4), side=264)
    assert prepared("cromss-lmdb", tmp_path / "in", tmp_path / "store") == 0
    assert pretrained(tmp_path / "store", tmp_path / "run") == 1


@pytest.mark.slow
def test_sen12ms_takes_a_step_of_pretraining(tmp_path):
    scenes = [*(("ROIs1158_spring", number, 1) for number in range(1, 9)), ("ROIs2017_winter", 146, 1)]
    write_sen12ms(tmp_path / "in", side=256, scenes=scenes)
    assert prepared("sen12ms", tmp_path / "in", tmp_path / "store", "--validation_share", "0.3") == 0
    assert pretrained(tmp_path / "store", tmp_path / "run") == 1


@pytest.mark.slow
def test_bigearthnet_takes_a_step_of_pretraining_in_12_bands(tmp_path):
    write_bigearthnet(tmp_path / "in", side=120)
    assert prepared("bigearthnet", tmp_path / "in", tmp_path / "store") == 0
    assert pretrained(tmp_path / "store", tmp_path / "run", s2_bands="12") == 1
