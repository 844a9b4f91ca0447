"""Scores one class, one pixel and one pair at a time: slow, and readable against the textbook."""

from __future__ import annotations

import itertools

import numpy as np


def confusion(pred, target, num_classes, ignore=255):
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(pred.ravel(), target.ravel(), strict=True):
        if t != ignore:
            matrix[t, p] += 1
    return matrix


def scores(matrix):
    """OA, AA, mIoU, mF1 and per-class lists from true positives, false positives and false negatives."""
    per_class = {"iou": [], "f1": [], "recall": [], "precision": []}
    for c in range(len(matrix)):
        tp = matrix[c, c]
        fn = np.delete(matrix[c], c).sum()
        fp = np.delete(matrix[:, c], c).sum()
        if tp + fn == 0:
            values = (None, None, None, None)
        else:
            recall = tp / (tp + fn)
            precision = tp / (tp + fp) if tp + fp else None
            harmonic = 0.0 if tp == 0 else 2 * precision * recall / (precision + recall)
            values = (tp / (tp + fp + fn), harmonic, recall, precision)
        for key, value in zip(per_class, values, strict=True):
            per_class[key].append(value)

    def mean(key):
        return float(np.mean([v for v in per_class[key] if v is not None]))

    return {
        "oa": float(np.trace(matrix) / matrix.sum()),
        "aa": mean("recall"),
        "miou": mean("iou"),
        "mf1": mean("f1"),
        **per_class,
    }


def auroc(weights, correct):
    """Every pair of a right and a wrong label: 1 if the right one weighs more, 1/2 if they tie."""
    right = [w for w, c in zip(weights, correct, strict=True) if c]
    wrong = [w for w, c in zip(weights, correct, strict=True) if not c]
    if not right or not wrong:
        return None
    return sum((r > w) + 0.5 * (r == w) for r, w in itertools.product(right, wrong)) / (len(right) * len(wrong))
