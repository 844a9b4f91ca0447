"""Paired differences and their intervals say what the runs can carry, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cromss.errors import ArgumentError
from cromss.training.statistics import RunKey, paired_difference, student_interval, summarize


def test_summary_is_the_mean_and_sample_standard_deviation():
    values = [1.0, 2.0, 4.0, 7.5]
    summary = summarize(values)
    assert (summary.mean, summary.runs) == (3.625, 4)
    assert summary.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert summarize([3.0]).std is None
    with pytest.raises(ArgumentError):
        summarize([])


def test_interval_equals_scipys_t_interval_of_the_mean():
    values = [0.3, -0.2, 1.1, 0.8, 0.45]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected, abs=1e-12)


def test_interval_of_six_pairs_holds_the_true_difference_19_times_in_20():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        low, high = student_interval(list(rng.normal(0.7, 2.0, size=6)))
        held += low <= 0.7 <= high
    assert 0.935 <= held / 2000 <= 0.965


def test_runs_are_paired_by_all_their_seeds():
    ours = {RunKey(0, p, d, s): 10 * p + d + s + 2.0 for p in (0, 1, 2) for d in (0, 1) for s in (0, 1)}
    theirs = {key: 10 * key.pretrain_seed + key.draw + key.seed + 1.0 for key in reversed(ours)}
    difference = paired_difference(ours, theirs)
    assert (difference.mean, difference.low, difference.high) == (1.0, 1.0, 1.0)
    assert (difference.pairs, difference.unit, difference.verdict) == (3, "pretrainings", "higher")


def test_transfers_of_one_pretraining_do_not_count_as_independent_evidence():
    rng = np.random.default_rng(1)
    luck = {0: 3.0, 1: -1.0}
    theirs = {RunKey(0, p, d, 0): 0.0 for p in (0, 1) for d in range(20)}
    ours = {key: luck[key.pretrain_seed] + rng.normal(0, 0.1) for key in theirs}
    difference = paired_difference(ours, theirs)
    assert difference.pairs == 2
    assert difference.verdict == "within noise"


def test_an_arm_without_pretraining_pairs_with_every_pretraining_of_the_other():
    random = {RunKey(0, None, d, 0): 30.0 + d for d in (0, 1)}
    pretrained = {RunKey(0, p, d, 0): 50.0 + d + p for p in (0, 1, 2) for d in (0, 1)}
    difference = paired_difference(pretrained, random)
    assert (difference.mean, difference.pairs) == (21.0, 3)
    assert paired_difference(random, pretrained).mean == -21.0
    assert paired_difference(random, pretrained).pairs == 3


def test_with_one_pretraining_the_pairs_are_transfer_runs_and_that_is_said():
    ours = {RunKey(0, 0, d, 0): 1.0 + 0.1 * d for d in range(5)}
    difference = paired_difference(ours, dict.fromkeys(ours, 0.0))
    assert (difference.pairs, difference.unit) == (5, "transfer runs of one pretraining")


def test_a_single_pair_has_no_interval_and_unpaired_arms_have_no_difference():
    one = paired_difference({RunKey(0, 0): 1.0}, {RunKey(0, 0): 0.5})
    assert (one.low, one.high, one.verdict) == (None, None, "one pair, no interval")
    assert paired_difference({RunKey(0, 0): 1.0}, {RunKey(1, 0): 0.5}) is None


def test_an_interval_that_holds_zero_is_within_noise_and_below_zero_is_lower():
    base = {RunKey(0, p): 0.0 for p in range(4)}
    assert paired_difference(dict(zip(base, [1, -1, 2, -2], strict=True)), base).verdict == "within noise"
    assert paired_difference(dict(zip(base, [-1, -1.1, -0.9, -1], strict=True)), base).verdict == "lower"
