"""The whole method in one call: logits of all branches and noisy labels in, the loss and its named parts out.

In: logits (B, C, H, W) of each branch (a sensor, or the fused branch), hard labels y (B, H, W), soft targets
Z (B, C, H, W), the epoch. Out: a dict of scalars and of the weights (B, H, W) that were used.

    f^d <- (f^d + f^d g^d) / 2                     g^d = mean of the other branches' confidences
    L   = sum_d L_s^d + w L_c                      L_c = 2 mean over ordered pairs (d, e) of CE(P^e -> Q^d) under W_e^e

With two branches g^d is the other sensor's confidence and L_c is the paper's sum of both directions. One branch has
nobody to ask: it trains on all labels alike.

Legend of shapes: B batch, C classes, H height, W width.
Source: Liu et al., IEEE TGRS 2025, doi 10.1109/TGRS.2025.3552642, section III.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, Unpack

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
from cromss.method.confidence import CONFIDENCES, confidence_in_labels, confidence_in_predictions, entangle
from cromss.method.losses import CONSISTENCIES, DICES, LOSSES, Ratio, consistency_ratio, occurring, segmentation_ratios
from cromss.method.selection import prediction_weights, ramp, selection_ratio, weigh_labels

__all__ = ["LossOptions", "cromss_loss", "multi_branch_loss"]


class LossOptions(TypedDict, total=False):
    """The options of `cromss_loss` and `multi_branch_loss`; left out, each is the paper's."""

    confidence: str  # "entropy" or "gini": prediction confidence
    ramp_shape: str  # "exp", "linear" or "none"
    ramp_length: float  # epochs until selection is at its final strength
    final_ratio: float  # share of the labels that count in full at the end, in (0, 1]
    class_balanced: bool  # one threshold for each class, or one for all pixels
    losses: Sequence[str]  # any of "ce", "dice", "focal": summed
    consistency: str  # "ce", "kl", "mse" or "none"
    consistency_weight: float  # factor of the consistency loss
    select_labels: bool  # False: all labels weigh 1
    select_predictions: bool  # False: all predictions weigh 1
    dice: str  # "paper" or "calibrated", see `soft_dice_loss`
    ignore_index: int  # label of the pixels that take no part
    mean_over_devices: Callable[[Tensor], Tensor] | None  # see `multi_branch_loss`


def cromss_loss(
    logits_s1: Tensor,
    logits_s2: Tensor,
    labels: Tensor,
    target: Tensor,
    epoch: float,
    **options: Unpack[LossOptions],
) -> dict[str, Tensor]:
    """The paper's loss for two sensors: `multi_branch_loss` with the branches "s1" and "s2"."""
    return multi_branch_loss({"s1": logits_s1, "s2": logits_s2}, labels, target, epoch, **options)


