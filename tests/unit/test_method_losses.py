"""Segmentation and consistency losses."""

from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method import consistency_loss, focal_loss, smooth_labels, soft_cross_entropy, soft_dice_loss
from reference import twin

CLASSES = 5


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def logits():
    return random(0, 2, CLASSES, 6, 7) * 2


@pytest.fixture
def labels():
    labels = torch.randint(0, CLASSES - 1, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    labels[0, 1:3] = 255
    return labels


@pytest.fixture(params=["hard", "soft"])
def target(request, labels):
    weights = (0.0, 0.0) if request.param == "hard" else (0.15, 0.05)
    return smooth_labels(labels, CLASSES, random(2, 2, CLASSES, 6, 7).softmax(1), *weights).double()


LOSSES = {
    "ce": (soft_cross_entropy, twin.soft_cross_entropy),
    "dice": (soft_dice_loss, twin.soft_dice_loss),
    "calibrated": (
        lambda z, t, w=None: soft_dice_loss(z, t, w, "calibrated"),
        lambda z, t, w=None: twin.soft_dice_loss(z, t, w, "calibrated"),
    ),
    "focal": (focal_loss, twin.focal_loss),
    "focal without gamma": (
        lambda z, t, w=None: focal_loss(z, t, w, 0.0),
        lambda z, t, w=None: twin.focal_loss(z, t, w, 0.0),
    ),
    "focal with a root": (
        lambda z, t, w=None: focal_loss(z, t, w, 0.5),
        lambda z, t, w=None: twin.focal_loss(z, t, w, 0.5),
    ),
    **{
        f"consistency {kind}": (
            lambda z, t, w=None, kind=kind: consistency_loss(z, z.flip(0), w, kind),
            lambda z, t, w=None, kind=kind: twin.consistency_loss(z, z[::-1], w, kind),
        )
        for kind in ("ce", "kl", "mse")
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_twins_with_and_without_weights(logits, target, name):
    ours, theirs = LOSSES[name]
    weight = random(3, 2, 6, 7).abs()
    assert float(ours(logits, target)) == pytest.approx(theirs(logits.numpy(), target.numpy()), rel=1e-9)
    weighted = theirs(logits.numpy(), target.numpy(), weight.numpy())
    assert float(ours(logits, target, weight)) == pytest.approx(weighted, rel=1e-9)


@pytest.mark.parametrize("name", ["ce", "dice", "calibrated", "focal"])
def test_gradients_of_segmentation_losses_equal_differences(logits, target, name):
    weight = random(3, 2, 6, 7).abs()
    logits = logits[:, :, :3, :3].clone().requires_grad_()
    target, weight = target[:, :, :3, :3], weight[:, :3, :3]
    assert torch.autograd.gradcheck(lambda z: LOSSES[name][0](z, target, weight), (logits,))


@pytest.mark.parametrize("kind", ["ce", "kl", "mse"])
def test_consistency_gives_gradient_to_its_own_side_only(logits, kind):
    own, other = logits[:, :, :3, :3].clone().requires_grad_(), (logits[:, :, 3:, :3] * 0.5).requires_grad_()
    weight = random(3, 2, 3, 3).abs()
    consistency_loss(own, other, weight, kind).backward()
    assert other.grad is None
    assert torch.autograd.gradcheck(lambda z: consistency_loss(z, other.detach(), weight, kind), (own,))


def test_consistency_none_is_zero_with_gradient_zero(logits):
    logits.requires_grad_()
    loss = consistency_loss(logits, logits, None, "none")
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["ce", "dice", "calibrated", "focal"])
def test_ignored_pixels_change_no_value_and_get_no_gradient(logits, labels, target, name):
    weight = random(3, 2, 6, 7).abs()
    ignored = (labels == 255).unsqueeze(1)
    results = []
    for changed in (logits, torch.where(ignored, -7.0 * logits, logits)):
        changed = changed.clone().requires_grad_()
        loss = LOSSES[name][0](changed, target, weight)
        loss.backward()
        assert (changed.grad.masked_select(ignored) == 0).all()
        results.append((loss.detach(), changed.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1].masked_fill(ignored, 0), results[1][1].masked_fill(ignored, 0))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_batch_without_weight_has_loss_and_gradient_zero(labels, name, dtype):
    logits = (random(0, 2, CLASSES, 6, 7) * 1e3).to(dtype).requires_grad_()
    target = smooth_labels(torch.full_like(labels, 255), CLASSES)
    loss = LOSSES[name][0](logits, target, torch.zeros(2, 6, 7))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", ["paper", "calibrated"])
def test_dice_is_the_mean_over_the_classes_that_occur(kind):
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, :2] = 1
    perfect = torch.nn.functional.one_hot(labels.long(), CLASSES).permute(0, 3, 1, 2) * 100.0
    target = smooth_labels(labels, CLASSES, None, 0.0, 0.0)
    assert float(soft_dice_loss(perfect, target, kind=kind)) == pytest.approx(0.0, abs=1e-6)
    assert float(soft_dice_loss(-perfect, target, kind=kind)) == pytest.approx(1.0, abs=1e-6)


def test_the_papers_dice_pulls_away_from_soft_targets_and_the_calibrated_one_does_not(labels):
    target = smooth_labels(labels, CLASSES, random(2, 2, CLASSES, 6, 7).softmax(1)).double()
    matching = target.clamp_min(1e-9).log().requires_grad_()
    sharp = torch.nn.functional.one_hot(target.argmax(1), CLASSES).permute(0, 3, 1, 2) * 100.0
    assert float(soft_dice_loss(matching.detach(), target)) > float(soft_dice_loss(sharp, target)) > 0.05
    calibrated = soft_dice_loss(matching, target, kind="calibrated")
    assert float(calibrated.detach()) == pytest.approx(0.0, abs=1e-7)
    assert float(soft_dice_loss(sharp, target, kind="calibrated")) > 0.05


def test_both_dice_losses_are_the_same_on_one_hot_targets(logits, labels):
    target = smooth_labels(labels, CLASSES, None, 0.0, 0.0).double()
    paper, calibrated = (soft_dice_loss(logits, target, kind=kind) for kind in ("paper", "calibrated"))
    assert float(paper) == pytest.approx(float(calibrated), rel=1e-12)


def test_focal_equals_smp_on_hard_labels_and_is_defined_on_soft_ones(logits, labels):
    labels = labels.masked_fill(labels == 255, 0)
    hard = smooth_labels(labels, CLASSES, None, 0.0, 0.0)
    theirs = CLASSES * smp.losses.FocalLoss("multiclass")(logits, labels)  # a sum over the classes in the paper
    assert float(focal_loss(logits, hard.double())) == pytest.approx(float(theirs), rel=1e-9)
    assert focal_loss(logits, smooth_labels(labels, CLASSES).double()).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_computes_in_float32(logits, target, name, dtype):
    rounded = logits.to(dtype)
    expected = LOSSES[name][0](rounded.float(), target.float())
    ours = LOSSES[name][0](rounded, target.float())
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "top"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 6e4)])
def test_saturated_logits_give_finite_losses_and_gradients(labels, name, dtype, top):
    logits = (random(0, 2, CLASSES, 6, 7).sign() * top).to(dtype).requires_grad_()
    loss = LOSSES[name][0](logits, smooth_labels(labels, CLASSES))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda z, t, w: soft_cross_entropy(z[0], t, w), "logits have the wrong shape"),
        (lambda z, t, w: soft_cross_entropy(z, t[:1], w), "target has the wrong shape"),
        (lambda z, t, w: soft_cross_entropy(z, t.long(), w), "target has the wrong dtype"),
        (lambda z, t, w: soft_dice_loss(z, t, w[:1]), "weight has the wrong shape"),
        (lambda z, t, w: soft_dice_loss(z, t, w, "sharp"), "dice is unknown"),
        (lambda z, t, w: focal_loss(z, t, w, gamma=-1.0), "gamma is out of range"),
        (lambda z, t, w: consistency_loss(z, z[:1], w), "differ in shape"),
        (lambda z, t, w: consistency_loss(z, z, w[:1]), "weight has the wrong shape"),
        (lambda z, t, w: consistency_loss(z, z, w, "js"), "consistency is unknown"),
    ],
)
def test_wrong_arguments_are_refused_with_what_got_and_expected(logits, labels, call, what):
    target = smooth_labels(labels, CLASSES)
    with pytest.raises(ArgumentError, match=what) as caught:
        call(logits, target, torch.ones(2, 6, 7))
    assert caught.value.got is not None
    assert caught.value.expected


def test_no_argument_is_changed(logits, target):
    weight = torch.ones(2, 6, 7, dtype=torch.float64)
    before = logits.clone(), target.clone(), weight.clone()
    for ours, _ in LOSSES.values():
        ours(logits, target, weight)
    for now, then in zip((logits, target, weight), before, strict=True):
        np.testing.assert_array_equal(now, then)
