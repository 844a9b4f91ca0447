"""Label priors and smoothed labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cromss.errors import ArgumentError
from cromss.method import label_prior, smooth_labels
from reference import plain_recipe, twin


def stack(classes: int, height: int = 40, width: int = 56, seasons: int = 4, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(classes)
    coarse = torch.rand(batch * seasons, classes, 5, 5, generator=generator)
    labels = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").argmax(1)
    return labels.view(batch, seasons, height, width).to(torch.uint8)


@pytest.mark.parametrize("kind", ["ts", "t", "s"])
@pytest.mark.parametrize("classes", [1, 3, 9])
def test_the_prior_equals_its_twin_with_and_without_ignored_pixels(classes, kind):
    labels, season = stack(classes), torch.tensor([3, 0])
    for ignored in (False, True):
        if ignored:
            labels[0, 3, :30, :30] = 255
            labels[1, :, 5:8] = 255
        ours = label_prior(labels, season, 9, kind)
        np.testing.assert_allclose(ours, twin.label_prior(labels.numpy(), season, 9, kind), atol=3e-7)
        torch.testing.assert_close(ours.sum(1), torch.ones(2, 40, 56), atol=1e-6, rtol=0)


def test_the_prior_equals_the_mean_of_both_filtered_parts():
    labels = stack(9)
    theirs = plain_recipe.label_prior(labels[1].numpy(), 2)
    np.testing.assert_allclose(label_prior(labels, torch.tensor([0, 2]), 9)[1], theirs, atol=3.1e-7)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (11, 70), (25, 24), (33, 64)])
def test_tiles_smaller_than_the_filter_are_mirrored_as_often_as_needed(height, width):
    labels, season = stack(4, height, width), torch.tensor([1, 2])
    np.testing.assert_allclose(label_prior(labels, season, 4), twin.label_prior(labels.numpy(), season, 4), atol=3e-7)


@pytest.mark.parametrize(("sigma", "truncate"), [(0.4, 4.0), (1.5, 3.0), (8.0, 4.0)])
def test_other_gaussians_equal_their_twin(sigma, truncate):
    labels, season = stack(4), torch.tensor([1, 2])
    theirs = twin.label_prior(labels.numpy(), season, 4, "ts", sigma, truncate)
    np.testing.assert_allclose(label_prior(labels, season, 4, "ts", sigma, truncate), theirs, atol=3e-7)


def test_planes_as_matrix_products_equal_compiled_rows(monkeypatch):
    """Accelerators filter every class in two large products; the CPU filters rows of the classes that occur."""
    labels, season = stack(3), torch.tensor([1, 2])
    expected = label_prior(labels, season, 9)
    monkeypatch.setattr("cromss.method.smoothing.values_are_visible", lambda tensor: False)
    torch.testing.assert_close(label_prior(labels, season, 9), expected, atol=5e-7, rtol=0)


def test_where_the_whole_window_is_ignored_the_prior_is_uniform():
    labels = torch.full((1, 2, 40, 40), 255, dtype=torch.uint8)
    assert (label_prior(labels, torch.tensor([0]), 5) == 0.2).all()
    labels[0, :, 0, 0] = 3
    prior = label_prior(labels, torch.tensor([0]), 5)
    assert prior[0, :, 0, 0].tolist() == pytest.approx([0, 0, 0, 1, 0])
    assert prior[0, :, 39, 39].tolist() == pytest.approx([0.2] * 5)


def test_a_season_without_labels_leaves_the_prior_to_the_others():
    labels = stack(3)
    labels[:, 1] = 255
    ours = label_prior(labels, torch.tensor([1, 1]), 3, "ts")
    torch.testing.assert_close(ours, label_prior(labels[:, [0, 2, 3]], torch.tensor([0, 0]), 3, "t"))


def test_smoothed_labels_equal_their_twin():
    labels = stack(9)[:, 0]
    labels[0, :5] = 255
    prior = label_prior(stack(9), torch.tensor([0, 0]), 9)
    for weights in ((0.15, 0.05), (0.15, 0.0), (0.0, 0.1), (0.0, 0.0), (0.4, 0.6)):
        for given in (prior, None):
            ours = smooth_labels(labels, 9, given, *weights)
            theirs = twin.smooth_labels(labels.numpy(), 9, None if given is None else given.numpy(), *weights)
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_smoothed_labels_sum_to_one_and_to_zero_where_ignored():
    labels = stack(4)[:, 0]
    labels[1, 3:9] = 255
    target = smooth_labels(labels, 4)
    torch.testing.assert_close(target.sum(1), (labels != 255).float())
    assert torch.equal(smooth_labels(labels.long(), 4), target)


def test_smoothing_changes_neither_the_prior_nor_the_labels():
    labels = stack(4)[:, 0]
    prior = torch.rand(2, 4, 40, 56)
    before, labels_before = prior.clone(), labels.clone()
    smooth_labels(labels, 4, prior, 1.0, 0.0)
    assert torch.equal(prior, before)
    assert torch.equal(labels, labels_before)


def soft(classes: int, spread: float = 3.0) -> torch.Tensor:
    """Probabilities (2, 4, C, 40, 56), none at all in a corner of one season and in a band of all."""
    logits = torch.rand(2, 4, classes, 40, 56, generator=torch.Generator().manual_seed(classes)) * spread
    shares = logits.softmax(2)
    shares[0, 3, :, :30, :30] = 0
    shares[1, :, :, 5:8] = 0
    return shares


@pytest.mark.parametrize("kind", ["ts", "t", "s"])
def test_the_prior_of_soft_labels_equals_its_twin(kind):
    shares, season = soft(5), torch.tensor([3, 0])
    for labels in (shares, soft(5)[:, :, :, 8:]):
        ours, theirs = label_prior(labels, season, 5, kind), twin.label_prior(labels.numpy(), season, 5, kind)
        np.testing.assert_allclose(ours, theirs, atol=3e-7)


@pytest.mark.parametrize("ignored", [False, True])
def test_one_hot_probabilities_give_what_hard_labels_give(ignored):
    labels, season = stack(5), torch.tensor([3, 0])
    if ignored:
        labels[0, 3, :30, :30] = 255
    onehot = smooth_labels(labels.flatten(0, 1), 9, None, 0.0, 0.0).unflatten(0, (2, 4))
    for kind in ("ts", "t", "s"):
        prior = label_prior(labels, season, 9, kind)
        torch.testing.assert_close(label_prior(onehot, season, 9, kind), prior, atol=1e-7, rtol=0)
    torch.testing.assert_close(
        smooth_labels(onehot[:, 3], 9, prior), smooth_labels(labels[:, 3], 9, prior), atol=1e-7, rtol=0
    )


def test_a_soft_sample_has_one_prior_whatever_its_batch():
    shares, season = soft(5), torch.tensor([3, 0])
    alone = torch.cat([label_prior(shares[i : i + 1], season[i : i + 1], 5) for i in range(2)])
    assert torch.equal(label_prior(shares, season, 5), alone)


def test_planes_of_soft_labels_as_matrix_products_equal_compiled_rows(monkeypatch):
    shares, season = soft(5), torch.tensor([1, 2])
    expected = label_prior(shares.half(), season, 5)
    monkeypatch.setattr("cromss.method.smoothing.values_are_visible", lambda tensor: False)
    torch.testing.assert_close(label_prior(shares.half(), season, 5), expected, atol=5e-7, rtol=0)


def test_smoothed_soft_labels_equal_their_twin_and_are_0_where_there_is_no_label():
    shares = soft(5)[:, 3]
    prior = label_prior(soft(5), torch.tensor([3, 3]), 5)
    for weights in ((0.15, 0.05), (0.0, 0.0), (0.4, 0.6)):
        ours = smooth_labels(shares, 5, prior, *weights)
        np.testing.assert_allclose(ours, twin.smooth_labels(shares.numpy(), 5, prior.numpy(), *weights), atol=1e-6)
        assert not ours[0, :, :30, :30].any()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: p[:, :, :4], "soft labels have the wrong shape"),
        (lambda p: (p * 100).to(torch.uint8), "soft labels have the wrong dtype"),
        (lambda p: p * 100, "soft labels are out of range"),
        (lambda p: p - 0.1, "soft labels are out of range"),
        (lambda p: p.index_fill(1, torch.tensor(0), torch.nan), "soft labels are out of range"),
        (lambda p: p * 0.9, "soft labels do not add up to 1"),
    ],
)
def test_soft_labels_that_are_no_probabilities_are_refused(change, what):
    shares = change(soft(5))
    for call in (lambda: label_prior(shares, torch.tensor([0, 0]), 5), lambda: smooth_labels(shares[:, 0], 5)):
        with pytest.raises(ArgumentError, match=what) as caught:
            call()
        assert caught.value.got is not None


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda y: label_prior(y[0], torch.tensor([0, 0]), 3), "labels have the wrong shape"),
        (lambda y: label_prior(y, torch.tensor([0]), 3), "season has the wrong shape"),
        (lambda y: label_prior(y, torch.tensor([0.0, 0.0]), 3), "season has the wrong shape or dtype"),
        (lambda y: label_prior(y, torch.tensor([0, 4]), 3), "season is out of range"),
        (lambda y: label_prior(y, torch.tensor([-1, 0]), 3), "season is out of range"),
        (lambda y: label_prior(y, torch.tensor([0, 0]), 2), "not a class"),
        (lambda y: label_prior(y, torch.tensor([0, 0]), 3, "st"), "prior kind is unknown"),
        (lambda y: label_prior(y, torch.tensor([0, 0]), 3, sigma=0.0), "the Gaussian is empty"),
        (lambda y: smooth_labels(y, 3), "labels have the wrong shape"),
        (lambda y: smooth_labels(y[:, 0], 3, prior_weight=0.7, uniform_weight=0.4), "sum of prior and uniform weight"),
        (lambda y: smooth_labels(y[:, 0], 3, prior_weight=-0.1), "prior weight is out of range"),
        (lambda y: smooth_labels(y[:, 0], 3, torch.rand(2, 4, 40, 56)), "prior has the wrong shape"),
    ],
)
def test_wrong_arguments_are_refused_with_what_got_and_expected(call, what):
    with pytest.raises(ArgumentError, match=what) as caught:
        call(stack(3))
    assert caught.value.got is not None
    assert caught.value.expected


@pytest.mark.parametrize(("dtype", "ignored"), [(torch.int8, -1), (torch.int32, -100), (torch.int64, 2)])
def test_the_prior_is_the_same_for_labels_of_any_integer_type(dtype, ignored):
    labels, season = stack(5), torch.tensor([1, 2])
    labels[:, :, :9, :20] = 255
    if ignored == 2:
        labels[labels == 2] = 255  # a class that stands for "ignored" is none
    others = torch.where(labels == 255, ignored, labels.long()).to(dtype)
    expected = label_prior(labels, season, 9)
    assert torch.equal(label_prior(others, season, 9, ignore_index=ignored), expected)


def test_a_class_that_the_type_of_the_labels_can_not_hold_has_no_mass():
    labels = stack(3)  # uint8: 256 is kept as 0, which they hold
    prior = label_prior(labels, torch.tensor([1, 2]), 259)
    assert float(prior[:, 3:].max()) == 0
    assert torch.equal(prior[:, :3], label_prior(labels, torch.tensor([1, 2]), 3))


def test_a_prior_on_another_device_than_the_labels_is_refused():
    labels, prior = stack(3)[:, 0], torch.full((2, 9, 40, 56), 1 / 9, device="meta")
    with pytest.raises(ArgumentError, match="two devices"):
        smooth_labels(labels, 9, prior)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("ignored", [None, 255, 44])
def test_targets_of_hard_labels_are_those_of_one_hot_ones(dtype, ignored):
    """The first are made in one compiled pass, the second by PyTorch."""
    labels = stack(50)[:, 0].to(dtype)
    prior = torch.rand(2, 50, 40, 56, generator=torch.Generator().manual_seed(0)).softmax(1)
    if ignored is not None:
        labels[0, :9, :9] = ignored
    index = 300 if ignored is None else ignored  # 300 is 44 in eight bits, which is a class here
    shares = torch.nn.functional.one_hot(labels.long().clamp(max=49), 50).movedim(-1, 1).float()
    shares *= (labels.long() != index).unsqueeze(1)
    found = smooth_labels(labels, 50, prior, ignore_index=index)
    torch.testing.assert_close(found, smooth_labels(shares, 50, prior), atol=2e-7, rtol=0)