def multi_branch_loss(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    target: Tensor,
    epoch: float,
    *,
    confidence: str = "entropy",
    ramp_shape: str = "exp",
    ramp_length: float = 80,
    final_ratio: float = 0.5,
    class_balanced: bool = True,
    losses: Sequence[str] = ("ce", "dice"),
    consistency: str = "ce",
    consistency_weight: float = 1.0,
    select_labels: bool = True,
    select_predictions: bool = True,
    dice: str = "paper",
    ignore_index: int = 255,
    mean_over_devices: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Loss of any number of branches that choose labels and predictions for one another.

    logits (B, C, H, W) of each branch by name, at least one; labels (B, H, W) hard, 0 to C - 1 or `ignore_index`;
    target (B, C, H, W), the smoothed labels; epoch >= 0. The options are those of `LossOptions`. Ignored pixels have
    no influence on any value or gradient. With several devices `mean_over_devices` averages a vector of counts over
    them; the mean of the devices' losses is then sum / count over all pixels, however they are dealt out, where each
    device would else divide by its own count, as in the paper. Raises ArgumentError.

    Returns "loss" (scalar, with gradient), "selection_ratio" and "ramp" (scalars on the CPU), "consistency" (before
    its factor), and for each branch d "segmentation_d", its summands "ce_d", "dice_d", "focal_d" as chosen, and the
    weights "label_weight_d" and "prediction_weight_d" (B, H, W). All but "loss" are without gradient.
    """
    check_choice(confidence, CONFIDENCES, "confidence")
    check_choice(consistency, CONSISTENCIES, "consistency")
    check_choice(dice, DICES, "dice")
    _check_losses(losses)
    share, strength = selection_ratio(epoch, ramp_length, final_ratio, ramp_shape), ramp(epoch, ramp_length, ramp_shape)
    share = share if select_labels and len(logits) > 1 else 1.0
    strength = strength if select_predictions and len(logits) > 1 else 0.0
    index = _check_branches(logits, labels, target, ignore_index)
    with torch.autocast(target.device.type, enabled=False):
        target = widen(target.detach())
        predictions = {name: predict(tensor) for name, tensor in logits.items()}
        label_weight = _weigh_labels(predictions, index, share, class_balanced)
        prediction_weight = _weigh_predictions(predictions, index, strength, confidence)
        occurs_C = occurring(target * index.valid_BHW.unsqueeze(1))
        ratios = [
            ratio
            for name, prediction in predictions.items()
            for ratio in segmentation_ratios(prediction, target, label_weight[name], occurs_C, losses, dice)
        ] + _consistency_ratios(predictions, prediction_weight, consistency)
        values = iter(_divide_all(ratios, mean_over_devices))
        parts = {name: {part: next(values) for part in losses} for name in logits}
        result = _add_up(parts, list(values), consistency_weight)
    result |= {"selection_ratio": torch.tensor(share), "ramp": torch.tensor(strength)}
    result |= {f"label_weight_{name}": weight for name, weight in label_weight.items()}
    return result | {f"prediction_weight_{name}": weight for name, weight in prediction_weight.items()}


@torch.no_grad()
def _weigh_labels(
    predictions: dict[str, Prediction], labels: LabelIndex, ratio: float, class_balanced: bool
) -> dict[str, Tensor]:
    """W_l of each branch; with ratio 1 all valid labels weigh 1."""
    if ratio == 1.0:
        return dict.fromkeys(predictions, _as_weight(labels, predictions))
    confidence = _entangle_all({name: confidence_in_labels(own, labels) for name, own in predictions.items()})
    return {
        name: weigh_labels(confidence[name], labels, ratio, own.probs_BCHW.shape[1], class_balanced)
        for name, own in predictions.items()
    }


@torch.no_grad()
def _weigh_predictions(
    predictions: dict[str, Prediction], labels: LabelIndex, ramp_value: float, kind: str
) -> dict[str, Tensor]:
    """W_e of each branch; with ramp 0 all predictions weigh 1, but for those of ignored pixels, as always."""
    valid_BHW = _as_weight(labels, predictions)
    if ramp_value == 0.0:
        return dict.fromkeys(predictions, valid_BHW)
    confidence = _entangle_all({name: confidence_in_predictions(own, kind) for name, own in predictions.items()})
    return {name: prediction_weights(own, ramp_value) * valid_BHW for name, own in confidence.items()}


def _as_weight(labels: LabelIndex, predictions: dict[str, Prediction]) -> Tensor:
    return labels.valid_BHW.to(next(iter(predictions.values())).probs_BCHW.dtype)


def _entangle_all(confidences: dict[str, Tensor]) -> dict[str, Tensor]:
    """f of each branch, entangled with the mean of the others'."""
    entangled = {}
    for name, own in confidences.items():
        others = [tensor for other, tensor in confidences.items() if other != name]
        entangled[name] = entangle(own, others[0] if len(others) == 1 else torch.stack(others).mean(dim=0))
    return entangled


def _consistency_ratios(
    predictions: dict[str, Prediction], prediction_weight: dict[str, Tensor], kind: str
) -> list[Ratio]:
    """One for each ordered pair of branches; none for a single branch."""
    if kind == "none":
        return []
    return [
        consistency_ratio(predictions[own], predictions[other], prediction_weight[other], kind)
        for own in predictions
        for other in predictions
        if own != other
    ]


def _divide_all(ratios: list[Ratio], mean_over_devices: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
    """All divisions; with several devices the denominators are averaged over them first, all in one call."""
    if mean_over_devices is None:
        return [ratio.divide() for ratio in ratios]
    denominators = mean_over_devices(torch.stack([ratio.denominator for ratio in ratios]))
    return [Ratio(ratio.numerator, mean).divide() for ratio, mean in zip(ratios, denominators, strict=True)]


def _add_up(parts: dict[str, dict[str, Tensor]], pairs: list[Tensor], consistency_weight: float) -> dict[str, Tensor]:
    """The loss, and its parts by name without gradient."""
    segmentation = {name: torch.stack(list(part.values())).sum() for name, part in parts.items()}
    loss = torch.stack(list(segmentation.values())).sum()
    # two branches have two pairs, whose sum is the paper's loss; more branches keep that scale
    consistency = torch.stack(pairs).mean() * 2.0 if pairs else torch.zeros_like(loss)
    result = {"loss": loss + consistency_weight * consistency, "consistency": consistency.detach()}
    result |= {f"segmentation_{name}": value.detach() for name, value in segmentation.items()}
    return result | {f"{part}_{name}": value.detach() for name in parts for part, value in parts[name].items()}


def _check_losses(losses: Sequence[str]) -> None:
    if isinstance(losses, str) or not losses or len(set(losses)) < len(losses):
        raise ArgumentError("losses must be one or more different names.", got=losses, expected=f"some of {LOSSES}")
    for name in losses:
        check_choice(name, LOSSES, "loss")


def _check_branches(logits: Mapping[str, Tensor], labels: Tensor, target: Tensor, ignore_index: int) -> LabelIndex:
    if not logits:
        raise ArgumentError("there is no branch.", got="no logits", expected="logits of one or more branches, by name")
    check_logits(target, "target")
    batch, classes, height, width = target.shape
    for name, tensor in logits.items():
        check_logits(tensor, f"logits of {name}")
        check_pixels(tensor, target.shape, f"logits of {name}")
    return index_labels(labels, classes, ignore_index, (batch, height, width))
