"""The LMDBs that the authors of CromSS train from: SSL4EO-S12 for pretraining, DFC2020 for transfer.

    pretraining   <root>/0k_251k_uint8_s1.lmdb, 0k_251k_uint8_s2c.lmdb, dw_labels.lmdb
                  key "0", "1", ...: (bytes, shape, id); uint8 (4 seasons, bands, 264, 264), labels without bands
    DFC2020       <root>/DFC2020_s12_validation.lmdb, DFC2020_s12_test.lmdb
                  keys "s1_0", "s2_0", "lbl_0", ...: (bytes, shape); s1 float64 dB, s2 uint16 DN, labels uint8

In: those files. Out: places. Neither has a georeference.

The 8-bit images are v = floor(255 clip((x - (mean - 2 std)) / (4 std), 0, 1)) of x in dB or DN. They are handed on as
x in the middle of what v can stand for, as float32, so that a store of edition uint8 holds v again, bit for bit; other
editions are refused. Such images say nothing of missing pixels: all count as data. Their labels are Dynamic World's;
the authors resized those of other sizes by interpolation, so some are classes that only lie between two others by
number. In DFC2020, 0 in every band of a sensor is no data, and 8 is no class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import PlaceRecord
from cromss.data.sources.lmdb_file import LmdbFile
from cromss.data.sources.patches import ONE_DATE, PublishedSplits
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.errors import BandError, DamagedFileError, GridError, MissingDataError
from cromss.geo.bands import SENSORS, check_values, published_normalization
from cromss.geo.legend import IGNORE, Legend

__all__ = ["DFC2020_CODES", "PRETRAINING_FILES", "Dfc2020Lmdb", "PretrainingLmdb"]

PRETRAINING_FILES: Mapping[str, str] = {
    "s1": "0k_251k_uint8_s1.lmdb",
    "s2": "0k_251k_uint8_s2c.lmdb",
    "labels": "dw_labels.lmdb",
}
"""Role -> the authors' name of its file."""

DFC2020_CODES: Mapping[int, int] = {**{i: i for i in range(8)}, 8: IGNORE, IGNORE: IGNORE}
"""Label of the authors' DFC2020 -> class of legend dfc2020, which is in their order; 8 is any other class."""

_PARTS = {"validation": "train", "test": "test"}
_KEYS = {"s1": "s1", "s2": "s2", "labels": "lbl"}
_PRODUCTS = {"s1": "GRD", "s2": "L1C"}
_DTYPES = {"s1": "float64", "s2": "uint16", "labels": "uint8"}


