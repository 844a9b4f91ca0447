"""One shard of a training store: places in, one file out, the same bytes whoever writes it and whenever.

In: the settings of a store, then records. Out: a file that is there whole or not at all, and its SHA-256.

    edition "native":  values as the source gave them (s1 float32 dB, s2 uint16 DN)
    edition "int16":   whole steps of the sensor's valid range (`store.whole_steps`); the least number where invalid
    edition "uint8":   floor(255 * clip((x - (mean - 2 std)) / (4 std), 0, 1)), the published scaling; 0 where invalid
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from zlib_ng.zlib_ng import crc32  # the CRC32 of zlib, about five times as fast

from cromss.data.record import PlaceRecord
from cromss.data.soft_labels import ONE, usable_levels
from cromss.data.store.layout import FORMAT, METADATA_KEY, PROBABILITIES, array_name, label_layers, soft_layer
from cromss.data.store.whole_steps import steps_of
from cromss.errors import BandError, LabelError, RangeError, StoreError
from cromss.files import commit, sha256
from cromss.geo.bands import SENSORS, Normalization, published_normalization
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid
from cromss.geo.sensor import Sensor

__all__ = ["EDITIONS", "SHARD_BYTES", "ShardBuilder", "is_full", "stored_bytes"]

EDITIONS = ("native", "int16", "uint8")

SHARD_BYTES = 2**28
"""A shard is also full at this many bytes: it is held in memory until then."""


def stored_bytes(record: PlaceRecord, edition: str) -> int:
    """The bytes that a place takes in a shard of this edition, validity always counted."""
    width = {"uint8": 1, "int16": 2}.get(edition)
    images = sum(image.size * width if width else image.nbytes for image in record.images.values())
    maps = (*record.label_maps.values(), record.truth, *record.soft_maps.values())
    layers = sum(layer.nbytes for layer in maps if layer is not None)
    return images + layers + record.valid.size


def is_full(places: int, size: int, shard_places: int) -> bool:
    """Whether a shard of `places` places and `size` bytes takes no more."""
    return places >= shard_places or size >= SHARD_BYTES


class ShardBuilder:
    """Collects the places of one shard, then of the next.

    sensors: sensor -> the names of its bands, for every place the same. definitions: what each of them measures.
    shard_places: how many places a shard takes at most. scaling: sensor -> the Normalization (kind "paper") of edition
    "uint8"; by the sensor's statistics when absent. annotators: names of several label maps a season, the first of
    them that of `PlaceRecord.labels`; empty for one without a name. soft: the layers of labels that have class
    probabilities beside them.
    Raises StoreError for settings that no store can have, MissingDataError where that edition lacks statistics to scale
    a sensor with.
    """

    def __init__(
        self,
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
        if edition not in EDITIONS or not sensors or shard_places < 1:
            raise StoreError(
                "a store cannot be written with these settings",
                got=f"edition {edition!r}, sensors {list(sensors)}, {shard_places} places a shard",
                expected=f"an edition of {', '.join(EDITIONS)}, at least one sensor, at least one place a shard",
            )
        self._legend, self._edition, self._shard_places = legend, edition, shard_places
        self._annotators, self._soft = tuple(annotators), tuple(soft)
        self._bands = {name: tuple(bands) for name, bands in sensors.items()}
        self._sensors = {name: definitions[name] for name in sensors}
        scaling = scaling or {}
        self._scaling = {
            name: scaling.get(name) or published_normalization(self._sensors[name], bands)
            for name, bands in self._bands.items()
            if edition == "uint8"
        }
        self._steps = {name: steps_of(known) for name, known in self._sensors.items() if edition == "int16"}
        self._dtypes = {name: known.dtype if edition == "native" else edition for name, known in self._sensors.items()}
        self._places: list[dict[str, Any]] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._bytes = 0

    @property
    def ids(self) -> tuple[str, ...]:
        """The places of the shard so far, in order."""
        return tuple(place["id"] for place in self._places)

    @property
    def full(self) -> bool:
        """Whether the shard takes no more."""
        return is_full(len(self._places), self._bytes, self._shard_places)

    @property
    def settings(self) -> dict[str, Any]:
        """What the header of every shard says about its store, in JSON types."""
        sensors = {
            name: {
                "unit": self._sensors[name].unit,
                "definition": self._sensors[name].to_dict(),
                "bands": list(bands),
                "dtype": self._dtypes[name],
                "scaling": self._scaling[name].to_dict() if name in self._scaling else None,
                **({"steps": self._steps[name].to_dict()} if name in self._steps else {}),
            }
            for name, bands in self._bands.items()
        }
        further: dict[str, Any] = {"annotators": list(self._annotators)} if self._annotators else {}
        owners = zip(self._annotators, label_layers(self._annotators), strict=False)
        whose = {"annotators": [name for name, layer in owners if layer in self._soft]} if self._annotators else {}
        return {
            "format": FORMAT,
            "edition": self._edition,
            "sensors": sensors,
            "legend": self._legend.to_dict(),
            "shard_places": self._shard_places,
            **further,
            **({PROBABILITIES: {"dtype": "uint8", "one": ONE, **whose}} if self._soft else {}),
        }

    def add(self, record: PlaceRecord) -> None:
        """Take one place.

        Raises BandError for other bands than the store's, RangeError for values that are not finite where `valid` says
        they are, LabelError for a label that the legend does not have, StoreError for another type or too many seasons.
        """
        self._check(record)
        arrays = {name: self._encode(record, name) for name in self._bands}
        for kind, layer in {**record.label_maps, "truth": record.truth}.items():
            if layer is not None:
                arrays[kind] = self._checked_labels(layer, record.id, kind)
        arrays |= {soft_layer(layer): levels for layer, levels in record.soft_maps.items()}
        for season in range(len(record.seasons)):
            for name, stack in arrays.items():
                self._arrays[array_name(record.id, season, name)] = np.ascontiguousarray(stack[season])
            if not record.valid[season].all():
                self._arrays[array_name(record.id, season, "valid")] = record.valid[season].astype(np.uint8)
        self._places.append(_describe(record))
        self._bytes += stored_bytes(record, self._edition)

    def write(self, path: Path) -> str:
        """Write the shard, durably, and begin the next; return the SHA-256 of the file."""
        checks = {name: crc32(array.reshape(-1).view(np.uint8)) for name, array in self._arrays.items()}
        own = {"settings": self.settings, "places": self._places, "crc32": checks}
        text = json.dumps(own, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        with commit(path) as temporary:
            save_file(self._arrays, temporary, metadata={METADATA_KEY: text})
            total = sha256(temporary)
        self.clear()
        return total

    def clear(self) -> None:
        """Forget the places of this shard, and begin the next."""
        self._places, self._arrays, self._bytes = [], {}, 0

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
        self._check_layers(record)

    def _check_layers(self, record: PlaceRecord) -> None:
        room = (*label_layers(self._annotators), *map(soft_layer, self._soft))
        strange = {*record.label_maps, *map(soft_layer, record.soft_maps)} - set(room)
        if strange:
            raise StoreError(
                "a place has labels that the store has no room for",
                got=sorted(strange),
                expected=[*room],
                where=record.id,
            )
        alone = [layer for layer in self._soft if (layer in record.label_maps) != (layer in record.soft_maps)]
        if alone:
            raise StoreError(
                "a place of a store of soft labels needs labels and probabilities, or neither",
                got=f"{', '.join(alone)} alone",
                where=record.id,
            )
        for layer, level_TCHW in record.soft_maps.items():
            if not usable_levels(level_TCHW, self._legend.num_classes):
                raise LabelError(
                    "class probabilities of a place are no levels of this legend",
                    got=f"{soft_layer(layer)} of {level_TCHW.shape[1]} classes",
                    expected=f"{self._legend.num_classes} classes, levels that add up to {ONE} or 0 in every pixel",
                    where=record.id,
                    do="make them with soft_labels.levels_of",
                )

    def _encode(self, record: PlaceRecord, name: str) -> NDArray[Any]:
        """The values of a sensor as the store keeps them, (T, B, H, W)."""
        values = record.images[name]
        if values.dtype.kind == "f" and not (np.isfinite(values) | ~record.valid[:, None]).all():
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
        if name in self._steps:
            values = self._steps[name].apply(values, record.valid[:, None], f"{record.id}, {name}")
        expected = self._dtypes[name]
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
