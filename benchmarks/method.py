"""The method beside the plain recipe: label prior of a sample, weights and losses of a batch; times as ratios.

    python benchmarks/method.py [--threads 1] [--repeats 20] [--step-seconds 6.9]

Both sides take turns in one process on the same inputs; milliseconds are those of the processor, so that other work on
the machine does not count. `--step-seconds` is the time of a whole training step of the
same batch, as benchmarks/step.py measures it; with it, the share of weights and losses in a step is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cromss.memory import keep_freed_memory
from cromss.method import cromss_loss, label_prior, smooth_labels
from reference import plain_recipe

CLASSES = 9


def seasons(batch: int, size: int, occurring: int) -> Tensor:
    """Blobs of labels in four seasons, (B, T, H, W), of which `occurring` classes are seen."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 1, occurring, 12, 12, generator=generator)
    coarse = coarse + 0.3 * torch.rand(batch, 4, occurring, 12, 12, generator=generator)
    labels = F.interpolate(coarse.flatten(0, 1), size=(size, size), mode="bilinear").argmax(1)
    return labels.view(batch, 4, size, size).to(torch.uint8)


def in_turn(plain: Callable[[], object], ours: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median milliseconds of both, and the median of the ratios of neighbours."""
    milliseconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(repeats + 1):
        for name, call in (("plain", plain), ("ours", ours)):
            start = time.process_time()
            call()
            milliseconds[name].append((time.process_time() - start) * 1e3)
    ratios = [p / o for p, o in zip(milliseconds["plain"][1:], milliseconds["ours"][1:], strict=True)]
    rows = {name: round(statistics.median(times[1:]), 2) for name, times in milliseconds.items()}
    return {f"{name}_ms": value for name, value in rows.items()} | {
        "times_as_fast": round(statistics.median(ratios), 2)
    }


def sample(occurring: int, repeats: int) -> dict[str, float]:
    """Prior and smoothed labels of one sample of 264 px and four seasons, as a data worker makes them."""
    labels, season = seasons(1, 264, occurring), torch.tensor([2])

    def plain() -> Tensor:
        prior = torch.from_numpy(plain_recipe.label_prior(labels[0].numpy(), 2)).unsqueeze(0)
        return plain_recipe.smooth_labels(labels[:, 2].long(), prior)

    def ours() -> Tensor:
        return smooth_labels(labels[:, 2], CLASSES, label_prior(labels, season, CLASSES))

    torch.testing.assert_close(plain(), ours(), atol=1e-6, rtol=0)
    return in_turn(plain, ours, repeats)


def batch_losses(repeats: int) -> dict[str, float]:
    """Targets, confidences, selection, losses and their gradients for two sensors, 4 x 256 px, 9 classes."""
    generator = torch.Generator().manual_seed(1)
    labels_BTHW = seasons(4, 256, CLASSES)
    labels, prior = labels_BTHW[:, 0], label_prior(labels_BTHW, torch.zeros(4, dtype=torch.long), CLASSES)
    one, two = (torch.randn(4, CLASSES, 256, 256, generator=generator, requires_grad=True) for _ in range(2))

    def plain() -> tuple[Tensor, ...]:
        target = plain_recipe.smooth_labels(labels.long(), prior)
        return torch.autograd.grad(plain_recipe.loss(one, two, labels.long(), target, 40), [one, two])

    def ours() -> tuple[Tensor, ...]:
        target = smooth_labels(labels, CLASSES, prior)
        return torch.autograd.grad(cromss_loss(one, two, labels, target, 40)["loss"], [one, two])

    for theirs, mine in zip(plain(), ours(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-10)
    return in_turn(plain, ours, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, help="time of a whole step of the same batch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does; both sides gain
    report: dict[str, object] = {
        f"sample, {occurring} classes occur": sample(occurring, options.repeats) for occurring in (3, 5, 9)
    }
    losses = batch_losses(max(3, options.repeats // 2))
    report["weights and losses of a batch"] = losses
    if options.step_seconds:
        report["share of a step"] = round(losses["ours_ms"] / 1e3 / options.step_seconds, 4)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
