"""What a training store looks like on disk, for the module that writes it and the modules that read it.

    <store>/shards/00000.safetensors   the arrays of some places; the header also carries their ids and CRC32
    <store>/index.parquet              a row for each (place, season): where each of its arrays lies, and its CRC32
    <store>/store.json                 sensors, bands, legend, counts, sizes and SHA-256 of the others; written last

A shard names its arrays "<place>/<season, two digits>/<sensor>" and "<place>/<layer>/<season>". As
safetensors sorts arrays by type and then by name, the sensors of one season are neighbours where they share a type, and
the labels of all seasons of a place are neighbours always: one read each.
Shard headers hold all that the index holds, so the index is derived from them, and a finished shard needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cromss.errors import DamagedFileError, MissingDataError

__all__ = [
    "FORMAT",
    "INDEX_FILE",
    "LABEL_KINDS",
    "META_FILE",
    "PROBABILITIES",
    "SHARD_FOLDER",
    "Extent",
    "ShardHeader",
    "array_name",
    "batch_shard_name",
    "digest",
    "is_label_layer",
    "is_soft_layer",
    "label_layer",
    "label_layers",
    "layers_of",
    "read_header",
    "shard_name",
    "soft_layer",
    "soft_layers",
]

FORMAT = "cromss-store/1"
META_FILE, INDEX_FILE, SHARD_FOLDER = "store.json", "index.parquet", "shards"

LABEL_KINDS = ("labels", "truth", "valid")
"""The arrays (H, W) of a season that are no sensor, each stored only where there is something to say."""

PROBABILITIES = "probabilities"
"""The array (C, H, W) of a season with class probabilities, levels of `soft_labels`, in stores that have any.

Of several annotators it is the first one's; "probabilities.<name>" is that of a further one."""

METADATA_KEY = "cromss"
"""The only key of a shard's metadata: safetensors writes several keys in no fixed order."""

_MAX_HEADER = 100_000_000  # bytes; the limit that the safetensors library sets itself


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where one array lies in its shard: bytes from `offset`, and their CRC32."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """All that a shard says about itself: the store's settings, its places in order of arrival, and its arrays."""

    settings: dict[str, Any]
    places: list[dict[str, Any]]
    extents: dict[str, Extent]
    data_offset: int


def shard_name(number: int) -> str:
    """The path of a shard inside its store."""
    return f"{SHARD_FOLDER}/{number:05d}.safetensors"


def batch_shard_name(batch: int, part: int) -> str:
    """The path of a shard that is written as a part of a batch of scenes, whichever process has it."""
    return f"{SHARD_FOLDER}/{batch:06d}-{part:04d}.safetensors"


def label_layers(annotators: Sequence[str]) -> tuple[str, ...]:
    """The arrays of the annotators' label maps: "labels" is that of the first, or of the only one, who has no name."""
    return ("labels", *(f"labels.{name}" for name in annotators[1:]))


def is_label_layer(array: str) -> bool:
    """Whether an array is the label map of an annotator, or of the only one."""
    return array == "labels" or array.startswith("labels.")


def is_soft_layer(array: str) -> bool:
    """Whether an array holds class probabilities, of an annotator or of the only one."""
    return array.partition(".")[0] == PROBABILITIES


def soft_layer(layer: str) -> str:
    """The array of class probabilities beside a label map: "probabilities.osm" of "labels.osm"."""
    return PROBABILITIES + layer.removeprefix("labels")


def label_layer(array: str) -> str:
    """The label map that an array belongs to, itself or the one that it holds probabilities of."""
    return "labels" + array.removeprefix(PROBABILITIES) if is_soft_layer(array) else array


def soft_layers(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The arrays of class probabilities of a store with these settings: of the annotators that they name, or of one."""
    said = settings.get(PROBABILITIES)
    if not said:
        return ()
    if "annotators" not in said:
        return (PROBABILITIES,)
    layers = zip(settings["annotators"], label_layers(settings["annotators"]), strict=True)
    return tuple(soft_layer(layer) for name, layer in layers if name in said["annotators"])


def layers_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The arrays of a season that are no sensor, of a store with these settings: LABEL_KINDS, then what it has more."""
    further = label_layers(settings.get("annotators", ()))[1:]
    return (*LABEL_KINDS, *further, *soft_layers(settings))


def array_name(place: str, season: int, array: str) -> str:
    """The name of an array inside its shard."""
    is_layer = array.partition(".")[0] in (*LABEL_KINDS, PROBABILITIES)
    return f"{place}/{array}/{season:02d}" if is_layer else f"{place}/{season:02d}/{array}"


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, independent of how it is laid out, as 64 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path: Path) -> ShardHeader:
    """Read the header of a shard. Raises DamagedFileError when it is not one, or is longer or shorter than it says."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size):
                raise DamagedFileError("a shard's header is longer than its file", got=length, where=path)
            content = json.loads(file.read(length))
        own = json.loads(content.pop("__metadata__")[METADATA_KEY])
        extents = {name: _extent(entry, own["crc32"][name], 8 + length) for name, entry in content.items()}
        header = ShardHeader(settings=own["settings"], places=own["places"], extents=extents, data_offset=8 + length)
    except FileNotFoundError:
        raise MissingDataError("a shard is absent", where=path) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError("a shard's header does not parse", got=repr(error), where=path) from None
    end = max((extent.offset + extent.length for extent in extents.values()), default=header.data_offset)
    if end != size:
        raise DamagedFileError("a shard is not as long as its header says", got=size, expected=end, where=path)
    return header


def _extent(entry: Mapping[str, Any], crc32: int, data_offset: int) -> Extent:
    begin, end = (int(number) for number in entry["data_offsets"])
    if not 0 <= begin <= end:
        raise ValueError(f"bytes {begin} to {end}")
    return Extent(
        dtype=str(entry["dtype"]),
        shape=tuple(int(number) for number in entry["shape"]),
        offset=data_offset + begin,
        length=end - begin,
        crc32=int(crc32),
    )
