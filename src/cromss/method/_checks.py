"""What the functions of this package accept: shapes, dtypes and values, refused in one place and in one voice.

In: the tensors and numbers of a caller. Out: nothing, or an `ArgumentError` that says what, got and expected.

Shapes and dtypes are always checked. Values are checked on the CPU only: on an accelerator each look at a value would
stop the host until the device has caught up. Under `torch.compile` values are not looked at either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cromss.errors import ArgumentError

__all__ = [
    "LabelIndex",
    "Prediction",
    "SoftLabels",
    "check_choice",
    "check_fraction",
    "check_labels",
    "check_logits",
    "check_pixels",
    "index_labels",
    "predict",
    "read_soft_labels",
    "values_are_visible",
    "widen",
]


class LabelIndex(NamedTuple):
    """Labels made ready for gather and scatter: ignored pixels point at class 0 and are not valid.

    `complete` says that it is known that no pixel is ignored; it is False where the host may not look.
    """

    class_BHW: Tensor
    valid_BHW: Tensor
    complete: bool


class SoftLabels(NamedTuple):
    """The probability of each class, float32, all 0 at ignored pixels, which are not valid; `complete` as above."""

    share_BCHW: Tensor
    valid_BHW: Tensor
    complete: bool


class Prediction(NamedTuple):
    """What the losses and confidences of one branch share, computed once; `detach` cuts all three from the graph."""

    logits_BCHW: Tensor
    log_probs_BCHW: Tensor
    probs_BCHW: Tensor

    def detach(self) -> Prediction:
        return Prediction(*(tensor.detach() for tensor in self))


_SUM_TOLERANCE = 1e-3  # of the probabilities of a pixel: half precision rounds each of them


def predict(logits: Tensor) -> Prediction:
    """Softmax and its logarithm in float32 or better, over contiguous memory."""
    logits = widen(logits).contiguous()
    log_probs = logits.log_softmax(dim=1)
    return Prediction(logits, log_probs, log_probs.exp())


def values_are_visible(tensor: Tensor) -> bool:
    """Whether the host may look at values: they are in its memory, there are some, and nothing is being compiled."""
    return tensor.device.type == "cpu" and tensor.numel() > 0 and not torch.compiler.is_compiling()


def widen(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """Logits and class distributions are floating point, (B, C, H, W) with C >= 2."""
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ArgumentError(f"{name} have the wrong shape.", got=tuple(logits.shape), expected="(B, C, H, W), C >= 2")
    if not logits.is_floating_point():
        raise ArgumentError(f"{name} have the wrong dtype.", got=logits.dtype, expected="a floating point dtype")


def check_pixels(tensor: Tensor, shape: Sequence[int], name: str) -> None:
    """A tensor of values has exactly this shape and is floating point."""
    if tuple(tensor.shape) != tuple(shape):
        raise ArgumentError(f"{name} has the wrong shape.", got=tuple(tensor.shape), expected=tuple(shape))
    if not tensor.is_floating_point():
        raise ArgumentError(f"{name} has the wrong dtype.", got=tensor.dtype, expected="a floating point dtype")


def check_fraction(value: float, name: str, *, above_zero: bool = False) -> None:
    """A number in [0, 1], or in (0, 1]."""
    if not 0.0 <= value <= 1.0 or (above_zero and value == 0.0):
        raise ArgumentError(f"{name} is out of range.", got=value, expected="(0, 1]" if above_zero else "[0, 1]")


def check_choice(value: str, choices: Sequence[str], name: str) -> None:
    """One of the known words."""
    if value not in choices:
        raise ArgumentError(f"{name} is unknown.", got=repr(value), expected=" or ".join(map(repr, choices)))


def index_labels(labels: Tensor, num_classes: int, ignore_index: int, shape: Sequence[int] | None = None) -> LabelIndex:
    """Split labels of any integer dtype into class indices (int64) and validity.

    On the CPU a label that is neither a class nor `ignore_index` is refused; on other devices the gather that follows
    raises the device's own assertion.
    """
    if shape is not None and tuple(labels.shape) != tuple(shape):
        raise ArgumentError("labels have the wrong shape.", got=tuple(labels.shape), expected=tuple(shape))
    if not values_are_visible(labels):
        _check_integers(labels)
        valid = labels != ignore_index
        return LabelIndex(labels.long().masked_fill(~valid, 0), valid, False)
    if check_labels(labels, num_classes, ignore_index):
        return LabelIndex(labels.long(), torch.ones_like(labels, dtype=torch.bool), True)
    valid = labels != ignore_index
    return LabelIndex(labels.long().masked_fill(~valid, 0), valid, False)


def check_labels(labels: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether no label is ignored; each is 0 to num_classes - 1 or `ignore_index`. Only for values that are visible."""
    _check_integers(labels)
    low, high = (int(value) for value in torch.aminmax(labels))
    if low >= 0 and high < num_classes and not low <= ignore_index <= high:
        return True
    classes = labels[labels != ignore_index]
    low, high = (int(value) for value in torch.aminmax(classes)) if len(classes) else (0, 0)
    if low < 0 or high >= num_classes:
        raise ArgumentError(
            "labels hold a value that is not a class.",
            got=low if low < 0 else high,
            expected=f"0 to {num_classes - 1}, or {ignore_index} for ignored pixels",
        )
    return len(classes) == labels.numel()


def _check_integers(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ArgumentError("labels have the wrong dtype.", got=labels.dtype, expected="uint8 or int64")


def read_soft_labels(shares: Tensor, num_classes: int) -> SoftLabels:
    """Probabilities (..., C, H, W) as float32, with the pixels that have any.

    On the CPU what is out of [0, 1], or adds up to neither 1 nor 0, is refused.
    """
    if shares.shape[-3] != num_classes:
        expected = f"(..., {num_classes}, H, W)"
        raise ArgumentError("soft labels have the wrong shape.", got=tuple(shares.shape), expected=expected)
    if not shares.is_floating_point():
        expected = "a floating point dtype, probabilities in 0..1"
        raise ArgumentError("soft labels have the wrong dtype.", got=shares.dtype, expected=expected)
    shares = shares.float()
    total = shares.sum(dim=-3)
    valid = total > 0
    if not values_are_visible(shares):
        return SoftLabels(shares, valid, False)
    low, high = (float(value) for value in torch.aminmax(shares))
    if not (low >= 0.0 and high <= 1.0 + _SUM_TOLERANCE):  # also where one of them is NaN
        raise ArgumentError(
            "soft labels are out of range.", got=f"{low:g} to {high:g}", expected="probabilities in 0..1"
        )
    off = torch.where(valid, (total - 1.0).abs(), 0.0)
    if float(off.max()) > _SUM_TOLERANCE:
        raise ArgumentError(
            "soft labels do not add up to 1 over the classes.",
            got=f"a sum of {float(total.flatten()[off.argmax()]):g}",
            expected="1, or 0 at ignored pixels",
        )
    return SoftLabels(shares, valid, bool(valid.all()))
