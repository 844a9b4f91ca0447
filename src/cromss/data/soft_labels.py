"""Class probabilities of label maps: from the numbers of a file to what a store keeps, and back.

In: one band a class, floats in 0..1 or whole numbers in percent. Out: hard labels, and levels, uint8.

    y = argmax_c p_c  (the lowest id on a tie)         p ~ q / 255,   sum_c q_c = 255,   |p_c - q_c / 255| < 1 / 255

q is 255 p rounded down; what is then missing to 255 goes, one each, to the classes with the largest remainders. So the
levels of a pixel add up to 1 exactly, in the order of its probabilities. Where a pixel has no label, all q are 0.

Legend of shapes: T seasons, C classes, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cromss.errors import BandError, RangeError
from cromss.geo.legend import IGNORE, Legend

__all__ = [
    "ONE",
    "as_probabilities",
    "class_order",
    "fill_up",
    "levels_of",
    "levels_of_labels",
    "likeliest",
    "settle",
    "usable_levels",
]

ONE = 255
"""The level of probability 1."""

_SUM_TOLERANCE = 0.02  # of float probabilities


def as_probabilities(
    values_CHW: NDArray[Any],
    missing_HW: NDArray[np.bool_],
    num_classes: int,
    where: str | Path,
    partial: bool = False,
) -> NDArray[np.float32]:
    """Probabilities (C, H, W) in 0..1 from floats in 0..1 or from whole numbers in percent; 0 where missing.

    partial: they may add up to less than 1, as those of the rules do where no rule fits well.
    Raises BandError for another number of bands, RangeError for numbers that are neither or do not add up to 1.
    """
    if len(values_CHW) != num_classes:
        raise BandError(
            "a file of class probabilities has another number of bands than the legend has classes",
            got=f"{len(values_CHW)} bands",
            expected=f"{num_classes}, one a class in the order of the ids",
            where=where,
            do="choose the right legend, or write one band a class",
        )
    whole = np.issubdtype(values_CHW.dtype, np.integer)
    known = values_CHW[:, ~missing_HW]
    if not np.isfinite(known).all():
        _refuse("not finite", f"{int((~np.isfinite(known)).any(axis=0).sum())} pixels", where)
    shares = known.astype(np.float32) / np.float32(100 if whole else 1)
    if shares.size and (shares.min() < 0 or shares.max() > 1):
        _refuse("out of range", f"{known.min():g} to {known.max():g} as {values_CHW.dtype}", where)
    if whole and known.size and (known.sum(axis=0) == 1).all():
        _refuse("1 percent in one class and 0 in all others", f"0 to 1 as {values_CHW.dtype}, like masks", where)
    tolerance = _tolerance(values_CHW)
    sums = shares.sum(axis=0)
    distance = sums - 1 if partial else np.abs(sums - 1)
    off = int((distance > tolerance + 1e-6).sum())
    if off:
        _refuse("do not add up to 1", f"{off} pixels, sums from {sums.min():.3g} to {sums.max():.3g}", where)
    probability_CHW = np.zeros(values_CHW.shape, np.float32)
    probability_CHW[:, ~missing_HW] = shares
    return probability_CHW


def class_order(names: Sequence[str | None], legend: Legend, where: str | Path) -> list[int] | slice:
    """Which band holds which class, by their names where bands carry those of the legend; else as they stand.

    Raises BandError where some bands are named like classes and others are not, or a class is there twice or never.
    """
    found = [re.sub(r"\W+", "_", (name or "").strip().lower()) for name in names]
    wanted = [re.sub(r"\W+", "_", name.lower()) for name in legend.names]
    if not set(found) & set(wanted):
        return slice(None)
    if sorted(found) != sorted(wanted):
        raise BandError(
            "bands of class probabilities are not the classes of the legend",
            got=[name or "" for name in names],
            expected=legend.names,
            where=where,
            do="choose the right legend, or name every band like its class, or none",
        )
    return [found.index(name) for name in wanted]


def fill_up(probability_CHW: NDArray[np.float32], values_CHW: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """Spread what is missing to 1 evenly over the classes, as nothing is known of it; and in how many pixels.

    values_CHW: what the probabilities were made of; what its rounding explains is not missing. Pixels where all
    probabilities are 0 stay so.
    """
    missing_HW = np.where(probability_CHW.any(axis=0), 1 - probability_CHW.sum(axis=0), 0)
    missing_HW = np.where(missing_HW > _tolerance(values_CHW) + 1e-6, missing_HW, 0)
    filled = probability_CHW + missing_HW / np.float32(len(probability_CHW))
    return filled.astype(np.float32), int((missing_HW > 0).sum())


def likeliest(probability_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The hard label of each pixel (H, W), the lowest id on a tie, 255 where all probabilities are 0."""
    best_HW = probability_CHW.argmax(axis=0)
    return np.where(probability_CHW.any(axis=0), best_HW, IGNORE).astype(np.uint8)


