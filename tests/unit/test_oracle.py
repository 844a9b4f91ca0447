"""The functional core against arrays computed with the paper's authors' own functions.

Outside the listed defects of the original every array agrees (values 1e-5 absolute, gradients 1e-5 relative to the
largest). Inside a defect two things are tested: that the original's number is what the defect makes of ours, and that
ours is the corrected one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cromss.method import (
    consistency_loss,
    cromss_loss,
    entangle,
    focal_loss,
    label_confidence,
    label_prior,
    label_weights,
    prediction_confidence,
    prediction_weights,
    ramp,
    selection_ratio,
    smooth_labels,
    soft_cross_entropy,
    soft_dice_loss,
)

EPOCHS = (0, 1, 10, 40, 80, 120)
CLASSES = 9
ONE_PIXEL_CLASS = 1
"""The class of the edge set that has one pixel only: floor(ratio * 1) is 0 and the original weighs it 0."""


class Case:
    """One set of the oracle: its inputs, our targets, and its arrays by file and name."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._files = {path.stem: np.load(path) for path in folder.glob("*.npz")}
        self._prefix = prefix
        self.edge = prefix == "edge_"
        self.logits = [self("inputs", f"logits_m{sensor}") for sensor in (1, 2)]
        self.labels = self("inputs", "labels")
        prior = self("inputs", "prior")
        self.targets = {
            "hard": smooth_labels(self.labels, CLASSES, None, 0.0, 0.0),
            "ls1": smooth_labels(self.labels, CLASSES, prior, 0.15, 0.0),
            "ls2": smooth_labels(self.labels, CLASSES, prior),
        }

    def __call__(self, file: str, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self._files[self._prefix + file][name]))


@pytest.fixture(scope="module", params=["", "edge_"], ids=["common", "edge"])
def case(request, oracle: Path) -> Case:
    return Case(oracle, request.param)


@pytest.fixture(scope="module")
def common(oracle: Path) -> Case:
    return Case(oracle, "")


@pytest.fixture(scope="module")
def edge(oracle: Path) -> Case:
    return Case(oracle, "edge_")


def assert_agree(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype).view_as(ours), rtol=0.0, atol=tolerance)


def entangled(case, kind: str) -> list[Tensor]:
    return [case("confidence", f"enh_{kind}_m{sensor}") for sensor in (1, 2)]


def test_confidences_agree(case):
    for sensor, logits in enumerate(case.logits, start=1):
        assert_agree(label_confidence(logits, case.labels), case("confidence", f"label_conf_m{sensor}"))
        assert_agree(prediction_confidence(logits), case("confidence", f"pred_conf_ce_m{sensor}"))
        assert_agree(prediction_confidence(logits, "gini"), case("confidence", f"pred_conf_gini_m{sensor}"))


@pytest.mark.parametrize("kind", ["label_conf", "pred_conf_ce", "pred_conf_gini"])
def test_entangled_confidences_agree(case, kind):
    first, second = (case("confidence", f"{kind}_m{sensor}") for sensor in (1, 2))
    assert_agree(entangle(first, second), entangled(case, kind)[0])
    assert_agree(entangle(second, first), entangled(case, kind)[1])


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("shape", ["exp", "linear"])
def test_ramp_and_selection_ratio_agree(case, shape, epoch):
    if not (case.edge and shape == "linear"):
        assert selection_ratio(epoch, shape=shape) == pytest.approx(
            float(case("label_masks", f"ratio_{shape}_ep{epoch}")), abs=1e-15
        )
    assert ramp(epoch, shape=shape) == pytest.approx(float(case("pred_masks", f"ramp_{shape}_ep{epoch}")), abs=1e-15)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("shape", ["exp", "linear"])
def test_label_weights_agree_but_for_the_class_of_one_pixel(case, shape, epoch, balanced):
    if case.edge and shape == "linear":
        pytest.skip("the edge set has the exponential ramp only")
    ratio = selection_ratio(epoch, shape=shape)
    for sensor, confidence in enumerate(entangled(case, "label_conf"), start=1):
        ours = label_weights(confidence, case.labels, ratio, CLASSES, class_balanced=balanced)
        theirs = case("label_masks", f"lblmask_{shape}_{'cb' if balanced else 'all'}_ep{epoch}_m{sensor}").float()
        if case.edge and balanced:
            one_pixel = case.labels == ONE_PIXEL_CLASS
            assert theirs[one_pixel].tolist() == [0.0]
            assert ours[one_pixel].tolist() == [1.0]
            ours, theirs = ours[~one_pixel], theirs[~one_pixel]
        assert_agree(ours, theirs)


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("shape", ["exp", "linear"])
@pytest.mark.parametrize("kind", ["ce", "gini"])
def test_prediction_weights_agree(case, kind, shape, epoch):
    for sensor, confidence in enumerate(entangled(case, f"pred_conf_{kind}"), start=1):
        ours = prediction_weights(confidence, ramp(epoch, shape=shape))
        assert_agree(ours, case("pred_masks", f"predmask_{kind}_{shape}_ep{epoch}_m{sensor}"))


