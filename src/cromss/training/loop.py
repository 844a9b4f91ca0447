"""The one training loop: batches in, updated weights, log rows and checkpoints out.

Everything that decides a step (order, augmentation, learning rate) is a function of the step number and of what a
checkpoint holds, so a run that stops anywhere and continues is the same run, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cromss.training.guard import StepGuard, check_batch
from cromss.training.optimization import Schedule
from cromss.training.runlog import RunLog
from cromss.training.stop import StopSignal

__all__ = ["Batch", "Hooks", "Learner", "Plan", "Progress", "Stopped", "fit", "to_device", "use_channels_last"]

Batch = dict[str, Any]


class Stopped(Exception):  # noqa: N818 - not an error: evaluation leaves through it when a stop signal came
    """A stop signal arrived during evaluation."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens when. All counts are optimizer steps; 0 means never."""

    total_steps: int
    steps_per_epoch: int
    validate_every: int
    save_every: int
    log_every: int
    draw_every: int = 0

    def due(self, every: int, step: int) -> bool:
        """Whether something that happens `every` steps is due after `step` of them; the last step counts too."""
        return every > 0 and (step % every == 0 or step == self.total_steps)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: optimizer steps done, and whether the validation due at this step is still to do."""

    step: int = 0
    validation_pending: bool = False


def use_channels_last(setting: bool | None, device: torch.device) -> bool:
    """What `channels_last` means where it is left open: yes on accelerators, no on CPUs.

    On a CPU it depends on the network: the narrow encoder gains by it, but with ResNet-50 the weight gradients of the
    decoder's last convolutions take three to five times as long (see docs/speed.md).
    """
    return device.type != "cpu" if setting is None else setting


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """Move a batch to a device; its images may change their layout in memory on the way."""
    moved = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
            if channels_last and value.dim() == 4 and value.is_floating_point():
                value = value.contiguous(memory_format=torch.channels_last)
        moved[name] = value
    return moved


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What learns, set up by `fabric`: a network, its optimizer, and how its learning rate goes."""

    fabric: Fabric
    network: nn.Module
    optimizer: Any
    schedule: Schedule
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a training brings to the loop.

    losses(batch, epoch): "loss" and its named parts, of which the scalars are logged, as is what observe(batch, parts)
    makes of them. validate(): "loss" and scores. draw(step): pictures. save(progress): a checkpoint.
    """

    losses: Callable[[Batch, int], Mapping[str, Tensor]]
    save: Callable[[Progress], None]
    observe: Callable[[Batch, Mapping[str, Tensor]], Mapping[str, float]] | None = None
    validate: Callable[[], Mapping[str, float]] | None = None
    draw: Callable[[int], None] | None = None


def fit(
    learner: Learner,
    hooks: Hooks,
    batches: Iterable[Batch],
    *,
    plan: Plan,
    progress: Progress,
    log: RunLog,
    stop: StopSignal,
) -> Progress:
    """Train from `progress` to the end of `plan`; return where the run stands (short of the end after a stop signal).

    `batches` yields those of steps progress.step, progress.step + 1, ... Raises NonFiniteError before a bad batch
    touches anything.
    """
    loop, step = _Loop(learner, hooks, plan, log), progress.step
    if progress.validation_pending and not loop.validated(step):
        return progress
    if _agreed(learner.fabric, stop):
        hooks.save(Progress(step=step))
        return Progress(step=step)
    learner.network.train()
    for batch in loop.clock.waiting(batches):
        loop.train(batch, step)
        step += 1
        stopping = _agreed(learner.fabric, stop)
        pending = plan.due(plan.validate_every, step) and (stopping or not loop.validated(step))
        if hooks.draw is not None and plan.due(plan.draw_every, step) and not stopping:
            hooks.draw(step)
        stopping = stopping or pending
        if stopping or plan.due(plan.save_every, step):
            loop.guard.finish()
            hooks.save(Progress(step=step, validation_pending=pending))
        if stopping:
            log.row("event", step, (step - 1) // plan.steps_per_epoch, {"event": "stopped by signal"})
            return Progress(step=step, validation_pending=pending)
    loop.guard.finish()
    return Progress(step=step)


class _Loop:
    """One step, and one validation, of a training."""

    def __init__(self, learner: Learner, hooks: Hooks, plan: Plan, log: RunLog) -> None:
        self._learner, self._hooks, self._plan, self._log = learner, hooks, plan, log
        self.guard = StepGuard(learner.fabric, learner.network, learner.optimizer)
        self.clock = _Clock()

    def train(self, batch: Batch, step: int) -> None:
        """Take the step after `step` of them, and log it where that is due."""
        learner, plan, epoch = self._learner, self._plan, step // self._plan.steps_per_epoch
        check_batch(batch, step)
        batch = to_device(batch, learner.fabric.device, learner.channels_last)
        learner.optimizer.zero_grad(set_to_none=True)
        parts = self._hooks.losses(batch, epoch)
        learner.fabric.backward(parts["loss"])
        self.guard.step(parts["loss"], step, batch["id"])
        self.clock.count(len(batch["id"]) * learner.fabric.world_size)
        learner.schedule.after_step()
        if (step + 1) % plan.steps_per_epoch == 0:
            learner.schedule.after_epoch()
        if plan.due(plan.log_every, step + 1):
            scalars = _scalars(learner.fabric, parts)
            seen = self._hooks.observe(batch, parts) if self._hooks.observe is not None else {}
            rates = {"lr": learner.schedule.lr, **self.clock.rates()}
            self._log.row("train", step + 1, epoch, {**scalars, **seen, **rates})
            self._log.progress(step + 1, epoch, f"loss {scalars['loss']:.4f}")

    def validated(self, step: int) -> bool:
        """Validate and log it, if there is anything to validate on; False where a stop signal came in between."""
        if self._hooks.validate is None:
            return True
        self._learner.network.eval()
        try:
            scores = self._hooks.validate()
        except Stopped:
            return False
        finally:
            self._learner.network.train()
        self._learner.schedule.after_validation(scores["loss"])
        epoch = step // self._plan.steps_per_epoch
        self._log.row("validation", step, epoch, scores)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items() if _is_shown(name))
        self._log.progress(step, epoch, f"validation: {shown}", always=True)
        return True


def _is_shown(name: str) -> bool:
    """Whether a score is printed while training; the log has all."""
    accuracy = name.endswith("_oa") and not name.startswith("mean_")
    return accuracy or name in ("loss", "s2_truth_miou", "s2_weight_auroc")


def _agreed(fabric: Fabric, stop: StopSignal) -> bool:
    """Whether any rank was asked to stop; all ranks give the same answer at the same step."""
    if fabric.world_size == 1:
        return stop.requested()
    asked = torch.tensor(float(stop.requested()), device=fabric.device)
    return bool(fabric.all_reduce(asked, reduce_op="sum") > 0)  # type: ignore[operator]


def _scalars(fabric: Fabric, parts: Mapping[str, Tensor]) -> dict[str, float]:
    """All scalar parts in one transfer from the device, averaged over the ranks."""
    names = [name for name, value in parts.items() if value.dim() == 0]
    stacked = torch.stack([parts[name].detach().float().to(fabric.device, non_blocking=True) for name in names])
    if fabric.world_size > 1:
        stacked = fabric.all_reduce(stacked, reduce_op="mean")  # type: ignore[assignment]
    return dict(zip(names, stacked.tolist(), strict=True))


class _Clock:
    """Counts samples and the share of time spent waiting for data between two log rows."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited, self._samples = time.monotonic(), 0.0, 0

    def waiting(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch

    def count(self, samples: int) -> None:
        self._samples += samples

    def rates(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._since, 1e-9)
        rates = {"samples_per_second": self._samples / elapsed, "data_wait_share": self._waited / elapsed}
        self._reset()
        return rates
