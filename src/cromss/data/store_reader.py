"""Read a training store: any (place, season) at once, every byte checked.

In: the folder that a StoreWriter finished. Out: arrays in the store's types. One read is an os.pread a run of
neighbouring arrays, at offsets from the index, and a CRC32 an array. Nothing is mapped into memory: a file that shrinks
while it is read gives an error, not a signal. File handles belong to one process, and are opened when first needed.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from zlib_ng.zlib_ng import crc32  # the CRC32 of zlib, about five times as fast

from cromss.data.record import SPLITS
from cromss.data.store_index import EXTENT_PARTS, check_index, check_shard_sizes, numbers, read_index, read_meta
from cromss.data.store_layout import INDEX_FILE, LABEL_KINDS, digest
from cromss.errors import ArgumentError, DamagedFileError, MissingDataError, StoreError
from cromss.geo.bands import Normalization
from cromss.geo.legend import Legend
from cromss.geo.raster import Grid

__all__ = ["Store"]

MAX_HANDLES = 256
"""Shards kept open at a time; the usual limit is 1,024 open files a process."""


class Store:
    """A finished store, open for reading. Places and their seasons are numbered from 0 in order of writing.

    It may be handed to other processes, by fork or by pickling, and shared by threads.
    """

    def __init__(self, path: Path, meta: dict[str, Any], table: pa.Table) -> None:
        """Use `Store.open`, which checks what this takes for granted."""
        self.path, self.meta = path, meta
        self.legend = Legend.from_dict(meta["legend"])
        self.sensors: dict[str, tuple[str, ...]] = {name: tuple(s["bands"]) for name, s in meta["sensors"].items()}
        self.edition: str = meta["edition"]
        self.fingerprint = digest({name: value for name, value in meta.items() if name not in ("report", "digest")})
        self._arrays = (*self.sensors, *LABEL_KINDS)
        self._dtypes = [np.dtype(meta["sensors"][name]["dtype"]) for name in self.sensors] + [np.dtype(np.uint8)] * 3
        self._shard_files = [str(shard["file"]) for shard in meta["shards"]]
        self._first = np.append(np.flatnonzero(numbers(table, "season") == 0), table.num_rows)
        first_rows = pa.array(self._first[:-1])
        self._ids = table["id"].take(first_rows)
        self._season_names = table["season_name"]
        self._products = {name: table[f"{name}_product"].take(first_rows) for name in self.sensors}
        self.splits: NDArray[np.str_] = np.array(table["split"].take(first_rows).to_pylist(), dtype=np.str_)
        self._frame = np.stack([numbers(table, name) for name in ("shard", "height", "width")], axis=1)
        # (rows, arrays, 3): offset, length, CRC32; 8 bytes each, so that one row turns into Python numbers at once
        self._extents = np.empty((table.num_rows, len(self._arrays), len(EXTENT_PARTS)), dtype=np.int64)
        for (i, array), (j, part) in itertools.product(enumerate(self._arrays), enumerate(EXTENT_PARTS)):
            self._extents[:, i, j] = numbers(table, f"{array}_{part}")
        self._reset_handles()

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open the store in folder `path` after checking its description, its index and the sizes of its shards.

        Raises MissingDataError when there is nothing, StoreError when it is not finished or does not fit together,
        DamagedFileError when the index or description is not what was written.
        """
        path = Path(path)
        meta = read_meta(path)
        check_shard_sizes(path, meta)
        table = read_index(path, meta)
        check_index(path, meta, table)
        return cls(path, meta, table)

    def close(self) -> None:
        """Close the files; the store opens them again when it is read again."""
        with self._lock:
            while self._handles:
                os.close(self._handles.popitem()[1])

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_handles") and os.getpid() == self._pid:
            self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self.fingerprint))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> list[str]:
        """The id of each place."""
        return [str(name) for name in self._ids.to_pylist()]

    def id(self, place: int) -> str:
        """The id of one place."""
        return str(self._ids[self._place(place)].as_py())

    def num_seasons(self, place: int) -> int:
        """How many seasons a place has."""
        place = self._place(place)
        return int(self._first[place + 1] - self._first[place])

    def seasons(self, place: int) -> tuple[str, ...]:
        """The names of a place's seasons."""
        place = self._place(place)
        return tuple(self._season_names[self._first[place] : self._first[place + 1]].to_pylist())

    def shape(self, place: int) -> tuple[int, int]:
        """Height and width of a place, in pixels."""
        _, height, width = self._frame[self._first[self._place(place)]].tolist()
        return height, width

    def products(self, place: int) -> dict[str, str]:
        """Sensor -> product of a place, such as {"s1": "GRD", "s2": "L1C"}."""
        place = self._place(place)
        return {name: str(column[place].as_py()) for name, column in self._products.items()}

    def scaling(self, sensor: str) -> Normalization | None:
        """The Normalization behind the 8-bit values of edition "uint8"; None in edition "native"."""
        content = self.meta["sensors"][sensor]["scaling"]
        return None if content is None else Normalization.from_dict(content)

    def has(self, kind: str) -> bool:
        """Whether any place has "labels", "truth" or an invalid pixel ("valid")."""
        return bool(self._extents[:, self._arrays.index(kind), 1].any())

    def product_names(self, sensor: str) -> tuple[str, ...]:
        """The products of a sensor that occur in the store."""
        return tuple(sorted(self._products[sensor].unique().to_pylist()))

    def season_bytes(self, place: int) -> int:
        """The most bytes that reading one season of a place takes; the size for `scratch`."""
        place = self._place(place)
        rows = self._extents[self._first[place] : self._first[place + 1], :, 1]
        return int(rows.sum(axis=1).max())

    def ids_in_shard(self, shard: int) -> list[str]:
        """The ids of the places that a shard holds."""
        places = np.flatnonzero(self._frame[self._first[:-1], 0] == shard)
        return [self.id(place) for place in places.tolist()]

    def select(self, split: str) -> NDArray[np.int64]:
        """The places of a split, "train", "validation", "test" or "" (undecided); none if the store has none of it."""
        if split not in ("", *SPLITS):
            raise ArgumentError("unknown split", got=split, expected=SPLITS)
        return np.flatnonzero(self.splits == split)

    def grid(self, place: int) -> Grid | None:
        """Where a place lies on the ground, if its source said so. Reads the index again: not for inner loops."""
        row = int(self._first[self._place(place)])
        text = pq.read_table(self.path / INDEX_FILE, columns=["grid"], memory_map=False)["grid"][row].as_py()
        content = json.loads(text)
        if content is None:
            return None
        height, width = self.shape(place)
        crs = None if content["crs"] is None else CRS.from_user_input(content["crs"])
        return Grid(height=height, width=width, transform=Affine(*content["transform"]), crs=crs)

    def read(
        self,
        place: int,
        season: int,
        *,
        sensors: Sequence[str] | None = None,
        scratch: NDArray[np.uint8] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """All arrays of one season: each sensor (B, H, W) in the store's type, "labels" and "truth" (H, W) uint8 where
        the place has them, "valid" (H, W) bool.

        sensors: those to read, None for all. scratch: a uint8 buffer of at least `season_bytes`; the arrays are then
        views of it and last until it is used again. Raises DamagedFileError naming the place when a byte is not what
        was written.
        """
        row = self._row(place, season)
        _, height, width = self._frame[row].tolist()
        extents = self._extents[row].tolist()
        wanted = [
            (row, array, *extents[array])
            for array, name in enumerate(self._arrays)
            if extents[array][1] and (sensors is None or name in sensors or name in LABEL_KINDS)
        ]
        wanted.sort(key=lambda item: item[2])  # by offset: neighbours in the file take one read
        total = sum(length for *_, length, _ in wanted)
        if scratch is None or scratch.size < total:
            scratch = np.empty(total, np.uint8)
        result: dict[str, NDArray[Any]] = {}
        for (_, array, *_), part in zip(wanted, self._fill(wanted, scratch), strict=True):
            size = (height, width) if array >= len(self.sensors) else (-1, height, width)
            result[self._arrays[array]] = part.view(self._dtypes[array]).reshape(size)
        stored = result.get("valid")
        result["valid"] = np.ones((height, width), np.bool_) if stored is None else stored.view(np.bool_)
        return result

    def read_labels(self, place: int, kind: str = "labels") -> NDArray[np.uint8]:
        """The labels of all seasons of a place, (T, H, W) uint8; kind "labels" or "truth".

        Raises MissingDataError when the place has none, DamagedFileError as `read`.
        """
        place = self._place(place)
        if kind not in ("labels", "truth"):
            raise ArgumentError("unknown kind of labels", got=kind, expected="labels or truth")
        array = self._arrays.index(kind)
        rows = range(int(self._first[place]), int(self._first[place + 1]))
        wanted = [(row, array, *self._extents[row, array].tolist()) for row in rows]
        if any(length == 0 for *_, length, _ in wanted):
            raise MissingDataError(f"a place has no {kind}", got=self.id(place), where=self.path)
        out = np.empty(sum(length for *_, length, _ in wanted), np.uint8)
        self._fill(wanted, out)
        return out.reshape(len(rows), *self.shape(place))

    def _place(self, place: int) -> int:
        if not 0 <= place < len(self._ids):
            raise ArgumentError("no such place", got=place, expected=f"0 to {len(self._ids) - 1}", where=self.path)
        return int(place)

    def _row(self, place: int, season: int) -> int:
        count = self.num_seasons(place)
        if not 0 <= season < count:
            raise ArgumentError("no such season", got=season, expected=f"0 to {count - 1}", where=self.id(place))
        return int(self._first[place]) + int(season)

    def _fill(self, wanted: Sequence[_Wanted], buffer: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Read arrays of one place one after the other into `buffer`; neighbours in the file take one read."""
        shard = int(self._frame[wanted[0][0], 0])
        parts, start = [], 0
        run_offset, run_start = wanted[0][2], 0
        if os.getpid() != self._pid:  # a fork: the parent's handles and lock are not ours
            self._reset_handles()
        with self._lock:
            handle = self._handle(shard)
            for _, _, offset, length, _ in wanted:
                if offset != run_offset + start - run_start:
                    self._pread(handle, shard, buffer[run_start:start], run_offset)
                    run_offset, run_start = offset, start
                parts.append(buffer[start : start + length])
                start += length
            self._pread(handle, shard, buffer[run_start:start], run_offset)
        for (row, array, _, _, expected), part in zip(wanted, parts, strict=True):
            if (got := crc32(part)) != expected:
                self._refuse(row, array, shard, f"CRC32 {got:08x}", f"{expected:08x}")
        return parts

    def _pread(self, handle: int, shard: int, buffer: NDArray[np.uint8], offset: int) -> None:
        view = memoryview(buffer)  # type: ignore[arg-type]  # numpy's stubs do not say that arrays are buffers
        while view:
            try:
                count = os.preadv(handle, [view], offset)
            except OSError as error:
                raise DamagedFileError("a shard cannot be read", got=error, where=self._shard_path(shard)) from None
            if count == 0:
                raise DamagedFileError(
                    "a shard has become shorter",
                    got=f"its end before byte {offset + len(view)}",
                    where=self._shard_path(shard),
                )
            view, offset = view[count:], offset + count

    def _refuse(self, row: int, array: int, shard: int, got: str, expected: str) -> None:
        place = int(np.searchsorted(self._first, row, side="right")) - 1
        raise DamagedFileError(
            f"{self._arrays[array]} of a sample is not what was written",
            got=got,
            expected=expected,
            where=f"{self.id(place)}/{self.seasons(place)[row - int(self._first[place])]} in {self._shard_path(shard)}",
            do=f"see the whole damage with `cromss verify {self.path}`, and write the store again from its sources",
        )

    def _shard_path(self, shard: int) -> Path:
        return self.path / self._shard_files[shard]

    def _reset_handles(self) -> None:
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _handle(self, shard: int) -> int:
        handle = self._handles.get(shard)
        if handle is not None:
            self._handles.move_to_end(shard)
            return handle
        while len(self._handles) >= MAX_HANDLES:
            os.close(self._handles.popitem(last=False)[1])
        try:
            handle = os.open(self._shard_path(shard), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError("a shard cannot be opened", got=error, where=self._shard_path(shard)) from None
        self._handles[shard] = handle
        return handle


_Wanted = tuple[int, int, int, int, int]
"""Row of the index, number of the array, byte offset, length, CRC32."""


def _reopen(path: Path, fingerprint: str) -> Store:
    store = Store.open(path)
    if store.fingerprint != fingerprint:
        raise StoreError(
            "the store was replaced while it was in use", got=store.fingerprint, expected=fingerprint, where=path
        )
    return store
