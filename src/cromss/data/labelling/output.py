"""The files of label maps: uint8 GeoTIFFs on the image's grid, with colours, class names and 255 for no label.

In: a `LabelMap`, its grid and legend. Out: labels/<id>.tif, and confidence/<id>.tif and probabilities/<id>.tif where
the source has them. The labels take their name last, so that where they are, the rest is too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cromss.data.labelling.soft import LabelMap
from cromss.files import remove_stale
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import Grid, write_raster

__all__ = ["label_paths", "write_label_map"]

_KINDS = ("labels", "confidence", "probabilities")


def label_paths(out: str | Path, place: str, season: str | None) -> dict[str, Path]:
    """Where the files of an image go, by kind, labels first."""
    name = f"{place or 'scene'}.tif" if season is None else f"{place or 'scene'}/{season}.tif"
    return {kind: Path(out) / kind / name for kind in _KINDS}


def write_label_map(
    paths: Mapping[str, Path],
    labelled: LabelMap,
    grid: Grid,
    legend: Legend,
    tags: Mapping[str, str],
    probabilities: bool = False,
) -> None:
    """Write what there is. Raises DamagedFileError where the disk does not take it."""
    for path in paths.values():
        if path.parent.is_dir():
            remove_stale(path.parent, path.name)
    names = "".join(f"{index}={text};" for index, text in enumerate(legend.names))
    common = {"CLASS_NAMES": f"{names}{IGNORE}=no_label", "LEGEND": legend.name, **tags}
    if probabilities and labelled.percent_CHW is not None:
        write_raster(
            paths["probabilities"],
            labelled.percent_CHW,
            grid,
            nodata=IGNORE,
            band_names=legend.names,
            tags={"CONTENT": "probability of each class, in percent", **common},
        )
    if labelled.confidence_HW is not None:
        write_raster(
            paths["confidence"],
            labelled.confidence_HW,
            grid,
            nodata=IGNORE,
            band_names=("confidence",),
            tags={"CONTENT": "confidence of the label, in percent", **common},
        )
    write_raster(
        paths["labels"],
        labelled.labels_HW,
        grid,
        nodata=IGNORE,
        band_names=("label",),
        colormap=legend.colormap(),
        tags={"CONTENT": f"noisy label of the legend {legend.name}", **common},
    )
