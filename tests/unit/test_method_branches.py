"""The whole loss, for one, two and three branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cromss.errors import ArgumentError
from cromss.method import cromss_loss, multi_branch_loss, smooth_labels
from reference import plain_recipe, twin

CLASSES = 6
BRANCHES = ("s1", "s2", "fused")


def make_logits(branches: int, seed: int = 0, size: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, CLASSES, size, size, generator=generator) * 2 for name in BRANCHES[:branches]}


@pytest.fixture
def labels():
    labels = torch.randint(0, CLASSES - 1, (2, 12, 12), generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    labels[0, :4, :5] = 255
    return labels


def gradients(logits: dict[str, Tensor], labels: Tensor, target: Tensor, epoch: float = 40, **options):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in logits.items()}
    result = multi_branch_loss(leaves, labels, target, epoch, **options)
    return result, dict(zip(logits, torch.autograd.grad(result["loss"], list(leaves.values())), strict=True))


OPTIONS = [
    {},
    {"confidence": "gini"},
    {"ramp_shape": "linear"},
    {"ramp_shape": "none"},
    {"class_balanced": False},
    {"final_ratio": 0.2},
    {"consistency": "kl"},
    {"consistency": "mse", "consistency_weight": 3.0},
    {"consistency": "none"},
    {"losses": ("ce",)},
    {"losses": ("dice",)},
    {"losses": ("focal",)},
    {"losses": ("focal", "ce", "dice")},
    {"dice": "calibrated"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_the_loss_equals_its_twin_with_ignored_pixels_and_smoothing(labels, branches, options):
    logits, target = make_logits(branches), smooth_labels(labels, CLASSES)
    for epoch in (0, 60, 200):
        ours = multi_branch_loss(logits, labels, target, epoch, **options)
        arrays = {name: tensor.numpy() for name, tensor in logits.items()}
        theirs = twin.multi_branch_loss(arrays, labels.numpy(), target.numpy(), epoch, **options)
        assert float(ours["loss"]) == pytest.approx(theirs, rel=1e-5)


def test_the_loss_equals_the_plain_recipe():
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 9, (2, 32, 32), generator=generator)
    one, two = (torch.randn(2, 9, 32, 32, generator=generator, requires_grad=True) for _ in range(2))
    target = smooth_labels(labels, 9)
    ours, theirs = cromss_loss(one, two, labels, target, 50)["loss"], plain_recipe.loss(one, two, labels, target, 50)
    torch.testing.assert_close(ours, theirs)
    for first, second in zip(
        torch.autograd.grad(ours, [one, two]), torch.autograd.grad(theirs, [one, two]), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-9)


def test_the_parts_add_up(labels):
    result = multi_branch_loss(
        make_logits(2),
        labels,
        smooth_labels(labels, CLASSES),
        40,
        losses=("ce", "dice", "focal"),
        consistency_weight=0.5,
    )
    for name in ("s1", "s2"):
        summands = [result[f"{part}_{name}"] for part in ("ce", "dice", "focal")]
        torch.testing.assert_close(result[f"segmentation_{name}"], torch.stack(summands).sum())
        assert result[f"label_weight_{name}"].shape == result[f"prediction_weight_{name}"].shape == labels.shape
    whole = result["segmentation_s1"] + result["segmentation_s2"] + 0.5 * result["consistency"]
    torch.testing.assert_close(result["loss"], whole)
    assert float(result["selection_ratio"]) == pytest.approx(0.8567476)


def test_without_selection_all_labelled_pixels_weigh_one(labels):
    result = multi_branch_loss(
        make_logits(2), labels, smooth_labels(labels, CLASSES), 80, select_labels=False, select_predictions=False
    )
    valid = (labels != 255).float()
    for name in ("label_weight_s1", "label_weight_s2", "prediction_weight_s1", "prediction_weight_s2"):
        assert torch.equal(result[name], valid)
    assert float(result["selection_ratio"]) == 1.0
    assert float(result["ramp"]) == 0.0


def test_one_branch_trains_on_all_labels_alike(labels):
    result = multi_branch_loss(make_logits(1), labels, smooth_labels(labels, CLASSES), 80)
    assert torch.equal(result["label_weight_s1"], (labels != 255).float())
    assert float(result["consistency"]) == 0.0


def test_three_equal_branches_have_the_consistency_of_two(labels):
    logits, target = make_logits(1)["s1"], smooth_labels(labels, CLASSES)
    two = multi_branch_loss(dict.fromkeys(("s1", "s2"), logits), labels, target, 40)
    three = multi_branch_loss(dict.fromkeys(BRANCHES, logits), labels, target, 40)
    torch.testing.assert_close(two["consistency"], three["consistency"])
    torch.testing.assert_close(two["label_weight_s1"], three["label_weight_fused"])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_ignored_pixels_change_no_value_and_get_no_gradient(labels, branches, options):
    logits, target = make_logits(branches), smooth_labels(labels, CLASSES)
    ignored = (labels == 255).unsqueeze(1)
    changed = {name: torch.where(ignored, -9 * tensor, tensor) for name, tensor in logits.items()}
    before, gradients_before = gradients(logits, labels, target, **options)
    after, gradients_after = gradients(changed, labels, torch.where(ignored, 1 / CLASSES, target), **options)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    for name in logits:
        assert torch.equal(gradients_before[name], gradients_after[name])
        assert (gradients_before[name].masked_select(ignored) == 0).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_batch_of_ignored_pixels_has_loss_and_gradient_zero(labels, branches, options):
    labels = torch.full_like(labels, 255)
    result, grads = gradients(make_logits(branches), labels, smooth_labels(labels, CLASSES), **options)
    assert float(result["loss"].detach()) == 0.0
    assert all((gradient == 0).all() for gradient in grads.values())


@pytest.mark.parametrize("classes", range(1, 10))
def test_the_loss_is_finite_for_any_number_of_classes_present(classes):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (2, 16, 16), generator=generator)
    logits = {name: torch.randn(2, 9, 16, 16, generator=generator) for name in ("s1", "s2")}
    for weights in ((0.15, 0.05), (0.0, 0.0)):
        result, grads = gradients(logits, labels, smooth_labels(labels, 9, None, *weights))
        assert result["loss"].isfinite()
        assert all(gradient.isfinite().all() for gradient in grads.values())


@pytest.mark.parametrize(("dtype", "top"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 6e4)], ids=str)
def test_saturated_logits_give_a_finite_loss_and_gradients(labels, dtype, top):
    logits = {name: (tensor.sign() * top).to(dtype) for name, tensor in make_logits(2).items()}
    result, grads = gradients(logits, labels, smooth_labels(labels, CLASSES), 80)
    assert result["loss"].dtype == torch.float32
    assert result["loss"].isfinite()
    for gradient in grads.values():
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def test_consistency_does_not_vanish_when_no_prediction_is_confident(labels):
    """Uniform predictions have confidence 0, and weights of 0 would leave nothing to agree on."""
    result = multi_branch_loss(
        {"s1": torch.zeros(2, CLASSES, 12, 12), "s2": torch.zeros(2, CLASSES, 12, 12)},
        labels,
        smooth_labels(labels, CLASSES),
        80,
    )
    assert float(result["consistency"]) == pytest.approx(2 * torch.log(torch.tensor(float(CLASSES))).item(), rel=1e-4)


def test_the_loss_does_not_depend_on_memory_format_or_autocast(labels):
    logits, target = make_logits(2), smooth_labels(labels, CLASSES)
    expected, grads = gradients(logits, labels, target)
    last = {name: tensor.to(memory_format=torch.channels_last) for name, tensor in logits.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, ours_grads = gradients(last, labels.long(), target)
    torch.testing.assert_close(ours["loss"], expected["loss"], rtol=1e-6, atol=0)
    for name in logits:
        torch.testing.assert_close(ours_grads[name], grads[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("select", [True, False])
def test_the_mean_over_devices_is_independent_of_how_the_pixels_are_dealt_out(labels, select):
    """Two devices, one of them with ignored pixels only, against one with everything (thresholds held equal)."""
    logits, target = make_logits(2), smooth_labels(labels, CLASSES)
    labels = labels.clone()
    labels[1] = 255
    target = smooth_labels(labels, CLASSES)
    options = {"losses": ("ce", "focal"), "select_labels": select, "select_predictions": select}
    whole, whole_gradients = gradients(logits, labels, target, **options)
    shards = [({n: t[i : i + 1] for n, t in logits.items()}, labels[i : i + 1], target[i : i + 1]) for i in (0, 1)]
    seen: list[Tensor] = []
    for shard in shards:
        multi_branch_loss(*shard, 40, mean_over_devices=lambda counts: seen.append(counts) or counts, **options)
    mean = torch.stack(seen).mean(dim=0)
    dealt = [gradients(*shard, mean_over_devices=lambda counts: mean, **options) for shard in shards]
    loss = torch.stack([result["loss"].detach() for result, _ in dealt]).mean()
    torch.testing.assert_close(loss, whole["loss"].detach(), rtol=1e-6, atol=0)
    for name in logits:
        gradient = torch.cat([grads[name] for _, grads in dealt]) / 2
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_the_loss_compiles_as_one_graph(labels, branches):
    logits, target = make_logits(branches), smooth_labels(labels, CLASSES)
    compiled = torch.compile(multi_branch_loss, backend="eager", fullgraph=True)
    for epoch in (3, 90):
        expected = multi_branch_loss(logits, labels, target, epoch)
        ours = compiled(logits, labels, target, epoch)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"logits": {}}, "there is no branch"),
        ({"losses": ()}, "losses must be one or more different names"),
        ({"losses": "ce"}, "losses must be one or more different names"),
        ({"losses": ("ce", "ce")}, "losses must be one or more different names"),
        ({"losses": ("ce", "lovasz")}, "loss is unknown"),
        ({"consistency": "js"}, "consistency is unknown"),
        ({"confidence": "margin"}, "confidence is unknown"),
        ({"dice": "sharp"}, "dice is unknown"),
        ({"epoch": -1}, "epoch is out of range"),
        ({"ramp_shape": "cosine", "select_labels": False, "select_predictions": False}, "ramp shape is unknown"),
        ({"labels": torch.zeros(2, 12, 11, dtype=torch.uint8)}, "labels have the wrong shape"),
        ({"target": torch.zeros(2, CLASSES, 12, 11)}, "logits of s1 has the wrong shape"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_with_what_got_and_expected(labels, change, what):
    arguments = {"logits": make_logits(2), "labels": labels, "target": smooth_labels(labels, CLASSES), "epoch": 3}
    with pytest.raises(ArgumentError, match=what) as caught:
        multi_branch_loss(**(arguments | change))
    assert caught.value.got is not None
    assert caught.value.expected