class PretrainingLmdb:
    """Reads the 8-bit pretraining set. files: role -> path, of s1, s2 and labels. split_of: place id -> split.

    legend: its codes are those of the labels. s2_product: None takes it from the number of bands.
    Raises as `LmdbFile`; DamagedFileError where two values have one id, MissingDataError where no key is in all files.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        split_of: Callable[[str], str],
        s2_product: str | None = None,
    ) -> None:
        self._files, self._legend, self._split_of = dict(files), legend, split_of
        self._allowed = {"s1": ("GRD",), "s2": ("L1C", "L2A") if s2_product is None else (s2_product,)}
        self._bands = {sensor: tuple(bands[sensor]) for sensor in SENSORS if sensor in files}
        self._lmdbs = {role: LmdbFile(path) for role, path in self._files.items()}
        keys = {role: _keys(lmdb, r"\d+") for role, lmdb in self._lmdbs.items()}
        complete = sorted(set.intersection(*map(set, keys.values())), key=int)
        if not complete:
            raise MissingDataError(
                "no key is in all LMDBs",
                got="; ".join(f"{role}: {len(found)} keys" for role, found in keys.items()),
                expected="the keys 0, 1, 2, ... in each",
                where=", ".join(map(str, self._files.values())),
            )
        self._key_of = _by_id(self._lmdbs["labels" if "labels" in files else next(iter(self._bands))], complete)
        self.scenes = [_scene(place, self._files) for place in sorted(self._key_of)]
        self.orphans = [
            Orphan(
                id=f"key {key}",
                season=None,
                missing=tuple(role for role in keys if key not in keys[role]),
                found=tuple(str(self._files[role]) for role in keys if key in keys[role]),
            )
            for key in sorted(set.union(*map(set, keys.values())) - set(complete), key=int)
        ]

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self._bands)

    def split(self, scene: Scene) -> str:
        """As the rule says; the authors publish no split."""
        return self._split_of(scene.id)

    def files(self, scene: Scene) -> Iterator[Path]:
        """The data files of all roles; each holds all places."""
        return (self._lmdbs[role].file for role in scene.files)

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of one place with all its seasons."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        tally.georeferenced = False
        arrays = {role: self._array(lmdb, role, scene.id) for role, lmdb in self._lmdbs.items()}
        shape = _require_same_shape(scene, arrays)
        images: dict[str, NDArray[Any]] = {}
        products = {}
        for sensor, names in self._bands.items():
            where = f"{self._files[sensor]}, {scene.id}"
            products[sensor] = _product(arrays[sensor].shape[1], sensor, self._allowed[sensor], where)
            chosen = arrays[sensor][:, _indices(sensor, products[sensor], names, where)]
            images[sensor] = _unscaled(chosen, sensor, products[sensor], names)
            tally.changed[f"{sensor} band images turned back from 8 bits"] += len(names) * shape[0]
        labels = arrays.get("labels")
        yield PlaceRecord(
            id=scene.id,
            seasons=tuple(str(season) for season in range(shape[0])),
            images=images,
            products=products,
            labels=None if labels is None else self._legend.encode(labels, f"{self._files['labels']}, {scene.id}"),
            valid=np.ones(shape, bool),
            split=self.split(scene),
        )

    def _array(self, lmdb: LmdbFile, role: str, place: str) -> NDArray[Any]:
        key = self._key_of[place]
        found = _place(lmdb.id(key))
        if found != place:
            raise DamagedFileError(
                "the LMDBs hold different places under one key",
                got=f"{found} in {lmdb.path.name}",
                expected=place,
                where=f"{lmdb.path}, key {key}",
                do="take LMDBs that were written from one list of ids",
            )
        return lmdb.array(key, "uint8", 3 if role == "labels" else 4, parts=3)


class Dfc2020Lmdb:
    """Reads DFC2020. bands: sensor -> bands to keep. labelled: whether labels are read.

    Raises as `LmdbFile`; MissingDataError where `root` holds neither part, or nothing is complete.
    """

    def __init__(
        self,
        root: Path,
        *,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        splits: PublishedSplits,
        labelled: bool = True,
    ) -> None:
        self._legend, self._splits = legend, splits
        self._bands = {sensor: tuple(bands[sensor]) for sensor in SENSORS if sensor in bands}
        self._roles = (*self._bands, *(("labels",) if labelled else ()))
        paths = {part: root / f"DFC2020_s12_{part}.lmdb" for part in _PARTS}
        present = {part: path for part, path in paths.items() if path.exists()} or paths
        self._lmdbs = {part: LmdbFile(path) for part, path in sorted(present.items())}
        self.scenes: list[Scene] = []
        self.orphans: list[Orphan] = []
        for part, lmdb in self._lmdbs.items():
            self._find(part, lmdb)
        self.scenes.sort(key=lambda scene: scene.id)
        if not self.scenes:
            raise MissingDataError(
                "no patch of DFC2020 has all its parts",
                got=f"{len(self.orphans)} patches",
                expected="keys s1_0, s2_0, lbl_0, ...",
                where=", ".join(map(str, present.values())),
            )

    def _find(self, part: str, lmdb: LmdbFile) -> None:
        keys, path = _keys(lmdb, rf"({'|'.join(_KEYS.values())})_\d+"), lmdb.path
        for number in sorted({int(key.partition("_")[2]) for key in keys}):
            missing = tuple(role for role in self._roles if f"{_KEYS[role]}_{number}" not in keys)
            name = f"{part}_{number:05d}"
            if missing:
                self.orphans.append(Orphan(id=name, season=None, missing=missing, found=(str(path),)))
            else:
                self.scenes.append(_scene(name, dict.fromkeys(self._roles, path)))

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self._bands)

    def split(self, scene: Scene) -> str:
        """The authors train on the validation part and test on the test part; or by the user's table."""
        return self._splits.split(scene.id, _PARTS[scene.id.partition("_")[0]])

    def files(self, scene: Scene) -> Iterator[Path]:
        """The data file of the part."""
        yield self._lmdbs[scene.id.partition("_")[0]].file

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of one patch, or none if it has no labelled pixel."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        tally.georeferenced = False
        part, _, number = scene.id.partition("_")
        lmdb = self._lmdbs[part]
        arrays = {
            role: lmdb.array(f"{_KEYS[role]}_{int(number)}", _DTYPES[role], 2 if role == "labels" else 3, parts=2)
            for role in self._roles
        }
        shape = _require_same_shape(scene, {role: array[None] for role, array in arrays.items()})
        valid = np.ones(shape, bool)
        images: dict[str, NDArray[Any]] = {}
        for sensor, names in self._bands.items():
            where = f"{lmdb.path}, {scene.id}"
            product = _product(len(arrays[sensor]), sensor, (_PRODUCTS[sensor],), where)
            valid &= (arrays[sensor] != 0).any(axis=0)
            chosen = arrays[sensor][_indices(sensor, product, names, where)]
            check_values(sensor, chosen, valid[0], names, where)
            images[sensor] = chosen[None].astype(SENSORS[sensor].dtype)
        labels = self._legend.encode(arrays["labels"][None], lmdb.path) if "labels" in arrays else None
        usable = valid if labels is None else valid & (labels != IGNORE)
        if not usable.any():
            tally.left_out["without a labelled pixel" if valid.any() else "without a pixel of data"] += 1
            return
        yield PlaceRecord(
            id=scene.id,
            seasons=ONE_DATE,
            images=images,
            products={sensor: _PRODUCTS[sensor] for sensor in images},
            labels=labels,
            valid=valid,
            split=self.split(scene),
        )


