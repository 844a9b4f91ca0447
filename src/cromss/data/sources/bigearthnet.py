"""BigEarthNet v2: patches of 1200 x 1200 m over Europe, one file a band, with maps of CORINE Land Cover.

    <root>/BigEarthNet-S2/<scene>/<patch>/<patch>_B01.tif ... _B12.tif   12 bands of L2A, 120, 60 or 20 px a side
    <root>/BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif, _VH.tif        dB, 120 px
    <root>/Reference_Maps/<scene>/<patch>/<patch>_reference_map.tif      CORINE codes, 120 px; 0 is no data
    <root>/metadata.parquet          a row a patch: patch_id (of s2 and map), s1_name, split
    <root>/metadata_for_patches_with_snow_cloud_or_shadow.parquet        the same for patches that are best left out

<scene> is <patch> without its column and row, and for s1 without its tile, too. s1 and s2 patches of one place have
different names; only the table joins them. Without it (and without s1), patches are joined by name and have no split.

In: that root. Out: a place for each patch of the table. Bands of 20 and 60 m are brought to 10 m by cubic convolution,
counted; pixels within its reach of missing ones are no data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from cromss.data.record import SPLITS, PlaceRecord
from cromss.data.sources.patches import ONE_DATE, PublishedSplits, patch_record
from cromss.data.sources.source import Orphan, Scene, Tally
from cromss.errors import BandError, DamagedFileError, DataError, GridError, LabelError, MissingDataError
from cromss.geo.bands import SENSORS, check_values
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, Raster, open_raster, read_pixels, require_same_grid
from cromss.geo.resample import resample_cubic, resample_nearest

__all__ = ["METADATA", "SET_ASIDE", "BigEarthNet"]

METADATA = "metadata.parquet"
SET_ASIDE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"

_FOLDERS = {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2", "labels": "Reference_Maps"}
_NAME_PARTS = {"s1": 3, "s2": 2, "labels": 2}  # of a patch beyond its scene: tile (s1), column, row
_PRODUCTS = {"s1": "GRD", "s2": "L2A"}
_FILE_BANDS = {"B1": "B01", "B2": "B02", "B3": "B03", "B4": "B04", "B5": "B05", "B6": "B06", "B7": "B07", "B8": "B08"}
_FILE_BANDS |= {"B9": "B09"}
_DTYPES = {"s1": "float32", "s2": "uint16", "labels": "uint16"}
_REACH = 2  # pixels of the coarser band that a cubic kernel looks at to each side


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """What the table says about a patch."""

    s1_name: str
    split: str


class BigEarthNet:
    """Reads the archive. legend: its codes are those of CORINE. bands: sensor -> bands to keep.

    Raises MissingDataError where folders or the table are absent, DamagedFileError for a table with other columns,
    BandError for B10, which L2A does not have.
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
        _require_l2a(self._bands.get("s2", ()))
        roles = (*self._bands, *(("labels",) if labelled else ()))
        held = {role: _patches(root, role) for role in roles}
        self._table = _read_table(root, METADATA) if (root / METADATA).is_file() else None
        if self._table is None and "s1" in self._bands and len(roles) > 1:
            raise MissingDataError(
                f"{METADATA} is absent",
                got=", ".join(sorted(path.name for path in root.iterdir())),
                expected=f"the published table; only it joins {_FOLDERS['s1']} with the other folders",
                where=root,
                do="fetch it, or leave Sentinel-1 out (s1 null)",
            )
        self.scenes, self.orphans = _join(held, self._table, _read_set_aside(root))
        if not self.scenes:
            raise _nothing_joined(root, held, self.orphans)

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self._bands)

    def split(self, scene: Scene) -> str:
        """As the table says, or by the user's own table; without any, by the draw."""
        published = self._table[scene.id].split if self._table is not None else "train"
        return self._splits.split(scene.id, published)

    def files(self, scene: Scene) -> Iterator[Path]:
        """The files of the bands to keep, and the map."""
        for sensor, names in self._bands.items():
            yield from (_band_file(scene.files[sensor][0], band) for band in names)
        yield from (_map_file(path) for path in scene.files.get("labels", ()))

    def records(
        self, scene: Scene, tally: Tally | None = None, only: Container[str] | None = None
    ) -> Iterator[PlaceRecord]:
        """The record of one patch, or none if it has no labelled pixel."""
        if only is not None and scene.id not in only:
            return
        tally = Tally() if tally is None else tally
        images = {
            sensor: _read_bands(scene.files[sensor][0], sensor, names, tally) for sensor, names in self._bands.items()
        }
        record = patch_record(
            scene,
            tally,
            images=images,
            products={sensor: _PRODUCTS[sensor] for sensor in images},
            labels=self._labels(_map_file(scene.files["labels"][0])) if "labels" in scene.files else None,
            split=self.split(scene),
            notes={"s1_patch": scene.files["s1"][0].name} if "s1" in images else {},
        )
        if record is not None:
            yield record

    def _labels(self, path: Path) -> tuple[NDArray[np.uint8], Grid]:
        values_HW, missing_HW, grid = _read_band(path, "labels")
        encoded = self._legend.encode(values_HW, path, nodata=0)
        return np.where(missing_HW, np.uint8(IGNORE), encoded), grid


