"""A training sample from the store to tensors, ours beside the plain recipe, and what the prior costs on the device.

    python benchmarks/sample.py [--classes 9 | --labels MAP.tif] [--places 16] [--rounds 8] [--folder /tmp]
        [--step-seconds 10.5]

264 px, 2 + 13 bands in the 8-bit edition, four seasons, cut to 256, prior "ts"; one core, milliseconds of the
processor. As a worker does, each side makes all places one after the other, sides in turn. The plain side is what a
recipe writes down first: the bytes of all seasons in one file a place, 18 Gaussian filters, images and smoothed labels
as float32, then a random window, flips and turns of all of it. Labels are patches in which all of `--classes` occur,
more mixed than land is, or windows of a label map in classes 0 to 8 (Dynamic World's), moved on by 8 px a season.
`--step-seconds` is the time of a whole training step of a batch of 4 (benchmarks/step.py), to take a share of.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cromss.data.dataset import PatchDataset, collate
from cromss.data.record import PlaceRecord
from cromss.data.store import Store, StoreWriter
from cromss.geo.bands import SENSORS, published_normalization
from cromss.geo.legend import IGNORE
from cromss.geo.legends import LEGENDS
from cromss.memory import keep_freed_memory
from reference import plain_recipe

SIZE, CROP, SEASONS, CLASSES, BANDS = 264, 256, 4, 9, 15


def blobs(number: int, occurring: int = CLASSES) -> np.ndarray:
    """Labels in patches of some 40 px that differ between seasons, (T, H, W); `occurring` classes are seen."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, occurring, 12, 12, generator=generator)
    coarse = coarse + 0.3 * torch.rand(SEASONS, occurring, 12, 12, generator=generator)
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").argmax(1).to(torch.uint8).numpy()


