"""The labels of a window, from the open files of a scene: of one annotator or several, hard or soft.

In: role -> one dataset a season, of the roles "labels", "probabilities", those of further annotators ("labels.<name>",
"probabilities.<name>") and "truth". Out: class ids (T, H, W), 255 where there is none, and levels of class
probabilities (T, C, H, W) of those who give them; what was left out is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.data.soft_labels import as_probabilities, class_order, fill_up, levels_of, likeliest, settle
from cromss.data.sources.source import Tally
from cromss.data.store.layout import is_label_layer, is_soft_layer, label_layer, soft_layer
from cromss.errors import LabelError
from cromss.geo.align import Alignment
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.raster import read_pixels, read_raster

__all__ = ["Labels", "hide", "label_roles", "labelled", "read_classes", "read_labels", "require_one_legend", "without"]

Window = tuple[int, int, int, int]
Files = Mapping[str, Sequence[rasterio.DatasetReader]]
Labels = dict[str, NDArray[np.uint8]]
"""Layer of labels -> its map (T, H, W), or the levels beside it (T, C, H, W)."""


def label_roles(files: Mapping[str, object]) -> list[str]:
    """The roles that hold labels to learn from."""
    return [role for role in files if is_label_layer(role) or is_soft_layer(role)]


def labelled(maps: Labels) -> NDArray[np.bool_]:
    """Where any annotator has a label, (T, H, W)."""
    found: NDArray[np.bool_] = np.logical_or.reduce([layer != IGNORE for layer in maps.values()])
    return found


def require_one_legend(files: Files) -> None:
    """Raise LabelError where the tags LEGEND of the annotators' files name different legends."""
    tags = {
        dataset.name: tag
        for role in label_roles(files)
        for dataset in files[role]
        if (tag := dataset.tags().get("LEGEND"))
    }
    if len(set(tags.values())) > 1:
        raise LabelError(
            "the annotators of a place use different legends",
            got=", ".join(f"{tag} in {name}" for name, tag in tags.items()),
            expected="one legend",
            do="bring their maps into one legend first: cromss labels --source maps --map_legend ...",
        )


def read_labels(
    files: Files,
    legend: Legend,
    class_band: Callable[[rasterio.DatasetReader], int],
    window: Window,
    tally: Tally,
    alignments: Mapping[str, Alignment],
) -> tuple[Labels, Labels]:
    """The labels of each annotator, and the levels of class probabilities of those with such files.

    alignments: name of a file -> how it is warped onto the grid of the window; maps alone may be.

    The label of an annotator without maps is its likeliest class. Of several annotators those without a single label in
    the window are left out, unless none has any.
    """
    maps, soft = {}, {}
    for layer in dict.fromkeys(map(label_layer, label_roles(files))):
        if layer in files:
            maps[layer] = read_classes(files[layer], legend, class_band, window, alignments)
        if soft_layer(layer) in files:
            likely, levels = _read_probabilities(files, soft_layer(layer), legend, window, tally)
            both = _settled(layer, maps[layer], levels, tally) if layer in maps else (likely, levels)
            maps[layer], soft[layer] = both
    empty = [layer for layer, labels in maps.items() if (labels == IGNORE).all()]
    if len(empty) < len(maps):
        tally.changed.update(f"places without a label in {layer}, which was left out there" for layer in empty)
        maps, soft = ({layer: one for layer, one in each.items() if layer not in empty} for each in (maps, soft))
    return maps, soft


def without(maps: Labels, soft: Labels, hidden_THW: NDArray[np.bool_], tally: Tally) -> tuple[Labels, Labels]:
    """The labels but for hidden pixels, which become 255, counted; probabilities become 0 there."""
    lost = sum(int((hidden_THW & (layer != IGNORE)).sum()) for layer in maps.values())
    if lost:
        tally.changed["pixels of labels set to 255 under cloud"] += lost
    return hide(maps, soft, hidden_THW)


def hide(maps: Labels, soft: Labels, hidden_THW: NDArray[np.bool_]) -> tuple[Labels, Labels]:
    """The labels with 255, and the probabilities with 0, at hidden pixels."""
    maps = {layer: np.where(hidden_THW, np.uint8(IGNORE), labels) for layer, labels in maps.items()}
    return maps, {layer: levels * ~hidden_THW[:, None] for layer, levels in soft.items()}


def read_classes(
    datasets: Sequence[rasterio.DatasetReader],
    legend: Legend,
    class_band: Callable[[rasterio.DatasetReader], int],
    window: Window,
    alignments: Mapping[str, Alignment],
) -> NDArray[np.uint8]:
    """Class ids (T, H, W), 255 where a file declares no data. Raises LabelError for values without a class."""
    layers = []
    for dataset in datasets:
        read = functools.partial(_encoded, dataset, legend, class_band(dataset))
        alignment = alignments.get(dataset.name)
        layer_BHW, inside_HW = read(window) if alignment is None else alignment.read(window, "nearest", read)
        layers.append(np.where(inside_HW, layer_BHW[0], np.uint8(IGNORE)).astype(np.uint8, copy=False))
    return np.stack(layers)


def _encoded(
    dataset: rasterio.DatasetReader, legend: Legend, band: int, part: Window
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class ids (1, H, W) of a map, and where it has any (H, W)."""
    values_BHW, missing, _ = read_pixels(dataset, part)
    codes = legend.of_file(dataset.tags(), dataset.name)
    encoded_HW = codes.encode(values_BHW[band], dataset.name, dataset.nodatavals[band])
    return encoded_HW[None], ~missing.in_band(band)


def _settled(
    layer: str, labels_THW: NDArray[np.uint8], level_TCHW: NDArray[np.uint8], tally: Tally
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The labels and levels of one annotator at the pixels that have both, and what was left out, counted."""
    labels_THW, level_TCHW, unlabelled, unsaid = settle(labels_THW, level_TCHW)
    if unlabelled:
        tally.changed[f"pixels of {layer} set to 255 for want of probabilities"] += unlabelled
    if unsaid:
        tally.changed[f"pixels of {soft_layer(layer)} left out for want of a label"] += unsaid
    return labels_THW, level_TCHW


def _read_probabilities(
    files: Files, role: str, legend: Legend, window: Window, tally: Tally
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The likeliest classes (T, H, W) and the levels (T, C, H, W); none where a pixel has 0 in all bands."""
    labels, levels = [], []
    for dataset in files[role]:
        raster = read_raster(dataset, window)
        values_CHW = raster.values_BHW[class_order(dataset.descriptions, legend, dataset.name)]
        missing_HW = ~raster.valid_HW | (values_CHW == 0).all(axis=0)
        shares = as_probabilities(values_CHW, missing_HW, legend.num_classes, dataset.name, partial=True)
        shares, partial = fill_up(shares, values_CHW)
        if partial:
            tally.changed[f"pixels of {role} filled up to 1, evenly over the classes"] += partial
        labels.append(likeliest(shares))
        levels.append(levels_of(shares))
    return np.stack(labels), np.stack(levels)
