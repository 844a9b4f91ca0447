"""Ramp, selection ratio, and the weights of labels and predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cromss.errors import ArgumentError
from cromss.method import label_weights, prediction_weights, ramp, selection_ratio
from reference import twin


def confidence_and_labels(classes: int, seed: int = 0, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, size, size), generator=generator).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return torch.rand(labels.shape, generator=generator), labels


def test_the_selection_ratio_is_the_published_one():
    assert [round(selection_ratio(epoch), 3) for epoch in (0, 40, 60, 80, 200)] == [0.997, 0.857, 0.634, 0.5, 0.5]


def test_ramps_equal_their_twins_and_none_selects_fully_from_the_start():
    for epoch in (0, 1, 39.5, 79, 80, 81, 500):
        for shape in ("exp", "linear", "none"):
            assert ramp(epoch, shape=shape) == twin.ramp(epoch, shape=shape)
    assert selection_ratio(0, shape="none") == 0.5
    assert ramp(3, length=2, shape="linear") == 1.0


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("classes", range(1, 10))
def test_label_weights_equal_their_twin_for_any_number_of_classes_present(classes, balanced):
    confidence, labels = confidence_and_labels(classes, seed=classes)
    for ratio in (1.0, 0.997, 0.7, 0.5, 0.01):
        ours = label_weights(confidence, labels, ratio, 9, balanced)
        theirs = twin.label_weights(confidence.numpy(), labels.numpy(), ratio, 9, balanced)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.isfinite().all()


def test_a_product_that_is_whole_in_floating_point_is_not_floored_below_itself():
    confidence = torch.linspace(1.0, 0.1, 10).view(1, 1, 10)
    weight = label_weights(confidence, torch.zeros(1, 1, 10, dtype=torch.uint8), 0.7, 2)
    assert int((weight == 1).sum()) == 7


def test_a_class_of_one_pixel_is_selected():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 1, 2] = 3
    weight = label_weights(torch.full((1, 4, 4), 0.2), labels, 0.5, 9)
    assert weight[0, 1, 2] == 1.0


def test_the_unbalanced_threshold_is_one_over_all_pixels_and_not_row_by_row():
    confidence, labels = confidence_and_labels(4)
    confidence[0, 0] = 1e-3  # a row of hopeless pixels
    weight = label_weights(confidence, labels, 0.5, 4, class_balanced=False)
    assert weight[0, 0].max() < 0.01
    assert int((weight == 1).sum()) == int((labels != 255).sum() * 0.5)


def test_a_zero_threshold_selects_what_is_above_zero_and_the_first_pixel_only():
    labels = torch.zeros(1, 1, 8, dtype=torch.uint8)
    confidence = torch.zeros(1, 1, 8)
    assert label_weights(confidence, labels, 0.5, 2).tolist() == [[[1.0, 0, 0, 0, 0, 0, 0, 0]]]
    confidence[0, 0, 5] = 0.4
    confidence[0, 0, 6] = -0.0
    assert label_weights(confidence, labels, 0.5, 2).tolist() == [[[0, 0, 0, 0, 0, 1.0, 0, 0]]]


def test_ignored_pixels_weigh_nothing_and_move_no_threshold():
    confidence, labels = confidence_and_labels(3)
    for balanced in (True, False):
        before = label_weights(confidence, labels, 0.6, 3, balanced)
        changed = torch.where(labels == 255, 1.0 - confidence, confidence)
        assert torch.equal(label_weights(changed, labels, 0.6, 3, balanced), before)
        assert (before[labels == 255] == 0).all()
        nothing = torch.full_like(labels, 255)
        assert label_weights(confidence, nothing, 0.6, 3, balanced).sum() == 0


def test_no_pixels_are_no_error():
    nothing = torch.zeros(0, 4, 4)
    assert label_weights(nothing, nothing.long(), 1.0, 3).shape == (0, 4, 4)
    assert label_weights(nothing, nothing.long(), 0.5, 3).shape == (0, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_computed_in_float32(dtype):
    confidence, labels = confidence_and_labels(4)
    rounded = confidence.to(dtype)
    assert torch.equal(label_weights(rounded, labels, 0.6, 4), label_weights(rounded.float(), labels, 0.6, 4))


def test_prediction_weights_equal_their_twin_and_are_never_zero():
    confidence = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0))
    for value in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(
            prediction_weights(confidence, value), twin.prediction_weights(confidence.numpy(), value), atol=1e-6
        )
    assert prediction_weights(torch.zeros(1, 2, 2), 1.0).min() > 0


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda f, y: ramp(-1), "epoch is out of range"),
        (lambda f, y: ramp(float("nan")), "epoch is out of range"),
        (lambda f, y: ramp(0, length=0), "ramp length is out of range"),
        (lambda f, y: ramp(0, shape="cosine"), "ramp shape is unknown"),
        (lambda f, y: selection_ratio(0, final=0.0), "final ratio is out of range"),
        (lambda f, y: label_weights(f, y, 0.0, 3), "selection ratio is out of range"),
        (lambda f, y: label_weights(f, y, 1.5, 3), "selection ratio is out of range"),
        (lambda f, y: label_weights(f[:1], y, 0.5, 3), "confidence has the wrong shape"),
        (lambda f, y: label_weights(f + 1, y, 0.5, 3), "confidence is out of range"),
        (lambda f, y: label_weights(f * float("nan"), y, 0.5, 3), "confidence is out of range"),
        (lambda f, y: label_weights(f, y, 0.5, 2), "not a class"),
        (lambda f, y: prediction_weights(f, 1.1), "ramp value is out of range"),
    ],
)
def test_wrong_arguments_are_refused_with_what_got_and_expected(call, what):
    confidence, labels = confidence_and_labels(3)
    with pytest.raises(ArgumentError, match=what) as caught:
        call(confidence, labels)
    assert caught.value.got is not None
    assert caught.value.expected
