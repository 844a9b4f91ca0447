"""Scores agree with a slow twin and with the paper's authors, and absent classes never count."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cromss.errors import ArgumentError
from cromss.training.metrics import (
    Scores,
    confusion,
    label_accuracy,
    label_quality,
    selected_precision,
    weight_auroc,
    weight_auroc_by_class,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
import metrics_twin as twin


def random_matrix(rng: np.random.Generator) -> np.ndarray:
    """A matrix of 2..13 classes in which classes are often absent from the truth, the prediction, or both."""
    classes = int(rng.integers(2, 14))
    matrix = rng.integers(0, 10 ** rng.integers(1, 9), size=(classes, classes))
    matrix[rng.random(classes) < 0.3, :] = 0
    matrix[:, rng.random(classes) < 0.2] = 0
    matrix[0, 0] += 1  # at least one pixel
    return matrix


def test_scores_equal_the_twin_to_1e12_on_a_thousand_random_matrices():
    rng = np.random.default_rng(17)
    absent = 0
    for _ in range(1000):
        matrix = random_matrix(rng)
        ours, expected = Scores.from_confusion(matrix), twin.scores(matrix)
        for key in ("oa", "aa", "miou", "mf1"):
            assert abs(getattr(ours, key) - expected[key]) <= 1e-12, key
        for key in ("iou", "f1", "recall", "precision"):
            for got, want in zip(getattr(ours, key), expected[key], strict=True):
                assert (got is None) == (want is None)
                assert got is None or abs(got - want) <= 1e-12
        absent += len(ours.absent)
    assert absent > 500, "the draw must exercise absent classes"


@pytest.mark.parametrize("case", ["full", "ignore"])
def test_scores_agree_with_the_authors_where_no_class_is_absent(oracle, case):
    fixture = np.load(oracle / "metrics.npz")
    pred, target = torch.from_numpy(fixture[f"{case}_pred"]), torch.from_numpy(fixture[f"{case}_target"])
    scores = Scores.from_confusion(confusion(pred, target, 9))
    ours = {
        "iou": (*scores.iou, scores.miou),
        "f1": (*scores.f1, scores.mf1),
        "recall": (*scores.recall, scores.aa),
        "precise": (*scores.precision, np.mean(scores.precision)),
    }
    for key, values in ours.items():
        np.testing.assert_allclose(values, fixture[f"{case}_epoch_{key}"], atol=1e-6)
    assert scores.oa == pytest.approx(float(fixture[f"{case}_epoch_oa"]), abs=1e-6)
    assert scores.pixels == int((target != 255).sum())


def test_absent_classes_are_left_out_where_the_authors_counted_them_as_one(oracle):
    fixture = np.load(oracle / "metrics.npz")
    pred, target = torch.from_numpy(fixture["absent_pred"]), torch.from_numpy(fixture["absent_target"])
    scores = Scores.from_confusion(confusion(pred, target, 9))
    assert scores.absent == ("6", "8")  # 6 is predicted but never true, 8 is neither
    assert scores.predicted_absent == int(fixture["absent_fp"][0, 6])
    present = [0, 1, 2, 3, 4, 5, 7]
    np.testing.assert_allclose([scores.iou[c] for c in present], fixture["absent_epoch_iou"][present], atol=1e-6)
    assert scores.miou == pytest.approx(float(fixture["absent_epoch_iou"][present].mean()), abs=1e-6)
    assert scores.recall[6] is None
    assert scores.iou[8] is None
    assert scores.precision[7] is None  # present, never predicted: 0 / 0
    assert scores.iou[7] == 0.0


def test_mean_iou_is_a_quarter_where_counting_absent_classes_as_one_gave_0833():
    matrix = np.zeros((9, 9), dtype=int)
    matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[1, 0] = 2, 3, 2, 3
    scores = Scores.from_confusion(matrix)
    assert scores.miou == pytest.approx(0.25)
    assert (7 + sum(v for v in scores.iou if v is not None)) / 9 == pytest.approx(0.8333, abs=1e-4)


def test_confusion_equals_the_twin_and_never_counts_ignored_pixels():
    generator = torch.Generator().manual_seed(3)
    pred = torch.randint(0, 5, (3, 11, 7), generator=generator)
    target = torch.randint(0, 5, (3, 11, 7), generator=generator).to(torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    matrix = confusion(pred, target, 5)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), twin.confusion(pred.numpy(), target.numpy(), 5))


def test_one_matrix_over_all_batches_is_the_sum_of_theirs():
    generator = torch.Generator().manual_seed(5)
    pred, target = (torch.randint(0, 4, (7, 8, 8), generator=generator) for _ in range(2))
    parts = sum(confusion(pred[i : i + 3], target[i : i + 3], 4) for i in (0, 3, 6))
    assert torch.equal(parts, confusion(pred, target, 4))


@pytest.mark.parametrize(
    ("pred", "target"),
    [([0, 9], [0, 1]), ([0, -1], [0, 1]), ([0, 1], [0, 9]), ([255, 0], [0, 0])],
    ids=["prediction too large", "prediction negative", "truth too large", "prediction is ignore"],
)
def test_class_indices_out_of_range_are_refused(pred, target):
    with pytest.raises(ArgumentError, match="out of range"):
        confusion(torch.tensor(pred), torch.tensor(target), 9)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ArgumentError, match="different shapes"):
        confusion(torch.zeros(4, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long), 3)


@pytest.mark.parametrize("matrix", [np.ones((2, 3), int), np.full((2, 2), 0.5), -np.eye(2, dtype=int), np.ones(4, int)])
def test_what_is_no_confusion_matrix_is_refused(matrix):
    with pytest.raises(ArgumentError, match="not a confusion matrix"):
        Scores.from_confusion(matrix)


def test_everything_ignored_gives_no_score_rather_than_a_number():
    target = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    scores = Scores.from_confusion(confusion(torch.zeros(2, 4, 4, dtype=torch.long), target, 3), ["a", "b", "c"])
    assert (scores.oa, scores.aa, scores.miou, scores.mf1, scores.pixels) == (None, None, None, None, 0)
    assert scores.absent == ("a", "b", "c")


def test_scores_survive_json_with_their_none():
    content = json.loads(json.dumps(Scores.from_confusion([[3, 1], [0, 0]], ["land", "water"]).to_dict()))
    assert content["classes"]["water"] == {"iou": None, "f1": None, "recall": None, "precision": None, "support": 0}
    assert content["oa"] == 0.75
    assert content["absent"] == ["water"]
    assert content["matrix"] == [[3, 1], [0, 0]]


def test_auroc_equals_the_count_over_all_pairs_with_many_ties():
    rng = np.random.default_rng(2)
    for size in (2, 5, 40, 150):
        weights = rng.integers(0, 6, size=size) / 5
        correct = rng.random(size) < 0.6
        assert weight_auroc(weights, correct) == pytest.approx(twin.auroc(weights, correct), abs=1e-12)


def test_auroc_is_one_when_every_right_label_weighs_more_and_a_half_when_all_are_equal():
    assert weight_auroc([0.1, 0.2, 0.9], [False, False, True]) == 1.0
    assert weight_auroc([0.1, 0.2, 0.9], [True, True, False]) == 0.0
    assert weight_auroc([0.5] * 10, [True] * 3 + [False] * 7) == 0.5
    assert weight_auroc([0.1, 0.2], [True, True]) is None


def test_auroc_takes_half_precision_and_refuses_weights_that_are_not_finite():
    assert weight_auroc(torch.tensor([0.25, 0.5], dtype=torch.bfloat16), torch.tensor([False, True])) == 1.0
    with pytest.raises(ArgumentError, match="finite"):
        weight_auroc([0.1, float("nan")], [True, False])


def test_auroc_by_class_looks_at_one_label_class_at_a_time():
    rng = np.random.default_rng(4)
    labels, weights, correct = rng.integers(0, 3, 90), rng.integers(0, 9, 90), rng.random(90) < 0.5
    ours = weight_auroc_by_class(weights, correct, labels, 4)
    for c in range(3):
        assert ours[c] == pytest.approx(twin.auroc(weights[labels == c], correct[labels == c]), abs=1e-12)
    assert ours[3] is None


def test_selected_precision_counts_the_pixels_of_full_weight():
    assert selected_precision([1.0, 1.0, 0.99, 1.0], [True, False, True, True]) == (2 / 3, 0.75)
    assert selected_precision([0.5, 0.2], [True, False]) == (None, 0.0)


def test_label_quality_looks_only_at_pixels_with_a_label_and_a_truth():
    labels = np.array([0, 0, 1, 1, 255, 1], dtype=np.uint8)
    truth = np.array([0, 1, 1, 1, 0, 255], dtype=np.uint8)
    weights = np.array([1.0, 0.2, 1.0, 0.1, np.nan, 1.0])
    quality = label_quality(labels, truth, weights, ["a", "b"])
    assert (quality.pixels, quality.accuracy) == (4, 0.75)
    assert quality.auroc == pytest.approx(2 / 3)
    assert quality.auroc_by_class == {"a": 1.0, "b": None}
    assert (quality.selected_precision, quality.selected_share) == (1.0, 0.5)
    assert label_accuracy(labels, truth) == 0.75
    assert label_accuracy([255], [0]) is None
    json.dumps(quality.to_dict(), allow_nan=False)
