"""A sample depends on names alone: not on order, nor on how the stream was cut into parts."""

from __future__ import annotations

import math

import numpy as np

from cromss.data.survey.keyed_sample import KeyedSample, key_bound, sample_key

NAMES = [f"place{number}" for number in range(500)]


def sample(names, size=20) -> KeyedSample[str]:
    kept: KeyedSample[str] = KeyedSample(size=size)
    for name in names:
        kept.add(sample_key(name), name)
    return kept


def test_the_order_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(NAMES).tolist()
    assert sample(NAMES).things() == sample(shuffled).things() == sorted(NAMES, key=sample_key)[:20]


def test_parts_merge_into_the_sample_of_the_whole():
    whole = sample(NAMES[:100])
    for start in range(100, 500, 50):
        part = whole.part()
        for name in NAMES[start : start + 50]:
            part.add(sample_key(name), name)
        assert len(part.kept) <= 20
        whole.merge(part)
    assert whole.things() == sample(NAMES).things()


def test_what_can_not_stay_is_not_wanted():
    full = sample(NAMES)
    wanted = [name for name in (f"later{number}" for number in range(5000)) if full.wants(sample_key(name))]
    assert 0.02 * 5000 < len(wanted) < 0.07 * 5000  # about 20 of 500 have smaller keys
    assert all(full.part().wants(sample_key(name)) for name in wanted)


def test_a_sample_of_none_wants_nothing():
    assert not KeyedSample(size=0).wants(0)
    assert sample(NAMES, size=0).things() == []


def test_the_bound_of_keys_leaves_the_sample_as_it_is_and_saves_most_of_the_work() -> None:
    names = [f"place{number}" for number in range(5000)]
    free, bound = KeyedSample[str](size=40), KeyedSample[str](size=40, below=key_bound(40, len(names)))
    wanted = sum(bound.wants(sample_key(name)) for name in names)
    for sample in (free, bound):
        for name in names:
            sample.add(sample_key(name), name)
    assert bound.things() == free.things()
    assert wanted < 200
    assert key_bound(40, 80) == math.inf
