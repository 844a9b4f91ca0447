"""The shifts of a set: a sample of its places, summed up with an interval that holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from cromss.data.survey import shift_survey
from cromss.data.survey.shift_survey import ShiftSurvey
from cromss.geo.bands import SENSORS
from cromss.geo.shifts import REACH_PX
from shifted_scenes import record

BANDS = {name: sensor.bands for name, sensor in SENSORS.items()}


def survey(records, samples=100) -> ShiftSurvey:
    result = ShiftSurvey(bands=BANDS, samples=samples)
    for one in records:
        result.add(one)
    return result


def test_both_pairs_are_measured_and_the_shifted_places_are_named():
    records = [record(f"p{seed}", seed, 3 if seed == 2 else 0, -2 if seed == 2 else 0) for seed in range(5)]
    records.append(record("map", 9, labels_row=4))
    found = survey(records)
    summary = found.summary()
    assert set(summary) == {"s2-s1", "s2-labels"}
    for entry in summary.values():
        assert (entry["measured"], entry["measurable"], entry["shifted"]) == (6, 6, 1)
        assert abs(entry["rows"]["median"]) < 0.3
        assert entry["together"]["rows"] == pytest.approx(0, abs=0.3)
        lengths = np.hypot(*np.array(entry["places"]).T)
        assert entry["length_median"] == pytest.approx(np.median(lengths), abs=0.01)
        assert entry["length_percentile_95"] == pytest.approx(np.percentile(lengths, 95), abs=0.02)
        assert entry["length_median"] < 0.5 < 1.4 < entry["length_percentile_95"], "one place of six lies off"
    first, second = found.shifted_places()
    assert (first["pair"], first["id"], first["season"]) == ("s2-labels", "map", "season0")
    assert (second["pair"], second["id"]) == ("s2-s1", "p2")
    assert [second["rows"], second["columns"]] == pytest.approx([3, -2], abs=0.3)


def test_a_map_is_compared_with_radar_where_there_is_nothing_else():
    one = record("a", 0, labels_row=3)
    alone = dataclasses.replace(one, images={"s1": one.images["s1"]}, products={"s1": "GRD"})
    summary = survey([alone]).summary()
    assert set(summary) == {"s1-labels"}
    assert summary["s1-labels"]["rows"]["median"] == pytest.approx(3, abs=0.5)


def test_no_more_than_the_sample_is_kept_in_any_order_and_cut():
    records = [record(f"p{seed}", seed, seasons=2) for seed in range(4)]
    whole = survey(records, samples=3)
    backwards = survey(records[::-1], samples=3)
    merged = ShiftSurvey(bands=BANDS, samples=3)
    for one in records:
        part = merged.part()
        part.add(one)
        merged.merge(part)
    assert whole.summary() == backwards.summary() == merged.summary()
    assert whole.summary()["s2-s1"]["measured"] == 3


def test_all_places_are_measured_where_everything_is_asked_for_and_the_sample_is_the_same():
    records = [record(f"p{seed}", seed, seasons=2) for seed in range(4)]
    sample = survey(records, samples=3)
    whole = ShiftSurvey(bands=BANDS, samples=3, everything=True)
    measured = [one for each in records for one in whole.add(each)]
    assert {(one.pair, one.id, one.season) for one in measured} == {
        (pair, each.id, season) for pair in ("s2-s1", "s2-labels") for each in records for season in each.seasons
    }
    assert whole.summary() == sample.summary()


def test_nothing_is_measured_where_none_is_asked_for():
    found = survey([record("a", 0)], samples=0)
    assert found.summary() == {}
    assert found.shifted_places() == []


def test_places_too_noisy_alone_show_their_common_shift_together():
    random = np.random.default_rng(0)
    records = []
    for seed in range(30):
        one = record(f"p{seed}", seed, 2, -3)
        s1 = one.images["s1"] + random.normal(0, 27, one.images["s1"].shape).astype(np.float32)
        records.append(dataclasses.replace(one, images={"s1": s1, "s2": one.images["s2"]}, labels=None))
    entry = survey(records).summary()["s2-s1"]
    assert entry["measurable"] <= 6
    assert [entry["together"]["rows"], entry["together"]["columns"]] == pytest.approx([2, -3], abs=0.3)


def test_only_the_middle_of_a_large_place_is_measured(monkeypatch):
    monkeypatch.setattr(shift_survey, "_LARGEST_PX", 64)
    sizes = []
    real = shift_survey.shift_surface
    monkeypatch.setattr(
        shift_survey, "shift_surface", lambda a, b, **k: sizes.append(a.used_HW.shape) or real(a, b, **k)
    )
    survey([record("a", 0)])
    assert set(sizes) == {(64, 64)}


@pytest.mark.parametrize("count", [6, 7, 10, 25, 60, 400])
def test_the_interval_of_a_median_holds_it_in_95_of_100_samples(count):
    """The chance that order statistics enclose the median is that of a fair coin."""
    found = shift_survey._median(np.arange(1.0, count + 1))
    low, high = int(found["low"]), int(found["high"])
    chance = sum(math.comb(count, heads) for heads in range(low, high)) / 2**count
    assert chance >= 0.95


def test_too_few_places_have_a_median_but_no_interval():
    assert shift_survey._median(np.array([1.0, 2.0, 4.0])) == {"median": 2.0, "low": None, "high": None}
    assert shift_survey._median(np.array([])) == {"median": None, "low": None, "high": None}


def test_the_alarm_is_below_two_pixels_and_within_reach():
    assert 1 < shift_survey.ALARM_PX < 2 < REACH_PX
