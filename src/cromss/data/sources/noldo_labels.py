"""SSL4EO-S12@NoL: Dynamic World's noisy labels of the Sentinel-2 seasons of SSL4EO-S12, part of NoLDO-S12.

In: a folder, or `ssl4eo_s12_nol.zip` as published, with
    dw_noisy_labels/<7-digit id>/<product id of the s2c season>/label.tif     one band of classes 0..8
    dw_complete_ids.csv    a row a place: ids, sub1, sub2, sub3, sub4 (the four season folders); with or without a head,
                           and with or without a column of row numbers before it
Out: class ids of one season on the 264 x 264 px of its images.

Map and image are taken to cover the same ground. A map of 256 to 272 px a side is brought to 264 px by nearest
neighbour and counted; the authors resize with cubic convolution, which invents classes.
Seen: the authors' scripts that read these files. Assumed, for want of the archive itself: the size and box of a map;
other sizes are refused, and so is a box far from the image's.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cromss.data.sources.file_tree import FileTree, find_tree
from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_bands import SIDE
from cromss.errors import BandError, DamagedFileError, GridError, MissingDataError
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, grid_of, read_pixels
from cromss.geo.resample import resample_nearest

__all__ = ["NolLabels"]

_TABLE, _LABELS = "dw_complete_ids.csv", "dw_noisy_labels"
_SIDES = (256, 272)
_COLUMNS = ["ids", "sub1", "sub2", "sub3", "sub4"]


class NolLabels:
    """The label maps, by place and season.

    Raises MissingDataError for a path without them, DamagedFileError for another table.
    """

    def __init__(self, path: str | Path, legend: Legend) -> None:
        self._tree, self._legend = find_tree(path, "ssl4eo_s12_nol.zip", _TABLE), legend
        self._base = _base(self._tree)
        self.seasons: Mapping[str, tuple[str, ...]] = _read_table(self._tree, f"{self._base}{_TABLE}")

    def name(self, place: str, season: str) -> Path:
        """Where the map of a season is, in its folder or archive."""
        return self._tree.path / f"{self._base}{_LABELS}/{place}/{season}/label.tif"

    def disk(self, place: str, season: str) -> Path:
        """The file on disk that holds the map of a season."""
        return self._tree.disk(self.name(place, season))

    def read(self, place: str, season: str, tally: Tally) -> tuple[NDArray[np.uint8], Grid]:
        """Class ids (264, 264), 255 for none, and the grid of the file; `tally` counts resampled maps.

        Raises MissingDataError, DamagedFileError, BandError, GridError for a size, LabelError for a value.
        """
        with self._tree.raster(self.name(place, season)) as dataset:
            if dataset.count != 1:
                raise BandError(
                    "a map of classes must have one band", got=dataset.count, expected=1, where=dataset.name
                )
            if not all(_SIDES[0] <= side <= _SIDES[1] for side in dataset.shape):
                raise GridError(
                    "a label map has another size than its images",
                    got=f"{dataset.height} x {dataset.width} px",
                    expected=f"{SIDE} x {SIDE} px, or {_SIDES[0]} to {_SIDES[1]} px a side",
                    where=dataset.name,
                    do="leave the place out (on_bad=skip), or check that it belongs to these images",
                )
            values_BHW, missing, grid = read_pixels(dataset)
            encoded = self._legend.encode(values_BHW[0], dataset.name, dataset.nodata)
            labels = np.where(missing.in_band(0), np.uint8(IGNORE), encoded)
            grid = grid_of(dataset)
        if labels.shape != (SIDE, SIDE):
            tally.changed[f"label maps resampled to {SIDE} x {SIDE} px (nearest)"] += 1
            labels = resample_nearest(labels, (SIDE, SIDE))
        if grid.crs is None:
            tally.changed["label maps without a CRS taken to cover their image"] += 1
        return labels, grid


def _base(tree: FileTree) -> str:
    """The folder, with a slash, that the table is in, or "" if it is at the top."""
    if tree.has(_TABLE):
        return ""
    bases = [name.removesuffix(_TABLE) for name in tree.names() if name.endswith(f"/{_TABLE}")]
    if len(bases) != 1:
        raise MissingDataError(
            "the noisy labels lack their table" if not bases else "there are several tables of noisy labels",
            got=bases or tree.names()[:5],
            expected=f"one {_TABLE} beside {_LABELS}",
            where=tree.path,
            do="fetch ssl4eo_s12_nol.zip again, or correct the setting labels",
        )
    return bases[0]


def _read_table(tree: FileTree, name: str) -> dict[str, tuple[str, ...]]:
    """Place -> its four seasons."""
    where = tree.path / name
    try:
        rows = [row for row in csv.reader(tree.text(name).splitlines(), strict=True) if row]
    except csv.Error as error:
        raise DamagedFileError("the table of noisy labels does not parse", got=error, where=where) from None
    head = [cell.strip() for cell in rows[0]] if rows else []
    if head[-5:] == _COLUMNS:
        rows = rows[1:]
    table: dict[str, tuple[str, ...]] = {}
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row[-5:]]
        place = cells[0].zfill(7)
        fits = len(row) in (5, 6) and cells[0].isdigit() and len(place) == 7 and all(cells) and len(set(cells)) == 5
        if not fits or place in table:
            raise DamagedFileError(
                "a row of the table of noisy labels differs from the layout" if not fits else "a place stands twice",
                got=", ".join(row),
                expected=f"{', '.join(_COLUMNS)}: an id of up to 7 digits and four season folders",
                where=f"{where}, row {line}",
                do="fetch ssl4eo_s12_nol.zip again",
            )
        table[place] = tuple(cells[1:])
    if not table:
        raise DamagedFileError("the table of noisy labels has no rows", where=where, do="fetch it again")
    return table
