"""Keeping one bad pixel, loss or gradient from spoiling a network.

In: a batch on the CPU; later its loss and gradients on the device. Out: nothing, or NonFiniteError naming the samples.
The batch is checked before the forward, because one NaN there poisons every BatchNorm buffer before any loss exists.
The update of a bad step is cancelled on the device itself (the optimizer's `found_inf`), so no step waits for a sync:
on an accelerator the flag is read one step late, and being sticky it has cancelled the later update as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cromss.errors import NonFiniteError

__all__ = ["StepGuard", "check_batch"]


def check_batch(batch: Mapping[str, Any], step: int) -> None:
    """Raise NonFiniteError naming the samples if any floating tensor of a CPU batch holds NaN or infinity."""
    for name, values in batch.items():
        # a finite sum proves finite values in one pass without a mask; only a bad sum needs the closer look
        if isinstance(values, Tensor) and values.is_floating_point() and not torch.isfinite(values.sum()):
            bad = ~torch.isfinite(values.flatten(1)).all(dim=1)
            if bool(bad.any()):
                ids = [batch["id"][index] for index in torch.nonzero(bad).flatten().tolist()]
                count = int((~torch.isfinite(values)).sum())
                raise NonFiniteError(
                    f"{name} of a batch holds NaN or infinity; the step was not taken",
                    got=f"{count} values in {', '.join(ids)}",
                    expected="finite pixels",
                    where=f"step {step}",
                    do="run cromss verify on the store, then prepare these scenes again",
                )


class StepGuard:
    """Takes optimizer steps, and cancels the one whose loss or gradients are not finite, together with all after it."""

    def __init__(self, fabric: Fabric, network: nn.Module, optimizer: Any, *, lag: int | None = None) -> None:
        self._fabric, self._optimizer = fabric, optimizer
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._lag = (0 if fabric.device.type == "cpu" else 1) if lag is None else lag
        self._scaled = fabric._precision.precision == "16-mixed"
        self._bad = torch.zeros((), device=fabric.device)
        self._pending: list[tuple[int, Sequence[str], Tensor]] = []

    def step(self, loss: Tensor, step: int, ids: Sequence[str]) -> None:
        """Update the weights unless something is not finite. Raises NonFiniteError, `lag` steps late, on all ranks."""
        now = ~torch.isfinite(loss.detach())
        if not self._scaled:  # scaled float16 gradients overflow by design, and the scaler itself skips those steps
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            now = now | ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        bad = now.float()
        if self._fabric.world_size > 1:
            bad = self._fabric.all_reduce(bad, reduce_op="sum").clamp(max=1.0)  # type: ignore[union-attr]
        self._bad = torch.maximum(self._bad, bad)
        if not self._scaled:
            self._optimizer.optimizer.grad_scale, self._optimizer.optimizer.found_inf = None, self._bad.clone()
        self._optimizer.step()
        self._pending.append((step, ids, self._bad))
        while len(self._pending) > self._lag:
            self._read()

    def finish(self) -> None:
        """Read the flags still on their way; call it before saving and at the end."""
        while self._pending:
            self._read()

    def _read(self) -> None:
        step, ids, bad = self._pending.pop(0)
        if bool(bad):
            raise NonFiniteError(
                "the loss or a gradient is not finite; the weights are as they were before this step",
                got=f"samples {', '.join(ids)}",
                where=f"step {step}",
                do="look at these samples, lower the learning rate, or continue in precision 32-true",
            )
