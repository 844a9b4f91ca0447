"""Several label maps into one, and probabilities into labels: against slow twins, and where the truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cromss.data.labelling.agreement import agree, count_votes, fit_annotators, majority, posterior, shares_right
from cromss.data.labelling.soft import LabelMap, drop_unsure, from_probabilities
from cromss.data.soft_labels import as_probabilities
from cromss.errors import ArgumentError, BandError, RangeError

CLASSES = 4


@pytest.fixture
def votes():
    rng = np.random.default_rng(0)
    values = rng.integers(0, CLASSES, (3, 12, 15)).astype(np.uint8)
    values[rng.random(values.shape) < 0.3] = 255
    return values


def _pixels(votes):
    for row, column in np.ndindex(votes.shape[1:]):
        yield (row, column), [int(vote) for vote in votes[:, row, column]]


@pytest.mark.parametrize("least", [1, 2, 3])
def test_agree_equals_a_slow_twin(votes, least):
    found = agree(votes, least)
    disagree = few = 0
    for place, given in _pixels(votes):
        known = [vote for vote in given if vote != 255]
        same = len(known) >= least and len(set(known)) == 1
        assert found.labels_HW[place] == (known[0] if same else 255)
        few += len(known) < least
        disagree += len(known) >= least and len(set(known)) > 1
    assert found.notes == {"maps disagree": disagree, "too few labels": few}


@pytest.mark.parametrize("weighted", [False, True])
def test_majority_equals_a_slow_twin(votes, weighted):
    weights = np.random.default_rng(1).integers(0, 5, votes.shape).astype(np.float32) / 4 if weighted else None
    found = majority(votes, CLASSES, weights)
    tied = none = 0
    for (row, column), given in _pixels(votes):
        sums = dict.fromkeys(range(CLASSES), 0.0)
        for k, vote in enumerate(given):
            if vote != 255:
                sums[vote] += 1.0 if weights is None else float(weights[k, row, column])
        best = max(sums.values())
        winners = [c for c, total in sums.items() if total == best]
        if best == 0 or len(winners) > 1:
            none, tied = none + (best == 0), tied + (best > 0)
            assert found.labels_HW[row, column] == found.confidence_HW[row, column] == 255
        else:
            assert found.labels_HW[row, column] == winners[0]
            assert abs(found.confidence_HW[row, column] - 100 * best / sum(sums.values())) <= 0.5
    assert found.notes == {"tied": tied, "too few labels": none}


def _simulated(rates, pixels=20_000, missing=0.2, seed=2):
    """Maps that err independently: map k is right with probability rates[k], else any other class."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, pixels, p=[0.4, 0.3, 0.2, 0.1])
    maps = []
    for rate in rates:
        wrong = (truth + rng.integers(1, CLASSES, pixels)) % CLASSES
        vote = np.where(rng.random(pixels) < rate, truth, wrong)
        maps.append(np.where(rng.random(pixels) < missing, 255, vote))
    return truth, np.stack(maps).astype(np.uint8).reshape(len(rates), -1, 100)


def test_fitted_error_rates_are_those_that_were_simulated():
    rates = (0.9, 0.8, 0.6, 0.5)
    truth, votes = _simulated(rates)
    fitted = fit_annotators(*count_votes([votes]), CLASSES)
    np.testing.assert_allclose(fitted.prior_C, [0.4, 0.3, 0.2, 0.1], atol=0.02)
    for rate, table in zip(rates, fitted.error_KCL, strict=True):
        np.testing.assert_allclose(np.diag(table), rate, atol=0.05)
    np.testing.assert_allclose(shares_right(fitted), rates, atol=0.02)
    found = posterior(votes, fitted)
    known = found.labels_HW.ravel() != 255
    right = (found.labels_HW.ravel() == truth)[known]
    plain = majority(votes, CLASSES).labels_HW.ravel()
    assert right.mean() > (plain == truth)[known].mean() + 0.02
    assert abs(found.confidence_HW.ravel()[known].mean() / 100 - right.mean()) < 0.01  # errors are independent here


