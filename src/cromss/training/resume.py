"""Continuing a run: what may differ from the run found in the folder, and putting everything back bit for bit.

In: the settings of now and the folder of then. Out: a checkpoint to continue from, a finished result, or a refusal
that lists every difference. Settings that cannot change a single weight (paths, logging, workers) may always differ.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cromss.config import PretrainConfig, to_mapping
from cromss.errors import ConfigError, ResumeError
from cromss.files import read_json
from cromss.models.networks import SegmentationNetwork
from cromss.training.checkpoint import (
    TrainingState,
    latest_valid,
    load_card,
    load_training,
    load_weights,
    prune,
    random_state,
    save_checkpoint,
    set_random_state,
    step_name,
    steps_of,
)
from cromss.training.loop import Progress
from cromss.training.optimization import Schedule

__all__ = ["FREE", "Resumed", "find_resume", "restore", "save_step"]

FREE = frozenset(
    {"data", "out", "resume", "allow_change", "keep_checkpoints", "checkpoint_every"}
    | {"log_every", "pictures_every", "workers", "worker_timeout"}
)
"""Settings without influence on the weights. `data` is a path; a fingerprint tells whether the data are the same."""

_NEWER: Mapping[str, Any] = {"sensors": ["s1", "s2"], "bands": {}}
"""What settings stood for before there were any: runs of then can be continued."""

DATA, CODE = "data", "code"  # names for allow_change beside those of the settings


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What was found: a finished `result`, or the checkpoint `folder` to continue from."""

    folder: Path | None = None
    result: dict[str, Any] | None = None


def find_resume(out: str | Path, config: PretrainConfig, fingerprint: str) -> Resumed | None:
    """Look for a run in `out`; None if there is none.

    Raises ResumeError listing every setting, and the data or code version, that differs and is not in `allow_change`
    (of a finished run: that differs at all, but for the code); if there is a run but `resume` is `never`; if there is a
    final network without a run, or a run with none but damaged checkpoints. Raises ConfigError for a name in
    `allow_change` that means nothing.
    """
    unknown = set(config.allow_change) - set(to_mapping(config)) - {DATA, CODE}
    if unknown:
        raise ConfigError("allow_change names no settings", got=sorted(unknown), expected=f"settings, {DATA} or {CODE}")
    out = Path(out)
    done = out / "result.json"
    newest = None if done.exists() else latest_valid(out)
    if not done.exists() and newest is None:
        if (out / "final").exists():
            raise ResumeError(
                "this folder holds a final network, but nothing to continue from", where=out, do="choose another out"
            )
        if damaged := steps_of(out):
            raise ResumeError(
                "every checkpoint of the run in this folder is damaged",
                got=", ".join(folder.name for folder in damaged),
                where=out,
                do="see cromss verify on one of them; choose another out, or delete this folder to begin anew",
            )
        return None
    if config.resume == "never":
        raise ResumeError("there is a run in this folder already", where=out, do="choose another out, or resume auto")
    if newest is None:
        result: dict[str, Any] = read_json(done)
        changed = _compare(result["settings"], config, result["data_fingerprint"], fingerprint, result["version"], out)
        if set(changed) - {CODE}:
            raise ResumeError(
                "the run in this folder is finished; what allow_change names can no longer change it",
                got="; ".join(changed.values()),
                where=out,
                do="choose another out, or restore the settings",
            )
        return Resumed(result=result)
    card = load_card(newest)
    version = card["versions"]["cromss"]
    _compare(card["recipe"], config, card["data"]["fingerprint"], fingerprint, version, out)
    return Resumed(folder=newest)


def _compare(
    then: Mapping[str, Any], config: PretrainConfig, data_then: str, data_now: str, version_then: str, where: Path
) -> dict[str, str]:
    """What differs, in words by name; raises ResumeError for what is not in `allow_change`."""
    now = to_mapping(config)
    then = {**_NEWER, **then}
    rows = {
        name: (then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if name not in FREE and then.get(name) != now.get(name)
    }
    if data_then != data_now:
        rows[DATA] = (data_then[:12], data_now[:12])
    version_now = importlib.metadata.version("cromss")
    if version_then != version_now:
        rows[CODE] = (version_then, version_now)
    changed = {name: f"{name}: {now!r}, was {then!r}" for name, (then, now) in rows.items()}
    refused = {name: words for name, words in changed.items() if name not in config.allow_change}
    if refused:
        raise ResumeError(
            "the run in this folder was started with other settings",
            got="; ".join(refused.values()),
            where=where,
            do=f"choose another out, restore the settings, or pass --allow_change {','.join(refused)}",
        )
    return changed


def restore(resumed: Resumed, network: SegmentationNetwork, optimizer: Optimizer, schedule: Schedule) -> Progress:
    """Put weights, optimizer, schedule and torch's generators back to the checkpoint found. Raises CheckpointError."""
    folder = resumed.folder
    if folder is None:
        return Progress()
    state = load_training(folder)
    load_weights(folder, network)
    optimizer.load_state_dict(state.optimizer)
    _match_strides(optimizer)
    schedule.load_state_dict(state.scheduler or {})
    set_random_state(state.random)
    return Progress(**state.progress)


def _match_strides(optimizer: Optimizer) -> None:
    """Lay the optimizer's moments out in memory as their parameters are.

    A file holds them row by row, but the parameters are channels_last, and a fused optimizer walks through both by
    address: without this it would pair each weight with another weight's moments.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def save_step(
    out: str | Path,
    network: SegmentationNetwork,
    optimizer: Optimizer,
    schedule: Schedule,
    progress: Progress,
    card: Mapping[str, Any],
    keep: int,
) -> None:
    """Save a checkpoint to continue from, as `<out>/checkpoints/step-...`, and delete all but the `keep` newest.

    Raises CheckpointError; then nothing was saved and the former checkpoints stand.
    """
    state = TrainingState(
        optimizer=optimizer.state_dict(),
        scheduler=schedule.state_dict(),
        progress=asdict(progress),
        random=random_state(),
    )
    folder = Path(out) / "checkpoints" / step_name(progress.step)
    save_checkpoint(folder, network=network, card=card, training=state, replace=True)
    prune(out, keep)
