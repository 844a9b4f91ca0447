"""Small archives in the layouts that others publish, for tests of the readers and of the recipes that use them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine

from small_scenes import grid, s1_values, s2_values, write

DFC_CODES = (1, 2, 4, 5, 6, 7, 9, 10)


def write_rois_patch(
    root: Path,
    folders: str,
    name: str,
    *,
    labels: str,
    codes=DFC_CODES,
    seed: int = 0,
    side: int = 16,
    s1_type=np.float64,
) -> None:
    """One patch of SEN12MS or DFC2020: `folders` and `name` are patterns with {kind}; no band names, no tags."""
    rng = np.random.default_rng([seed, *name.encode()])
    where = grid(side)
    classes = rng.choice(np.array(codes, np.uint16), (side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)
    layers = {"s1": s1_values(rng, side).astype(s1_type), "s2": s2_values(rng, side), "dfc": classes}
    layers["lc"] = np.stack([classes, classes + 20, classes + 40, classes + 60])
    for kind in ("s1", "s2", labels):
        write(root / folders.format(kind=kind) / name.format(kind=kind), layers[kind], where)


def write_dfc2020(root: Path, *, style: str = "authors", validation: int = 4, test: int = 2, side: int = 16) -> None:
    """`authors`: validation/s1_validation; `published`: ROIs0000_validation/s1_0 (and ROIs0000_test/s1_0)."""
    for part, count in (("validation", validation), ("test", test)):
        folders = f"{part}/{{kind}}_{part}" if style == "authors" else f"ROIs0000_{part}/{{kind}}_0"
        for number in range(count):
            write_rois_patch(root, folders, f"ROIs0000_{part}_{{kind}}_0_p{number}.tif", labels="dfc", side=side)


def write_dfc2020_lists(root: Path, *, side: int = 16) -> None:
    """As Copernicus-Bench packs it: flat folders and lists of splits, 3 patches to train on, 2 and 1 for the others."""
    folder, number = root / "dfc2020_s1s2", 0
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        names = [f"ROIs0000_test_{{kind}}_0_p{number + index}.tif" for index in range(count)]
        number += count
        for name in names:
            write_rois_patch(folder, "{kind}", name, labels="dfc", side=side, codes=(0, *DFC_CODES))
        (folder / f"dfc-{split}-new.csv").write_text("".join(name.format(kind="dfc") + "\n" for name in names))


def write_sen12ms(
    root: Path, *, side: int = 16, scenes=(("ROIs1158_spring", 1, 4), ("ROIs2017_winter", 146, 2))
) -> None:
    """scenes: season, number of the scene, patches."""
    for season, scene, patches in scenes:
        for patch in range(30, 30 + patches):
            name = f"{season}_{{kind}}_{scene}_p{patch}.tif"
            write_rois_patch(root, f"{season}/{{kind}}_{scene}", name, labels="lc", codes=range(1, 18), side=side)


CORINE_CODES = (111, 112, 211, 231, 311, 312, 512, 122, 999)
BEN_BANDS = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09"), 60),
}
"""The bands of BigEarthNet and their pixel size in metres."""


def ben_names(number: int) -> tuple[str, str]:
    """The names of a patch in s2 (and its map) and in s1."""
    s2 = f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{number:02d}_57"
    return s2, f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{number + 5:02d}_61"


def ben_folders(root: Path, number: int) -> dict[str, Path]:
    """Role -> the folder of a patch."""
    s2, s1 = ben_names(number)
    return {
        "s2": root / "BigEarthNet-S2" / s2.rsplit("_", 2)[0] / s2,
        "s1": root / "BigEarthNet-S1" / s1.rsplit("_", 3)[0] / s1,
        "labels": root / "Reference_Maps" / s2.rsplit("_", 2)[0] / s2,
    }


def write_bigearthnet_patch(root: Path, number: int, *, side: int = 24) -> None:
    """One patch of `side` x `side` px of 10 m, in the files of BigEarthNet v2."""
    rng = np.random.default_rng(number)
    folders = ben_folders(root, number)
    where = {
        size: grid(side * 10 // size, transform=Affine(size, 0, 300000 + 1200 * number, 0, -size, 5331600))
        for size in (10, 20, 60)
    }
    for band, size in BEN_BANDS.items():
        values = rng.integers(200, 4000, where[size].shape).astype(np.uint16)
        write(folders["s2"] / f"{folders['s2'].name}_{band}.tif", values, where[size], nodata=0)
    for band, values in zip(("VV", "VH"), s1_values(rng, side), strict=True):
        write(folders["s1"] / f"{folders['s1'].name}_{band}.tif", values, where[10])
    codes = rng.choice(np.array(CORINE_CODES, np.uint16), (side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)
    write(folders["labels"] / f"{folders['labels'].name}_reference_map.tif", codes, where[10], nodata=0)


def write_bigearthnet_table(root: Path, splits: Mapping[int, str], name: str = "metadata.parquet") -> None:
    """A row for each patch, with the columns of the published table."""
    rows = []
    for number, split in splits.items():
        s2, s1 = ben_names(number)
        row = {"patch_id": s2, "labels": ["Arable land"], "split": split, "country": "Austria", "s1_name": s1}
        row |= {"s2v1_name": f"S2A_MSIL2A_20170613T101031_{number}_57"}
        rows.append(row | {"contains_seasonal_snow": False, "contains_cloud_or_shadow": name != "metadata.parquet"})
    pq.write_table(pa.Table.from_pylist(rows), root / name)


BEN_SPLITS = {0: "train", 1: "train", 2: "train", 3: "train", 4: "validation", 5: "test"}


def write_bigearthnet(root: Path, splits: Mapping[int, str] = BEN_SPLITS, *, side: int = 24) -> None:
    for number in splits:
        write_bigearthnet_patch(root, number, side=side)
    write_bigearthnet_table(root, splits)


def write_lmdb(path: Path, values: Mapping[str, bytes]) -> None:
    import lmdb

    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=2**28, sync=False) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def pretraining_arrays(number: int, *, side: int = 16, seasons: int = 4, bands: int = 13) -> dict[str, np.ndarray]:
    """8-bit arrays of one place, by role; every value occurs."""
    rng = np.random.default_rng(number)
    draw = {"s1": (seasons, 2, side, side), "s2": (seasons, bands, side, side)}
    arrays = {role: rng.integers(0, 256, shape).astype(np.uint8) for role, shape in draw.items()}
    classes = rng.integers(0, 9, (seasons, side // 4, side // 4)).astype(np.uint8)
    return {**arrays, "labels": classes.repeat(4, axis=1).repeat(4, axis=2)}


def write_pretraining_lmdb(
    root: Path, ids=(7, 12, 300, 4111), *, side: int = 16, bands: int = 13, names: Mapping[str, str] | None = None
) -> None:
    """The three LMDBs of pretraining; as with the authors, ids of images are numbers of Python, of labels of NumPy."""
    names = names or {"s1": "0k_251k_uint8_s1", "s2": "0k_251k_uint8_s2c", "labels": "dw_labels"}
    arrays = {place: pretraining_arrays(place, side=side, bands=bands) for place in ids}
    for role, name in names.items():
        kind = np.int64 if role == "labels" else int
        parts = {str(key): (arrays[place][role], kind(place)) for key, place in enumerate(ids)}
        values = {key: pickle.dumps((array.tobytes(), array.shape, place)) for key, (array, place) in parts.items()}
        write_lmdb(root / f"{name}.lmdb", values)


def write_dfc2020_lmdb(root: Path, *, validation: int = 4, test: int = 2, side: int = 16) -> None:
    """DFC2020 in the authors' LMDBs, a file a part."""
    for part, count in (("validation", validation), ("test", test)):
        values: dict[str, bytes] = {}
        for number in range(count):
            rng = np.random.default_rng([number, *part.encode()])
            labels = rng.integers(0, 9, (side // 4, side // 4)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
            arrays = {"s1": s1_values(rng, side).astype(np.float64), "s2": s2_values(rng, side), "lbl": labels}
            for kind, array in arrays.items():
                values[f"{kind}_{number}"] = pickle.dumps((array.tobytes(), array.shape))
        write_lmdb(root / f"DFC2020_s12_{part}.lmdb", values)
