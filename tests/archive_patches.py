"""Small archives in the layouts that others publish, for tests of the readers and of the recipes that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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


def write_sen12ms(
    root: Path, *, side: int = 16, scenes=(("ROIs1158_spring", 1, 4), ("ROIs2017_winter", 146, 2))
) -> None:
    """scenes: season, number of the scene, patches."""
    for season, scene, patches in scenes:
        for patch in range(30, 30 + patches):
            name = f"{season}_{{kind}}_{scene}_p{patch}.tif"
            write_rois_patch(root, f"{season}/{{kind}}_{scene}", name, labels="lc", codes=range(1, 18), side=side)
