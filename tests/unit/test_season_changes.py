"""How labels change between seasons, against a count by hand."""

from __future__ import annotations

import numpy as np

from cromss.data.survey.season_changes import SeasonChanges
from cromss.geo.legend import IGNORE
from cromss.geo.legends import get_legend

LEGEND = get_legend("dynamic_world")


def test_each_pair_of_seasons_counts_and_ignored_pixels_do_not():
    labels = np.array([[[0, 1, 1, IGNORE]], [[0, 1, 4, 4]], [[0, 4, 4, 4]]], np.uint8)
    changes = SeasonChanges(num_classes=9)
    changes.add(labels)
    found = changes.summary(LEGEND)
    assert found is not None
    # water: 3 pairs, both ways, none differs. trees: pixel 2 (1, 1, 4), pixel 3 (1, 4, 4): 2 same, 4 others of 6
    assert found["classes"]["water"] == {"changing_share": 0.0, "mostly_to": None}
    assert found["classes"]["trees"] == {"changing_share": 4 / 6, "mostly_to": "crops"}
    assert found["classes"]["grass"] == {"changing_share": None, "mostly_to": None}
    assert found["changing_share"] == 4 / 10
    assert found["places"] == 1


def test_the_matrix_is_that_of_a_slow_count():
    labels = np.random.default_rng(0).integers(0, 9, (4, 6, 7)).astype(np.uint8)
    labels[1, :2] = IGNORE
    slow = np.zeros((9, 9), int)
    for first in range(4):
        for second in range(4):
            for a, b in zip(labels[first].ravel(), labels[second].ravel(), strict=True):
                if first != second and IGNORE not in (a, b):
                    slow[a, b] += 1
    changes, half = SeasonChanges(num_classes=9), SeasonChanges(num_classes=9)
    changes.add(labels[:, :3])
    half.add(labels[:, 3:])
    changes.merge(half)
    assert (changes.pairs_CC == slow).all()


def test_one_season_says_nothing():
    changes = SeasonChanges(num_classes=9)
    changes.add(np.zeros((1, 5, 5), np.uint8))
    changes.add(np.full((3, 5, 5), IGNORE, np.uint8))
    assert changes.summary(LEGEND) is None
