"""Places of random pixels for the tests of the store and of what reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cromss.data.record import PlaceRecord
from cromss.data.store import StoreWriter
from cromss.geo.bands import SENSORS
from cromss.geo.legends import LEGENDS

BANDS = {name: sensor.bands for name, sensor in SENSORS.items()}
LEGEND = LEGENDS["dynamic_world"]


def make_record(
    number: int,
    *,
    height: int = 16,
    width: int = 16,
    seasons: int = 2,
    truth: bool = False,
    holes: bool = False,
    split: str = "train",
    product: str = "L1C",
    labels: bool = True,
) -> PlaceRecord:
    """A place that is the same for the same arguments; with `holes`, its first season lacks a corner, NaN in s1."""
    random = np.random.default_rng(number)
    s1 = random.normal(-15, 5, (seasons, 2, height, width)).astype(np.float32)
    valid = np.ones((seasons, height, width), np.bool_)
    if holes:
        valid[0, : height // 4, : width // 4] = False
        s1[0, :, ~valid[0]] = np.nan
    classes = random.integers(0, 9, (2, seasons, height, width), dtype=np.uint8)
    return PlaceRecord(
        id=f"place{number}",
        seasons=tuple(f"2020-{month:02d}" for month in range(1, seasons + 1)),
        images={"s1": s1, "s2": random.integers(0, 6000, (seasons, 13, height, width), dtype=np.uint16)},
        products={"s1": "GRD", "s2": product},
        labels=classes[0] if labels else None,
        truth=classes[1] if truth else None,
        valid=valid,
        split=split,
    )


def write_store(path: Path, records: Iterable[PlaceRecord], **settings: object) -> Path:
    """Write the records that are not yet in finished shards, and finish the store."""
    writer = StoreWriter(path, legend=LEGEND, sensors=BANDS, **settings)  # type: ignore[arg-type]
    for record in records:
        if record.id not in writer.done:
            writer.add(record)
    return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path inside."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
