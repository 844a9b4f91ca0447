"""What the demonstration says of its map follows from the scene."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.geo.legend import IGNORE
from cromss.geo.legends import get_legend
from cromss.maps.demo import compare, verdict_on_map

LEGEND = get_legend("dynamic_world")
TRUTH = np.array([[0, 0, 1, 1]], np.uint8)
HALF = np.array([[0, 1, 1, 0]], np.uint8)


@pytest.mark.parametrize(
    ("labels", "found", "said"),
    [(HALF, TRUTH, "is better than"), (TRUTH, HALF, "is no better than"), (HALF, HALF, "is no better than")],
)
def test_the_map_is_called_better_only_where_both_scores_are(labels, found, said):
    assert said in verdict_on_map(compare(labels, found, TRUTH, LEGEND))


def test_a_map_that_is_better_by_one_score_alone_is_better_in_part():
    truth = np.array([[0, 0, 0, 0, 0, 0, 1, 2]], np.uint8)
    labels = np.array([[0, 0, 0, 1, 2, 2, 1, 2]], np.uint8)
    found = np.array([[0, 0, 0, 0, 0, 0, 0, 0]], np.uint8)
    assert "is in part better than" in verdict_on_map(compare(labels, found, truth, LEGEND))


def test_pixels_without_a_class_are_not_compared_and_the_last_row_is_where_both_agree():
    labels = np.array([[0, 1, IGNORE, 1]], np.uint8)
    rows = compare(labels, HALF, TRUTH, LEGEND)
    assert [row.scores.oa for row in rows] == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert [row.share for row in rows] == pytest.approx([1, 1, 2 / 3])