def test_smoothed_labels_agree(case):
    for ours, theirs in (("hard", "onehot"), ("ls1", "smooth1"), ("ls2", "smooth2")):
        assert_agree(case.targets[ours], case("smooth_labels", theirs))


@pytest.mark.parametrize("smoothing", ["hard", "ls1", "ls2"])
def test_cross_entropy_agrees(case, smoothing):
    target = case.targets[smoothing]
    for sensor, logits in enumerate(case.logits, start=1):
        assert_agree(soft_cross_entropy(logits, target), case("losses", f"ce_mean_{smoothing}_m{sensor}"))
        for epoch in (40, 120):
            weight = case("label_masks", f"lblmask_exp_cb_ep{epoch}_m{sensor}").float()
            theirs = case("losses", f"ce_weighted_{smoothing}_ep{epoch}_m{sensor}")
            assert_agree(soft_cross_entropy(logits, target, weight), theirs)
        map_BHW = case("losses", f"ce_map_{smoothing}_m{sensor}")
        for pixel in ((0, 0, 0), (1, 7, 30), (1, 31, 31)):
            one = torch.zeros_like(map_BHW)
            one[pixel] = 0.3
            assert_agree(soft_cross_entropy(logits, target, one), map_BHW[pixel], 2e-5 if case.edge else 1e-5)


@pytest.mark.parametrize("smoothing", ["hard", "ls1", "ls2"])
def test_dice_agrees_and_is_the_mean_over_the_classes_that_occur(case, smoothing):
    target = case.targets[smoothing]
    present = int((target.sum(dim=(0, 2, 3)) > 0).sum())
    assert present == CLASSES or (case.edge and smoothing != "ls2")
    for sensor, logits in enumerate(case.logits, start=1):
        pairs = [(None, case("losses", f"dice_{smoothing}_m{sensor}"))]
        for epoch in (40, 120):
            weight = case("label_masks", f"lblmask_exp_cb_ep{epoch}_m{sensor}").float()
            pairs.append((weight, case("losses", f"dice_weighted_{smoothing}_ep{epoch}_m{sensor}")))
        for weight, theirs in pairs:  # the original divides by all classes, absent ones too
            assert_agree(soft_dice_loss(logits, target, weight), theirs * CLASSES / present)


def test_focal_agrees(case):
    target = case.targets["hard"]
    for sensor, logits in enumerate(case.logits, start=1):
        assert_agree(focal_loss(logits, target), case("losses", f"focal_mean_hard_m{sensor}"))
        for epoch in (40, 120):
            weight = case("label_masks", f"lblmask_exp_cb_ep{epoch}_m{sensor}").float()
            assert_agree(focal_loss(logits, target, weight), case("losses", f"focal_weighted_hard_ep{epoch}_m{sensor}"))
        map_BHW = case("losses", f"focal_map_hard_m{sensor}")
        for pixel in ((0, 0, 0), (1, 7, 30), (1, 31, 31)):
            one = torch.zeros_like(map_BHW)
            one[pixel] = 0.3
            assert_agree(focal_loss(logits, target, one), map_BHW[pixel], 2e-5 if case.edge else 1e-5)


@pytest.mark.parametrize("kind", ["ce", "kl", "mse"])
def test_consistency_agrees(case, kind):
    first, second = case.logits
    one, two = consistency_loss(first, second, None, kind), consistency_loss(second, first, None, kind)
    assert_agree(one, case("losses", f"con_{kind}_nomask_1"))
    assert_agree(two, case("losses", f"con_{kind}_nomask_2"))
    assert_agree(one + two, case("losses", f"con_{kind}_nomask"), 2e-5 if case.edge else 1e-5)
    for epoch in (0, 40, 120):
        weights = [case("pred_masks", f"predmask_ce_exp_ep{epoch}_m{sensor}") for sensor in (1, 2)]
        assert_agree(consistency_loss(first, second, weights[1], kind), case("losses", f"con_{kind}_mask_ep{epoch}_1"))
        assert_agree(consistency_loss(second, first, weights[0], kind), case("losses", f"con_{kind}_mask_ep{epoch}_2"))