def windows(path: Path, places: int) -> list[np.ndarray]:
    """Labels (T, H, W) of places spread over a map; each season sees it some pixels further on."""
    with rasterio.open(path) as file:
        labels = file.read(1)
    if not set(np.unique(labels).tolist()) <= {*range(CLASSES), IGNORE}:
        raise SystemExit(f"{path} holds values other than 0 to {CLASSES - 1} and {IGNORE}")
    side = SIZE + 8 * (SEASONS - 1)
    corners = [(y, x) for y in range(0, len(labels) - side, side) for x in range(0, labels.shape[1] - side, side)]
    if len(corners) < places:
        raise SystemExit(f"{path} has room for {len(corners)} places of {side} px, not for {places}")
    chosen = [corners[number * len(corners) // places] for number in range(places)]
    steps = [8 * season for season in range(SEASONS)]
    return [np.stack([labels[y + s : y + s + SIZE, x + s : x + s + SIZE] for s in steps]) for y, x in chosen]


def write(folder: Path, labels_of: list[np.ndarray]) -> None:
    """The same places as a store and, for the plain side, as one file of bytes each."""
    writer = StoreWriter(
        folder / "store",
        legend=LEGENDS["dynamic_world"],
        sensors={name: sensor.bands for name, sensor in SENSORS.items()},
        edition="uint8",
    )
    for number, labels in enumerate(labels_of):
        random = np.random.default_rng(number)
        images = random.integers(0, 256, (SEASONS, BANDS, SIZE, SIZE), dtype=np.uint8)
        (folder / f"{number}.bin").write_bytes(images.tobytes() + labels.tobytes())
        writer.add(
            PlaceRecord(
                id=f"{number:07d}",
                seasons=("winter", "spring", "summer", "autumn"),
                images={
                    "s1": random.normal(-15, 5, (SEASONS, 2, SIZE, SIZE)).astype(np.float32),
                    "s2": random.integers(0, 5000, (SEASONS, 13, SIZE, SIZE), dtype=np.uint16),
                },
                products={"s1": "GRD", "s2": "L1C"},
                labels=labels,
                valid=np.ones((SEASONS, SIZE, SIZE), np.bool_),
                split="train",
            )
        )
    writer.finish()


def plain_sample(folder: Path, number: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images (15, 256, 256), labels (256, 256) and smoothed labels (9, 256, 256) of one season."""
    values = np.frombuffer((folder / f"{number}.bin").read_bytes(), np.uint8)
    images = values[: SEASONS * BANDS * SIZE**2].reshape(SEASONS, BANDS, SIZE, SIZE)
    labels = values[SEASONS * BANDS * SIZE**2 :].reshape(SEASONS, SIZE, SIZE)
    season = int(random.integers(SEASONS))
    prior = torch.from_numpy(plain_recipe.label_prior(labels, season)).float()
    image = torch.from_numpy(images[season].astype(np.float32) / 255)
    label = torch.from_numpy(labels[season].astype(np.int64))
    target = plain_recipe.smooth_labels(label[None], prior[None])[0]
    stacked = torch.cat([image, label[None].float(), target])
    top, left = random.integers(SIZE - CROP + 1, size=2).tolist()
    stacked = stacked[:, top : top + CROP, left : left + CROP]
    for axis in (-1, -2):
        if random.random() < 0.5:
            stacked = stacked.flip(axis)
    if random.random() < 0.2:
        stacked = torch.rot90(stacked, int(random.integers(1, 4)), (-2, -1))
    stacked = stacked.contiguous()
    return stacked[:BANDS], stacked[BANDS].long(), stacked[BANDS + 1 :]


def make_all(sample: Callable[[int], object], numbers: range) -> None:
    for number in numbers:
        sample(number)


def milliseconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return (time.process_time() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=CLASSES, help="that occur in a place")
    parser.add_argument("--labels", type=Path, help="a label map, GeoTIFF, to cut the labels from")
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step-seconds", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as data workers do; both sides gain
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.labels:
            labels_of = windows(options.labels, options.places)
        else:
            labels_of = [blobs(number, options.classes) for number in range(options.places)]
        occurring = statistics.mean(len(np.unique(labels[labels < CLASSES])) for labels in labels_of)
        print(f"{occurring:.1f} classes a place")
        write(folder, labels_of)
        with Store.open(folder / "store") as store:
            measure(folder, store, options)


def measure(folder: Path, store: Store, options: argparse.Namespace) -> None:
    scales = {name: published_normalization(name, "all") for name in store.sensors}

    def dataset(**settings: str) -> PatchDataset:
        return PatchDataset(store, scales, crop=CROP, prior="ts", training=True, **settings)

    worker, device = dataset(), dataset(prior_on="device")
    random = np.random.default_rng(0)
    sides: dict[str, Callable[[int], object]] = {
        "plain": lambda i: plain_sample(folder, i % len(store), random),
        "ours": lambda i: worker[(i, i % len(store), -1)],
        "ours, prior on the device": lambda i: device[(i, i % len(store), -1)],
    }
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.rounds + 1):  # the first is not counted
        for side, sample in sides.items():
            places = range(turn * len(store), (turn + 1) * len(store))
            spent[side].append(milliseconds(lambda s=sample, p=places: make_all(s, p)) / len(store))
    for side, times in spent.items():
        ratios = sorted(plain / own for plain, own in zip(spent["plain"][1:], times[1:], strict=True))
        median = statistics.median(times[1:])
        print(
            f"{side:28} {median:6.2f} ms  {1e3 / median:5.0f} /s  "
            f"{statistics.median(ratios):5.1f} x plain ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )
    batch = collate([device[(0, place, -1)] for place in range(4)])
    maker = device.prior_maker
    assert maker is not None
    times = [milliseconds(lambda: maker.prior(batch["prior_labels"], batch["season"])) for _ in range(20)]
    share = f", {statistics.median(times) / 1e3 / options.step_seconds:.2%} of a step" if options.step_seconds else ""
    print(f"prior of a batch of 4 in the step, on one CPU core: {statistics.median(times):.1f} ms{share}")


if __name__ == "__main__":
    main()
