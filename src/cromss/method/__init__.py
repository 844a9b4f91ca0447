"""The method of CromSS as pure functions of tensors: confidence, selection, smoothing, losses.

Tensors in, tensors out, on any device and in any floating point dtype (half precision computes in float32 inside), and
without any trainer. Labels may be soft, the probability p_c of each class, where they say what a pixel should be
(`label_prior`, `smooth_labels`); where they choose a class (confidence, selection) they are hard: y = argmax_c p_c.
Each module opens with its equations; `cromss_loss` is all of them in one call.
"""

from cromss.method.branches import LossOptions, cromss_loss, multi_branch_loss
from cromss.method.confidence import CONFIDENCES, entangle, label_confidence, prediction_confidence
from cromss.method.losses import (
    CONSISTENCIES,
    DICES,
    LOSSES,
    consistency_loss,
    focal_loss,
    soft_cross_entropy,
    soft_dice_loss,
)
from cromss.method.selection import RAMPS, label_weights, prediction_weights, ramp, selection_ratio
from cromss.method.smoothing import PRIORS, label_prior, smooth_labels

__all__ = [
    "label_confidence",
    "prediction_confidence",
    "entangle",
    "ramp",
    "selection_ratio",
    "label_weights",
    "prediction_weights",
    "label_prior",
    "smooth_labels",
    "soft_cross_entropy",
    "soft_dice_loss",
    "focal_loss",
    "consistency_loss",
    "cromss_loss",
    "multi_branch_loss",
    "LossOptions",
    "CONFIDENCES",
    "CONSISTENCIES",
    "DICES",
    "LOSSES",
    "PRIORS",
    "RAMPS",
]
