"""Class schemes: ids, names, colours, and the table from the values of a file to class ids.

In: a label raster with the codes of its publisher. Out: uint8 with 0..C-1, or 255 where there is no class.
Values go through a table; a value that is not in the table is an error, never clipped or guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import ArgumentError, LabelError

__all__ = ["IGNORE", "Legend", "LegendClass"]

IGNORE = 255
"""The label of a pixel without a class, from file to metric (uint8)."""

_UNKNOWN = 254  # the id of no class: the last that a legend can have is 253


@dataclass(frozen=True, kw_only=True)
class LegendClass:
    """One class: its id (0..C-1), name, and colour "#rrggbb"."""

    id: int
    name: str
    color: str


@dataclass(frozen=True, kw_only=True)
class Legend:
    """A class scheme. `codes` maps each value that a file may hold to a class id, or to 255 for "no class"."""

    name: str
    classes: tuple[LegendClass, ...]
    codes: Mapping[int, int]

    def __post_init__(self) -> None:
        if [entry.id for entry in self.classes] != list(range(len(self.classes))) or not 0 < len(self.classes) < IGNORE:
            raise ArgumentError(
                "class ids must be 0, 1, 2, ... in order", got=[c.id for c in self.classes], where=self.name
            )
        if len(set(self.names)) != len(self.names):
            raise ArgumentError("class names must differ", got=list(self.names), where=self.name)
        for entry in self.classes:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", entry.color):
                raise ArgumentError(
                    "a class colour must be #rrggbb", got=entry.color, where=f"{self.name}: {entry.name}"
                )
        wrong = {
            code: target for code, target in self.codes.items() if target not in (IGNORE, *range(len(self.classes)))
        }
        if wrong:
            raise ArgumentError(f"codes must lead to 0..{len(self.classes) - 1} or 255", got=wrong, where=self.name)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> tuple[str, ...]:
        return tuple(entry.color for entry in self.classes)

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Class id -> (red, green, blue, alpha), 0..255, as a GeoTIFF colour table; 255 is transparent."""
        table = {IGNORE: (0, 0, 0, 0)}
        for entry in self.classes:
            red, green, blue = bytes.fromhex(entry.color[1:])
            table[entry.id] = (red, green, blue, 255)
        return table

    def of_file(self, tags: Mapping[str, str], where: str | Path) -> Legend:
        """This legend with the values that a file's own tags give its classes as codes; itself where they say none.

        LEGEND names a legend; CLASS_NAMES says `value=name;...`, as files of class ids do whose legend has other codes.
        Raises LabelError for a file of another legend, and for classes at neither their codes nor their ids.
        """
        if (named := tags.get("LEGEND") or self.name) != self.name:
            raise LabelError(
                "a label file is of another legend",
                got=f"tag LEGEND = {named}",
                expected=self.name,
                where=where,
                do=f"choose that legend, bring the map into this one (cromss labels maps --map_legend {named} ...), or "
                f"correct a tag that is wrong: gdal_edit.py -mo LEGEND={self.name} FILE",
            )
        ids = {_plain(name): number for number, name in enumerate(self.names)}
        said = {
            int(value): ids[_plain(name)]
            for value, name in re.findall(r"(-?\d+)\s*[=:]\s*([^;,=:]+)", tags.get("CLASS_NAMES", ""))
            if _plain(name) in ids
        }
        if all(self.codes.get(value) == number for value, number in said.items()):
            return self
        if all(value == number for value, number in said.items()):
            return Legend(name=self.name, classes=self.classes, codes={**said, IGNORE: IGNORE})
        code, number = next(pair for pair in said.items() if self.codes.get(pair[0]) != pair[1])
        raise LabelError(
            "a label file gives its classes other values than the legend does",
            got=f"tag CLASS_NAMES = {tags['CLASS_NAMES']}",
            expected=f"{self.names[number]} at {[c for c, to in self.codes.items() if to == number]}, not at {code}, "
            f"in {self.name}",
            where=where,
            do="choose the legend of this file, or write one with its codes, or correct the tag",
        )

    def encode(self, values: NDArray[Any], where: str | Path, nodata: float | None = None) -> NDArray[np.uint8]:
        """Class ids (same shape, uint8, 0..C-1 or 255) of the codes in `values` (integers of any type).

        `nodata` is the file's declared no-data value, if any; it becomes 255.
        Raises LabelError naming each unknown value with its count, for values that are not integers, or when `nodata`
        is a class.
        """
        if not np.issubdtype(values.dtype, np.integer):
            raise LabelError(
                "labels must be whole numbers",
                got=str(values.dtype),
                expected="an integer type such as uint8",
                where=where,
                do="write the labels as uint8 without resampling other than nearest neighbour",
            )
        if values.dtype == np.uint8:
            return self._encode_bytes(values, where, nodata)
        wide = values.astype(np.int64)
        codes = np.array(sorted(self.codes), np.int64)
        targets = np.array([self.codes[int(code)] for code in codes], np.uint8)
        place = np.searchsorted(codes, wide).clip(max=len(codes) - 1)
        missing = self._missing(wide, nodata, where)
        unknown = (codes[place] != wide) & ~missing
        if unknown.any():
            self._refuse(values[unknown], where)
        encoded: NDArray[np.uint8] = np.where(missing, np.uint8(IGNORE), targets[place])
        return encoded

    def _encode_bytes(self, values: NDArray[np.uint8], where: str | Path, nodata: float | None) -> NDArray[np.uint8]:
        """The same from a table of the 256 values, in a third of the time."""
        table_V = np.full(256, _UNKNOWN, np.uint8)
        for code, target in self.codes.items():
            if 0 <= code < 256:
                table_V[code] = target
        table_V[self._missing(np.arange(256), nodata, where)] = IGNORE
        encoded = table_V[values]
        unknown = encoded == _UNKNOWN
        if unknown.any():
            self._refuse(values[unknown], where)
        return encoded

    def _missing(self, wide: NDArray[np.int64], nodata: float | None, where: str | Path) -> NDArray[np.bool_]:
        """Where the declared no-data value stands."""
        if nodata is None or not float(nodata).is_integer():
            return np.zeros(wide.shape, bool)
        if self.codes.get(int(nodata), IGNORE) != IGNORE:
            raise LabelError(
                "the file declares a class as no-data",
                got=f"no-data value {int(nodata)}, which is {self.names[self.codes[int(nodata)]]!r} in {self.name!r}",
                expected="a no-data value that is no class, such as 255",
                where=where,
                do="correct or remove the no-data value (gdal_edit.py -unsetnodata FILE), or choose the right legend",
            )
        return np.equal(wide, int(nodata))

    def _refuse(self, unknown: NDArray[Any], where: str | Path) -> None:
        found, counts = np.unique(unknown, return_counts=True)
        listed = ", ".join(f"{value} ({count} pixels)" for value, count in zip(found[:8], counts[:8], strict=True))
        more = f", and {len(found) - 8} more values" if len(found) > 8 else ""
        raise LabelError(
            f"label values are not in legend {self.name!r}",
            got=listed + more,
            expected=", ".join(str(code) for code in sorted(self.codes)),
            where=where,
            do="choose the legend of this file, declare the value as no-data, or write a legend with a code for it",
        )

    def to_dict(self) -> dict[str, Any]:
        """The legend as JSON types."""
        classes = [{"id": entry.id, "name": entry.name, "color": entry.color} for entry in self.classes]
        return {
            "name": self.name,
            "classes": classes,
            "codes": {str(code): target for code, target in self.codes.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Legend:
        """The inverse of `to_dict`; without "codes", a file holds the ids themselves and 255. Raises ArgumentError."""
        try:
            classes = tuple(
                LegendClass(id=_whole(row["id"]), name=str(row["name"]), color=str(row["color"]))
                for row in content["classes"]
            )
            identity = {**{entry.id: entry.id for entry in classes}, IGNORE: IGNORE}
            codes = {_whole(code): _whole(target) for code, target in content.get("codes", identity).items()}
            return cls(name=str(content["name"]), classes=classes, codes=codes)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(
                "this is not a legend",
                got=repr(error),
                expected='{"name", "classes": [{"id", "name", "color"}], "codes"}',
            ) from None


def _whole(number: Any) -> int:
    """A whole number, as it is or as text. Raises ValueError for another."""
    if isinstance(number, bool | float) and not (isinstance(number, float) and number.is_integer()):
        raise ValueError(f"{number} is no whole number")
    return int(number)


def _plain(name: str) -> str:
    """A class name without what spellings differ in."""
    return re.sub(r"\W+", "_", name.strip().lower())
