"""Which split a place belongs to: from a table, by a keyed draw, or from a raster.

In: ids, a CSV, or a raster of split values. Out: "train", "validation", "test", or "" for none.

    draw:    u = SHA-256(seed, id) / 2^256;  test if u < test_share, validation if u < test_share + validation_share
    raster:  the split with the most labelled pixels of a patch; labels of the others are ignored there

The draw looks at nothing but the id of a place, so that all its seasons and patches fall together and a place keeps
its split when others are added.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.data.record import SPLITS
from cromss.errors import ConfigError, DamagedFileError, LabelError, MissingDataError

__all__ = ["draw_split", "majority_split", "read_split_table", "require_split_values"]


def draw_split(place: str, seed: int, validation_share: float, test_share: float) -> str:
    """The split of a place, the same for the same id, seed and shares (each 0..1, together at most 1)."""
    if not 0 <= validation_share <= 1 or not 0 <= test_share <= 1 or validation_share + test_share > 1:
        raise ConfigError(
            "the shares of the splits do not fit",
            got=f"validation_share {validation_share}, test_share {test_share}",
            expected="each from 0 to 1, together at most 1",
        )
    digest = hashlib.sha256(f"{seed}:{place}".encode()).digest()
    draw = int.from_bytes(digest[:7]) / 2**56  # 56 bits: exact in a float, so never 1
    if draw < test_share:
        return "test"
    return "validation" if draw < test_share + validation_share else "train"


def read_split_table(path: str | Path) -> dict[str, str]:
    """Place id -> split, from a CSV with the columns id and split.

    Raises MissingDataError; DamagedFileError for other columns or an id with two splits; LabelError for another split.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError("the table of splits is absent", where=path, do="correct the setting split")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError("the table of splits does not parse", got=error, where=path) from None
    if not {"id", "split"} <= set(columns) or not rows:
        got = f"columns {list(columns)}, {len(rows)} rows"
        raise DamagedFileError(
            "a table of splits needs columns and rows",
            got=got,
            expected="id, split",
            where=path,
            do="begin with the line `id,split`, in small letters, then a line a place, with commas",
        )
    table: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        place, split = (row["id"] or "").strip(), (row["split"] or "").strip()
        if split not in SPLITS:
            near = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0.0)[0]
            raise LabelError(
                "unknown split", got=split, expected=list(SPLITS), where=f"{path}, line {line}", do=f"write {near!r}?"
            )
        if table.setdefault(place, split) != split:
            raise DamagedFileError("one id has two splits", got=place, expected="one", where=f"{path}, line {line}")
    return table


def require_split_values(split_values: Mapping[str, int]) -> None:
    """Raise ConfigError for a split that there is not, and for two with one value."""
    strange = [name for name in split_values if name not in SPLITS]
    if strange or len(set(split_values.values())) < len(split_values):
        raise ConfigError(
            "split_values do not say which value is which split",
            got=dict(split_values),
            expected=f"some of {', '.join(SPLITS)}, each with a value of its own",
            do=f"did you mean {difflib.get_close_matches(strange[0], SPLITS, n=1, cutoff=0.0)[0]!r}?"
            if strange
            else "give each its own value",
        )


def majority_split(
    split_HW: NDArray[np.integer], usable_HW: NDArray[np.bool_], split_values: Mapping[str, int]
) -> tuple[str, NDArray[np.bool_]]:
    """The split that holds most of the usable pixels, and where it lies (H, W); "" when no usable pixel is in a split.

    On a tie the split named last in `split_values` that is not train wins, so that no test pixel is trained on.
    """
    counts = {name: int(((split_HW == value) & usable_HW).sum()) for name, value in split_values.items()}
    best = max(split_values, key=lambda name: (counts[name], name != "train", list(split_values).index(name)))
    if counts[best] == 0:
        return "", np.zeros(usable_HW.shape, bool)
    return best, np.equal(split_HW, split_values[best])
