"""How fast `prepare` is beside reading the same files with the raster library alone, on one core.

    python benchmarks/prepare_speed.py [--scenes 60] [--size 264] [--rounds 5] [--compress deflate] [--shift_samples 0]

Writes scenes (s1 2 bands float32, s2 13 bands uint16, labels) whose values are smooth with noise, as images are. Each
round reads every file once with rasterio (open, read) and prepares a store of them, in one process, and compares the
process time (user and system) of both, so that waiting for the disk and for other processes does not count. Prints the
ratio of the two speeds: the median of the rounds, and their range. 100 MB of disk for 60 scenes. Shifts are measured on
a sample of at most 400 seasons of a set however large, so they are left out unless `--shift_samples` asks for some.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import pstats
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.geo.bands import SENSORS

BANDS = {"s1": SENSORS["s1"].bands, "s2": SENSORS["s2"].bands}


def scene(root: Path, number: int, size: int, compress: str | None) -> None:
    """Write the three files of one scene."""
    random = np.random.default_rng(number)
    coarse = random.random((13, size // 8 + 1, size // 8 + 1)).repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    values = {
        "s1": (-20 + 10 * coarse[:2] + random.normal(0, 1, (2, size, size))).astype(np.float32),
        "s2": (500 + 3000 * coarse + random.normal(0, 40, (13, size, size))).astype(np.uint16),
        "labels": (coarse[:1] * 9).astype(np.uint8),
    }
    nodata = {"s1": float("nan"), "s2": 0, "labels": 255}
    for role, bands in values.items():
        path = root / role / f"{number:05d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {"driver": "GTiff", "height": size, "width": size, "count": len(bands), "dtype": bands.dtype}
        profile |= {"crs": CRS.from_epsg(32633), "transform": Affine(10, 0, 3e5, 0, -10, 5e6), "nodata": nodata[role]}
        if compress:
            profile |= {"compress": compress, "predictor": 3 if bands.dtype.kind == "f" else 2}
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(bands)
            dataset.update_tags(LEVEL="L1C")
            for band, name in enumerate(BANDS.get(role, ()), start=1):
                dataset.set_band_description(band, name)


def read_alone(root: Path) -> int:
    """Read every file with rasterio and nothing else; return the bytes of the pixels."""
    total = 0
    for path in sorted(root.glob("*/*.tif")):
        with rasterio.open(path) as dataset:
            total += dataset.read().nbytes
    return total


def prepare_quietly(root: Path, out: Path, shift_samples: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(PrepareConfig(root=str(root), out=str(out), shift_samples=shift_samples))


def process_time(function, *arguments) -> float:
    begun = time.process_time()
    function(*arguments)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--size", type=int, default=264)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compress", default="deflate", help="none, deflate, lzw, zstd")
    parser.add_argument("--root", help="a folder with s1, s2 and labels to use instead of generated scenes")
    parser.add_argument("--shift_samples", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print what prepare spends its time on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(options.root or f"{folder}/in"), Path(folder) / "out"
        if not options.root:
            for number in range(options.scenes):
                scene(root, number, options.size, None if options.compress == "none" else options.compress)
        size = read_alone(root)  # also brings the files into the page cache
        prepare_quietly(root, out, options.shift_samples)
        if options.profile:
            shutil.rmtree(out)
            with cProfile.Profile(time.process_time) as profile:
                prepare_quietly(root, out, options.shift_samples)
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(18)
        times = []
        for _ in range(options.rounds):
            shutil.rmtree(out)
            alone = process_time(read_alone, root)
            times.append((alone, process_time(prepare_quietly, root, out, options.shift_samples)))
    ratios = [alone / prepared for alone, prepared in times]
    alone, prepared = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{size / 1e6:.0f} MB of pixels; {options.compress if not options.root else 'files as they are'}")
    print(f"rasterio alone {size / 1e6 / alone:.0f} MB/s, prepare {size / 1e6 / prepared:.0f} MB/s of process time")
    print(f"speed of prepare beside rasterio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