def levels_of(probability_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The levels (C, H, W) of probabilities, which are first made to add up to 1 exactly; 0 where all of them are 0."""
    total_1HW = probability_CHW.sum(axis=0, keepdims=True, dtype=np.float64)
    exact_CHW = probability_CHW * (ONE / np.where(total_1HW > 0, total_1HW, 1))
    level_CHW = np.floor(exact_CHW)
    missing_1HW = np.where(total_1HW > 0, np.rint(ONE - level_CHW.sum(axis=0, keepdims=True)), 0)
    # the rank of each class by its remainder, from 0 for the largest; the lower id first on a tie
    rank_CHW = (level_CHW - exact_CHW).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return (level_CHW + (rank_CHW < missing_1HW)).astype(np.uint8)


def levels_of_labels(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """The levels (..., C, H, W) of hard labels (..., H, W), which are certain: one class has all; 0 where ignored."""
    classes_C11 = np.arange(num_classes, dtype=np.uint8)[:, None, None]
    levels: NDArray[np.uint8] = (labels[..., None, :, :] == classes_C11) * np.uint8(ONE)
    return levels


def usable_levels(level_TCHW: NDArray[np.uint8], num_classes: int) -> bool:
    """Whether these are levels of `num_classes` classes: they add up to 255 in each pixel, or to 0."""
    if level_TCHW.shape[-3] != num_classes:
        return False
    total_THW = level_TCHW.sum(axis=-3, dtype=np.int64)
    return bool(((total_THW == ONE) | (total_THW == 0)).all())


def settle(
    labels_THW: NDArray[np.uint8], level_TCHW: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int, int]:
    """Labels and levels that have a label at the same pixels; how many lost their label, and how many their levels."""
    hard_THW, soft_THW = labels_THW != IGNORE, level_TCHW.any(axis=-3)
    both_THW = hard_THW & soft_THW
    labels_THW = np.where(both_THW, labels_THW, np.uint8(IGNORE))
    level_TCHW = level_TCHW * both_THW[..., None, :, :]
    return labels_THW, level_TCHW, int((hard_THW & ~soft_THW).sum()), int((soft_THW & ~hard_THW).sum())


def _tolerance(values_CHW: NDArray[Any]) -> float:
    """How far sums may be from 1: percent may be off by half a percent a class from rounding."""
    return 0.005 * len(values_CHW) if np.issubdtype(values_CHW.dtype, np.integer) else _SUM_TOLERANCE


def _refuse(what: str, got: str, where: str | Path) -> None:
    raise RangeError(
        f"class probabilities are {what}" if what != "do not add up to 1" else f"class probabilities {what}",
        got=got,
        expected="floats in 0..1, or whole numbers in percent, that add up to 1 (100 %) in every pixel with data",
        where=where,
        do="apply a softmax, convert to percent (a mask: 100 for 1), or declare the fill value as no-data",
    )
