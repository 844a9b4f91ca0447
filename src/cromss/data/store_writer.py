"""Write a training store: places in, shards, index and description out (see store_layout for the files).

Each shard appears whole or not at all, so a writer that was killed is continued by making it again on the same folder:
`done` says which places are safe, and a store written in pieces is the same, byte for byte, as one written at once.

    edition "native":  values as the source gave them (s1 float32 dB, s2 uint16 DN)
    edition "uint8":   floor(255 * clip((x - (mean - 2 std)) / (4 std), 0, 1)), the published scaling; 0 where invalid
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file
from zlib_ng.zlib_ng import crc32  # the CRC32 of zlib, about five times as fast

from cromss.data.record import PlaceRecord
from cromss.data.store_layout import (
    FORMAT,
    INDEX_FILE,
    LABEL_KINDS,
    META_FILE,
    METADATA_KEY,
    SHARD_FOLDER,
    Extent,
    ShardHeader,
    array_name,
    digest,
    read_header,
    shard_name,
)
from cromss.errors import BandError, LabelError, RangeError, StoreError
from cromss.files import commit, remove_stale, sha256, write_json
from cromss.geo.bands import Normalization, get_sensor, published_normalization
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid

__all__ = ["EDITIONS", "StoreWriter"]

EDITIONS = ("native", "uint8")

SHARD_BYTES = 2**28
"""A shard is also full at this many bytes: it is held in memory until then."""


class StoreWriter:
    """Collects places into shards; `finish` makes the store readable.

    sensors: sensor -> the names of its bands, for every place the same. shard_places: how many places a shard takes at
    most. scaling: sensor -> the Normalization (kind "paper") of edition "uint8"; the published one when absent.
    Raises StoreError when `path` holds a finished store, or one begun with other settings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        legend: Legend,
        sensors: Mapping[str, Sequence[str]],
        edition: str = "native",
        shard_places: int = 64,
        scaling: Mapping[str, Normalization] | None = None,
    ) -> None:
        if edition not in EDITIONS or not sensors or shard_places < 1:
            raise StoreError(
                "a store cannot be written with these settings",
                got=f"edition {edition!r}, sensors {list(sensors)}, {shard_places} places a shard",
                expected=f"an edition of {', '.join(EDITIONS)}, at least one sensor, at least one place a shard",
            )
        self.path = Path(path)
        self._legend, self._edition, self._shard_places = legend, edition, shard_places
        self._bands = {name: tuple(bands) for name, bands in sensors.items()}
        scaling = scaling or {}
        self._scaling = {
            name: scaling.get(name) or published_normalization(name, bands)
            for name, bands in self._bands.items()
            if edition == "uint8"
        }
        self._dtypes: dict[str, str] = {}
        self._pending: list[dict[str, Any]] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._pending_bytes = 0
        self._hashes: dict[int, str] = {}
        self._done: set[str] = set()
        self._rows: list[pa.Table] = []
        self._resume()

    @property
    def done(self) -> frozenset[str]:
        """Ids of the places in finished shards; a caller that continues leaves these out."""
        return frozenset(self._done)

    def add(self, record: PlaceRecord) -> None:
        """Take one place; the shard is written when it is full.

        Raises StoreError for an id that came before, BandError for other bands than the store's, RangeError for values
        that are not finite where `valid` says they are, LabelError for a label that the legend does not have.
        """
        if record.id in self._done or any(place["id"] == record.id for place in self._pending):
            raise StoreError("a place id comes twice", got=record.id, expected="each id once", where=self.path)
        self._check(record)
        arrays = {name: self._encode(record, name) for name in self._bands}
        for kind in ("labels", "truth"):
            layer = getattr(record, kind)
            if layer is not None:
                arrays[kind] = self._checked_labels(layer, record.id, kind)
        seasons = range(len(record.seasons))
        for season in seasons:
            for name, stack in arrays.items():
                self._arrays[array_name(record.id, season, name)] = np.ascontiguousarray(stack[season])
            if not record.valid[season].all():
                self._arrays[array_name(record.id, season, "valid")] = record.valid[season].astype(np.uint8)
        self._pending.append(_describe(record))
        self._pending_bytes += sum(stack.nbytes for stack in arrays.values()) + record.valid.size
        if len(self._pending) >= self._shard_places or self._pending_bytes >= SHARD_BYTES:
            self._write_shard()

    def finish(self, report: Mapping[str, Any] | None = None) -> Path:
        """Write the last shard, the index and, last, store.json, which keeps `report` (JSON types); return the path."""
        if self._pending:
            self._write_shard()
        if not self._rows:
            raise StoreError("a store needs at least one place", got="none", where=self.path, do="check the source")
        table = pa.concat_tables(self._rows).combine_chunks()
        with commit(self.path / INDEX_FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        first_rows = table.filter(pc.equal(table["season"], 0))
        splits = {entry["values"]: entry["counts"] for entry in first_rows["split"].value_counts().to_pylist()}
        meta = {
            **self._settings(),
            "places": first_rows.num_rows,
            "samples": table.num_rows,
            "splits": dict(sorted(splits.items())),
            "index": _file_facts(self.path, INDEX_FILE),
            "shards": [_file_facts(self.path, shard_name(n), self._hashes.get(n)) for n in range(len(self._rows))],
            "report": dict(report or {}),
        }
        write_json(self.path / META_FILE, {**meta, "digest": digest(meta)})
        return self.path

    def _resume(self) -> None:
        if (self.path / META_FILE).exists():
            raise StoreError(
                "a finished store is there already",
                where=self.path,
                do="choose another path, or delete that store first",
            )
        folder = self.path / SHARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for part in (self.path, folder):
            remove_stale(part)
        for left in folder.glob(".tmp*"):  # safetensors has a temporary file of its own, which a kill leaves behind
            left.unlink()
        for number in range(len(list(folder.glob("*.safetensors")))):
            header = read_header(self.path / shard_name(number))
            self._dtypes = {name: sensor["dtype"] for name, sensor in header.settings["sensors"].items()}
            self._require_same_settings(header.settings)
            self._count(header)

    def _require_same_settings(self, begun: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(self._settings())) if set(self._dtypes) == set(self._bands) else {}
        differing = [name for name in begun if wanted.get(name) != begun[name]]
        if differing:
            raise StoreError(
                "a store was begun here with other settings",
                got={name: wanted.get(name) for name in differing},
                expected={name: begun[name] for name in differing},
                where=self.path,
                do="continue with the settings of the store, or choose another path",
            )

    def _settings(self) -> dict[str, Any]:
        sensors = {
            name: {
                "unit": get_sensor(name).unit,
                "bands": list(bands),
                "dtype": self._dtypes[name],
                "scaling": self._scaling[name].to_dict() if name in self._scaling else None,
            }
            for name, bands in self._bands.items()
        }
        return {
            "format": FORMAT,
            "edition": self._edition,
            "sensors": sensors,
            "legend": self._legend.to_dict(),
            "shard_places": self._shard_places,
        }

    def _check(self, record: PlaceRecord) -> None:
        if set(record.images) != set(self._bands):
            raise BandError(
                "a place has other sensors than the store",
                got=[*record.images],
                expected=[*self._bands],
                where=record.id,
            )
        for name, bands in self._bands.items():
            got = record.images[name].shape[1]
            if got != len(bands):
                raise BandError(f"a place has another number of {name} bands", got=got, expected=bands, where=record.id)
        if len(record.seasons) > 100:
            raise StoreError(
                "a place has too many seasons", got=len(record.seasons), expected="at most 100", where=record.id
            )

    def _encode(self, record: PlaceRecord, name: str) -> NDArray[Any]:
        """The values of a sensor as the store keeps them, (T, B, H, W)."""
        values = record.images[name]
        if values.dtype.kind == "f" and not np.isfinite(np.moveaxis(values, 1, -1)[record.valid]).all():
            raise RangeError(
                f"{name} has pixels that are not finite",
                got="NaN or infinity where the place is valid",
                expected="finite values",
                where=record.id,
            )
        if name in self._scaling:
            scaled = self._scaling[name].apply(values, record.products[name])
            # the cast would be undefined for NaN, which no-data may be
            values = np.where(record.valid[:, None], scaled * np.float32(255), np.float32(0)).astype(np.uint8)
        expected = self._dtypes.setdefault(name, "uint8" if name in self._scaling else get_sensor(name).dtype)
        if values.dtype.name != expected:
            raise StoreError(f"{name} comes in another type", got=values.dtype.name, expected=expected, where=record.id)
        return values

    def _checked_labels(self, layer: NDArray[np.uint8], place: str, kind: str) -> NDArray[np.uint8]:
        unknown = layer[(layer >= self._legend.num_classes) & (layer != IGNORE)]
        if unknown.size:
            raise LabelError(
                f"{kind} has values that the legend {self._legend.name!r} does not have",
                got=f"{int(unknown[0])} and others, {unknown.size} pixels",
                expected=f"0..{self._legend.num_classes - 1} or {IGNORE}",
                where=place,
                do="encode the file's values with Legend.encode",
            )
        return layer

    def _write_shard(self) -> None:
        number = len(self._rows)
        checks = {name: crc32(array.reshape(-1).view(np.uint8)) for name, array in self._arrays.items()}
        own = {"settings": self._settings(), "places": self._pending, "crc32": checks}
        text = json.dumps(own, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        path = self.path / shard_name(number)
        with commit(path) as temporary:
            save_file(self._arrays, temporary, metadata={METADATA_KEY: text})
            self._hashes[number] = sha256(temporary)
        self._count(read_header(path))
        self._pending, self._arrays, self._pending_bytes = [], {}, 0

    def _count(self, header: ShardHeader) -> None:
        self._rows.append(_index_rows(header, len(self._rows), len(self._done), tuple(self._bands)))
        self._done.update(place["id"] for place in header.places)


def _file_facts(root: Path, name: str, known: str | None = None) -> dict[str, Any]:
    path = root / name
    return {"file": name, "bytes": path.stat().st_size, "sha256": known or sha256(path)}


def _describe(record: PlaceRecord) -> dict[str, Any]:
    """What the header of a shard says about a place, in JSON types."""
    return {
        "id": record.id,
        "split": record.split,
        "seasons": list(record.seasons),
        "height": record.valid.shape[1],
        "width": record.valid.shape[2],
        "products": dict(record.products),
        "grid": _describe_grid(record.grid),
        "notes": dict(record.notes),
    }


def _describe_grid(grid: Grid | None) -> dict[str, Any] | None:
    """A CRS is kept as "EPSG:n" where it has a number, as WKT otherwise."""
    if grid is None:
        return None
    return {"transform": list(grid.transform)[:6], "crs": None if grid.crs is None else grid.crs.to_string()}


def _index_rows(header: ShardHeader, shard: int, first_place: int, sensors: tuple[str, ...]) -> pa.Table:
    """One row a (place, season) of a shard, in order of arrival; an array that is not there has length 0."""
    rows = [
        {**_row(header, place, season, sensors), "place": number, "shard": shard}
        for number, place in enumerate(header.places, first_place)
        for season in range(len(place["seasons"]))
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, _column_type(name)) for name in rows[0]]))


def _row(header: ShardHeader, place: Mapping[str, Any], season: int, sensors: tuple[str, ...]) -> dict[str, Any]:
    row = {"id": place["id"], "season": season, "season_name": place["seasons"][season], "split": place["split"]}
    row |= {"height": place["height"], "width": place["width"]}
    row |= {f"{name}_product": place["products"][name] for name in sensors}
    absent = Extent(dtype="U8", shape=(), offset=0, length=0, crc32=0)
    for array in (*sensors, *LABEL_KINDS):
        extent = header.extents.get(array_name(place["id"], season, array), absent)
        row |= {f"{array}_offset": extent.offset, f"{array}_length": extent.length, f"{array}_crc32": extent.crc32}
    row |= {"grid": json.dumps(place["grid"], sort_keys=True), "notes": json.dumps(place["notes"], sort_keys=True)}
    return row


def _column_type(name: str) -> pa.DataType:
    if name.endswith(("_offset", "_length")):
        return pa.int64()
    if name.endswith("_crc32"):
        return pa.uint32()
    return pa.int32() if name in ("place", "season", "shard", "height", "width") else pa.string()
