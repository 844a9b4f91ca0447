"""Validation of a pretraining network: on the noisy labels, and on the truth where it is known.

In: the network and batches of whole tiles, without augmentation. Out: one flat dictionary of numbers.
Hard labels, no selection, no smoothing. Each loss is a sum over all pixels divided once by their count (Dice: by class
totals over the whole set), so it does not depend on how the tiles fall into batches or onto devices. Label weights are
those of one batch as large as the set: a training batch is a random mix of places, a batch of neighbours is not.

    <branch>_oa, _miou, ...            against the noisy labels
    <branch>_truth_oa, _truth_miou     against the truth; `mean` is the mean of the branches' probabilities
    <branch>_weight_auroc              how well the label weights tell right labels from wrong ones; half of them are 1
    <branch>_confidence_auroc          the same of the label confidences that the weights are made of
    <branch>_selected_precision        share of right labels among those of weight 1

Shapes: B batch, C classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cromss.method import entangle, focal_loss, label_confidence, label_weights, smooth_labels
from cromss.models.networks import forward_any_size
from cromss.training.loop import Batch, Stopped, to_device
from cromss.training.metrics import IGNORE, LabelQuality, Scores, confusion, label_quality
from cromss.training.stop import StopSignal

__all__ = ["MEAN", "Validation", "branch_label_weights", "validate"]

_QUALITY = {
    "weight_auroc": "auroc",
    "confidence_auroc": "confidence_auroc",
    "selected_precision": "selected_precision",
    "selected_share": "selected_share",
}
"""Name in the summary -> field of `LabelQuality`."""

MEAN = "mean"  # the pseudo-branch that averages the probabilities of all branches


@dataclass
class _Totals:
    """What adds up over batches and devices, for one branch."""

    cross_entropy: Tensor
    focal: Tensor
    pixels: Tensor
    intersection_C: Tensor
    cardinality_C: Tensor
    matrix_CC: Tensor
    truth_matrix_CC: Tensor

    @classmethod
    def zeros(cls, classes: int, device: torch.device) -> _Totals:
        def zero(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        counts = {"dtype": torch.int64}
        return cls(
            zero(), zero(), zero(), zero(classes), zero(classes), zero(classes, classes, **counts),
            zero(classes, classes, **counts),
        )  # fmt: skip

    def reduce(self, fabric: Fabric) -> None:
        """Sum over the ranks."""
        for name, value in vars(self).items():
            setattr(self, name, fabric.all_reduce(value, reduce_op="sum"))

    def loss(self, losses: Sequence[str]) -> float:
        """The sum of the named losses over everything seen; 0 where every pixel is ignored."""
        pixels = self.pixels.clamp_min(1)
        present_C = self.matrix_CC.sum(dim=1) > 0
        dice_C = 1 - 2 * self.intersection_C / self.cardinality_C.clamp_min(1e-12)
        parts = {
            "ce": self.cross_entropy / pixels,
            "focal": self.focal / pixels,
            "dice": (dice_C * present_C).sum() / present_C.sum().clamp_min(1),
        }
        return float(sum(parts[name] for name in losses))


@dataclass
class Validation:
    """The scores of one validation: `summary` is flat numbers, the rest is for reports."""

    summary: dict[str, float]
    noisy: dict[str, Scores]
    truth: dict[str, Scores]
    quality: dict[str, LabelQuality]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "summary": self.summary,
            "noisy": {name: scores.to_dict() for name, scores in self.noisy.items()},
            "truth": {name: scores.to_dict() for name, scores in self.truth.items()},
            "label_quality": {name: quality.to_dict() for name, quality in self.quality.items()},
        }


@dataclass
class _Judged:
    """Pixels with a known truth, kept to rank their label confidences; ranks do not add up over batches."""

    labels: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    confidences: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, logits: Mapping[str, Tensor], batch: Batch) -> None:
        for branch, confidence in _shared_confidences(logits, batch["labels"].long()).items():
            self.confidences.setdefault(branch, []).append(confidence.flatten().cpu())
        self.labels.append(batch["labels"].flatten().cpu())
        self.truth.append(batch["truth"].flatten().cpu())

    def qualities(self, names: Sequence[str], ratio: float, class_balanced: bool) -> dict[str, LabelQuality]:
        if not self.labels:
            return {}
        labels_N, truth_N = torch.cat(self.labels), torch.cat(self.truth)
        found = {}
        for branch, parts in self.confidences.items():
            confidence_N = torch.cat(parts)
            planes = (confidence_N[None, None], labels_N.long()[None, None])
            weights_N = label_weights(*planes, ratio, len(names), class_balanced).flatten()
            found[branch] = label_quality(labels_N, truth_N, weights_N, names, confidences=confidence_N)
        return found


@torch.no_grad()
def validate(
    fabric: Fabric,
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    sensors: Sequence[str],
    branches: Sequence[str],
    names: Sequence[str],
    losses: Sequence[str],
    final_ratio: float,
    class_balanced: bool = True,
    stop: StopSignal | None = None,
) -> Validation:
    """Score `network` of the first rank on every rank's `batches`; the counts are summed over the ranks.

    Label weights are those of the end of the ramp (`final_ratio`), so that they compare between epochs and arms; they
    are judged on the pixels of this rank. Raises Stopped on a stop signal (in a single process only: ranks must agree).
    """
    if fabric.world_size > 1:
        # each rank's BatchNorm has counted its own last batch; the network that is saved is that of the first rank
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    shown = (*branches, MEAN) if len(branches) > 1 else tuple(branches)
    # made before the first batch: a rank without any batch must still take part in every sum over the ranks
    totals = {branch: _Totals.zeros(len(names), fabric.device) for branch in shown}
    judged = _Judged()
    for batch in batches:
        if stop is not None and fabric.world_size == 1 and stop.requested():
            raise Stopped
        batch = to_device(batch, fabric.device)
        logits = forward_any_size(network, {sensor: batch[sensor] for sensor in sensors})
        if len(logits) > 1:
            logits[MEAN] = (
                torch.stack([values.float().softmax(1) for values in logits.values()]).mean(0).clamp_min(1e-30).log()
            )
        for branch, values in logits.items():
            _count(totals[branch], values.float(), batch, len(names))
        if "truth" in batch:
            judged.add({name: values for name, values in logits.items() if name != MEAN}, batch)
    if fabric.world_size > 1:
        for name in totals:
            totals[name].reduce(fabric)
    return _summarise(totals, judged.qualities(names, final_ratio, class_balanced), names, losses)


def _count(totals: _Totals, logits: Tensor, batch: Mapping[str, Any], classes: int) -> None:
    labels = batch["labels"].long()
    valid = labels != IGNORE
    onehot = smooth_labels(labels, classes, prior_weight=0.0, uniform_weight=0.0)
    log_probs = logits.log_softmax(1)
    probs = log_probs.exp() * valid.unsqueeze(1)
    totals.cross_entropy += -(log_probs * onehot).sum(dtype=torch.float64)
    totals.pixels += valid.sum()
    totals.focal += focal_loss(logits, onehot).double() * valid.sum()
    totals.intersection_C += (probs * onehot).sum((0, 2, 3), dtype=torch.float64)
    totals.cardinality_C += (probs + onehot).sum((0, 2, 3), dtype=torch.float64)
    prediction = logits.argmax(1)
    totals.matrix_CC += confusion(prediction, labels, classes)
    if "truth" in batch:
        totals.truth_matrix_CC += confusion(prediction, batch["truth"].long(), classes)


def branch_label_weights(
    logits: Mapping[str, Tensor], labels: Tensor, ratio: float, class_balanced: bool = True
) -> dict[str, Tensor]:
    """Label weights (B, H, W) of each branch at selection ratio `ratio`, as the training would give them to this batch.

    logits (B, C, H, W) by branch; labels (B, H, W). A branch without another one uses its own confidence alone.
    """
    classes = next(iter(logits.values())).shape[1]
    return {
        branch: label_weights(confidence, labels, ratio, classes, class_balanced)
        for branch, confidence in _shared_confidences(logits, labels).items()
    }


def _shared_confidences(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Label confidence (B, H, W) of each branch, entangled with the mean of the others."""
    confidences = {branch: label_confidence(values, labels) for branch, values in logits.items()}
    shared = {}
    for branch, own in confidences.items():
        others = [confidence for name, confidence in confidences.items() if name != branch]
        shared[branch] = entangle(own, torch.stack(others).mean(0)) if others else own
    return shared


def _summarise(
    totals: Mapping[str, _Totals], quality: Mapping[str, LabelQuality], names: Sequence[str], losses: Sequence[str]
) -> Validation:
    noisy = {branch: Scores.from_confusion(values.matrix_CC, names) for branch, values in totals.items()}
    truth = {}
    summary = {"loss": sum(values.loss(losses) for branch, values in totals.items() if branch != MEAN)}
    for branch, values in totals.items():
        _add(summary, branch, noisy[branch])
        if quality:
            truth[branch] = Scores.from_confusion(values.truth_matrix_CC, names)
            _add(summary, f"{branch}_truth", truth[branch])
    for branch, found in quality.items():
        for name, field_name in _QUALITY.items():
            value = getattr(found, field_name)
            if value is not None:
                summary[f"{branch}_{name}"] = value
        if found.accuracy is not None:
            summary["label_accuracy"] = found.accuracy
    return Validation(summary, noisy, truth, dict(quality))


def _add(summary: dict[str, float], prefix: str, scores: Scores) -> None:
    for name in ("oa", "aa", "miou", "mf1"):
        value = getattr(scores, name)
        if value is not None:
            summary[f"{prefix}_{name}"] = value
