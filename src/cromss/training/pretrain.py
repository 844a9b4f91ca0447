"""Pretraining: a store of images and noisy labels in, a network and its scores out.

    CromSS        two (or three) branches, label and prediction weights from each other's confidence
    no selection  the same branches and losses with all weights 1
    single        one sensor alone

The step itself is `_losses`: images -> logits of every branch -> smoothed labels -> `multi_branch_loss`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from cromss import __version__
from cromss.config import PretrainConfig, to_mapping
from cromss.files import remove_stale, write_json
from cromss.method import multi_branch_loss, smooth_labels
from cromss.models.networks import SegmentationNetwork, build_network, forward_any_size
from cromss.training.checkpoint import save_checkpoint
from cromss.training.devices import launch
from cromss.training.loop import Batch, Hooks, Learner, Progress, fit, to_device, use_channels_last
from cromss.training.metrics import IGNORE
from cromss.training.optimization import Schedule, build_optimizer, build_schedule
from cromss.training.pretrain_setup import Setup
from cromss.training.resume import Resumed, find_resume, restore, save_step
from cromss.training.runlog import RunLog
from cromss.training.stop import StopSignal
from cromss.training.validation import Validation, branch_label_weights, validate

__all__ = ["Drawing", "Tile", "pretrain", "tiles_of"]

CHECKPOINTS, FINAL, RESULT, PICTURES = "checkpoints", "final", "result.json", "pictures"
_DRAWN = 4  # validation tiles in a sample picture


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One validation tile as the network sees it, for a picture. Arrays are on the CPU; weights are in 0..1."""

    id: str
    images: dict[str, NDArray[np.float32]]  # sensor -> (B, H, W), normalised
    labels: NDArray[np.uint8]  # (H, W)
    truth: NDArray[np.uint8] | None
    predictions: dict[str, NDArray[np.uint8]]  # branch -> (H, W)
    weights: dict[str, NDArray[np.float32]]  # branch -> (H, W)


Drawing = Callable[[Path, Sequence[Tile]], None]