TOTALS = {
    **{f"recipe_ep{epoch}": {} for epoch in EPOCHS},
    "noss_ep40": {"select_labels": False, "select_predictions": False},
    "linear_ep0": {"ramp_shape": "linear"},
    "linear_gini_ep40": {"ramp_shape": "linear", "confidence": "gini"},
    "nols_ep40": {},
    "ls1_ep40": {},
    "kl_ep40": {"consistency": "kl"},
    "mse_ep40": {"consistency": "mse"},
    "nocon_ep40": {"consistency": "none"},
    "conweight05_ep40": {"consistency_weight": 0.5},
    "focal_nols_ep40": {"losses": ("focal",)},
    "conly_ep40": {"losses": ("ce",)},
    "donly_ep40": {"losses": ("dice",)},
    "noss_nols_ep40": {"select_labels": False, "select_predictions": False},
}


def total(case: Case, tag: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Ours for the settings of one tag: all parts, and the gradients of the loss to both logits."""
    smoothing = "hard" if "nols" in tag else "ls1" if tag.startswith("ls1") else "ls2"
    logits = [tensor.clone().requires_grad_() for tensor in case.logits]
    epoch = int(tag.rsplit("ep", maxsplit=1)[1])
    parts = cromss_loss(*logits, case.labels, case.targets[smoothing], epoch, **TOTALS[tag])
    return parts, list(torch.autograd.grad(parts["loss"], logits))


def agree_relatively(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


@pytest.mark.parametrize("tag", TOTALS)
def test_total_loss_and_gradients_agree(common, tag):
    parts, gradients = total(common, tag)
    assert_agree(parts["loss"].detach(), common("total", f"loss_{tag}"))
    assert_agree(parts["segmentation_s1"], common("total", f"segloss_1_{tag}"))
    assert_agree(parts["segmentation_s2"], common("total", f"segloss_2_{tag}"))
    assert_agree(parts["segmentation_s1"] + parts["segmentation_s2"], common("total", f"segloss_{tag}"))
    if "nocon" not in tag:
        assert_agree(parts["consistency"], common("total", f"conloss_{tag}"))
    for sensor, gradient in enumerate(gradients, start=1):
        agree_relatively(gradient, common("total", f"grad_{tag}_m{sensor}"))


def test_total_agrees_on_hard_inputs_without_selection(edge):
    parts, gradients = total(edge, "noss_ep40")
    assert_agree(parts["loss"].detach(), edge("total", "loss_noss_ep40"), 2e-5)
    for sensor, gradient in enumerate(gradients, start=1):
        agree_relatively(gradient, edge("total", f"grad_noss_ep40_m{sensor}"))


@pytest.mark.parametrize("epoch", [0, 40, 120])
def test_total_agrees_on_hard_inputs_but_for_the_weight_of_the_one_pixel_class(edge, epoch):
    parts, gradients = total(edge, f"recipe_ep{epoch}")
    one_pixel = edge.labels == ONE_PIXEL_CLASS
    for drop_it, loss, grads in (
        (False, parts["loss"].detach(), gradients),
        (True, edge("total", f"loss_recipe_ep{epoch}"), [edge("total", f"grad_recipe_ep{epoch}_m{i}") for i in (1, 2)]),
    ):
        composed, composed_gradients = _composed(edge, parts, one_pixel if drop_it else torch.zeros_like(one_pixel))
        assert_agree(composed, loss, 2e-5)
        for ours, theirs in zip(composed_gradients, grads, strict=True):
            agree_relatively(ours, theirs)


def _composed(case: Case, parts: dict[str, Tensor], dropped_BHW: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The recipe from the public functions, with label weight 0 at some pixels."""
    logits = [tensor.clone().requires_grad_() for tensor in case.logits]
    loss = torch.zeros(())
    for sensor, (own, other) in enumerate((logits, logits[::-1]), start=1):
        weight = parts[f"label_weight_s{sensor}"].masked_fill(dropped_BHW, 0.0)
        loss = loss + soft_cross_entropy(own, case.targets["ls2"], weight)
        loss = loss + soft_dice_loss(own, case.targets["ls2"], weight)
        loss = loss + consistency_loss(own, other, parts[f"prediction_weight_s{3 - sensor}"])
    return loss.detach(), list(torch.autograd.grad(loss, logits))


@pytest.mark.parametrize("season", range(4))
@pytest.mark.parametrize("kind", ["t", "s", "ts"])
def test_label_priors_agree(common, kind, season):
    labels = common("priors", "labels_stack").unsqueeze(0)
    ours = label_prior(labels, torch.tensor([season]), CLASSES, kind)
    assert_agree(ours[0], common("priors", f"prior_{kind}_season{season}"), 3e-7)
