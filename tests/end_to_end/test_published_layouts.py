"""A recipe for every published layout: it prepares an archive of that layout, and the store takes a training step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import yaml

from cromss.cli import main, read_config
from cromss.config import Layout, PretrainConfig, TransferConfig, from_mapping
from cromss.data.prepare import prepare
from cromss.data.store import verify_store
from cromss.errors import CromssError
from cromss.training.pretrain import pretrain
from cromss.training.transfer import transfer
from published_archives import write_expert, write_nol, write_ssl4eo, write_v11, write_v11_tar, zip_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PREPARE = sorted(RECIPES.glob("prepare-*.yaml"))
SMALL = {
    "crop": 64, "batch_size": 2, "workers": 0, "steps": 1, "accelerator": "cpu", "devices": 1, "precision": "32-true",
}  # fmt: skip


def prepared(name, root, tmp_path, **changes):
    config = read_config(["prepare", "--config", str(RECIPES / f"prepare-{name}.yaml")])
    config = dataclasses.replace(config, root=str(root), out=str(tmp_path / "store"), **changes)
    report = prepare(config)
    verify_store(tmp_path / "store")
    return report


def transferred(task, tmp_path):
    settings = yaml.safe_load((RECIPES / f"paper-transfer-{task}.yaml").read_text())
    place = {"data": str(tmp_path / "store"), "out": str(tmp_path / "run"), "checkpoint": None}
    changes = {**place, "init": "random", "seeds": [0], "bands": "13"}
    return transfer(from_mapping(TransferConfig, {**settings, **SMALL, **changes}))["runs"]


def test_there_is_a_recipe_for_every_published_layout():
    layouts = {yaml.safe_load(path.read_text())["layout"] for path in PREPARE}
    assert layouts == set(get_args(Layout)) - {"geotiff_folders", "stac", "cube"}  # these hold somebody's own


@pytest.mark.parametrize("path", PREPARE, ids=lambda path: path.stem)
def test_a_recipe_states_command_source_and_cost_and_holds_known_settings(path):
    head = path.read_text().split("\nlayout:")[0]
    assert all(f"# {word} " in head for word in ("Command", "Source", "Cost"))
    assert f"recipes/{path.name}" in head
    assert read_config(["prepare", "--config", str(path)]).layout != "geotiff_folders"


def test_the_stores_are_where_the_papers_recipes_look_for_them():
    outs = {path.stem: yaml.safe_load(path.read_text())["out"] for path in PREPARE}
    for stem, recipe in (
        ("prepare-noldo-nol", "paper-late-13bands"),
        ("prepare-noldo-dw", "paper-transfer-dw"),
        ("prepare-noldo-osm", "paper-transfer-osm"),
    ):
        assert yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["data"] == outs[stem]


@pytest.mark.slow
def test_noisy_labels_from_their_zip_take_a_step_of_pretraining(tmp_path):
    ids = write_ssl4eo(tmp_path / "in", places=3)
    write_nol(tmp_path / "labels", ids)
    zip_folder(tmp_path / "labels", tmp_path / "in" / "ssl4eo_s12_nol.zip")
    report = prepared("noldo-nol", tmp_path / "in", tmp_path)
    assert (report["places"], report["samples"]) == (3, 12)
    config = read_config(["pretrain", "--config", str(RECIPES / "paper-late-13bands.yaml")])
    changes = {**SMALL, "validation_share": 0.34, "data": str(tmp_path / "store"), "out": str(tmp_path / "run")}
    assert pretrain(dataclasses.replace(config, **changes))["step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dw", "osm"])
def test_expert_tiles_of_the_published_sizes_take_a_step_of_transfer(task, tmp_path):
    write_expert(tmp_path / "in", task, train=2, test=1, sides=(510, 512))
    zip_folder(tmp_path / "in", tmp_path / f"ssl4eo_s12_{task}.zip")
    report = prepared(f"noldo-{task}", tmp_path / f"ssl4eo_s12_{task}.zip", tmp_path)
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 2, "test": 1}
    (run,) = transferred(task, tmp_path)
    assert 0.0 <= run["scores"]["oa"] <= 1.0


IMAGES_ALONE = [("ssl4eo-s12", ""), ("ssl4eo-s12-v1_1", "zarr"), ("ssl4eo-s12-v1_1", "tar")]


def write_images(name, edition, tmp_path):
    if name == "ssl4eo-s12":
        write_ssl4eo(tmp_path / "in", places=4, seasons=1)
    else:
        pytest.importorskip("zarr", reason="needs the package zarr: pip install 'cromss[zarr]'")
        {"zarr": write_v11, "tar": write_v11_tar}[edition](tmp_path / "in", tmp_path / "scratch")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edition"), IMAGES_ALONE)
def test_images_without_labels_are_prepared_and_refused_by_training_with_a_reason(name, edition, tmp_path):
    write_images(name, edition, tmp_path)
    assert prepared(name, tmp_path / "in", tmp_path)["places"] == 4
    with pytest.raises(CromssError, match="labels"):
        pretrain(from_mapping(PretrainConfig, {**SMALL, "data": str(tmp_path / "store"), "out": str(tmp_path / "run")}))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edition"), IMAGES_ALONE)
def test_images_alone_with_the_labels_of_the_rules_take_a_step_of_pretraining(name, edition, tmp_path):
    write_images(name, edition, tmp_path)
    report = prepared(name, tmp_path / "in", tmp_path, label_rules=True)
    assert report["changed"]["s2 images labelled by spectral rules"] == report["samples"]
    config = read_config(["pretrain", "--config", str(RECIPES / "paper-late-13bands.yaml")])
    changes = {**SMALL, "validation_share": 0.34, "data": str(tmp_path / "store"), "out": str(tmp_path / "run")}
    assert pretrain(dataclasses.replace(config, **changes))["step"] == 1


@pytest.mark.slow
def test_the_command_says_what_it_read_and_what_it_changed(tmp_path, capsys):
    write_ssl4eo(tmp_path / "in", places=1, seasons=2)
    path, out = str(RECIPES / "prepare-ssl4eo-s12.yaml"), str(tmp_path / "store")
    assert main(["prepare", "--config", path, "--root", str(tmp_path / "in"), "--out", out]) == 0
    said = capsys.readouterr().out
    assert "1 places, 2 samples" in said
    assert "12 s2 band images of 20 m resampled to 10 m (cubic)" in said
    assert "no labels" in said
