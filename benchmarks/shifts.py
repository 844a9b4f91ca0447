"""How well shifts are found on real scenes: injected ones, and the false ones between unrelated places.

Run `OMP_NUM_THREADS=1 python benchmarks/shifts.py SENTINEL_MINI` with the folder of the small real set
(`pretrain/{s1,s2,dynamic_world}/ID.tif`, 120 px). The second raster of a pair is read `d` px off the first, from the
same file: nothing is rolled or resampled, and 100 px of 120 remain. Eight directions a length.

"Found" means: the measured shift differs by at most 1.5 px in rows and in columns from the injected one plus that of
the untouched pair. "Said to be shifted" is what the prepare report says: a length of `ALARM_PX` or more. Dynamic World
maps are computed from the Sentinel-2 image itself, so their untouched shift is known to be 0: those of the places, and,
as places that no setting was chosen on, of the large scene (`scene/*_{l1c,dynamic_world}.tif`), cut into places of its
own. That of Sentinel-1 is not: it is what all other places of the same Sentinel-2 product and day show together (days
with at least three places), and, for all places, what the place itself shows.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from cromss.data.survey.shift_survey import ALARM_PX
from cromss.geo.legend import IGNORE
from cromss.geo.raster import read_raster
from cromss.geo.shifts import Planes, Shift, class_planes, find_peak, image_planes, shift_surface

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 10)
DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
EDGE = 10


def load(root: Path, limit: int) -> dict[str, dict[str, np.ndarray]]:
    """Place -> s1, s2, labels of scenes with data everywhere."""
    places = {}
    for path in sorted((root / "pretrain" / "s2").glob("*.tif"))[:limit]:
        rasters = {role: read_raster(root / "pretrain" / folder / path.name) for role, folder in ROLES.items()}
        if rasters["s1"].valid_HW.all():
            places[path.stem] = {role: raster.values_BHW for role, raster in rasters.items()}
    return places


ROLES = {"s1": "s1", "s2": "s2", "labels": "dynamic_world"}
BANDS = {"s1": ("VV", "VH"), "s2": ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")}


def cut(root: Path, size: int) -> dict[str, dict[str, np.ndarray]]:
    """Place -> s2, labels of the large scene, where a map has more than one class."""
    image, labels = (next((root / "scene").glob(f"*_{kind}.tif")) for kind in ("l1c", "dynamic_world"))
    rasters = {"s2": read_raster(image), "labels": read_raster(labels)}
    height, width = rasters["s2"].valid_HW.shape
    places = {}
    for row in range(0, height - size + 1, size):
        for column in range(0, width - size + 1, size):
            part = (slice(None), slice(row, row + size), slice(column, column + size))
            place = {role: raster.values_BHW[part] for role, raster in rasters.items()}
            whole = all(raster.valid_HW[part[1:]].all() for raster in rasters.values())
            if whole and len(set(np.unique(place["labels"])) - {IGNORE}) > 1:
                places[f"{row}_{column}"] = place
    return places


def planes(role: str, values: np.ndarray, row: int = 0, column: int = 0, crop: bool = True) -> Planes:
    """Planes of a raster read (row, column) px off its centre."""
    if crop:
        height, width = values.shape[1:]
        values = values[:, EDGE - row : height - EDGE - row, EDGE - column : width - EDGE - column]
    if role == "labels":
        return class_planes(values[0])
    return image_planes(role, values, np.ones(values.shape[1:], bool), BANDS[role])


def surfaces(places: dict, kind: tuple[str, str], crop: bool = True) -> dict[str, np.ndarray | None]:
    first, second = kind
    return {
        name: shift_surface(
            planes(first, place[first], crop=crop),
            planes(second, place[second], crop=crop),
            with_values=second == "labels",
        )
        for name, place in places.items()
    }


def consensus(found: dict[str, np.ndarray | None]) -> dict[str, Shift]:
    """What the other places of the same day show together, for days with three places that agree on something."""
    days = defaultdict(list)
    for name in found:
        days["_".join(name.split("_")[:3])].append(name)
    result = {}
    for names in days.values():
        for name in names if len(names) >= 3 else ():
            others = [found[other] for other in names if other != name and found[other] is not None]
            shift = find_peak(np.mean([surface / np.median(surface) for surface in others], axis=0))
            if shift.measurable:
                result[name] = shift
    return result


def off(shift: Shift, row: float, column: float) -> float:
    return max(abs(shift.rows - row), abs(shift.columns - column))


def curve(places: dict, kind: tuple[str, str], reference: dict[str, tuple[float, float]], title: str) -> None:
    """Print, for each length, the share of pairs that are measurable and, of those, found and raising an alarm."""
    first, second = kind
    print(f"\n{title}: {len(reference)} places\n  px   pairs  measurable   found  off by, 95 %  said to be shifted")
    fixed = {name: planes(first, places[name][first]) for name in reference}
    for length in LENGTHS:
        rows = []
        for name, (row0, column0) in reference.items():
            for down, right in DIRECTIONS if length else DIRECTIONS[:1]:
                row, column = down * length, right * length
                moved = planes(second, places[name][second], row, column)
                shift = find_peak(shift_surface(fixed[name], moved, with_values=second == "labels"))
                rows.append((shift.measurable, off(shift, row + row0, column + column0), shift.length))
        table = np.array(rows, float)
        known = table[table[:, 0] > 0]
        print(
            f"  {length:2d} {len(table):7d}  {known.shape[0] / len(table):10.1%}  {(known[:, 1] <= 1.5).mean():6.1%}"
            f"  {np.percentile(known[:, 1], 95):9.2f} px  {(known[:, 2] >= ALARM_PX).mean():17.1%}"
        )


def unrelated(places: dict, kind: tuple[str, str], count: int = 1500) -> None:
    """Print how often two unrelated places reach a confidence."""
    first, second = kind
    random, names = np.random.default_rng(0), list(places)
    a = {name: planes(first, places[name][first]) for name in names}
    b = {name: planes(second, places[name][second]) for name in names}
    pairs = [(i, j) for i, j in random.choice(names, (2 * count, 2)) if i.split("_")[:3] != j.split("_")[:3]][:count]
    found = [find_peak(shift_surface(a[i], b[j], with_values=second == "labels")) for i, j in pairs]
    values = np.array([shift.confidence for shift in found])
    shares = ", ".join(f">= {level}: {(values >= level).mean():.2%}" for level in (6, 8, 10, 12, 15))
    said = np.mean([shift.measurable for shift in found])
    print(f"\nunrelated places, {first} and {second}, {len(values)} pairs: {said:.2%} measurable; confidence {shares}")


def main() -> None:
    places = load(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**6)
    same = {name: place for name, place in places.items() if place["s2"].shape[1:] == (120, 120)}
    for kind in (("s1", "s2"), ("s2", "labels")):
        unrelated(same, kind)
    mapped = {name: p for name, p in same.items() if len(set(np.unique(p["labels"])) - {IGNORE}) > 1}
    curve(mapped, ("s2", "labels"), dict.fromkeys(mapped, (0.0, 0.0)), "Sentinel-2 and its map, true shift known")
    for size in (120, 264):
        parts = cut(Path(sys.argv[1]), size)
        curve(parts, ("s2", "labels"), dict.fromkeys(parts, (0.0, 0.0)), f"the large scene in places of {size} px")
    kind = ("s2", "s1")
    untouched = surfaces(same, kind)
    agreed = {name: (shift.rows, shift.columns) for name, shift in consensus(untouched).items()}
    curve(same, kind, agreed, "Sentinel-2 and Sentinel-1, against the other places of the day")
    own = {name: find_peak(surface) for name, surface in untouched.items()}
    own_shift = {name: (shift.rows, shift.columns) for name, shift in own.items() if shift.measurable}
    curve(same, kind, own_shift, "Sentinel-2 and Sentinel-1, against the untouched pair, where that is measurable")
    start = time.process_time()
    whole = surfaces(same, kind, crop=False)
    seconds = (time.process_time() - start) / len(whole)
    print(f"\n120 px: {1e3 * seconds:.0f} ms of CPU a pair of images; with a map as well:", end=" ")
    start = time.process_time()
    surfaces(same, ("s2", "labels"), crop=False)
    print(f"{1e3 * (time.process_time() - start) / len(whole) + 1e3 * seconds:.0f} ms")
    print("\nuntouched, whole places, measurable ones (px down, right of S1 off S2):")
    for name, surface in sorted(surfaces(places, kind, crop=False).items()):
        shift = find_peak(surface)
        if shift.measurable:
            print(f"  {name:36s} {shift.rows:5.1f} {shift.columns:5.1f}  confidence {shift.confidence:5.0f}")


if __name__ == "__main__":
    main()
