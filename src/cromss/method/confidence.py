"""How sure a network is of a label and of its own prediction, and what the other sensor says to that.

In: logits (B, C, H, W) of one sensor, hard labels (B, H, W). Out: confidences (B, H, W) in [0, 1], without gradient.

    P   = softmax(logits)
    f_l = P[y]                                label confidence
    f_e = 1 - H(P) / ln C   or   sum_c P_c^2  prediction confidence, "entropy" or "gini"
    f  <- (f + f f') / 2                      entangling with the confidence f' of the other sensor

Legend of shapes: B batch, C classes, H height, W width.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method._checks import (
    LabelIndex,
    Prediction,
    check_choice,
    check_logits,
    check_pixels,
    index_labels,
    predict,
    widen,
)

__all__ = ["CONFIDENCES", "entangle", "label_confidence", "prediction_confidence"]

CONFIDENCES = ("entropy", "gini")


def label_confidence(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Probability that the network gives to the noisy label of each pixel.

    logits (B, C, H, W); labels (B, H, W), any integer dtype, 0 to C - 1 or `ignore_index`. Returns (B, H, W) in [0, 1],
    0 at ignored pixels, without gradient; half precision gives float32. Raises ArgumentError for a wrong shape, dtype
    or label. Paper: f_l.
    """
    check_logits(logits)
    batch, classes, height, width = logits.shape
    index = index_labels(labels, classes, ignore_index, (batch, height, width))
    with torch.no_grad():
        return confidence_in_labels(predict(logits), index)


def prediction_confidence(logits: Tensor, kind: str = "entropy") -> Tensor:
    """How concentrated the network's prediction is at each pixel, whatever the label.

    logits (B, C, H, W); kind "entropy" (1 - H(P) / ln C, 0 for a uniform prediction) or "gini" (sum P^2, 1 / C for a
    uniform one). Returns (B, H, W) in [0, 1], 1 for a certain prediction, without gradient; half precision gives
    float32. Raises ArgumentError. Paper: f_e.
    """
    check_logits(logits)
    check_choice(kind, CONFIDENCES, "confidence kind")
    with torch.no_grad():
        return confidence_in_predictions(predict(logits), kind)


def entangle(confidence: Tensor, other: Tensor) -> Tensor:
    """Confidence of one sensor, raised or lowered by the other's: (f + f f') / 2.

    confidence, other (B, H, W) in [0, 1]. Returns (B, H, W) in [0, 1]. Raises ArgumentError if the shapes differ.
    Paper: cross-modal entangling.
    """
    if confidence.shape != other.shape:
        raise ArgumentError(
            "the two confidences differ in shape.", got=tuple(other.shape), expected=tuple(confidence.shape)
        )
    check_pixels(confidence, confidence.shape, "confidence")
    confidence, other = widen(confidence), widen(other)
    return torch.addcmul(confidence, confidence, other).mul(0.5)


def confidence_in_labels(prediction: Prediction, labels: LabelIndex) -> Tensor:
    """f_l of a prediction that is at hand already."""
    confidence_BHW = prediction.probs_BCHW.gather(1, labels.class_BHW.unsqueeze(1)).squeeze(1)
    return confidence_BHW * labels.valid_BHW


def confidence_in_predictions(prediction: Prediction, kind: str) -> Tensor:
    """f_e of a prediction that is at hand already."""
    _, log_probs_BCHW, probs_BCHW = prediction
    if kind == "gini":
        return probs_BCHW.square().sum(dim=1).clamp(0.0, 1.0)
    # log_softmax is finite where a probability underflows to 0, so 0 log 0 is 0 here and never NaN
    negative_entropy_BHW = (probs_BCHW * log_probs_BCHW).sum(dim=1)
    return negative_entropy_BHW.div(math.log(probs_BCHW.shape[1])).add(1.0).clamp(0.0, 1.0)
