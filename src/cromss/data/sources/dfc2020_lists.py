"""DFC2020 as Copernicus-Bench packs it: flat folders, and a list of files for each split.

    <root>/{s1,s2,dfc}/<name>.tif, a name with `dfc` in it for the labels and `s1` or `s2` there for the images
    <root>/dfc-{train,val,test}-new.csv    one name of a label file a line

In: the root, or the folder that holds it as `dfc2020_s1s2`. Out: place -> role -> file, and place -> split: the lists'
own, which is not the split that CromSS transfers on.
Source: github.com/zhu-xlab/Copernicus-FM, Copernicus-Bench/src/datasets/cobench_dfc2020s12_wrapper.py; the archive
itself could not be looked at here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from cromss.data.sources.source import Orphan
from cromss.errors import DataError

__all__ = ["find_listed", "lists_root", "unlisted"]

_LISTS = {"train": "dfc-train-new.csv", "validation": "dfc-val-new.csv", "test": "dfc-test-new.csv"}
_FOLDERS = ("", "dfc2020_s1s2", "dfc2020/dfc2020_s1s2")  # the last: below the folder of `cromss download`
_LABELS = "dfc"


def lists_root(root: Path) -> Path | None:
    """The folder below `root`, or `root` itself, that holds one of the lists; None where there is none."""
    for folder in (root / name for name in _FOLDERS):
        if any((folder / name).is_file() for name in _LISTS.values()):
            return folder
    return None


def find_listed(root: Path, kinds: Collection[str]) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """Place -> role -> file, of the files that are there, and place -> split.

    kinds: those of s1, s2 and dfc that are wanted. A place is named like its files without their kind. Raises DataError
    for an absent list, for lists without a line, and for a line that is no name of a label file or is there twice.
    """
    found: dict[str, dict[str, Path]] = {}
    splits: dict[str, str] = {}
    for split, name in _LISTS.items():
        path = root / name
        if not path.is_file():
            raise DataError(
                "a list of a split is not there",
                got=f"no {name}",
                expected=", ".join(_LISTS.values()),
                where=root,
                do="unpack the whole archive",
            )
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            label = line.strip()
            if not label:
                continue
            place = _place(label)
            if place is None or place in splits:
                raise DataError(
                    "a list of a split holds a line that can not be used",
                    got=repr(label[:100]) + ("" if place is None else ", a second time"),
                    expected="the name of a label file, once, such as ROIs0000_test_dfc_0_p1.tif",
                    where=f"{path}, line {number}",
                )
            splits[place] = split
            files = {kind: root / kind / label.replace(_LABELS, kind) for kind in sorted(kinds)}
            found[place] = {
                "labels" if kind == _LABELS else kind: file for kind, file in files.items() if file.is_file()
            }
    if not splits:
        raise DataError("the lists of the splits are empty", where=root, do="unpack the archive again")
    return found, splits


def unlisted(root: Path, splits: Mapping[str, str]) -> list[Orphan]:
    """The label files that stand in no list."""
    labels = {_place(path.name): path for path in sorted((root / _LABELS).glob("*.tif"))}
    return [
        Orphan(id=place, season=None, missing=("a line in a list of a split",), found=(str(path),))
        for place, path in labels.items()
        if place is not None and place not in splits
    ]


def _place(label: str) -> str | None:
    """ROIs0000_test_0_p1 of ROIs0000_test_dfc_0_p1.tif; None for what is no such name, or leads elsewhere."""
    stem = label.removesuffix(".tif")
    sound = stem != label and stem.count(_LABELS) == 1 and not set(label) & set('/\\"')
    return stem.replace(f"_{_LABELS}_", "_").replace(_LABELS, "") if sound else None