def pretrain(
    config: PretrainConfig, *, draw: Drawing | None = None, report: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Run or continue the pretraining that `config` describes; return its final scores.

    Writes `<out>/checkpoints/`, `<out>/final/`, log.jsonl, tensorboard/, pictures/ and result.json. `draw` turns tiles
    into a picture file; `report` is called with the folder of the finished run, in one process only. Raises
    ConfigError, StoreError, ResumeError, NonFiniteError, WorkerError; leaves with SystemExit(143) after a stop signal,
    once the run is saved.
    """
    with StopSignal() as stop:
        fabric = launch(config, deterministic=config.deterministic)
        accelerated = fabric.device.type != "cpu"
        setup = Setup(config, rank=fabric.global_rank, world=fabric.world_size, accelerated=accelerated)
        run = _Run(setup, fabric)
        result = run.finished()
        if result is None:
            result = run.train(draw, stop)
        if report is not None and fabric.is_global_zero:
            report(Path(config.out))
        return result


class _Run:
    """One pretraining, from its settings to its result; holds what the loop's callbacks share."""

    def __init__(self, setup: Setup, fabric: Fabric) -> None:
        self.setup, self.config, self.fabric = setup, setup.config, fabric
        self.out, self.plan, self.names = Path(setup.config.out), setup.plan, setup.store.legend.names
        self.resume: Resumed | None = find_resume(self.out, setup.config, setup.store.fingerprint)
        self.latest: Validation | None = None

    def finished(self) -> dict[str, Any] | None:
        """The result of this very run where it is complete already."""
        if self.resume is not None and self.resume.result is not None:
            sys.stderr.write(f"{self.out} is complete; nothing to do\n")
            return self.resume.result
        return None

    # ---- one step ----

    def _losses(self, network: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        config = self.config
        selects = config.method == "cromss"
        target = smooth_labels(
            self.setup.own_labels(batch),
            len(self.names),
            self.setup.prior(batch),
            prior_weight=config.prior_weight,
            uniform_weight=config.uniform_weight,
            ignore_index=IGNORE,
        )
        logits = network({sensor: batch[sensor] for sensor in self.setup.sensors})
        return multi_branch_loss(
            logits,
            batch["labels"],
            target,
            epoch,
            confidence=config.confidence,
            ramp_shape=config.ramp,
            ramp_length=config.ramp_epochs,
            final_ratio=config.final_ratio,
            class_balanced=config.class_balanced,
            losses=config.losses,
            dice=config.dice,
            consistency=config.consistency,
            consistency_weight=config.consistency_weight,
            select_labels=selects and config.select_labels,
            select_predictions=selects and config.select_predictions,
            ignore_index=IGNORE,
            mean_over_devices=self._mean_over_devices if self.fabric.world_size > 1 else None,
        )

    def _mean_over_devices(self, counts: Tensor) -> Tensor:
        return self.fabric.all_reduce(counts, reduce_op="mean")  # type: ignore[return-value]

    # ---- the run ----

    def train(self, draw: Drawing | None, stop: StopSignal) -> dict[str, Any]:
        config, fabric = self.config, self.fabric
        torch.manual_seed(config.seed)
        channels_last = use_channels_last(config.channels_last, fabric.device)
        bare = build_network(self.setup.spec)
        bare.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        optimizer = build_optimizer(config.optimizer, bare.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        schedule = self._schedule(optimizer)
        progress = Progress()
        if self.resume is not None:
            progress = restore(self.resume, bare, optimizer, schedule)
        runs: Any = torch.compile(bare) if config.compile else bare
        network, wrapped = fabric.setup(runs, optimizer)
        if fabric.is_global_zero:
            (self.out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            remove_stale(self.out / CHECKPOINTS)
            remove_stale(self.out)
            self._say_start(progress)
        fabric.barrier()

        def save(at: Progress) -> None:
            if fabric.is_global_zero:
                save_step(self.out, bare, optimizer, schedule, at, self._card(at), config.keep_checkpoints)
            fabric.barrier()

        learner = Learner(
            fabric=fabric, network=network, optimizer=wrapped, schedule=schedule, channels_last=channels_last
        )
        hooks = Hooks(
            losses=lambda batch, epoch: self._losses(network, batch, epoch),
            save=save,
            observe=self._observe,
            validate=(lambda: self._validate(bare, stop)) if len(self.setup.validation_places) else None,
            draw=(lambda step: self._draw(bare, draw, step)) if draw else None,
        )
        with RunLog(
            self.out, start_step=progress.step, total_steps=self.plan.total_steps, enabled=fabric.is_global_zero
        ) as log:
            batches = self.setup.training_batches(progress.step)
            progress = fit(learner, hooks, batches, plan=self.plan, progress=progress, log=log, stop=stop)
        if progress.step < self.plan.total_steps or progress.validation_pending:
            stop.leave()
        if self.latest is None and len(self.setup.validation_places):  # killed between its last save and its result
            self._validate(bare, None)
        return self._finish(bare, progress)

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Schedule:
        config = self.config
        return build_schedule(
            config.schedule,
            optimizer,
            total_steps=self.plan.total_steps,
            final_lr=config.cosine_final_lr,
            gamma=config.exponential_gamma,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
        )

    def _say_start(self, progress: Progress) -> None:
        where = f", continuing at step {progress.step}" if progress.step else ""
        sys.stderr.write(
            f"pretraining {self.config.method} on {len(self.setup.train_places)} places, validation on "
            f"{len(self.setup.validation_places)}{self._say_annotators()}; {self.plan.total_steps} steps, "
            f"{self.plan.steps_per_epoch} an epoch{where}\n"
        )

    def _say_annotators(self) -> str:
        annotators = self.setup.store.annotators
        if len(annotators) < 2:
            return ""
        return f" by {annotators[0]}, {self.setup.unscored_places} of them without its labels"

    def _validate(self, network: nn.Module, stop: StopSignal | None) -> Mapping[str, float]:
        """Score the bare network: its distributed wrapper would wait for ranks that have fewer batches to validate."""
        network.eval()
        with self.fabric.autocast():
            self.latest = validate(
                self.fabric,
                network,
                self.setup.validation_batches(),
                sensors=self.setup.sensors,
                branches=self.setup.spec.branches,
                names=self.names,
                losses=self.config.losses,
                final_ratio=self.config.final_ratio,
                class_balanced=self.config.class_balanced,
                stop=stop,
            )
        network.train()
        return self.latest.summary

    def _observe(self, batch: Batch, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """Share of the labels of each class that have weight 1, for the log."""
        labels = batch["labels"]
        shares = {}
        for name, weights in parts.items():
            if not name.startswith("label_weight_"):
                continue
            count = torch.bincount(labels[labels != IGNORE].long(), minlength=len(self.names))
            chosen = labels[(labels != IGNORE) & (weights >= 1.0)].long()
            share = torch.bincount(chosen, minlength=len(self.names)) / count.clamp_min(1)
            branch = name.removeprefix("label_weight_")
            for label, value, pixels in zip(self.names, share.tolist(), count.tolist(), strict=True):
                if pixels:
                    shares[f"selected_{branch}/{label}"] = value
        return shares

    @torch.no_grad()
    def _draw(self, network: nn.Module, draw: Drawing, step: int) -> None:
        if not self.fabric.is_global_zero:
            return
        batch = next(iter(self.setup.validation_batches()))
        first = to_device({name: value[:_DRAWN] for name, value in batch.items()}, self.fabric.device)
        network.eval()
        with self.fabric.autocast():
            tiles = tiles_of(network, first, self.setup.sensors, self.config.final_ratio, self.config.class_balanced)
        network.train()
        draw(self.out / PICTURES / f"step-{step:08d}.png", tiles)

    def _card(self, at: Progress) -> dict[str, Any]:
        return {
            "network": self.setup.spec.to_dict(),
            "inputs": {sensor: value.to_dict() for sensor, value in self.setup.normalizations.items()},
            "sensors": {sensor: self.setup.store.definitions[sensor].to_dict() for sensor in self.setup.sensors},
            "legend": self.setup.store.legend.to_dict(),
            "recipe": to_mapping(self.config),
            "data": self._data(),
            "scores": {} if self.latest is None else self.latest.summary,
            "step": at.step,
            "epoch": at.step // self.plan.steps_per_epoch,
        }

    def _data(self) -> dict[str, Any]:
        """What the card says about the store; whose labels it holds, where there are several."""
        store = self.setup.store
        annotators = {"annotators": list(store.annotators)} if store.annotators else {}
        return {"path": str(self.config.data), "fingerprint": store.fingerprint, **annotators}

    def _finish(self, network: SegmentationNetwork, progress: Progress) -> dict[str, Any]:
        result = {
            "settings": to_mapping(self.config),
            "data_fingerprint": self.setup.store.fingerprint,
            "version": __version__,
            "step": progress.step,
            "validation": None if self.latest is None else self.latest.to_dict(),
        }
        if self.fabric.is_global_zero:
            # a run killed before it wrote its result has a final network already; find_resume let no other one through
            save_checkpoint(self.out / FINAL, network=network, card=self._card(progress), replace=True)
            write_json(self.out / RESULT, result)
        self.fabric.barrier()
        return result


def tiles_of(
    network: nn.Module, batch: Batch, sensors: Sequence[str], ratio: float = 0.5, class_balanced: bool = True
) -> list[Tile]:
    """Each sample of a batch with the predictions and the label weights (at selection ratio `ratio`) of a network."""
    logits = forward_any_size(network, {sensor: batch[sensor] for sensor in sensors})
    weights = branch_label_weights(logits, batch["labels"].long(), ratio, class_balanced)
    return [_tile(index, batch, logits, weights, sensors) for index in range(len(batch["id"]))]


def _tile(
    index: int,
    batch: Batch,
    logits: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    sensors: Sequence[str],
) -> Tile:
    def array(value: Tensor) -> NDArray[Any]:
        found: NDArray[Any] = value[index].detach().float().cpu().numpy()
        return found

    return Tile(
        id=batch["id"][index],
        images={sensor: array(batch[sensor]) for sensor in sensors},
        labels=array(batch["labels"]).astype(np.uint8),
        truth=array(batch["truth"]).astype(np.uint8) if "truth" in batch else None,
        predictions={branch: array(values.argmax(1)).astype(np.uint8) for branch, values in logits.items()},
        weights={branch: array(value) for branch, value in weights.items()},
    )
