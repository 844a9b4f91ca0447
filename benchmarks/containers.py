"""Random reads of one season from containers that could hold a training set: ours, Zarr v3, LMDB, an indexed tar.

    python benchmarks/containers.py [--places 40] [--reads 200] [--rounds 5] [--folder /tmp]

The same places (264 px, 2 + 13 bands, labels, 4 seasons, edition uint8) go into each. The sides take turns, `reads`
reads in random order a round, on one core. Printed are the median of the rounds in reads a second of processor time,
its ratio to ours in the same round, and bytes moved for each byte wanted. Warm is from the page cache; cold is after
the kernel was asked to drop the files (POSIX_FADV_DONTNEED), in seconds of the clock, as then the disk is waited for;
LMDB maps its file, and mapped pages are not dropped, so it has no such row. Then the same over HTTP range requests from
a server on this machine, without a cache; LMDB needs a file system. "+ CRC32" checks what it reads, as ours always
does. About 600 MB of disk. Needs the extra `benchmark`: a side whose package is absent is left out, and said to be.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import io
import json
import os
import re
import statistics
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from zlib_ng.zlib_ng import crc32

from cromss.data.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from store_reads import SEASONS, SIZE, write

ARRAYS = {"s1": (2, SIZE, SIZE), "s2": (13, SIZE, SIZE), "labels": (SIZE, SIZE)}
BYTES = sum(int(np.prod(shape)) for shape in ARRAYS.values())

Read = Callable[[int, int], Any]


class Ranges(BaseHTTPRequestHandler):
    """GET of a part of a file, from the page cache; counts the bytes that it sends."""

    protocol_version = "HTTP/1.1"
    root, sent = Path(), 0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        begin, end = 0, size
        if match and match[1]:
            begin, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        elif match:
            begin = size - int(match[2])
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                self.wfile.write(os.pread(file.fileno(), end - begin, begin))
            type(self).sent += end - begin

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def season_arrays(store: Store, place: int, season: int) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in store.read(place, season).items() if name in ARRAYS}


def write_zarr(folder: Path, store: Store) -> None:
    """An array a sensor: a chunk is one season of one place, a shard all seasons of 8 places; not compressed."""
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    for name, shape in ARRAYS.items():
        array = group.create_array(
            name,
            shape=(len(store), SEASONS, *shape),
            dtype="uint8",
            chunks=(1, 1, *shape),
            shards=(8, SEASONS, *shape),
            compressors=None,
            filters=None,
        )
        for first in range(0, len(store), 8):
            some = range(first, min(first + 8, len(store)))
            array[first : first + len(some)] = np.stack(
                [np.stack([season_arrays(store, p, s)[name] for s in range(SEASONS)]) for p in some]
            )


def write_lmdb(folder: Path, store: Store) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=4 * 2**30) as environment, environment.begin(write=True) as transaction:
        for place in range(len(store)):
            for season in range(SEASONS):
                arrays = season_arrays(store, place, season)
                transaction.put(f"{place}/{season}".encode(), b"".join(arrays[n].tobytes() for n in ARRAYS))


def write_tar(folder: Path, store: Store) -> None:
    """As webdataset lays it out: members <key>.<name>; beside it an index of the offsets, which webdataset has not."""
    folder.mkdir()
    index = {}
    with tarfile.open(folder / "data.tar", "w") as tar:
        for place in range(len(store)):
            for season in range(SEASONS):
                arrays = season_arrays(store, place, season)
                for name in ARRAYS:
                    member = tarfile.TarInfo(f"{place:06d}-{season}.{name}")
                    member.size = arrays[name].nbytes
                    tar.addfile(member, io.BytesIO(arrays[name].tobytes()))
    with tarfile.open(folder / "data.tar") as tar:
        for member in tar:
            index[member.name] = [member.offset_data, member.size]
    (folder / "index.json").write_text(json.dumps(index))


def reads_zarr(where: str) -> Read:
    import zarr

    arrays = {name: zarr.open_group(where, mode="r")[name] for name in ARRAYS}
    return lambda place, season: {name: array[place, season] for name, array in arrays.items()}


def reads_lmdb(folder: Path) -> Read:
    import lmdb

    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)

    def read(place: int, season: int) -> dict[str, np.ndarray]:
        with environment.begin() as transaction:
            content = transaction.get(f"{place}/{season}".encode())  # a copy: nothing of it outlives the transaction
        return _split(content)

    return read


def reads_tar(folder: Path, fetch: Callable[[int, int], bytes]) -> Read:
    index = json.loads((folder / "index.json").read_text())

    def read(place: int, season: int) -> dict[str, np.ndarray]:
        spans = {name: index[f"{place:06d}-{season}.{name}"] for name in ARRAYS}
        return {name: np.frombuffer(fetch(*span), np.uint8).reshape(ARRAYS[name]) for name, span in spans.items()}

    return read


def checked(read: Read) -> Read:
    """The same with a CRC32 of every array (compared with nothing: the cost is what counts here)."""

    def read_and_check(place: int, season: int) -> int:
        return sum(crc32(array) for array in read(place, season).values())

    return read_and_check


def _split(content: bytes) -> dict[str, np.ndarray]:
    result, start = {}, 0
    for name, shape in ARRAYS.items():
        length = int(np.prod(shape))
        result[name] = np.frombuffer(content, np.uint8, length, start).reshape(shape)
        start += length
    return result


def ranges_of(port: int, path: str) -> Callable[[int, int], bytes]:
    """One connection kept open, one request a member."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def fetch(offset: int, length: int) -> bytes:
        connection.request("GET", path, headers={"Range": f"bytes={offset}-{offset + length - 1}"})
        return connection.getresponse().read()

    return fetch


