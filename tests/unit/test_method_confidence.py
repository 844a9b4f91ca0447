"""Confidence of labels and predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cromss.errors import ArgumentError
from cromss.method import entangle, label_confidence, prediction_confidence
from reference import twin


@pytest.fixture
def logits():
    return torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels():
    labels = torch.randint(0, 5, (2, 7, 6), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 255
    return labels.to(torch.uint8)


@pytest.mark.parametrize("kind", ["entropy", "gini"])
def test_confidences_equal_their_twins(logits, labels, kind):
    np.testing.assert_allclose(label_confidence(logits, labels), twin.label_confidence(logits, labels), atol=1e-6)
    ours = prediction_confidence(logits, kind)
    np.testing.assert_allclose(ours, twin.prediction_confidence(logits, kind), atol=1e-6)
    np.testing.assert_allclose(entangle(ours, ours.flip(0)), twin.entangle(ours, ours.flip(0)), atol=1e-7)


def test_confidence_is_zero_at_ignored_pixels_whatever_the_logits(logits, labels):
    assert (label_confidence(logits, labels)[0, :2] == 0).all()
    assert label_confidence(logits, torch.full_like(labels, 255)).sum() == 0


def test_labels_of_any_integer_dtype_give_the_same(logits, labels):
    expected = label_confidence(logits, labels)
    for dtype in (torch.int64, torch.int32, torch.int16):
        assert torch.equal(label_confidence(logits, labels.to(dtype)), expected)
    assert torch.equal(label_confidence(logits, labels.long().masked_fill(labels == 255, -1), -1), expected)


@pytest.mark.parametrize(
    ("dtype", "top", "tolerance"),
    [(torch.float32, 1e4, 1e-6), (torch.float16, 6e4, 1e-2), (torch.bfloat16, 6e4, 1e-2)],
)
def test_saturated_logits_give_finite_confidences_in_range(dtype, top, tolerance):
    generator = torch.Generator().manual_seed(2)
    logits = ((torch.rand(2, 9, 16, 16, generator=generator) * 2 - 1) * top).to(dtype)
    logits[:, :, :4] = torch.where(torch.rand(2, 9, 4, 16, generator=generator) > 0.5, top, -top).to(dtype)
    logits[:, 1, 4:8] = logits[:, 0, 4:8]  # ties
    labels = torch.randint(0, 9, (2, 16, 16), generator=generator)
    exact = logits.double().numpy()
    for ours, theirs in (
        (label_confidence(logits, labels), twin.label_confidence(exact, labels.numpy())),
        (prediction_confidence(logits), twin.prediction_confidence(exact)),
        (prediction_confidence(logits, "gini"), twin.prediction_confidence(exact, "gini")),
    ):
        assert ours.dtype == torch.float32
        assert ours.isfinite().all()
        assert ours.min() >= 0
        assert ours.max() <= 1
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_a_probability_of_zero_has_entropy_zero_and_not_nan():
    logits = torch.tensor([0.0, -1000.0, -1000.0]).view(1, 3, 1, 1)
    assert prediction_confidence(logits).item() == 1.0
    assert prediction_confidence(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(0.0, abs=1e-6)
    assert prediction_confidence(torch.zeros(1, 3, 1, 1), "gini").item() == pytest.approx(1 / 3)


def test_confidences_carry_no_gradient(logits, labels):
    logits.requires_grad_()
    assert not label_confidence(logits, labels).requires_grad
    assert not prediction_confidence(logits).requires_grad


@pytest.mark.parametrize(
    ("call", "what", "got"),
    [
        (lambda x, y: label_confidence(x[0], y), "logits have the wrong shape", "(5, 7, 6)"),
        (lambda x, y: label_confidence(x.long(), y), "logits have the wrong dtype", "int64"),
        (lambda x, y: label_confidence(x[:, :1], y), "logits have the wrong shape", "(2, 1, 7, 6)"),
        (lambda x, y: label_confidence(x, y[:1]), "labels have the wrong shape", "(1, 7, 6)"),
        (lambda x, y: label_confidence(x, y.float()), "labels have the wrong dtype", "float32"),
        (lambda x, y: label_confidence(x, torch.full_like(y, 5)), "not a class", "5"),
        (lambda x, y: label_confidence(x, torch.full_like(y, -1, dtype=torch.int64)), "not a class", "-1"),
        (lambda x, y: prediction_confidence(x, "shannon"), "confidence kind is unknown", "'shannon'"),
        (lambda x, y: entangle(x[:, 0], x[:1, 0]), "differ in shape", "(1, 7, 6)"),
        (lambda x, y: entangle(y, y), "confidence has the wrong dtype", "uint8"),
    ],
)
def test_wrong_arguments_are_refused_with_what_got_and_expected(logits, labels, call, what, got):
    with pytest.raises(ArgumentError, match=what) as caught:
        call(logits, labels)
    assert got in str(caught.value.got)
    assert caught.value.expected
