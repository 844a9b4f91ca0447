"""Saving a run, and all that it needs to go on as if it had never stopped.

In: a network, its card and, to resume, a TrainingState. Out: a folder as drawn in cromss.models.saved, which appears
under its name only when it is whole and durable (see cromss.files). Optimizer and random state return bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cromss.errors import CheckpointError
from cromss.files import remove_folder
from cromss.models.networks import SegmentationNetwork
from cromss.models.saved import (
    FORMAT,
    TRAINING_TENSORS,
    TRAINING_TREE,
    find_checkpoint,
    is_sound,
    latest_valid,
    load_card,
    load_network,
    load_weights,
    read_json_table,
    read_tensors,
    save_network,
    steps_of,
    verify_checkpoint,
    write_json_bytes,
)
from cromss.training.tree import flatten, unflatten

__all__ = [
    "FORMAT",
    "TrainingState",
    "find_checkpoint",
    "latest_valid",
    "load_card",
    "load_network",
    "load_training",
    "load_weights",
    "prune",
    "random_state",
    "save_checkpoint",
    "set_random_state",
    "step_name",
    "steps_of",
    "verify_checkpoint",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a run needs to go on as if it had never stopped, besides the weights.

    optimizer, scheduler: their state_dict().   progress: plain values (step, epoch, ...).   random: `random_state()`.
    """

    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    progress: dict[str, Any]
    random: dict[str, Any]


def random_state() -> dict[str, Any]:
    """The state of torch's global generators, on the CPU and on each CUDA device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put torch's global generators back to a `random_state()`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def step_name(step: int) -> str:
    """The folder name of the checkpoint after `step` steps: step-00001200."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: str | Path,
    *,
    network: SegmentationNetwork,
    card: Mapping[str, Any],
    training: TrainingState | None = None,
    replace: bool = False,
) -> None:
    """Write a checkpoint folder, durably and whole; `format`, `network` and `versions` of the card are filled in.

    A damaged folder of that name is replaced; a sound one only if `replace`. Raises CheckpointError if it exists, if a
    weight is not finite, if card or training state hold what cannot be stored, or if writing fails; nothing half
    written is left then, and sound checkpoints stay.
    """
    more = None if training is None else functools.partial(_write_training, training)
    save_network(folder, network=network, card=card, replace=replace, more=more)


def _write_training(training: TrainingState, folder: Path) -> None:
    state = {field.name: getattr(training, field.name) for field in dataclasses.fields(training)}
    tree, tensors = flatten(state)
    save_file(tensors, folder / TRAINING_TENSORS)
    write_json_bytes(folder / TRAINING_TREE, tree)


def load_training(checkpoint: str | Path) -> TrainingState:
    """The training state of a checkpoint or run folder, exactly as it was saved. Raises CheckpointError if none is."""
    folder = find_checkpoint(checkpoint)
    if TRAINING_TREE not in verify_checkpoint(folder):
        raise CheckpointError("this checkpoint has no training state", where=folder, do="resume from a step-... folder")
    state = unflatten(read_json_table(folder / TRAINING_TREE), read_tensors(folder / TRAINING_TENSORS))
    names = {field.name for field in dataclasses.fields(TrainingState)}
    if set(state) != names:
        raise CheckpointError("unknown training state", got=sorted(state), expected=sorted(names), where=folder)
    return TrainingState(**state)


def prune(run_folder: str | Path, keep: int) -> list[Path]:
    """Delete all step checkpoints older than the `keep` newest sound ones; return the folders deleted.

    Nothing is deleted before `keep` sound ones are found, so the only sound one always stays.
    """
    if keep < 1:
        raise CheckpointError("at least one checkpoint must be kept", got=keep, expected="1 or more")
    steps = steps_of(run_folder)
    found = 0
    for position, folder in enumerate(steps):
        found += is_sound(folder)
        if found == keep:
            old = steps[position + 1 :]
            try:
                for stale in old:
                    remove_folder(stale)
            except OSError as error:
                raise CheckpointError("an old checkpoint could not be deleted", got=error, where=stale) from error
            return old
    return []
