"""One whole training step, ours against the plain recipe: time as a ratio, peak memory of each.

    python benchmarks/step.py                       ResNet-50 U-Nets, batch 4 of 256 px, S1 2 + S2 13 bands
    python benchmarks/step.py --encoder resnet18 --size 128 --repeats 10

Each side runs in a process of its own, and the two take their steps in turn, so that both meet the same load of the
machine. Both get the same data. Time: median of the steps after the first; processor time too, which says more on a
busy machine, if threads is 1. Memory: the highest resident size that the process ever had, imports included.

Two layouts of ours: on CPUs without AVX-512, oneDNN takes two to five times as long for the weight gradient of a 3 x 3
convolution with few channels in channels_last, which costs more than the faster forward pass gains.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("plain", "ours")
CLASSES = 9


def make_batch(batch: int, size: int) -> dict[str, Tensor]:
    """Random images, and blobs of labels that differ somewhat between four seasons, with their prior."""
    from cromss.method import label_prior

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 1, CLASSES, 12, 12, generator=generator)
    seasons = coarse + 0.3 * torch.rand(batch, 4, CLASSES, 12, 12, generator=generator)
    labels_BTHW = F.interpolate(seasons.flatten(0, 1), size=(size, size), mode="bilinear").argmax(1)
    labels_BTHW = labels_BTHW.view(batch, 4, size, size).to(torch.uint8)
    season_B = torch.arange(batch) % 4
    return {
        "s1": torch.rand(batch, 2, size, size, generator=generator),
        "s2": torch.rand(batch, 13, size, size, generator=generator),
        "labels": labels_BTHW[torch.arange(batch), season_B],
        "prior": label_prior(labels_BTHW, season_B, CLASSES),
    }


def plain_step(encoder: str, batch: dict[str, Tensor]) -> Callable[[], float]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from reference import plain_recipe

    nets = plain_recipe.networks(encoder)
    optimizer = torch.optim.Adam(nets.parameters(), lr=5e-3, weight_decay=1e-8)
    return lambda: plain_recipe.step(nets, optimizer, batch, epoch=40)


def our_step(encoder: str, batch: dict[str, Tensor], layout: torch.memory_format) -> Callable[[], float]:
    from cromss.memory import keep_freed_memory
    from cromss.method import multi_branch_loss, smooth_labels
    from cromss.models.networks import NetworkSpec, build_network

    keep_freed_memory()  # as `cromss pretrain` does
    spec = NetworkSpec(
        inputs={"s1": 2, "s2": 13},
        fusion="late",
        branches=("s1", "s2"),
        encoder=encoder,
        decoder="unet",
        num_classes=CLASSES,
    )
    network = build_network(spec).to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, weight_decay=1e-8, fused=True)
    images = {name: batch[name].contiguous(memory_format=layout) for name in ("s1", "s2")}

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        target = smooth_labels(batch["labels"], CLASSES, batch["prior"])
        loss = multi_branch_loss(network(images), batch["labels"], target, epoch=40)["loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def our_losses(batch: dict[str, Tensor]) -> float:
    """Processor seconds of what the method adds to a network: smoothed targets, weights, losses and their gradients."""
    from cromss.method import multi_branch_loss, smooth_labels

    shape = (len(batch["labels"]), CLASSES, *batch["labels"].shape[1:])
    logits = {sensor: torch.randn(shape, requires_grad=True) for sensor in ("s1", "s2")}
    began = time.process_time()
    target = smooth_labels(batch["labels"], CLASSES, batch["prior"])
    multi_branch_loss(logits, batch["labels"], target, epoch=40)["loss"].backward()
    return time.process_time() - began


def work(options: argparse.Namespace) -> None:
    """Take one step for each line on standard input; answer with seconds, loss and peak memory."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch = make_batch(options.batch, options.size)
    if options.worker == "plain":
        step = plain_step(options.encoder, batch)
    else:
        step = our_step(options.encoder, batch, getattr(torch, options.layout))
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        loss = step()
        row = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor, "loss": loss}
        row["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        row["losses"] = our_losses(batch) if options.worker == "ours" else 0.0
        print(json.dumps(row), flush=True)


def compare(options: argparse.Namespace) -> dict[str, object]:
    arguments = [f"--{name}={getattr(options, name)}" for name in ("encoder", "size", "batch", "threads", "layout")]
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, f"--worker={side}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats + 1):
        for side, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("step\n")
            worker.stdin.flush()
            rows[side].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    return {clock: _summary(rows, clock) for clock in ("wall", "processor")} | {
        "layout": options.layout,
        "share_of_weights_and_losses": statistics.median(row["losses"] / row["processor"] for row in rows["ours"][1:]),
        "peak_gigabytes": {side: rows[side][-1]["peak_bytes"] / 1e9 for side in SIDES},
        "first_loss": {side: rows[side][0]["loss"] for side in SIDES},
    }


def _summary(rows: dict[str, list[dict[str, float]]], clock: str) -> dict[str, object]:
    seconds = {side: [row[clock] for row in rows[side][1:]] for side in SIDES}
    ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    return {
        "median_seconds": {side: statistics.median(times) for side, times in seconds.items()},
        "times_as_fast": statistics.median(ratios),
        "times_as_fast_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layout", choices=("contiguous_format", "channels_last"), default="contiguous_format")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
    else:
        print(json.dumps(compare(options), indent=2))


if __name__ == "__main__":
    main()
