"""What a remote store supplies: the order of samples, the cache and the requests of a training, with waiting modelled.

    python benchmarks/reader_simulation.py [--places 103793] [--epochs 4] [--latency-ms 30] [--connection-mb 60]
        [--machine-mb 1200] [--cpu-ms 5.2] [--workers 16] [--no-check]

The order is that of `BatchOrder`, the season is drawn as `PatchDataset` draws it, and the cache keeps and deletes by
the rule of `DiskCache` (least recently used, down to KEPT_SHARE), counting seasons in place of files. A request takes a
latency and its bytes over the bandwidth of a connection; a worker has CONNECTIONS requests in flight for a batch, then
spends processor time on each sample; all workers of a machine share its bandwidth. Latency and bandwidth are
parameters, not measurements: the defaults are round figures of the order that object stores show in their own region.

First the model is checked against the reader itself: a store on a server of this machine that waits before each answer.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

from cromss.data.sampling import BatchOrder
from cromss.data.store import Store
from cromss.data.store.disk_cache import KEPT_SHARE
from cromss.data.store.remote_files import CONNECTIONS

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from remote_server import serving
from store_reads import SEASONS, write

SEASON_BYTES = {"uint8": 16 * 264**2, "native": (2 * 4 + 13 * 2 + 1) * 264**2}
LABEL_BYTES = 3 * 264**2  # the label maps of the other seasons, for the prior
REQUESTS = {"uint8": 2, "native": 3}
"""Runs of neighbouring arrays of a sample: its sensors (one run where they share a type), and all its label maps."""


def batch_seconds(misses: int, requests: int, each: float, latency: float, connection: float, cpu: float) -> float:
    """Seconds that a worker spends on a batch: `misses` samples of `each` bytes to fetch, then `cpu` for the batch."""
    rounds = -(-misses * requests // CONNECTIONS)
    return rounds * (latency + each / requests / connection) + cpu


class Kept:
    """The rule of `DiskCache`, for entries of one size: `room` of them."""

    def __init__(self, room: int) -> None:
        self.room, self.entries = room, OrderedDict[tuple[int, int], None]()

    def use(self, key: tuple[int, int]) -> bool:
        """Whether the entry was there; it is afterwards, as the one used last."""
        if key in self.entries:
            self.entries.move_to_end(key)
            return True
        if self.room:
            if len(self.entries) >= self.room:
                while len(self.entries) > self.room * KEPT_SHARE - 1:
                    self.entries.popitem(last=False)
            self.entries[key] = None
        return False


def hit_shares(places: int, epochs: int, room: int, batch: int) -> list[float]:
    """Share of the samples of each epoch that the cache holds, for one machine that sees all of them."""
    steps = places // batch
    kept = Kept(room)
    shares = []
    order = iter(BatchOrder(places, batch, seed=0, total_steps=steps * epochs))
    for epoch in range(epochs):
        hits = 0
        for keys in itertools.islice(order, steps):
            for _, place, _ in keys:
                season = int(np.random.default_rng((0, epoch, place)).integers(SEASONS))
                hits += kept.use((place, season))
        shares.append(hits / (steps * batch))
    return shares


def check_model(latency: float) -> None:
    """One worker, nothing cached, a server that waits: the reader beside the model, in batches of 16."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "s", "uint8", 48)
        with serving(Path(name)) as server:
            store = Store.open(f"{server.address}/s", cache=Path(name) / "c", cache_bytes=10**10)
            batches = [[(place, 0) for place in range(first, first + 16)] for first in range(0, 48, 16)]
            elapsed = []
            for wait, season in ((0.0, 0), (0.0, 1), (latency, 2)):
                server.latency = wait
                begun = time.perf_counter()
                for batch in batches:
                    wanted = [(place, season) for place, _ in batch]
                    store.prefetch(wanted, kinds=("labels",) if season == 0 else ())
                    for place, _ in batch:
                        store.read(place, season)
                elapsed.append(time.perf_counter() - begun)
            store.close()
    # the first round brings all labels and opens the connections, so the others are one request a sample each
    expected = 3 * batch_seconds(16, 1, 0, latency, 1, 0)
    print(f"check: 48 samples took {elapsed[1]:.2f} s, and {elapsed[2]:.2f} s with {latency * 1e3:.0f} ms an answer:")
    print(f"       {elapsed[2] - elapsed[1]:.2f} s more, where the model says {expected:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=103_793)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--connection-mb", type=float, default=60.0, help="MB a second of one connection")
    parser.add_argument("--machine-mb", type=float, default=1200.0, help="MB a second of one machine's network")
    parser.add_argument(
        "--cpu-ms", type=float, default=5.2, help="processor time of a sample, all of the dataset's work"
    )
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--no-check", action="store_true")
    options = parser.parse_args()
    if not options.no_check:
        check_model(0.2)
    total = options.places * SEASONS
    print(f"{options.places} places x {SEASONS} seasons; {options.workers} workers, {options.cpu_ms:g} ms a sample")
    print("edition  cache of the set   in the cache, by epoch               samples/s, last epoch   bound by")
    held = {s: hit_shares(options.places, options.epochs, int(total * s), options.batch) for s in (0.0, 0.25, 0.5, 1.0)}
    for edition, size in SEASON_BYTES.items():
        for share, shares in held.items():
            missed, each = 1 - shares[-1], size + LABEL_BYTES
            misses = round(options.batch * missed)
            seconds = batch_seconds(
                misses,
                REQUESTS[edition],
                each,
                options.latency_ms / 1e3,
                options.connection_mb * 1e6,
                options.batch * options.cpu_ms / 1e3,
            )
            workers = options.workers * options.batch / seconds
            network = options.machine_mb * 1e6 / (each * missed) if missed else float("inf")
            by = "network" if network < workers else "workers"
            line = " ".join(f"{value:4.0%}" for value in shares)
            print(f"{edition:8} {share:8.0%}           {line:36} {min(workers, network):10.0f}              {by}")


if __name__ == "__main__":
    main()
