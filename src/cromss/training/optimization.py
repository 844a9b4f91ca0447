"""Optimizers and learning-rate schedules by name, with a state that fits into a checkpoint.

In: a network's parameters and plain settings. Out: a torch optimizer (fused where torch offers it) and a Schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, ReduceLROnPlateau

from cromss.errors import ConfigError

__all__ = ["Schedule", "build_optimizer", "build_schedule"]


def build_optimizer(name: str, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> Optimizer:
    """Make `adam`, `adamw` or `sgd` (momentum 0.9). The fused forms update all parameters in one pass over memory."""
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigError("the learning rate must be a positive number", got=lr)
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ConfigError("weight_decay must be a number of at least 0", got=weight_decay)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ConfigError("there is nothing to train: every parameter is frozen")
    if name == "adam":
        return Adam(trained, lr=lr, weight_decay=weight_decay, fused=True)
    if name == "adamw":
        return AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return SGD(trained, lr=lr, weight_decay=weight_decay, momentum=0.9, fused=True)
    raise ConfigError("unknown optimizer", got=name, expected="adam, adamw or sgd")


class Schedule:
    """When a learning rate changes: `cosine` after steps, `exponential` after epochs, `plateau` after validations."""

    def __init__(self, name: str, optimizer: Optimizer, scheduler: Any) -> None:
        self.name, self._optimizer, self._scheduler = name, optimizer, scheduler

    @property
    def lr(self) -> float:
        """The rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        if self.name == "cosine" and self._scheduler.last_epoch < self._scheduler.T_max:
            self._scheduler.step()

    def after_epoch(self) -> None:
        if self.name == "exponential":
            self._scheduler.step()

    def after_validation(self, loss: float) -> None:
        if self.name == "plateau":
            self._scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists. An infinite best loss (no validation yet) is left out: JSON has no infinity."""
        if self._scheduler is None:
            return {}
        state = {key: value for key, value in self._scheduler.state_dict().items() if not key.startswith("_")}
        return {
            key: value for key, value in state.items() if not (isinstance(value, float) and not math.isfinite(value))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scheduler is not None:
            self._scheduler.load_state_dict({**self._scheduler.state_dict(), **state})


def build_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    total_steps: int,
    final_lr: float = 1e-5,
    gamma: float = 0.99,
    factor: float = 0.5,
    patience: int = 30,
) -> Schedule:
    """Make a Schedule: `plateau`, `exponential`, `cosine` (to `final_lr` over `total_steps`, then flat), `constant`.

    Raises ConfigError for an unknown name, and for a factor that cannot lower a rate.
    """
    if not (0 < factor < 1 and 0 < gamma <= 1 and 0 <= final_lr < math.inf):
        raise ConfigError(
            "this schedule cannot be",
            got=f"plateau_factor {factor}, exponential_gamma {gamma}, final rate {final_lr}",
            expected="a plateau_factor between 0 and 1, an exponential_gamma above 0 up to 1, a final rate from 0 on",
        )
    if name == "plateau":
        return Schedule(name, optimizer, ReduceLROnPlateau(optimizer, factor=factor, patience=patience))
    if name == "exponential":
        return Schedule(name, optimizer, ExponentialLR(optimizer, gamma=gamma))
    if name == "cosine":
        return Schedule(name, optimizer, CosineAnnealingLR(optimizer, T_max=max(1, total_steps), eta_min=final_lr))
    if name == "constant":
        return Schedule(name, optimizer, None)
    raise ConfigError("unknown schedule", got=name, expected="plateau, exponential, cosine or constant")
