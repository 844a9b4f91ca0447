"""Write a training store: places in, shards, index and description out (see `store.layout` for the files).

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
from cromss.data.store.layout import (
    INDEX_FILE,
    META_FILE,
    SHARD_FOLDER,
    Extent,
    ShardHeader,
    array_name,
    digest,
    layers_of,
    read_header,
    shard_name,
)
from cromss.data.store.shard import EDITIONS, ShardBuilder
from cromss.errors import StoreError
from cromss.files import commit, remove_stale, sha256, write_json
from cromss.geo.bands import SENSORS, Normalization
from cromss.geo.legend import Legend
from cromss.geo.sensor import Sensor

__all__ = ["EDITIONS", "StoreWriter", "finish_store", "remove_unfinished"]

Statistics = Mapping[str, Mapping[str, tuple[float, float]]]


class StoreWriter:
    """Collects places into shards; `finish` makes the store readable.

    sensors: sensor -> the names of its bands, for every place the same. definitions: what each of them measures.
    shard_places: how many places a shard takes at most. scaling: sensor -> the Normalization (kind "paper") of edition
    "uint8"; by the sensor's statistics when absent. annotators, soft: as in `ShardBuilder`.
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
        annotators: Sequence[str] = (),
        soft: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self._shard = ShardBuilder(
            legend=legend,
            sensors=sensors,
            definitions=definitions,
            edition=edition,
            shard_places=shard_places,
            scaling=scaling,
            annotators=annotators,
            soft=soft,
        )
        self._sensors = tuple(sensors)
        self._hashes: dict[int, str] = {}  # of the shards that this writer wrote
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
        files = [shard_name(number) for number in range(len(self._rows))]
        hashes = {shard_name(number): total for number, total in self._hashes.items()}
        _finish(self.path, self._shard.settings, self._rows, files, hashes, report, statistics)
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
            _require_same_settings(header.settings, self._shard.settings, self.path)
            self._count(header)

    def _write_shard(self) -> None:
        number = len(self._rows)
        path = self.path / shard_name(number)
        self._hashes[number] = self._shard.write(path)
        self._count(read_header(path))

    def _count(self, header: ShardHeader) -> None:
        self._rows.append(_index_rows(header, len(self._rows), len(self._done), self._sensors))
        self._done.update(place["id"] for place in header.places)


def finish_store(
    path: Path,
    settings: Mapping[str, Any],
    shards: Mapping[str, str | None],
    report: Mapping[str, Any],
    statistics: Mapping[str, Statistics],
) -> None:
    """Make a store of shards that are there already: write its index and, last, store.json.

    settings: those in the header of every shard. shards: file of a shard -> its SHA-256, None where it is to be read.
    The rest is as in `StoreWriter.finish`. Raises StoreError where there is no place, or a shard has other settings.
    """
    remove_unfinished(path)  # of workers that were killed, and replaced, on the way
    rows: list[pa.Table] = []
    for number, name in enumerate(shards):
        header = read_header(path / name)
        _require_same_settings(header.settings, settings, path / name)
        first_place = rows[-1]["place"][-1].as_py() + 1 if rows else 0
        rows.append(_index_rows(header, number, first_place, tuple(settings["sensors"])))
    hashes = {name: total for name, total in shards.items() if total is not None}
    _finish(path, settings, rows, list(shards), hashes, report, statistics)


def _finish(
    path: Path,
    settings: Mapping[str, Any],
    rows: Sequence[pa.Table],
    files: Sequence[str],
    hashes: Mapping[str, str],
    report: Mapping[str, Any] | None,
    statistics: Mapping[str, Statistics] | None,
) -> None:
    if not rows:
        raise StoreError("a store needs at least one place", got="none", where=path, do="check the source")
    table = pa.concat_tables(rows).combine_chunks()
    with commit(path / INDEX_FILE) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    first_rows = table.filter(pc.equal(table["season"], 0))
    splits = {entry["values"]: entry["counts"] for entry in first_rows["split"].value_counts().to_pylist()}
    sensors = {name: dict(facts) for name, facts in settings["sensors"].items()}
    for name, measured in (statistics or {}).items():
        sensors[name]["statistics"] = {
            product: {band: list(numbers) for band, numbers in bands.items()} for product, bands in measured.items()
        }
    meta = {
        **settings,
        "sensors": sensors,
        "places": first_rows.num_rows,
        "samples": table.num_rows,
        "splits": dict(sorted(splits.items())),
        "index": _file_facts(path, INDEX_FILE),
        "shards": [_file_facts(path, name, hashes.get(name)) for name in files],
        "report": dict(report or {}),
    }
    write_json(path / META_FILE, {**meta, "digest": digest(meta)})


def _require_same_settings(begun: Mapping[str, Any], settings: Mapping[str, Any], where: Path) -> None:
    wanted = json.loads(json.dumps(settings))
    differing = [name for name in {**begun, **wanted} if wanted.get(name) != begun.get(name)]
    if differing:
        raise StoreError(
            "a store was begun here with other settings",
            got={name: wanted.get(name) for name in differing},
            expected={name: begun.get(name) for name in differing},
            where=where,
            do="continue with the settings of the store, or choose another path",
        )


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
    for array in (*sensors, *layers_of(header.settings)):
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