def drop(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fdatasync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rounds(sides: dict[str, Read], before: Callable[[str], object], reads: int, count: int, clock: Any) -> None:
    """Let the sides take turns and print them, the first being ours."""
    places = max(1, PLACES)
    random = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    sent: dict[str, float] = {}
    for _ in range(count):
        keys = list(zip(random.integers(places, size=reads), random.integers(SEASONS, size=reads), strict=True))
        for name, read in sides.items():
            before(name)
            begun, start = Ranges.sent, clock()
            for place, season in keys:
                read(int(place), int(season))
            rates[name].append(reads / (clock() - start))
            sent[name] = (Ranges.sent - begun) / (reads * BYTES)
    ours = rates[next(iter(rates))]
    for name, values in rates.items():
        ratio = statistics.median(value / own for value, own in zip(values, ours, strict=True))
        moved = f"   {sent[name]:5.2f} bytes moved a byte wanted" if sent[name] else ""
        print(f"  {name:22} {statistics.median(values):8.0f} /s   {ratio:5.2f} of ours{moved}")


PLACES = 40


def measure_http(root: Path, reads: int, count: int, have: set[str]) -> None:
    Ranges.root = root
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    # a cache of one byte keeps nothing: every read goes over the wire
    store = Store.open(f"{address}/ours", cache=root / "cache", cache_bytes=1)
    sides: dict[str, Read] = {"ours": store.read}
    sides["tar and index"] = reads_tar(root / "tar", ranges_of(server.server_port, "/tar/data.tar"))
    if "zarr" in have:
        sides["Zarr v3, sharded"] = reads_zarr(f"{address}/zarr")
    print("over HTTP from this machine, no cache, reads a second of the clock, one after the other (the server shares")
    print("this process, so the figures compare the sides and say nothing of a network)")
    rounds(sides, lambda _: None, reads, count, time.perf_counter)
    kept = Store.open(f"{address}/ours", cache=root / "kept", cache_bytes=4 * 10**9)
    kept.prefetch((place, season) for place in range(PLACES) for season in range(SEASONS))
    with Store.open(root / "ours") as local:
        print("reads a second of processor time, warm")
        rounds(
            {"ours, local": local.read, "ours, from its cache": kept.read},
            lambda _: None,
            reads,
            count,
            time.process_time,
        )
    kept.close()
    store.close()
    server.shutdown()


def main() -> None:
    global PLACES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=PLACES)
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    PLACES = options.places
    have = {name for name in ("zarr", "lmdb") if importlib.util.find_spec(name)}
    for name in sorted({"zarr", "lmdb"} - have):
        print(f"{name} is not installed and left out: pip install 'cromss[benchmark]'")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        write(root / "ours", "uint8", options.places)
        with Store.open(root / "ours") as store:
            write_tar(root / "tar", store)
            for package, writer in (("zarr", write_zarr), ("lmdb", write_lmdb)):
                if package in have:
                    writer(root / package, store)
            handle = os.open(root / "tar" / "data.tar", os.O_RDONLY)
            scratch = np.empty(store.season_bytes(0), np.uint8)
            sides: dict[str, Read] = {"ours": lambda place, season: store.read(place, season, scratch=scratch)}
            sides["ours, new arrays"] = store.read
            sides["tar and index"] = reads_tar(root / "tar", lambda offset, size: os.pread(handle, size, offset))
            sides["tar + CRC32"] = checked(sides["tar and index"])
            folders = {"ours": root / "ours", "tar and index": root / "tar"}
            if "zarr" in have:
                sides["Zarr v3, sharded"] = reads_zarr(str(root / "zarr"))
                folders["Zarr v3, sharded"] = root / "zarr"
            if "lmdb" in have:
                sides["LMDB, raw bytes"] = reads_lmdb(root / "lmdb")
                sides["LMDB + CRC32"] = checked(sides["LMDB, raw bytes"])
                folders["LMDB, raw bytes"] = root / "lmdb"
            for side, folder in folders.items():
                size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
                share = size / (options.places * SEASONS * BYTES)
                print(f"  {side:22} {size / 1e6:8.1f} MB on disk, {share:.3f} of the arrays")
            print(f"warm, reads a second of processor time; a read is {BYTES / 1e6:.2f} MB")
            rounds(sides, lambda _: None, options.reads, options.rounds, time.process_time)
            print("after dropping the files from the page cache, reads a second of the clock")
            sides = {side: sides[side] for side in folders if not side.startswith("LMDB")}
            rounds(sides, lambda side: drop(folders[side]), min(options.reads, 100), options.rounds, time.perf_counter)
            os.close(handle)
        measure_http(root, min(options.reads, 100), options.rounds, have)


if __name__ == "__main__":
    main()