def test_the_fit_equals_a_slow_twin_that_looks_at_every_pixel():
    _, votes = _simulated((0.8, 0.7, 0.6), pixels=300, seed=5)
    steps = 4
    fitted = fit_annotators(*count_votes([votes]), CLASSES, steps=steps, tolerance=0)
    flat = [given for _, given in _pixels(votes) if set(given) != {255}]
    belief = []
    for given in flat:
        known = [vote for vote in given if vote != 255]
        belief.append([known.count(c) / len(known) for c in range(CLASSES)])
    for step in range(steps + 1):
        prior = [sum(b[c] for b in belief) / len(flat) for c in range(CLASSES)]
        table = [[[0.1] * CLASSES for _ in range(CLASSES)] for _ in range(3)]
        for given, b in zip(flat, belief, strict=True):
            for k, c in itertools.product(range(3), range(CLASSES)):
                if given[k] != 255:
                    table[k][c][given[k]] += b[c]
        table = [[[cell / sum(row) for cell in row] for row in rows] for rows in table]
        if step == steps:
            break
        belief = []
        for given in flat:
            joint = [
                prior[c] * np.prod([table[k][c][v] for k, v in enumerate(given) if v != 255]) for c in range(CLASSES)
            ]
            belief.append([value / sum(joint) for value in joint])
    np.testing.assert_allclose(fitted.prior_C, prior, rtol=1e-9)
    np.testing.assert_allclose(fitted.error_KCL, table, rtol=1e-9)
    assert fitted.steps == steps


def test_votes_counted_over_many_images_are_those_of_one_large_one(votes):
    whole = count_votes([votes])
    parts = count_votes([votes[:, :5], votes[:, 5:]])
    assert (whole[0] == parts[0]).all()
    assert (whole[1] == parts[1]).all()
    silent = (votes == 255).all(axis=0).sum()
    assert whole[1].sum() == votes[0].size - silent


def test_two_maps_cannot_be_fitted_and_seven_are_too_many():
    with pytest.raises(ArgumentError, match="three maps"):
        fit_annotators(*count_votes([np.zeros((2, 3, 3), np.uint8)]), CLASSES)
    with pytest.raises(ArgumentError, match="three maps"):
        fit_annotators(*count_votes([np.full((3, 3, 3), 255, np.uint8)]), CLASSES)
    with pytest.raises(ArgumentError, match="too many"):
        count_votes([np.zeros((7, 3, 3), np.uint8)])


def test_a_class_that_no_map_ever_gives_is_never_the_answer():
    _, votes = _simulated((0.8, 0.7, 0.6))
    fitted = fit_annotators(*count_votes([votes]), CLASSES + 2)
    assert set(np.unique(posterior(votes, fitted).labels_HW)) <= {*range(CLASSES), 255}


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_probabilities_become_the_likeliest_class_and_its_percent(kind):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(9), (5, 6)).transpose(2, 0, 1)
    values = np.rint(shares * 100).astype(np.uint8) if kind == "uint8" else shares.astype(kind)
    missing = np.zeros((5, 6), bool)
    missing[0] = True
    found = from_probabilities(as_probabilities(values, missing, 9, "a.tif"), ~missing, keep=True)
    assert (found.labels_HW[0] == 255).all()
    assert (found.confidence_HW[0] == 255).all()
    assert (found.percent_CHW[:, 0] == 255).all()
    assert (found.labels_HW[1:] == values.argmax(axis=0)[1:]).all()
    assert np.abs(found.confidence_HW[1:] - 100 * shares.max(axis=0)[1:]).max() <= 0.51


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda v: v[:8], BandError, "another number of bands"),
        (lambda v: v * 100, RangeError, "out of range"),
        (lambda v: v * 0.9, RangeError, "do not add up to 1"),
        (lambda v: np.where(np.arange(9)[:, None, None] == 0, np.nan, v), RangeError, "not finite"),
        (lambda v: np.log(v + 1e-6), RangeError, "out of range"),
        (lambda v: np.rint(v * 255).astype(np.uint8), RangeError, "(do not add up to 1|out of range)"),
        (lambda v: (v == v.max(axis=0)).astype(np.uint8), RangeError, "1 percent in one class"),
    ],
)
def test_what_is_no_probability_is_refused(change, kind, words):
    values = np.random.default_rng(0).dirichlet(np.ones(9), (5, 6)).transpose(2, 0, 1).astype(np.float32)
    with pytest.raises(kind, match=words) as caught:
        as_probabilities(change(values), np.zeros((5, 6), bool), 9, "a.tif", partial=words.startswith("1 percent"))
    assert caught.value.where == "a.tif"


def test_unsure_labels_are_dropped_and_counted():
    labelled = LabelMap(labels_HW=np.array([[1, 2, 255]], np.uint8), confidence_HW=np.array([[49, 50, 255]], np.uint8))
    kept = drop_unsure(labelled, 50)
    assert kept.labels_HW.tolist() == [[255, 2, 255]]
    assert kept.confidence_HW.tolist() == [[255, 50, 255]]
    assert kept.notes["below the least confidence"] == 1
    assert drop_unsure(LabelMap(labels_HW=labelled.labels_HW), 50).labels_HW.tolist() == [[1, 2, 255]]
