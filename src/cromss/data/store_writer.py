"""Write a training store: places in, shards, index and description out (see store_layout for the files).

Each shard appears whole or not at all, so a writer that was killed is continued by making it again on the same folder:
`done` says which places are safe, and a store written in pieces is the same, byte for byte, as one written at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cromss.data.record import PlaceRecord
from cromss.data.store_layout import (
    INDEX_FILE,
    LABEL_KINDS,
    META_FILE,
    SHARD_FOLDER,
    Extent,
    ShardHeader,
    array_name,
    digest,
    read_header,
    shard_name,
)
from cromss.data.store_shard import EDITIONS, ShardBuilder
from cromss.errors import StoreError
from cromss.files import commit, remove_stale, sha256, write_json
from cromss.geo.bands import SENSORS, Normalization
from cromss.geo.legend import Legend
from cromss.geo.sensor import Sensor

__all__ = ["EDITIONS", "StoreWriter", "remove_unfinished"]

Statistics = Mapping[str, Mapping[str, tuple[float, float]]]


class StoreWriter:
    """Collects places into shards; `finish` makes the store readable.

    sensors: sensor -> the names of its bands, for every place the same. definitions: what each of them measures.
    shard_places: how many places a shard takes at most. scaling: sensor -> the Normalization (kind "paper") of edition
    "uint8"; by the sensor's statistics when absent.
    hashes: number of a finished shard -> its SHA-256, where it is known; `finish` reads the others for theirs.
    Raises StoreError when `path` holds a finished store, or one begun with other settings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        legend: Legend,
        sensors: Mapping[str, Sequence[str]],
        definitions: Mapping[str, Sensor] = SENSORS,
        edition: str = "native",
        shard_places: int = 64,
        scaling: Mapping[str, Normalization] | None = None,
        hashes: Mapping[int, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._shard = ShardBuilder(
            legend=legend,
            sensors=sensors,
            definitions=definitions,
            edition=edition,
            shard_places=shard_places,
            scaling=scaling,
        )
        self._sensors = tuple(sensors)
        self._hashes = dict(hashes or {})
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
        if record.id in self._done or record.id in self._shard.ids:
            raise StoreError("a place id comes twice", got=record.id, expected="each id once", where=self.path)
        self._shard.add(record)
        if self._shard.full:
            self._write_shard()

    def finish(
        self, report: Mapping[str, Any] | None = None, statistics: Mapping[str, Statistics] | None = None
    ) -> Path:
        """Write the last shard, the index and, last, store.json, which keeps `report` (JSON types); return the path.

        statistics: sensor -> product -> band -> (mean, std), of sensors that have no published ones.
        """
        if self._shard.ids:
            self._write_shard()
        if not self._rows:
            raise StoreError("a store needs at least one place", got="none", where=self.path, do="check the source")
        table = pa.concat_tables(self._rows).combine_chunks()
        with commit(self.path / INDEX_FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        first_rows = table.filter(pc.equal(table["season"], 0))
        splits = {entry["values"]: entry["counts"] for entry in first_rows["split"].value_counts().to_pylist()}
        settings = self._shard.settings
        for name, measured in (statistics or {}).items():
            settings["sensors"][name]["statistics"] = {
                product: {band: list(numbers) for band, numbers in table.items()} for product, table in measured.items()
            }
        meta = {
            **settings,
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
        remove_unfinished(self.path)
        folder = self.path / SHARD_FOLDER
        for number in range(len(list(folder.glob("*.safetensors")))):
            header = read_header(self.path / shard_name(number))
            self._require_same_settings(header.settings)
            self._count(header)

    def _require_same_settings(self, begun: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(self._shard.settings))
        differing = [name for name in begun if wanted.get(name) != begun[name]]
        if differing:
            raise StoreError(
                "a store was begun here with other settings",
                got={name: wanted.get(name) for name in differing},
                expected={name: begun[name] for name in differing},
                where=self.path,
                do="continue with the settings of the store, or choose another path",
            )

    def _write_shard(self) -> None:
        number = len(self._rows)
        path = self.path / shard_name(number)
        self._hashes[number] = self._shard.write(path)
        self._count(read_header(path))

    def _count(self, header: ShardHeader) -> None:
        self._rows.append(_index_rows(header, len(self._rows), len(self._done), self._sensors))
        self._done.update(place["id"] for place in header.places)


def remove_unfinished(path: Path) -> None:
    """Make the folders of a store where they are not there, and delete what a killed writer left half written."""
    folder = path / SHARD_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for part in (path, folder):
        remove_stale(part)
    for left in folder.glob(".tmp*"):  # safetensors has a temporary file of its own, which a kill leaves behind
        left.unlink()


def _file_facts(root: Path, name: str, known: str | None = None) -> dict[str, Any]:
    path = root / name
    return {"file": name, "bytes": path.stat().st_size, "sha256": known or sha256(path)}


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
