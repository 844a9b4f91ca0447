"""Scores of predictions, of noisy labels, and of the weights that select among them.

In: class indices per pixel (0..C-1, 255 = ignore), or one confusion matrix (rows the truth, columns the prediction).
Out: plain numbers. With n_ij the pixels of truth i predicted as j, t_i = sum_j n_ij, p_j = sum_i n_ij:

    OA = sum_i n_ii / sum_ij n_ij      recall_i = n_ii / t_i        precision_i = n_ii / p_i
    IoU_i = n_ii / (t_i + p_i - n_ii)  F1_i = 2 n_ii / (t_i + p_i)  AA, mIoU, mF1 = means over the classes present

A class is present when the truth has a pixel of it. An absent class has no score (None, neither 0 nor 1) and takes no
part in a mean; pixels wrongly given to it still count against their true class, and their number is reported. Every
score comes from one global matrix: matrices add up over batches and devices, scores do not.

    AUROC = P(weight of a right label > weight of a wrong label) + P(equal) / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.geo.legend import IGNORE

__all__ = [
    "IGNORE",
    "LabelQuality",
    "Scores",
    "confusion",
    "label_accuracy",
    "label_quality",
    "selected_precision",
    "weight_auroc",
    "weight_auroc_by_class",
]


def confusion(pred: Tensor, target: Tensor, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """Count pixels by (truth, prediction).

    pred, target: any equal shape, integers 0..num_classes-1; `ignore` is allowed in target only and is not counted.
    Returns (num_classes, num_classes) int64 on the device of pred, rows = truth. Raises ArgumentError on other values.
    """
    if pred.shape != target.shape:
        raise ArgumentError(
            "prediction and truth have different shapes", got=tuple(pred.shape), expected=tuple(target.shape)
        )
    keep = target != ignore
    truth_N, pred_N = target[keep].long(), pred[keep].long()
    for name, values_N in (("truth", truth_N), ("prediction", pred_N)):
        if values_N.numel() and (int(values_N.min()) < 0 or int(values_N.max()) >= num_classes):
            raise ArgumentError(
                f"class indices of the {name} are out of range",
                got=f"{int(values_N.min())}..{int(values_N.max())}",
                expected=f"0..{num_classes - 1}" + (f" or {ignore} (ignore)" if name == "truth" else ""),
                do="encode the labels with their legend first",
            )
    return torch.bincount(truth_N * num_classes + pred_N, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores from one confusion matrix; all in 0..1, None where the truth holds nothing to score.

    `recall`, `precision`, `iou`, `f1` are per class in the order of `names`; precision is also None for a class never
    predicted. `absent` names the classes without a pixel of truth; `predicted_absent` counts the pixels predicted as
    one of them.
    """

    names: tuple[str, ...]
    pixels: int
    oa: float | None
    aa: float | None
    miou: float | None
    mf1: float | None
    iou: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    support: tuple[int, ...]
    absent: tuple[str, ...]
    predicted_absent: int
    matrix: tuple[tuple[int, ...], ...]

    @classmethod
    def from_confusion(cls, matrix: Tensor | ArrayLike, names: Sequence[str] | None = None) -> Scores:
        """Score a (C, C) matrix of non-negative counts, rows = truth. Raises ArgumentError if it is not one."""
        n_CC = _counts(matrix)
        names = tuple(names) if names is not None else tuple(str(index) for index in range(len(n_CC)))
        if len(names) != len(n_CC):
            raise ArgumentError("a confusion matrix needs one name a class", got=len(names), expected=len(n_CC))
        hit_C, truth_C, pred_C = np.diag(n_CC), n_CC.sum(axis=1), n_CC.sum(axis=0)
        present = truth_C > 0
        recall = _ratio(hit_C, truth_C, present)
        iou = _ratio(hit_C, truth_C + pred_C - hit_C, present)
        f1 = _ratio(2 * hit_C, truth_C + pred_C, present)
        total = int(n_CC.sum())
        return cls(
            names=names,
            pixels=total,
            oa=int(hit_C.sum()) / total if total else None,
            aa=_mean(recall),
            miou=_mean(iou),
            mf1=_mean(f1),
            iou=iou,
            f1=f1,
            recall=recall,
            precision=_ratio(hit_C, pred_C, present & (pred_C > 0)),
            support=tuple(int(count) for count in truth_C),
            absent=tuple(name for name, here in zip(names, present, strict=True) if not here),
            predicted_absent=int(pred_C[~present].sum()),
            matrix=tuple(tuple(int(count) for count in row) for row in n_CC),
        )

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values: means, a dict per class, absent classes, and the matrix itself."""
        per_class = {
            name: {
                "iou": self.iou[index],
                "f1": self.f1[index],
                "recall": self.recall[index],
                "precision": self.precision[index],
                "support": self.support[index],
            }
            for index, name in enumerate(self.names)
        }
        return {
            "oa": self.oa,
            "aa": self.aa,
            "miou": self.miou,
            "mf1": self.mf1,
            "pixels": self.pixels,
            "absent": list(self.absent),
            "predicted_absent": self.predicted_absent,
            "classes": per_class,
            "matrix": [list(row) for row in self.matrix],
        }


def _counts(matrix: Tensor | ArrayLike) -> NDArray[np.int64]:
    raw = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if raw.ndim != 2 or raw.shape[0] != raw.shape[1] or raw.dtype.kind not in "iu" or (raw < 0).any():
        raise ArgumentError(
            "not a confusion matrix", got=f"{raw.dtype} {raw.shape}", expected="integer counts >= 0 of shape (C, C)"
        )
    return raw.astype(np.int64)


def _ratio(part_C: NDArray[Any], whole_C: NDArray[Any], defined_C: NDArray[np.bool_]) -> tuple[float | None, ...]:
    return tuple(
        int(part) / int(whole) if defined else None
        for part, whole, defined in zip(part_C, whole_C, defined_C, strict=True)
    )


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


# ---- noisy labels and the weights that select among them ----


def _flat(values: Tensor | ArrayLike) -> NDArray[Any]:
    if isinstance(values, Tensor):
        # NumPy has no bfloat16; widening a float changes neither order nor equality.
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy().reshape(-1)
    return np.asarray(values).reshape(-1)


def _same_length(**arrays: NDArray[Any]) -> None:
    if len({len(array) for array in arrays.values()}) > 1:
        raise ArgumentError("arrays of one length are needed", got={name: len(array) for name, array in arrays.items()})


def label_accuracy(labels: Tensor | ArrayLike, truth: Tensor | ArrayLike, ignore: int = IGNORE) -> float | None:
    """The share of labels equal to the truth, over the pixels that have both; None where there are none."""
    label_N, truth_N = _flat(labels), _flat(truth)
    _same_length(labels=label_N, truth=truth_N)
    both = (label_N != ignore) & (truth_N != ignore)
    return int((label_N[both] == truth_N[both]).sum()) / int(both.sum()) if both.any() else None


def weight_auroc(weights: Tensor | ArrayLike, correct: Tensor | ArrayLike) -> float | None:
    """How well weights tell right labels from wrong ones: 1 = every right one weighs more, 0.5 = no better than chance.

    weights: finite numbers; correct: booleans of the same size. Exact, ties count one half. None unless there are both
    right and wrong labels. Raises ArgumentError on a weight that is not finite.
    """
    weight_N, correct_N = _flat(weights), _flat(correct).astype(bool)
    _same_length(weights=weight_N, correct=correct_N)
    if not np.isfinite(weight_N).all():
        raise ArgumentError("weights must be finite", got=f"{int((~np.isfinite(weight_N)).sum())} of {len(weight_N)}")
    _, rank_N = np.unique(weight_N, return_inverse=True)
    size = int(rank_N.max()) + 1 if len(rank_N) else 0
    right_U = np.bincount(rank_N[correct_N], minlength=size)
    wrong_U = np.bincount(rank_N[~correct_N], minlength=size)
    pairs = int(right_U.sum()) * int(wrong_U.sum())
    if pairs == 0:
        return None
    # Twice the number of pairs won, so that a tie's half is a whole number and the sum is exact.
    won_twice = int((right_U * (2 * (np.cumsum(wrong_U) - wrong_U) + wrong_U)).sum())
    return won_twice / (2 * pairs)


def weight_auroc_by_class(
    weights: Tensor | ArrayLike, correct: Tensor | ArrayLike, labels: Tensor | ArrayLike, num_classes: int
) -> tuple[float | None, ...]:
    """`weight_auroc` among the pixels of each noisy label class 0..num_classes-1."""
    weight_N, correct_N, label_N = _flat(weights), _flat(correct), _flat(labels)
    _same_length(weights=weight_N, correct=correct_N, labels=label_N)
    return tuple(weight_auroc(weight_N[label_N == c], correct_N[label_N == c]) for c in range(num_classes))


def selected_precision(
    weights: Tensor | ArrayLike, correct: Tensor | ArrayLike, threshold: float = 1.0
) -> tuple[float | None, float | None]:
    """(share of right labels among the pixels with weight >= threshold, share of the pixels so selected)."""
    weight_N, correct_N = _flat(weights), _flat(correct).astype(bool)
    _same_length(weights=weight_N, correct=correct_N)
    selected_N = weight_N >= threshold
    count = int(selected_N.sum())
    precision = int(correct_N[selected_N].sum()) / count if count else None
    return precision, count / len(weight_N) if len(weight_N) else None


@dataclass(frozen=True, kw_only=True)
class LabelQuality:
    """How right noisy labels are, and how well weights find the wrong ones; all in 0..1, None where undefined."""

    pixels: int
    accuracy: float | None
    auroc: float | None
    confidence_auroc: float | None
    auroc_by_class: dict[str, float | None]
    selected_precision: float | None
    selected_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def label_quality(
    labels: Tensor | ArrayLike,
    truth: Tensor | ArrayLike,
    weights: Tensor | ArrayLike,
    names: Sequence[str],
    ignore: int = IGNORE,
    confidences: Tensor | ArrayLike | None = None,
) -> LabelQuality:
    """Judge noisy labels and their weights against a truth, over the pixels that have both.

    labels, truth: class indices 0..len(names)-1 or `ignore`; weights: finite, one a pixel (where either is ignored the
    weight is not read). confidences: what the weights are made of, likewise; None leaves their figure out.
    """
    label_N, truth_N, weight_N = _flat(labels), _flat(truth), _flat(weights)
    _same_length(labels=label_N, truth=truth_N, weights=weight_N)
    both = (label_N != ignore) & (truth_N != ignore)
    label_N, weight_N, correct_N = label_N[both], weight_N[both], label_N[both] == truth_N[both]
    by_class = weight_auroc_by_class(weight_N, correct_N, label_N, len(names))
    precision, share = selected_precision(weight_N, correct_N)
    return LabelQuality(
        pixels=len(label_N),
        accuracy=int(correct_N.sum()) / len(label_N) if len(label_N) else None,
        auroc=weight_auroc(weight_N, correct_N),
        confidence_auroc=None if confidences is None else weight_auroc(_flat(confidences)[both], correct_N),
        auroc_by_class=dict(zip(names, by_class, strict=True)),
        selected_precision=precision,
        selected_share=share,
    )
