"""Mean, spread and paired differences of runs that differ only by their seeds.

In: one number a run, keyed by the seeds of that run. Out: mean +- sample standard deviation, and for two arms the mean
of the paired differences d_1..d_n with Student's interval for it,

    mean(d) +- t_(n-1, (1 + confidence) / 2) * std(d) / sqrt(n)

which is exact for independent, normally distributed differences. Runs are paired when they share every seed that both
have. Transfers of one pretraining share its luck, so where several pretrainings exist, each gives one difference: the
mean over its transfers. With one pretraining the transfers themselves are the pairs, and the interval speaks of that
one only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.special import stdtrit  # the quantile of Student's t, without the second that scipy.stats takes to load

from cromss.errors import ArgumentError

__all__ = ["Difference", "RunKey", "Summary", "paired_difference", "student_interval", "summarize"]


class RunKey(NamedTuple):
    """The seeds of one run; None where a run has no such seed (no pretraining, no transfer)."""

    data_seed: int
    pretrain_seed: int | None = None
    draw: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and sample standard deviation of `runs` numbers; std is None for a single one."""

    mean: float
    std: float | None
    runs: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean paired difference of two arms with its confidence interval; low and high are None for a single pair."""

    mean: float
    low: float | None
    high: float | None
    pairs: int
    unit: str

    @property
    def verdict(self) -> str:
        """What may be said: `higher`, `lower`, `within noise`, or `one pair, no interval`."""
        if self.low is None or self.high is None:
            return "one pair, no interval"
        if self.low <= 0.0 <= self.high:
            return "within noise"
        return "higher" if self.mean > 0 else "lower"


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation (n - 1) of at least one number."""
    if not values:
        raise ArgumentError("there is no run to summarize")
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return Summary(mean=mean, std=spread, runs=len(values))


def student_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's confidence interval of the mean; None for fewer than two numbers."""
    summary = summarize(values)
    if summary.std is None:
        return None
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * summary.std / math.sqrt(len(values))
    return summary.mean - half, summary.mean + half


def paired_difference(
    ours: Mapping[RunKey, float], theirs: Mapping[RunKey, float], confidence: float = 0.95
) -> Difference | None:
    """The mean of ours - theirs over paired runs, with its interval; None if no two runs can be paired."""
    by_pretraining: dict[tuple[int | None, ...], list[float]] = defaultdict(list)
    for (data_seed, pretrain_seed, draw, seed), value in ours.items():
        for other, other_value in theirs.items():
            if other[0] == data_seed and other[2:] == (draw, seed) and _agree(pretrain_seed, other.pretrain_seed):
                unit = pretrain_seed if pretrain_seed is not None else other.pretrain_seed
                by_pretraining[data_seed, unit].append(value - other_value)
    if not by_pretraining:
        return None
    if len(by_pretraining) > 1:
        differences = [summarize(group).mean for group in by_pretraining.values()]
        unit_name = "pretrainings"
    else:
        (differences,) = by_pretraining.values()
        transferred = any(key.draw is not None for key in ours)
        unit_name = "transfer runs of one pretraining" if transferred else "pretrainings"
    interval = student_interval(differences, confidence)
    return Difference(
        mean=summarize(differences).mean,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        pairs=len(differences),
        unit=unit_name,
    )


def _agree(a: int | None, b: int | None) -> bool:
    """An arm without pretraining pairs with every pretraining of the other arm."""
    return a is None or b is None or a == b
