"""A transfer starts where it says, trains what its mode says, and scores every test pixel once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cromss.config import EvaluateConfig, TransferConfig
from cromss.data.store import Store
from cromss.errors import (
    BandError,
    CheckpointError,
    ConfigError,
    CromssError,
    MissingDataError,
    ModelError,
    ResumeError,
)
from cromss.files import read_json
from cromss.geo.bands import published_normalization
from cromss.geo.legends import get_legend
from cromss.models.networks import NetworkSpec, build_network
from cromss.models.weights import load_encoder
from cromss.training.checkpoint import load_card, load_network, save_checkpoint
from cromss.training.evaluate import evaluate
from cromss.training.scoresheet import markdown_table
from cromss.training.starting_point import TransferNetwork, find_start
from cromss.training.transfer import draw_places, transfer

ENCODER = "tu-cromss_narrow"
CHANNELS = (16, 16, 8, 8, 8)


def save_network(folder, *, s2_bands="13", kind="paper", legend="dynamic_world", encoder=ENCODER, **card):
    """A checkpoint of two untrained branches, as a pretraining would leave it."""
    torch.manual_seed(7)
    scaling = {"s1": published_normalization("s1", "all", kind), "s2": published_normalization("s2", s2_bands, kind)}
    classes = get_legend(legend).num_classes
    spec = NetworkSpec(
        inputs={sensor: len(value.bands) for sensor, value in scaling.items()},
        branches=("s1", "s2"),
        num_classes=classes,
        encoder=encoder,
        decoder_channels=CHANNELS,
    )
    content = {
        "network": spec.to_dict(),
        "inputs": {sensor: value.to_dict() for sensor, value in scaling.items()},
        "legend": get_legend(legend).to_dict(),
        "recipe": {},
        "data": {"path": "nowhere", "fingerprint": "0" * 64},
        "scores": {},
        "step": 1,
        "epoch": 0,
        **card,
    }
    save_checkpoint(folder, network=build_network(spec), card=content)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("pretrained") / "final")


SPEC = NetworkSpec(inputs={"s2": 3}, branches=("s2",), num_classes=2, encoder=ENCODER, decoder_channels=CHANNELS)


def settings(store, checkpoint, out, **more):
    return TransferConfig(
        data=str(store),
        out=str(out),
        checkpoint=str(checkpoint),
        decoder_channels=CHANNELS,
        mode="frozen",
        **{"steps": 2, "batch_size": 3, "crop": 32, "accelerator": "cpu", **more},
    )


def change(config, **changes):
    return dataclasses.replace(config, **changes)


@pytest.fixture
def config(toy_store, checkpoint, tmp_path):
    return settings(toy_store, checkpoint, tmp_path / "out")


@pytest.fixture(scope="module")
def done(toy_store, checkpoint, tmp_path_factory):
    """Four finished runs, two draws of four tiles with two seeds, which the tests below look at."""
    config = settings(toy_store, checkpoint, tmp_path_factory.mktemp("done"), train_tiles=4, draws=2, seeds=(0, 1))
    return config, transfer(config)


@pytest.mark.parametrize(
    ("mode", "weights_stay", "statistics_stay"),
    [("frozen", True, True), ("frozen_adapt", True, False), ("fine_tuned", False, False)],
)
def test_each_mode_keeps_just_what_it_says_of_the_encoder(mode, weights_stay, statistics_stay):
    torch.manual_seed(0)
    network = TransferNetwork(build_network(SPEC), mode).train()
    encoder = network.network.encoders["s2"]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad], lr=0.1)
    network({"s2": torch.rand(2, 3, 32, 32)})["s2"].square().mean().backward()
    optimizer.step()
    after = encoder.state_dict()
    statistics = [name for name in before if "running_" in name]
    weights = [name for name in before if before[name].is_floating_point() and name not in statistics]
    assert all(torch.equal(before[name], after[name]) for name in weights) is weights_stay
    assert all(torch.equal(before[name], after[name]) for name in statistics) is statistics_stay


def test_the_encoder_of_a_frozen_run_is_saved_as_it_was_loaded(done, checkpoint):
    config, _ = done
    saved, _ = load_network(Path(config.out, "runs/draw-1.seed-1/network"))
    before, after = load_encoder(checkpoint, "s2").state_dict, saved.encoders["s2"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_frozen_encoder_builds_no_graph():
    network = TransferNetwork(build_network(SPEC), "frozen").train()
    features = network.network.encoders["s2"](torch.rand(2, 3, 32, 32))
    assert not any(feature.requires_grad for feature in features)
    assert network({"s2": torch.rand(2, 3, 32, 32)})["s2"].requires_grad


def test_every_test_pixel_with_a_label_is_counted_once_including_the_last_partial_batch(done, toy_store):
    _, result = done
    store = Store.open(toy_store)
    labels = np.stack([store.read_labels(int(place)) for place in store.select("test")])
    # the runs take three images at a time, so that the last batch has two
    assert len(labels.reshape(-1, 64, 64)) % 3 == 2
    assert 0 < (labels != 255).sum() < labels.size
    for run in result["runs"]:
        assert run["scores"]["pixels"] == (labels != 255).sum() == np.sum(run["scores"]["matrix"])


def test_transfer_and_evaluation_end_with_the_scores_and_the_place_of_the_table(done, toy_store, tmp_path, capsys):
    config, result = done
    transfer(config)
    said = capsys.readouterr().err
    assert f"draw 0 seed 0: OA {100 * result['runs'][0]['scores']['oa']:.1f}" in said
    assert str(Path(config.out) / "table.md") in said
    run = Path(config.out, "runs/draw-0.seed-0")
    evaluate(EvaluateConfig(checkpoint=str(run), data=str(toy_store), out=str(tmp_path)))
    said = capsys.readouterr().err
    assert "s2: OA " in said
    assert str(tmp_path / "table.md") in said


def test_evaluating_the_saved_network_in_other_batches_gives_the_same_scores(done, toy_store, tmp_path):
    config, result = done
    network = Path(config.out, "runs/draw-0.seed-0/network")
    for size in (1, 8):
        found = evaluate(
            EvaluateConfig(checkpoint=str(network), data=str(toy_store), out=str(tmp_path / str(size)), batch_size=size)
        )
        assert found["scores"]["s2"] == result["runs"][0]["scores"]


def test_the_same_seed_gives_the_same_scores_and_another_seed_others(done, tmp_path):
    config, result = done
    again = transfer(change(config, seeds=(0,), draws=1, out=str(tmp_path)))
    assert again["runs"] == result["runs"][:1]
    assert result["runs"][0]["scores"] != result["runs"][1]["scores"]
    values = [run["scores"]["miou"] for run in result["runs"]]
    assert result["summary"]["miou"]["mean"] == pytest.approx(np.mean(values))
    assert result["summary"]["miou"]["std"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.slow
def test_finished_runs_are_kept_and_new_seeds_join_them(done, tmp_path):
    config, result = done
    shutil.copytree(config.out, tmp_path / "copy")
    log = Path(config.out, "runs/draw-0.seed-1/log.jsonl")
    more = transfer(change(config, seeds=(1, 2), draws=1, out=str(tmp_path / "copy")))
    assert more["runs"][0] == result["runs"][1]
    assert more["runs"][1]["seed"] == 2
    assert (tmp_path / "copy/runs/draw-0.seed-1/log.jsonl").stat().st_mtime == log.stat().st_mtime


def test_results_of_other_settings_are_refused_with_the_difference(done):
    config, _ = done
    with pytest.raises(ResumeError, match=r"0\.0005") as caught:
        transfer(change(config, lr=1e-3))
    assert "0.001" in str(caught.value)


def test_runs_are_known_by_the_weights_they_start_from_not_by_the_path(done, checkpoint, tmp_path):
    config, result = done
    for name in ("runs", "moved"):
        shutil.copytree(config.out, tmp_path / name)
    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, moved)
    again = transfer(change(config, checkpoint=str(moved), out=str(tmp_path / "moved")))
    assert again["runs"] == result["runs"]
    other, card = load_network(checkpoint)
    torch.nn.init.zeros_(next(other.encoders["s2"].parameters()))
    save_checkpoint(moved, network=other, card=card, replace=True)
    with pytest.raises(ResumeError, match="encoder weights"):
        transfer(change(config, checkpoint=str(moved), out=str(tmp_path / "runs")))


def test_results_are_written_for_machines_and_people(done):
    out = Path(done[0].out)
    lines = (out / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("run,class,oa,aa,miou,mf1,iou")
    assert len(lines) == 1 + 4 * (1 + 9)
    table = (out / "table.md").read_text()
    assert "| 4 runs |" in table
    assert "±" in table
    assert "| water |" in table
    card = load_card(out / "runs/draw-1.seed-1/network")
    assert card["scores"]["oa"] is not None
    assert card["recipe"]["draw"] == 1


def test_few_shots_are_drawn_by_the_draw_alone_and_a_smaller_draw_lies_within_a_larger():
    places = np.arange(100, 160)
    small, large = draw_places(places, 16, 3), draw_places(places, 40, 3)
    assert len(set(small)) == 16
    assert set(small) <= set(large) <= set(places)
    assert set(draw_places(places, 16, 4)) != set(small)
    assert np.array_equal(draw_places(places, None, 3), places)
    with pytest.raises(ConfigError, match="train_tiles"):
        draw_places(places, 61, 0)


def test_bands_and_scaling_come_from_the_checkpoint(config, tmp_path):
    folder = save_network(tmp_path / "nine", s2_bands="9", kind="standard")
    start = find_start(change(config, checkpoint=str(folder)), Store.open(config.data))
    assert start.normalization == published_normalization("s2", "9", "standard")
    assert start.encoder == ENCODER


def test_a_setting_that_contradicts_the_checkpoint_is_refused(config):
    store = Store.open(config.data)
    with pytest.raises(ConfigError, match="contradicts the scaling"):
        find_start(change(config, normalization="standard"), store)
    with pytest.raises(ConfigError, match="do not go together"):
        find_start(change(config, init="random"), store)
    with pytest.raises(ConfigError, match="do not go together"):
        find_start(change(config, checkpoint=None), store)


def test_bands_that_encoder_and_data_do_not_share_follow_the_named_policy(config, tmp_path):
    store = Store.open(config.data)
    nine = save_network(tmp_path / "nine", s2_bands="9")
    with pytest.raises(BandError):
        find_start(change(config, bands="12"), store)
    fewer = find_start(change(config, bands="12", missing_bands="zero"), store)
    assert "B10" not in fewer.normalization.bands
    with pytest.raises(BandError):
        find_start(change(config, checkpoint=str(nine), bands="10"), store)
    more = find_start(change(config, checkpoint=str(nine), bands="10", extra_bands="mean"), store)
    assert more.normalization.bands == published_normalization("s2", "10").bands
    assert more.normalization == published_normalization("s2", "10")


def test_random_needs_no_checkpoint_and_pairs_its_decoder_with_that_of_a_pretrained_run(config):
    from cromss.training.transfer import _Run  # the network as it stands before the first step

    def decoder(config):
        store = Store.open(config.data)
        run = _Run(
            config=config, fabric=None, store=store, start=find_start(config, store),
            train_places=np.arange(8), test_places=np.arange(8), draw=0, seed=5, identity={},
        )  # fmt: skip
        torch.manual_seed(run.seed)
        return run._build().decoders["s2"].state_dict()

    untrained = decoder(change(config, init="random", checkpoint=None, encoder=ENCODER))
    pretrained = decoder(config)
    assert all(torch.equal(untrained[name], pretrained[name]) for name in untrained)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["unet", "pspnet", "deeplabv3plus", "fpn", "upernet"])
def test_every_decoder_takes_a_pretrained_encoder(config, decoder):
    channels = CHANNELS if decoder == "unet" else None
    result = transfer(change(config, decoder=decoder, decoder_channels=channels, steps=1, save_networks=False))
    assert result["runs"][0]["scores"]["oa"] is not None


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seeds": ()}, ConfigError),
        ({"seeds": (1, 1)}, ConfigError),
        ({"draws": 2}, ConfigError),
        ({"losses": ("dise",)}, ConfigError),
        ({"schedule_share": 0.0}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"steps": 0}, ConfigError),
        ({"steps": None, "epochs": 0}, ConfigError),
        ({"seeds": (-1,)}, ConfigError),
        ({"threads": 0}, ConfigError),
        ({"losses": ("ce", "ce")}, ConfigError),
        ({"batch_size": 13}, ConfigError),
        ({"train_tiles": 13}, ConfigError),
        ({"crop": 40}, ModelError),
        ({"checkpoint": "nowhere"}, CromssError),
        ({"data": "nowhere"}, MissingDataError),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(config, wrong, error):
    untrained = change(config, init="random", checkpoint=None, encoder=ENCODER)
    with pytest.raises(error):
        transfer(change(config if "checkpoint" in wrong else untrained, **wrong))


def test_evaluation_scores_every_branch_the_mean_and_the_noisy_labels(toy_store, checkpoint, tmp_path):
    content = evaluate(
        EvaluateConfig(
            checkpoint=str(checkpoint), data=str(toy_store), out=str(tmp_path), split="validation", label_source="truth"
        )
    )
    assert set(content["scores"]) == {"s1", "s2", "mean"}
    store = Store.open(toy_store)
    labels, truth = (
        np.stack([store.read_labels(int(place), kind) for place in store.select("validation")])
        for kind in ("labels", "truth")
    )
    known = labels != 255
    assert content["summary"]["label_accuracy"] == pytest.approx((labels == truth)[known].mean())
    assert content["scores"]["s2"]["pixels"] == truth.size
    assert content["summary"]["s2_truth_oa"] == content["scores"]["s2"]["oa"]
    assert 0 <= content["label_quality"]["s2"]["auroc"] <= 1
    assert (tmp_path / "table.md").exists()
    assert read_json(tmp_path / "scores.json") == content


def test_a_checkpoint_of_other_classes_is_not_scored(toy_store, tmp_path):
    folder = save_network(tmp_path / "water", legend="water")
    with pytest.raises(CheckpointError, match="other classes"):
        evaluate(EvaluateConfig(checkpoint=str(folder), data=str(toy_store), out=str(tmp_path / "out")))


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"threads": 0}], ids=str)
def test_an_evaluation_with_impossible_settings_is_refused(toy_store, checkpoint, tmp_path, changes):
    with pytest.raises(ConfigError, match="out of range"):
        evaluate(EvaluateConfig(checkpoint=str(checkpoint), data=str(toy_store), out=str(tmp_path), **changes))


def test_without_a_test_split_nothing_is_trained_or_scored(toy_store, checkpoint, config, tmp_path, monkeypatch):
    select = Store.select
    monkeypatch.setattr(Store, "select", lambda self, split: select(self, split)[: 0 if split == "test" else None])
    with pytest.raises(MissingDataError, match="no test places"):
        transfer(config)
    with pytest.raises(MissingDataError, match="no test places"):
        evaluate(EvaluateConfig(checkpoint=str(checkpoint), data=str(toy_store), out=str(tmp_path / "scores")))


def test_a_class_name_with_a_bar_does_not_break_a_table():
    assert list(markdown_table(["a|b"], [["c\nd"]])) == ["| a\\|b |", "| --- |", "| c d |"]