def _require_l2a(bands: Sequence[str]) -> None:
    absent = [name for name in bands if name not in SENSORS["s2"].products["L2A"]]
    if absent:
        raise BandError(
            "BigEarthNet is L2A, which has no B10",
            got=", ".join(bands),
            expected=", ".join(SENSORS["s2"].products["L2A"]),
            do="choose bands without it: s2_bands=12, 10, 9 or 3",
        )


def _patches(root: Path, role: str) -> dict[str, Path]:
    """Patch -> its folder, of all patches of a role."""
    folder = root / _FOLDERS[role]
    scenes = sorted(path for path in folder.glob("[!.]*") if path.is_dir()) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for scene in scenes:
        for patch in sorted(path for path in scene.glob("[!.]*") if path.is_dir()):
            if patch.name.rsplit("_", _NAME_PARTS[role])[0] != scene.name:
                raise DataError(
                    "a folder of BigEarthNet lies in another scene than its name says",
                    got=patch.name,
                    expected=f"{scene.name}_..., with {_NAME_PARTS[role]} more parts",
                    where=scene,
                    do="unpack the archive again; version 1 has another layout",
                )
            found[patch.name] = patch
    if not found:
        listed = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else []
        raise MissingDataError(
            f"{_FOLDERS[role]} of BigEarthNet v2 is not there",
            got=", ".join(listed) if root.is_dir() else "no such folder",
            expected=f"{_FOLDERS[role]}/<scene>/<patch>/ (and {', '.join(_FOLDERS.values())}, {METADATA} beside it)",
            where=root,
            do=f"set root to the folder of the unpacked archives, or set {role} to null",
        )
    return found


