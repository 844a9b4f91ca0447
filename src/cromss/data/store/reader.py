"""Read a training store: any (place, season) at once, every byte checked.

In: the folder that a StoreWriter finished, or its address. Out: arrays in the store's types. One read is a run of
bytes for neighbouring arrays, at offsets from the index, and a CRC32 an array; `store.files` and `store.remote_files`
get the bytes.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from cromss.data.record import SPLITS
from cromss.data.store.files import LocalFiles, StoreFiles, Wanted, cut
from cromss.data.store.index import EXTENT_PARTS, check_index, index_bytes, numbers, read_index, read_meta
from cromss.data.store.layout import LABEL_KINDS, digest, is_soft_layer, label_layers, layers_of, soft_layers
from cromss.data.store.remote_files import RemoteFiles
from cromss.data.store.remote_source import is_remote
from cromss.data.store.whole_steps import WholeSteps
from cromss.errors import ArgumentError, CromssError, DamagedFileError, MissingDataError, StoreError
from cromss.geo.bands import Normalization, known_sensor
from cromss.geo.legend import Legend
from cromss.geo.raster import Grid
from cromss.geo.sensor import Sensor

__all__ = ["Store"]


class Store:
    """A finished store, open for reading. Places and their seasons are numbered from 0 in order of writing.

    sensors: name -> the bands that the store holds. definitions: name -> what the sensor measures, with statistics.
    annotators: the names of those whose label maps are kept apart; empty where there is one, without a name.
    label_layers: the array of each annotator's labels. soft_layers: the arrays of class probabilities; a place that has
    the labels of an annotator has these, too.

    It may be handed to other processes, by fork or by pickling, and shared by threads.
    """

    def __init__(self, path: str | Path, files: StoreFiles, meta: dict[str, Any], table: pa.Table) -> None:
        """Use `Store.open`, which checks what this takes for granted."""
        self.path, self.files, self.meta = path, files, meta
        self.legend = Legend.from_dict(meta["legend"])
        self.sensors: dict[str, tuple[str, ...]] = {name: tuple(s["bands"]) for name, s in meta["sensors"].items()}
        self.definitions = {name: _definition(path, name, entry) for name, entry in meta["sensors"].items()}
        self.edition: str = meta["edition"]
        self.fingerprint = digest({name: value for name, value in meta.items() if name not in ("report", "digest")})
        self.annotators: tuple[str, ...] = tuple(meta.get("annotators", ()))
        self.label_layers = label_layers(self.annotators)
        self._arrays = (*self.sensors, *layers_of(meta))
        self.soft_layers = soft_layers(meta)
        types = [meta["sensors"][array]["dtype"] if array in self.sensors else "uint8" for array in self._arrays]
        self._dtypes = [np.dtype(name) for name in types]
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

    @classmethod
    def open(cls, path: str | Path, *, cache: str | Path | None = None, cache_bytes: int | None = None) -> Store:
        """Open the store in folder `path`, or at an address (https://..., s3://...), after checking what describes it.

        cache, cache_bytes: folder and size on this machine for what a remote store sends; None for $CROMSS_CACHE_DIR
        and $CROMSS_CACHE_GB, or ~/.cache/cromss and 20 GB. Raises MissingDataError when there is nothing, StoreError
        when it is not finished, does not fit together or cannot be reached, DamagedFileError when the index or
        description is not what was written.
        """
        files: StoreFiles
        if is_remote(path):
            files = RemoteFiles(str(path), None if cache is None else Path(cache), cache_bytes)
        else:
            path = Path(path)
            files = LocalFiles(path)
        try:
            meta = read_meta(files)
            files.check_shards(meta["shards"])
            table = read_index(files, meta)
            check_index(path, meta, table)
        except BaseException:
            files.close()
            raise
        return cls(path, files, meta, table)

    def close(self) -> None:
        """Close files and connections; the store opens them again when it is read again."""
        self.files.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "files") and not sys.is_finalizing():
            self.close()

    def __reduce__(self) -> tuple[object, ...]:
        cache = self.files.cache if isinstance(self.files, RemoteFiles) else None
        return (_reopen, (self.path, self.fingerprint, cache and cache.folder, cache and cache.limit))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def soft(self) -> bool:
        """Whether places may have class probabilities."""
        return bool(self.soft_layers)

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

    def season_name(self, place: int, season: int) -> str:
        """The name of one season of a place, 0 or more. Raises ArgumentError."""
        return str(self._season_names[self._row(place, season)].as_py())

    def shape(self, place: int) -> tuple[int, int]:
        """Height and width of a place, in pixels."""
        _, height, width = self._frame[self._first[self._place(place)]].tolist()
        return height, width

    def products(self, place: int) -> dict[str, str]:
        """Sensor -> product of a place, such as {"s1": "GRD", "s2": "L1C"}."""
        place = self._place(place)
        return {name: str(column[place].as_py()) for name, column in self._products.items()}

    def scaling(self, sensor: str) -> Normalization | None:
        """The Normalization behind the 8-bit values of edition "uint8"; None in other editions."""
        content = self.meta["sensors"][sensor]["scaling"]
        return None if content is None else Normalization.from_dict(content)

    def steps(self, sensor: str) -> WholeSteps | None:
        """The steps that the numbers of edition "int16" count; None in other editions."""
        content = self.meta["sensors"][sensor].get("steps")
        return None if content is None else WholeSteps.from_dict(content)

    def has(self, kind: str) -> bool:
        """Whether any place has "labels" (of any annotator), "truth" or an invalid pixel ("valid")."""
        layers = self.label_layers if kind == "labels" else (kind,)
        return any(self._extents[:, self._arrays.index(layer), 1].any() for layer in layers)

    def labels_of(self, place: int) -> tuple[str, ...]:
        """The layers of `label_layers` that a place has."""
        row = self._extents[self._first[self._place(place)], :, 1]
        return tuple(layer for layer in self.label_layers if row[self._arrays.index(layer)])

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
        table = pq.read_table(pa.BufferReader(index_bytes(self.files, self.meta)), columns=["grid"], use_threads=False)
        content = json.loads(table["grid"][row].as_py())
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
        layers: Sequence[str] = LABEL_KINDS,
        scratch: NDArray[np.uint8] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """All arrays of one season: each sensor (B, H, W) in the store's type, "labels" and "truth" (H, W) uint8 where
        the place has them, "valid" (H, W) bool.

        sensors: those to read, None for all. layers: the other arrays to read; "valid" is always read, and those of
        `soft_layers` are (C, H, W) uint8. scratch: a uint8 buffer of at least `season_bytes`; the arrays are then
        views of it and last until it is used again. Raises DamagedFileError naming the place when a byte is not what
        was written.
        """
        row = self._row(place, season)
        _, height, width = self._frame[row].tolist()
        wanted = self._season(row, sensors, layers)
        total = sum(length for *_, length, _ in wanted)
        if scratch is None or scratch.size < total:
            scratch = np.empty(total, np.uint8)
        result: dict[str, NDArray[Any]] = {}
        for (_, array, *_), part in zip(wanted, self._fill(wanted, scratch), strict=True):
            size = (-1, height, width) if array < len(self.sensors) or self._is_soft(array) else (height, width)
            result[self._arrays[array]] = part.view(self._dtypes[array]).reshape(size)
        stored = result.get("valid")
        result["valid"] = np.ones((height, width), np.bool_) if stored is None else stored.view(np.bool_)
        return result

    def read_labels(self, place: int, kind: str = "labels") -> NDArray[np.uint8]:
        """The labels of all seasons of a place, (T, H, W) uint8; kind "truth", or one of `label_layers`.

        One of `soft_layers`: the levels of all classes, (T, C, H, W).
        Raises MissingDataError when the place has none, DamagedFileError as `read`.
        """
        place = self._place(place)
        if kind not in (known := (*self.label_layers, "truth", *self.soft_layers)):
            raise ArgumentError("unknown kind of labels", got=kind, expected=known)
        wanted = self._layers(place, kind)
        if any(length == 0 for *_, length, _ in wanted):
            raise MissingDataError(f"a place has no {kind}", got=self.id(place), where=self.path)
        out = np.empty(sum(length for *_, length, _ in wanted), np.uint8)
        self._fill(wanted, out)
        classes = (self.legend.num_classes,) if is_soft_layer(kind) else ()
        return out.reshape(len(wanted), *classes, *self.shape(place))

    def prefetch(
        self,
        samples: Iterable[tuple[int, int]],
        *,
        sensors: Sequence[str] | None = None,
        layers: Sequence[str] = LABEL_KINDS,
        kinds: Sequence[str] = (),
    ) -> None:
        """Bring what `read` of these (place, season) will want to this machine, all at once, if the store is remote.

        kinds: those for which `read_labels` of those places will be asked as well.
        """
        if not self.files.remote:
            return
        wanted: dict[int, list[Wanted]] = {}
        for place, season in samples:
            row = self._row(place, season)
            items = wanted.setdefault(int(self._frame[row, 0]), [])
            items += self._season(row, sensors, layers)
            for kind in kinds:
                items += [item for item in self._layers(place, kind) if item[3]]
        self.files.prefetch(wanted)

    def _is_soft(self, array: int) -> bool:
        return is_soft_layer(self._arrays[array])

    def _season(self, row: int, sensors: Sequence[str] | None, layers: Sequence[str]) -> list[Wanted]:
        """The arrays of one season, by offset: neighbours in the file take one read."""
        extents = self._extents[row].tolist()
        asked = (*(sensors or ()), *layers, "valid")
        wanted = [
            (row, array, *extents[array])
            for array, name in enumerate(self._arrays)
            if extents[array][1] and (name in asked or (sensors is None and name in self.sensors))
        ]
        wanted.sort(key=lambda item: item[2])
        return wanted

    def _layers(self, place: int, kind: str) -> list[Wanted]:
        """The label maps of all seasons of a place."""
        array = self._arrays.index(kind)
        rows = range(int(self._first[place]), int(self._first[place + 1]))
        return [(row, array, *self._extents[row, array].tolist()) for row in rows]

    def _place(self, place: int) -> int:
        if not 0 <= place < len(self._ids):
            raise ArgumentError("no such place", got=place, expected=f"0 to {len(self._ids) - 1}", where=self.path)
        return int(place)

    def _row(self, place: int, season: int) -> int:
        count = self.num_seasons(place)
        if not 0 <= season < count:
            raise ArgumentError("no such season", got=season, expected=f"0 to {count - 1}", where=self.id(place))
        return int(self._first[place]) + int(season)

    def _fill(self, wanted: Sequence[Wanted], buffer: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Read arrays of one place one after the other into `buffer`. Raises DamagedFileError."""
        shard = int(self._frame[wanted[0][0], 0])
        for i, got in self.files.fill(shard, wanted, buffer).items():
            row, array, _, _, expected = wanted[i]
            self._refuse(row, array, shard, f"CRC32 {got:08x}", f"{expected:08x}")
        return cut(wanted, buffer)

    def _refuse(self, row: int, array: int, shard: int, got: str, expected: str) -> None:
        place = int(np.searchsorted(self._first, row, side="right")) - 1
        season = self.season_name(place, row - int(self._first[place]))
        raise DamagedFileError(
            f"{self._arrays[array]} of a sample is not what was written",
            got=got,
            expected=expected,
            where=f"{self.id(place)}/{season} in {self.files.where(self._shard_files[shard])}",
            do="what the server holds is damaged, or was damaged twice on its way: check it there with `cromss verify`"
            if self.files.remote
            else f"see the whole damage with `cromss verify {self.path}`, and write the store again from its sources",
        )


def _definition(path: str | Path, name: str, entry: dict[str, Any]) -> Sensor:
    """What a sensor of the store measures; stores of before sensors were defined in them hold s1 and s2 alone."""
    try:
        known = known_sensor(name, entry.get("definition"))
        measured = {
            str(product): {str(band): (float(mean), float(std)) for band, (mean, std) in table.items()}
            for product, table in entry.get("statistics", {}).items()
        }
    except (CromssError, TypeError, AttributeError, ValueError) as error:
        what = f"the store does not say what its sensor {name} measures"
        raise StoreError(what, got=error, where=path, do="prepare it again") from None
    return known.with_statistics(measured) if measured else known


def _reopen(path: str | Path, fingerprint: str, cache: Path | None, cache_bytes: int | None) -> Store:
    store = Store.open(path, cache=cache, cache_bytes=cache_bytes)
    if store.fingerprint != fingerprint:
        raise StoreError(
            "the store was replaced while it was in use", got=store.fingerprint, expected=fingerprint, where=path
        )
    return store