def _keys(lmdb: LmdbFile, form: str) -> Set[str]:
    """All keys of an LMDB. Raises DamagedFileError for one that is not of the form."""
    keys = lmdb.keys
    strange = [key for key in sorted(keys) if not re.fullmatch(form, key)]
    if strange or not keys:
        raise DamagedFileError(
            "an LMDB has other keys than the authors give",
            got=", ".join(strange[:5]) or "none",
            expected=form,
            where=lmdb.path,
            do="correct root (layout cromss_lmdb: or name the file by s1, s2 or labels)",
        )
    return keys


def _by_id(lmdb: LmdbFile, keys: Sequence[str]) -> dict[str, str]:
    """Place id -> key. Raises DamagedFileError where two values have one id."""
    found = {_place(lmdb.id(key)): key for key in keys}
    if len(found) != len(keys):
        raise DamagedFileError(
            "several values of an LMDB have one id",
            got=f"{len(keys)} values, {len(found)} ids",
            expected="one value an id",
            where=lmdb.path,
        )
    return found


def _place(identity: str | int) -> str:
    """An id as SSL4EO-S12 names its folders: seven digits."""
    return f"{identity:07d}" if isinstance(identity, int) else identity


def _scene(place: str, files: Mapping[str, Path]) -> Scene:
    return Scene(id=place, seasons=ONE_DATE, files={role: (path,) for role, path in files.items()})


def _require_same_shape(scene: Scene, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    """(T, H, W) of all roles. Raises GridError where they differ."""
    shapes = {role: (array.shape[0], *array.shape[-2:]) for role, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise GridError(
            "the arrays of one place differ in size",
            got=", ".join(f"{role} {shape}" for role, shape in shapes.items()),
            expected="the same seasons, rows and columns",
            where=f"{', '.join(str(path) for path in {paths[0] for paths in scene.files.values()})}, {scene.id}",
        )
    return next(iter(shapes.values()))


def _product(count: int, sensor: str, allowed: Sequence[str], where: str) -> str:
    """The product with that many bands."""
    products = {len(SENSORS[sensor].products[name]): name for name in allowed}
    if count not in products:
        raise BandError(
            f"a {SENSORS[sensor].title} array has another number of bands",
            got=count,
            expected=" or ".join(f"{number} ({name})" for number, name in products.items()),
            where=where,
        )
    return products[count]


def _indices(sensor: str, product: str, bands: Sequence[str], where: str) -> list[int]:
    """Where the bands to keep stand in an array of all bands."""
    known = SENSORS[sensor].products[product]
    absent = [name for name in bands if name not in known]
    if absent:
        raise BandError(
            f"{product} has no {', '.join(absent)}",
            got=", ".join(known),
            expected=", ".join(bands),
            where=where,
            do=f"choose bands without it: {sensor}_bands=12, 10, 9 or 3",
        )
    return [known.index(name) for name in bands]


def _unscaled(values: NDArray[np.uint8], sensor: str, product: str, bands: Sequence[str]) -> NDArray[np.float32]:
    """8-bit values (T, B, H, W) as dB or DN, in the middle of their steps."""
    middle = (values.astype(np.float32) + np.float32(0.5)) / np.float32(255)
    return published_normalization(sensor, bands).undo(middle, product)
