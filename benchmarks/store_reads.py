"""How fast one season of a place is read from a training store, and how long a store of many places takes to open.

    python benchmarks/store_reads.py [--places 64] [--reads 3000] [--index-places 100000] [--folder /tmp]

Writes a store of random pixels for each edition (264 px, 2 + 13 bands, 4 seasons, labels), reads seasons in random
order on one core with the files in the page cache, and prints reads a second beside the two parts alone that bound it:
copying the same bytes with pread, and their CRC32. Then the samples a second of a PatchDataset, and how long a large
index takes to open. About 1 GB of disk and one minute.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from zlib_ng import zlib_ng

from cromss.data.dataset import PatchDataset
from cromss.data.record import PlaceRecord
from cromss.data.store import EDITIONS, Store, StoreWriter
from cromss.data.store.layout import INDEX_FILE, META_FILE, digest
from cromss.files import read_json, sha256, write_json
from cromss.geo.bands import SENSORS, published_normalization
from cromss.geo.legends import LEGENDS

SIZE, SEASONS = 264, 4


def place(number: int) -> PlaceRecord:
    """A place whose pixels are noise and whose labels are patches of 33 px."""
    random = np.random.default_rng(number)
    patches = random.integers(0, 9, (SEASONS, SIZE // 33, SIZE // 33), dtype=np.uint8)
    return PlaceRecord(
        id=f"{number:07d}",
        seasons=("winter", "spring", "summer", "autumn"),
        images={
            "s1": random.normal(-15, 5, (SEASONS, 2, SIZE, SIZE)).astype(np.float32),
            "s2": random.integers(0, 5000, (SEASONS, 13, SIZE, SIZE), dtype=np.uint16),
        },
        products={"s1": "GRD", "s2": "L1C"},
        labels=patches.repeat(33, axis=1).repeat(33, axis=2),
        valid=np.ones((SEASONS, SIZE, SIZE), np.bool_),
        split="train",
    )


def write(folder: Path, edition: str, places: int) -> float:
    """Write a store; return megabytes a second."""
    bands = {name: sensor.bands for name, sensor in SENSORS.items()}
    writer = StoreWriter(folder, legend=LEGENDS["dynamic_world"], sensors=bands, edition=edition)
    spent = 0.0
    for number in range(places):
        record = place(number)
        before = time.perf_counter()
        writer.add(record)
        spent += time.perf_counter() - before
    before = time.perf_counter()
    writer.finish()
    spent += time.perf_counter() - before
    return sum(shard.stat().st_size for shard in (folder / "shards").iterdir()) / spent / 1e6


def seconds_each(count: int, action: Callable[[int], object]) -> float:
    """The least mean time of `action(i)` over five blocks: CPU seconds, user and system, of this process.

    With the files in the page cache nothing is waited for, so on an idle core these are the seconds of the clock; on a
    shared machine they leave out the time that other processes had.
    """
    block = max(1, count // 5)
    best = float("inf")
    for start in range(0, 5 * block, block):
        before = time.process_time()
        for i in range(start, start + block):
            action(i)
        best = min(best, (time.process_time() - before) / block)
    return best


def measure_reads(folder: Path, reads: int) -> None:
    with Store.open(folder) as store:
        random = np.random.default_rng(0)
        places = random.integers(len(store), size=5 * reads).tolist()
        seasons = random.integers(SEASONS, size=5 * reads).tolist()
        scratch = np.empty(store.season_bytes(0), np.uint8)
        for number in range(len(store)):
            for season in range(SEASONS):
                store.read(number, season, scratch=scratch)
        size = store.season_bytes(0)
        whole = seconds_each(reads, lambda i: store.read(places[i], seasons[i], scratch=scratch))
        fresh = seconds_each(reads, lambda i: store.read(places[i], seasons[i]))
        shard = folder / store.meta["shards"][0]["file"]
        handle, end = os.open(shard, os.O_RDONLY), shard.stat().st_size - size
        offsets = random.integers(end, size=5 * reads).tolist()
        copy = seconds_each(reads, lambda i: os.preadv(handle, [memoryview(scratch)], offsets[i]))
        os.close(handle)
        check = seconds_each(reads, lambda i: zlib_ng.crc32(scratch))
        plain = seconds_each(reads, lambda i: zlib.crc32(scratch))
        print(f"  a season: {size / 1e6:.2f} MB")
        print(f"  read, kept buffer      {1 / whole:8.0f} /s   {whole * 1e6:7.0f} us   {size / whole / 1e9:5.1f} GB/s")
        print(f"  read, new arrays       {1 / fresh:8.0f} /s   {fresh * 1e6:7.0f} us")
        print(f"  of it pread            {copy / whole:8.0%}      {copy * 1e6:7.0f} us   {size / copy / 1e9:5.1f} GB/s")
        print(
            f"  of it CRC32            {check / whole:8.0%}      {check * 1e6:7.0f} us   {size / check / 1e9:5.1f} GB/s"
        )
        print(f"  the rest (Python)      {1 - (copy + check) / whole:8.0%}      {(whole - copy - check) * 1e6:7.0f} us")
        print(f"  (CRC32 of Python's zlib instead: {plain * 1e6:.0f} us, {size / plain / 1e9:.1f} GB/s)")


def measure_samples(folder: Path, reads: int) -> None:
    with Store.open(folder) as store:
        scales = {name: published_normalization(name, "all") for name in store.sensors}
        for prior in (None, "ts"):
            dataset = PatchDataset(store, scales, crop=256, prior=prior, training=True)
            for number in range(20):
                dataset[(0, number % len(store), -1)]
            each = seconds_each(reads // 10, lambda i, d=dataset: d[(i, i % len(store), -1)])
            print(f"  sample, crop 256, prior {prior!s:4}  {1 / each:6.0f} /s   {each * 1e3:6.2f} ms")


def widen_index(folder: Path, places: int) -> None:
    """Repeat the index of a store until it lists `places` places: as long as a large store's, over the same shards."""
    meta = read_json(folder / META_FILE)
    table = pq.read_table(folder / INDEX_FILE)
    times = -(-places // meta["places"])
    rows = table.num_rows
    repeated = pa.concat_tables([table] * times).combine_chunks().to_pydict()
    repeated["place"] = (np.arange(rows * times) // SEASONS).tolist()
    repeated["id"] = [f"{number:07d}" for number in repeated["place"]]
    pq.write_table(pa.table(repeated, schema=table.schema), folder / INDEX_FILE, compression="zstd")
    meta["index"]["sha256"] = sha256(folder / INDEX_FILE)
    meta["places"] = meta["places"] * times
    meta.pop("digest")
    write_json(folder / META_FILE, {**meta, "digest": digest(meta)})


def measure_opening(folder: Path) -> None:
    """In a process of its own, for its memory to mean something."""
    code = (
        "import re, sys, time\n"
        "from pathlib import Path\n"
        "from cromss.data.store.reader import Store\n"
        # not ru_maxrss, which a child process inherits
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "before, start = peak(), time.process_time()\n"
        "store = Store.open(sys.argv[1])\n"
        "print(f'  {len(store)} places: opened in {time.process_time() - start:.2f} s; peak memory {peak():.0f} MB, '\n"
        "      f'{before:.0f} MB of it imports')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=64)
    parser.add_argument("--reads", type=int, default=3000)
    parser.add_argument("--index-places", type=int, default=100_000)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        for edition in EDITIONS:
            folder = Path(root) / edition
            print(f"edition {edition}")
            print(f"  written at {write(folder, edition, options.places):.0f} MB/s")
            measure_reads(folder, options.reads)
            measure_samples(folder, options.reads)
        widen_index(folder, options.index_places)
        measure_opening(folder)
    print(f"peak memory of this benchmark {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
