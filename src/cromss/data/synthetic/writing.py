"""Synthetic places into a training store, and a synthetic scene into GeoTIFFs.

In: a SynthesizeConfig, or one PlaceRecord. Out: a store whose splits follow one another by index (train, validation,
test), with a report on how its labels err; or s1.tif, s2.tif, labels.tif and truth.tif on one grid, as a user's own
scene would be.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from cromss.config import SynthesizeConfig
from cromss.data.record import PlaceRecord
from cromss.data.store import Store, StoreWriter
from cromss.data.store.layout import read_header, shard_name
from cromss.data.synthetic.measures import LabelTally
from cromss.data.synthetic.scenes import make_place, place_id, recipe
from cromss.data.synthetic.worlds import SyntheticWorld
from cromss.errors import ArgumentError, ConfigError, StoreError, WorkerError
from cromss.geo.bands import SENSORS
from cromss.geo.legend import Legend
from cromss.geo.raster import write_raster

__all__ = ["synthesize_store", "write_scene"]

AHEAD = 2  # places that each process may be ahead of the writer: bounds the memory


def synthesize_store(config: SynthesizeConfig) -> dict[str, Any]:
    """Make places and write them to a store; an unfinished store of the same settings found there is continued.

    Returns what was made and, by split, the figures of `LabelTally`. The result does not depend on `workers`.
    Raises ConfigError for counts that make no place, StoreError where another store is in the way.
    """
    splits = ["train"] * config.train + ["validation"] * config.validation + ["test"] * config.test
    if min(config.train, config.validation, config.test) < 0 or not splits or config.workers < 1:
        raise ConfigError(
            "these settings make no places",
            got=f"train {config.train}, validation {config.validation}, test {config.test}, workers {config.workers}",
            expected="counts from 0, at least one place, at least one worker",
        )
    world = SyntheticWorld(name=config.world, size=config.size, seasons=config.seasons, seed=config.seed)
    made = recipe(world, config.design, config.seed)
    bands = {name: SENSORS[name].bands for name in ("s1", "s2")}
    writer = StoreWriter(config.out, legend=world.legend, sensors=bands, edition=config.edition)
    _require_same_series(writer, {place_id(index): split for index, split in enumerate(splits)}, made)
    todo = [index for index in range(len(splits)) if place_id(index) not in writer.done]
    make = functools.partial(_make, world, config, tuple(splits))
    for record in _in_order(make, todo, config.workers):
        writer.add(record)
    writer.finish({"source": "synthetic", "made": made})
    return {"made": made, "places": len(splits), **_figures(config.out, world.legend)}


def _make(world: SyntheticWorld, config: SynthesizeConfig, splits: Sequence[str], index: int) -> PlaceRecord:
    return make_place(world, index, design=config.design, seed=config.seed, split=splits[index])


def _require_same_series(writer: StoreWriter, splits: dict[str, str], made: str) -> None:
    """Refuse to continue a store whose finished places came from other settings."""
    seen = shard = 0
    while seen < len(writer.done):
        header = read_header(writer.path / shard_name(shard))
        for place in header.places:
            found = (place["notes"].get("made"), place["split"])
            expected = (made, splits.get(place["id"]))
            if found != expected:
                raise StoreError(
                    "an unfinished store of other places is there already",
                    got=f"{place['id']}: {found[0]}, split {found[1] or 'none'}",
                    expected=f"{expected[0]}, split {expected[1] or 'none'}",
                    where=writer.path,
                    do="continue with its settings, or choose another path",
                )
        seen, shard = seen + len(header.places), shard + 1


def _in_order(make: Callable[[int], PlaceRecord], indices: Sequence[int], workers: int) -> Iterator[PlaceRecord]:
    """make(index) for each index, in order, by so many processes; processes start afresh, so threads do not matter."""
    if workers == 1 or len(indices) < 2:
        yield from map(make, indices)
        return
    waiting: deque[tuple[int, Future[PlaceRecord]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for index in indices:
            waiting.append((index, pool.submit(make, index)))
            if len(waiting) >= AHEAD * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


def _result(index: int, future: Future[PlaceRecord]) -> PlaceRecord:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a process that makes synthetic places died",
            where=place_id(index),
            do="run again, it continues; if memory is short, use fewer workers",
        ) from None


def _figures(path: str, legend: Legend) -> dict[str, Any]:
    """How the labels of a finished store err, by split."""
    store = Store.open(path)
    tallies: dict[str, LabelTally] = {}
    for place in range(len(store)):
        tally = tallies.setdefault(str(store.splits[place]), LabelTally(names=legend.names))
        tally.add(store.read_labels(place), store.read_labels(place, "truth"))
    return {split: tally.figures() for split, tally in tallies.items()}


def write_scene(record: PlaceRecord, folder: str | Path, legend: Legend, season: int | None = None) -> dict[str, Path]:
    """Write one season of a record (the middle one, in summer, if None) as s1.tif, s2.tif, labels.tif and truth.tif.

    s1 float32 dB, s2 uint16 DN, labels and truth uint8 with colours. Returns the path by name. Raises ArgumentError for
    a record without grid, labels or truth, or a season that it does not have.
    """
    season = len(record.seasons) // 2 if season is None else season
    if record.grid is None or record.labels is None or record.truth is None or not 0 <= season < len(record.seasons):
        raise ArgumentError(
            "a scene needs a grid, labels, truth and the season asked for",
            got=f"season {season} of {len(record.seasons)}, grid {record.grid}",
            where=record.id,
            do="make it with synthesize_scene",
        )
    folder = Path(folder)
    shared = {"SOURCE": record.id, "DATE": record.seasons[season], "GEOREFERENCE": "nominal", **record.notes}
    paths = {name: folder / f"{name}.tif" for name in ("s1", "s2", "labels", "truth")}
    for name, nodata, unit in (("s1", math.nan, "dB"), ("s2", 0.0, "reflectance * 10000")):
        tags = {**shared, "LEVEL": record.products[name], "UNITS": unit}
        bands = SENSORS[name].bands
        write_raster(paths[name], record.images[name][season], record.grid, nodata=nodata, band_names=bands, tags=tags)
    names = {"CLASS_NAMES": ",".join(legend.names)}
    for name, layers in (("labels", record.labels), ("truth", record.truth)):
        colors = legend.colormap()
        tags = {**shared, **names}
        write_raster(
            paths[name], layers[season], record.grid, nodata=255, band_names=[name], colormap=colors, tags=tags
        )
    return paths
