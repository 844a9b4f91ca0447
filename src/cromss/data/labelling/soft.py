"""From class probabilities or memberships to one label and its confidence.

In: probabilities (C, H, W), from a file or from rules. Out: a `LabelMap`.

    label = argmax_c p_c (the lowest id on a tie),    confidence = round(100 p_label) percent,    255 = no label
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cromss.geo.legend import IGNORE

__all__ = ["LabelMap", "drop_unsure", "from_memberships", "from_probabilities"]


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Labels of one image.

    labels_HW: uint8, class id or 255. confidence_HW: uint8, percent or 255; None where the source has none.
    percent_CHW: uint8, probability of each class in percent, or 255; None where the source has none, or for short.
    notes: counts of pixels (or of what the key says) for the report.
    """

    labels_HW: NDArray[np.uint8]
    confidence_HW: NDArray[np.uint8] | None = None
    percent_CHW: NDArray[np.uint8] | None = None
    notes: Counter[str] = field(default_factory=Counter)


def from_probabilities(
    probability_CHW: NDArray[np.float32], known_HW: NDArray[np.bool_], keep: bool = False
) -> LabelMap:
    """The likeliest class and its probability where `known_HW`; 255 elsewhere. Probabilities are in 0..1.

    keep: also keep the probability of each class, in percent.
    """
    best_HW = probability_CHW.argmax(axis=0)
    percent_HW = np.rint(np.take_along_axis(probability_CHW, best_HW[None], axis=0)[0] * 100)
    percent_CHW = np.where(known_HW, np.rint(probability_CHW * 100), IGNORE).astype(np.uint8) if keep else None
    return LabelMap(
        labels_HW=np.where(known_HW, best_HW, IGNORE).astype(np.uint8),
        confidence_HW=np.where(known_HW, percent_HW, IGNORE).astype(np.uint8),
        percent_CHW=percent_CHW,
    )


def from_memberships(
    membership_KHW: NDArray[np.float32], valid_HW: NDArray[np.bool_], num_classes: int, keep: bool = False
) -> LabelMap:
    """As `from_probabilities`, of p = membership / max(1, sum); places from `num_classes` on hide the ground: 255."""
    hidden_HW = membership_KHW[num_classes:].max(axis=0) > membership_KHW[:num_classes].max(axis=0)
    probability_CHW = membership_KHW[:num_classes] / np.maximum(1, membership_KHW.sum(axis=0))
    labelled = from_probabilities(probability_CHW, valid_HW & ~hidden_HW, keep)
    labelled.notes["hidden by clouds"] = int((hidden_HW & valid_HW).sum())
    return labelled


def drop_unsure(labelled: LabelMap, least_percent: int) -> LabelMap:
    """Labels whose confidence is below `least_percent` become 255, counted; without confidences all stay."""
    if labelled.confidence_HW is None or least_percent <= 0:
        return labelled
    unsure = (labelled.labels_HW != IGNORE) & (labelled.confidence_HW < least_percent)
    return LabelMap(
        labels_HW=np.where(unsure, np.uint8(IGNORE), labelled.labels_HW),
        confidence_HW=np.where(unsure, np.uint8(IGNORE), labelled.confidence_HW),
        percent_CHW=labelled.percent_CHW,
        notes=Counter({**labelled.notes, "below the least confidence": int(unsure.sum())}),
    )
