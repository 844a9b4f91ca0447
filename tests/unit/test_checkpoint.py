"""Checkpoints: exact return of weights and training state, cards, names, pruning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cromss.errors import CheckpointError
from cromss.models.networks import NetworkSpec, SegmentationNetwork, build_network
from cromss.training.checkpoint import (
    TrainingState,
    find_checkpoint,
    latest_valid,
    load_card,
    load_network,
    load_training,
    load_weights,
    prune,
    random_state,
    save_checkpoint,
    set_random_state,
    step_name,
    verify_checkpoint,
)
from cromss.training.tree import flatten, unflatten

SPEC = NetworkSpec(
    inputs={"s2": 3},
    branches=("s2",),
    num_classes=4,
    encoder="tu-cromss_narrow",
    decoder="pspnet",
    decoder_channels=(16,),
)


@pytest.fixture
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(SPEC)


def trained(network: SegmentationNetwork) -> tuple[torch.optim.Optimizer, TrainingState]:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-8)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=30)
    for _ in range(2):
        optimizer.zero_grad()
        network({"s2": torch.rand(2, 3, 32, 32)})["s2"].square().mean().backward()
        optimizer.step()
    state = TrainingState(
        optimizer=optimizer.state_dict(),
        scheduler=schedule.state_dict(),
        progress={"step": 2, "epoch": 0, "best": 0.1 + 0.2, "history": [1, None, True]},
        random=random_state(),
    )
    return optimizer, state


def test_a_network_returns_bit_for_bit_and_in_evaluation_mode(network: SegmentationNetwork, tmp_path: Path) -> None:
    trained(network)
    save_checkpoint(tmp_path / "final", network=network, card={"epoch": 3})
    before = torch.get_rng_state()
    loaded, card = load_network(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert card["epoch"] == 3
    assert card["network"] == SPEC.to_dict()
    assert card["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert not loaded.training
    state, expected = loaded.state_dict(), network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_training_state_continues_as_if_it_had_never_stopped(network: SegmentationNetwork, tmp_path: Path) -> None:
    optimizer, state = trained(network)
    save_checkpoint(tmp_path / "a", network=network, card={}, training=state)

    def one_more(network: SegmentationNetwork, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        optimizer.zero_grad()
        network({"s2": torch.rand(2, 3, 32, 32)})["s2"].square().mean().backward()
        optimizer.step()
        return network.state_dict()

    expected = {name: value.clone() for name, value in one_more(network, optimizer).items()}
    other = build_network(SPEC)
    load_weights(tmp_path / "a", other)
    loaded = load_training(tmp_path / "a")
    fresh = torch.optim.Adam(other.parameters())
    fresh.load_state_dict(loaded.optimizer)
    set_random_state(loaded.random)
    got = one_more(other, fresh)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert loaded.progress == state.progress
    assert loaded.scheduler == state.scheduler
    assert loaded.scheduler is not None
    assert loaded.scheduler["best"] == math.inf


def test_a_nested_state_returns_with_its_types() -> None:
    state = {
        "a": (1, 2.5, [True, None, "x"]),
        "b": {0: {"t": torch.arange(3)}, 7: torch.tensor(2.0, dtype=torch.float64)},
        "c": [math.inf, -math.inf, 5e-324, 0.1],
        "d": {},
    }
    content, tensors = flatten(state)
    assert set(tensors) == {"b/0/t", "b/7"}
    back = unflatten(content, tensors)
    assert back["a"] == state["a"]
    assert back["c"] == state["c"]
    assert back["d"] == {}
    assert list(back["b"]) == [0, 7]
    assert torch.equal(back["b"][0]["t"], torch.arange(3))
    assert back["b"][7].dtype == torch.float64
    assert math.isnan(unflatten(*flatten({"x": math.nan}))["x"])


@pytest.mark.parametrize("value", [{1, 2}, object(), {"$tensor": 1}, {1: 2, "a": 3}, b"bytes", lambda: 0])
def test_a_state_that_is_no_plain_data_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="cannot be stored"):
        flatten({"key": value})


@pytest.mark.parametrize("content", [{"$tensor": "absent"}, {"$float": "1"}, {"$int_keys": {"x": 1}}, {"$call": "f"}])
def test_a_stored_state_with_unknown_marks_is_refused(content: object) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        unflatten({"key": content}, {})


def test_a_sound_checkpoint_is_not_overwritten_unless_asked(network: SegmentationNetwork, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", network=network, card={"epoch": 1})
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(tmp_path / "a", network=network, card={"epoch": 2})
    assert load_card(tmp_path / "a")["epoch"] == 1
    save_checkpoint(tmp_path / "a", network=network, card={"epoch": 2}, replace=True)
    assert load_card(tmp_path / "a")["epoch"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_damaged_checkpoint_is_replaced(
    network: SegmentationNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path / "a", network=network, card={"epoch": 1})
    (tmp_path / "a" / "card.json").write_text("{}")
    save_checkpoint(tmp_path / "a", network=network, card={"epoch": 2})
    assert load_card(tmp_path / "a")["epoch"] == 2
    assert "card.json" in caplog.text


@pytest.mark.parametrize("card", [{"score": math.nan}, {"x": object()}, {"network": {}}, {"format": "other/2"}])
def test_a_card_that_is_no_json_or_speaks_of_another_network_is_refused(
    network: SegmentationNetwork, tmp_path: Path, card: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "a", network=network, card=card)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(network: SegmentationNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        next(network.parameters())[0] = math.nan
    with pytest.raises(CheckpointError, match=r"not finite[\s\S]*conv1"):
        save_checkpoint(tmp_path / "a", network=network, card={})
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_listed_and_leave_it_unchanged(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a", network=network, card={})
    wider = build_network(NetworkSpec.from_dict({**SPEC.to_dict(), "num_classes": 5, "decoder_channels": [24]}))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"other shape[\s\S]*and 2 more") as caught:
        load_weights(tmp_path / "a", wider)
    assert "decoder.conv.0.weight: (16, 80, 1, 1), not (24, 80, 1, 1)" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())


def test_a_checkpoint_without_training_state_says_so(network: SegmentationNetwork, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", network=network, card={})
    with pytest.raises(CheckpointError, match="no training state"):
        load_training(tmp_path / "a")


def test_a_run_folder_means_its_final_checkpoint_else_the_newest_sound_step(
    network: SegmentationNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint(tmp_path / "absent")
    steps = {step: tmp_path / "checkpoints" / step_name(step) for step in (2, 10, 100)}
    for step, folder in steps.items():
        save_checkpoint(folder, network=network, card={"step": step})
    assert find_checkpoint(tmp_path) == steps[100]
    (steps[100] / "weights.safetensors").write_bytes(b"")
    assert latest_valid(tmp_path) == latest_valid(tmp_path / "checkpoints") == steps[10]
    assert str(steps[100] / "weights.safetensors") in caplog.text
    save_checkpoint(tmp_path / "final", network=network, card={"step": 7})
    assert load_card(tmp_path)["step"] == 7


def test_the_folder_of_a_transferred_run_means_its_network_and_that_of_all_runs_names_one(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "draw-0.seed-0"
    save_checkpoint(run / "network", network=network, card={"step": 3})
    assert find_checkpoint(run) == run / "network"
    with pytest.raises(CheckpointError, match="no checkpoint here") as caught:
        find_checkpoint(tmp_path)
    assert str(run) in caught.value.do


def test_pruning_keeps_the_newest_sound_ones_and_never_deletes_the_only_one(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    steps = [tmp_path / "checkpoints" / step_name(step) for step in range(5)]
    for folder in steps:
        save_checkpoint(folder, network=network, card={})
    for damaged in (steps[4], steps[3]):
        (damaged / "manifest.json").write_text("")
    assert prune(tmp_path, 2) == [steps[0]]
    assert latest_valid(tmp_path) == steps[2]
    (steps[2] / "card.json").unlink()
    assert prune(tmp_path, 2) == []
    assert prune(tmp_path, 1) == []
    assert find_checkpoint(tmp_path) == steps[1]
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == [f.name for f in steps[1:]]
    with pytest.raises(CheckpointError, match="at least one"):
        prune(tmp_path, 0)


def test_verifying_names_the_file_and_gives_the_sizes(network: SegmentationNetwork, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", network=network, card={})
    sizes = verify_checkpoint(tmp_path / "a")
    assert sizes == {name: (tmp_path / "a" / name).stat().st_size for name in ("card.json", "weights.safetensors")}
    (tmp_path / "a" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no such file[\s\S]*weights.safetensors") as caught:
        verify_checkpoint(tmp_path / "a")
    assert "another checkpoint of the run" in caught.value.do