def _read_table(root: Path, name: str) -> dict[str, _Row]:
    """Patch -> row of a published table."""
    path, columns = root / name, ("patch_id", "s1_name", "split")
    try:
        held = pq.read_schema(path).names
        if not set(columns) <= set(held):
            raise DamagedFileError("a table has other columns", got=held, expected=list(columns), where=path)
        rows = pq.read_table(path, columns=list(columns)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError("a table does not parse", got=error, expected="Parquet", where=path) from None
    strange = sorted({str(row["split"]) for row in rows} - set(SPLITS))
    if strange:
        raise LabelError("a table names unknown splits", got=strange, expected=list(SPLITS), where=path)
    table = {str(row["patch_id"]): _Row(s1_name=str(row["s1_name"]), split=row["split"]) for row in rows}
    if len(table) != len(rows):
        raise DamagedFileError("a table names a patch twice", got=f"{len(rows) - len(table)} times", where=path)
    return table


def _read_set_aside(root: Path) -> dict[str, _Row]:
    return _read_table(root, SET_ASIDE) if (root / SET_ASIDE).is_file() else {}


def _join(
    held: Mapping[str, Mapping[str, Path]], table: Mapping[str, _Row] | None, set_aside: Mapping[str, _Row]
) -> tuple[list[Scene], list[Orphan]]:
    """Scenes for which all roles are there, by the table; without one, by name."""
    names = {name for role, patches in held.items() if role != "s1" for name in patches}
    s1_names = set(held.get("s1", ()))
    if table is None:
        rows = {name: name for name in names | s1_names}
    else:
        rows = {name: row.s1_name for name, row in table.items() if name in names or row.s1_name in s1_names}
    scenes, orphans = [], []
    for name in sorted(rows):
        keys = {role: rows[name] if role == "s1" else name for role in held}
        files = {role: (held[role][key],) for role, key in keys.items() if key in held[role]}
        if len(files) == len(held):
            scenes.append(Scene(id=name, seasons=ONE_DATE, files=files))
        else:
            orphans.append(_orphan(name, [role for role in held if role not in files], files))
    if table is not None:
        orphans += _outside(table, set_aside, len(rows), (names - set(rows)) | (s1_names - set(rows.values())))
    return scenes, orphans


def _outside(
    table: Mapping[str, _Row], set_aside: Mapping[str, _Row], used_rows: int, strays: set[str]
) -> Iterator[Orphan]:
    """Rows without a file and patches without a row: as published in one entry each, others one by one."""
    if len(table) > used_rows:
        yield _orphan(f"{len(table) - used_rows} rows of {METADATA}", ["any folder"], {})
    aside = {name: row for name, row in set_aside.items() if name in strays or row.s1_name in strays}
    if aside:
        yield _orphan(f"{len(aside)} patches of {SET_ASIDE}", [f"row of {METADATA}"], {})
    known = {*aside, *(row.s1_name for row in aside.values())}
    yield from (_orphan(name, [f"row of {METADATA}"], {}) for name in sorted(strays - known))


def _orphan(name: str, missing: Sequence[str], files: Mapping[str, tuple[Path, ...]]) -> Orphan:
    found = tuple(str(paths[0]) for paths in files.values())
    return Orphan(id=name, season=None, missing=tuple(missing), found=found)


def _nothing_joined(root: Path, held: Mapping[str, Mapping[str, Path]], orphans: Sequence[Orphan]) -> MissingDataError:
    return MissingDataError(
        "no patch of BigEarthNet has all its parts",
        got="; ".join(
            f"{role}: {len(patches)} patches, such as {next(iter(patches))}" for role, patches in held.items()
        )
        + f"; {orphans[0].id} lacks {', '.join(orphans[0].missing)}",
        expected=f"the same patch in {', '.join(_FOLDERS[role] for role in held)}, as {METADATA} joins them",
        where=root,
        do="unpack the parts of the same archive",
    )


def _band_file(folder: Path, band: str) -> Path:
    return folder / f"{folder.name}_{_FILE_BANDS.get(band, band)}.tif"


def _map_file(folder: Path) -> Path:
    return folder / f"{folder.name}_reference_map.tif"


def _read_band(path: Path, role: str) -> tuple[NDArray[np.generic], NDArray[np.bool_], Grid]:
    """The values of a file with one band, where it declares no data, and its grid."""
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != _DTYPES[role]:
            raise BandError(
                "a file of BigEarthNet is not as published",
                got=f"{dataset.count} bands of {', '.join(dataset.dtypes)}",
                expected=f"1 band of {_DTYPES[role]}",
                where=path,
                do="unpack the archive again",
            )
        values_BHW, missing, grid = read_pixels(dataset)
    return values_BHW[0], missing.in_band(0), grid


def _read_bands(folder: Path, sensor: str, bands: Sequence[str], tally: Tally) -> Raster:
    """The bands of a patch on one grid of 10 m; a pixel has no data where the files say so or every band is 0."""
    layers, gaps, grids, reach = [], [], {}, 0
    for band in bands:
        path = _band_file(folder, band)
        values_HW, missing_HW, grid = _read_band(path, sensor)
        grids[path], factor = _at_ten_metres(grid, path)
        if factor > 1:
            tally.changed[f"{sensor} band images of {10 * factor} m resampled to 10 m (cubic)"] += 1
            reach = max(reach, _REACH * factor)
            shape = grids[path].shape
            values_HW, missing_HW = resample_cubic(values_HW, shape), resample_nearest(missing_HW, shape)
        layers.append(values_HW)
        gaps.append(missing_HW)
    (first, reference), *others = grids.items()
    for path, grid in others:
        require_same_grid(reference, grid, first, path)
    values_BHW = np.stack(layers)
    missing_HW = np.all(gaps, axis=0) if SENSORS[sensor].missing == "all" else np.any(gaps, axis=0)
    missing_HW |= (values_BHW == 0).all(axis=0)
    if reach and missing_HW.any():
        missing_HW = binary_dilation(missing_HW, np.ones((2 * reach + 1, 2 * reach + 1), bool))
    check_values(sensor, values_BHW, ~missing_HW, bands, folder)
    return Raster(
        values_BHW=values_BHW, valid_HW=~missing_HW, band_names=tuple(bands), grid=reference, tags={}, nodata=None
    )


def _at_ten_metres(grid: Grid, path: Path) -> tuple[Grid, int]:
    """The grid with pixels of 10 m over the same ground, and how many of them one pixel is wide: 1, 2 or 6."""
    size = abs(grid.transform.a)
    factor = round(size / 10)
    if factor not in (1, 2, 6) or abs(size - 10 * factor) > 1e-6:
        raise GridError(
            "a file of BigEarthNet has another pixel size",
            got=f"{size:g} m",
            expected="10, 20 or 60 m",
            where=path,
            do="unpack the archive again",
        )
    fine = Affine(grid.transform.a / factor, 0, grid.transform.c, 0, grid.transform.e / factor, grid.transform.f)
    return Grid(height=grid.height * factor, width=grid.width * factor, transform=fine, crs=grid.crs), factor
