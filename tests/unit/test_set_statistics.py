"""The statistics of a set are those of the scenes that are used, however the set was read."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.survey.findings import findings
from cromss.data.survey.set_statistics import EXAMPLES, SetStatistics, StatisticsByListing
from cromss.geo.bands import SENSORS
from cromss.geo.legends import get_legend
from shifted_scenes import record
from small_scenes import S2_BANDS, s2_values, settings, write_labels, write_s2, write_scene

BANDS = {name: sensor.bands for name, sensor in SENSORS.items()}
LEGEND = get_legend("dynamic_world")
KEYS = ("images", "season_changes", "shifts", "shifted_places")


def empty() -> SetStatistics:
    return SetStatistics(bands=BANDS, legend=LEGEND, shift_samples=5)


def test_parts_merge_into_the_whole():
    records = [record(f"p{seed}", seed, 2 * (seed % 3), seasons=2) for seed in range(6)]
    whole, merged = empty(), StatisticsByListing(empty=empty())
    for one in records:
        whole.add(one)
        part = merged.part()
        part.add(one)
        merged.add("bands", part)
    of_parts = merged.of(["bands", "bands"])
    assert of_parts.summary() == whole.summary()
    for name in ("examples", "farthest"):
        things = [getattr(statistics, name).things() for statistics in (whole, of_parts)]
        assert [(one.id, one.season) for one in things[0]] == [(one.id, one.season) for one in things[1]]


def test_the_number_of_places_held_does_not_grow_with_the_set():
    statistics = empty()
    for seed in range(15):
        statistics.add(record(f"p{seed}", seed, 3))
    assert len(statistics.examples.kept) == EXAMPLES
    assert len(statistics.farthest.kept) == EXAMPLES
    assert statistics.summary()["shifts"]["s2-s1"]["measured"] == 5
    assert all(example.images["s2"].shape[0] == 3 for example in statistics.examples.things())
    assert {one.shift.pair for one in statistics.farthest.things()} == {"s2-s1"}


def test_an_example_keeps_nothing_else_alive():
    statistics, one = empty(), record("a", 0)
    statistics.add(one)
    (example,) = statistics.examples.things()
    assert not any(np.shares_memory(example.images[sensor], one.images[sensor]) for sensor in ("s1", "s2"))
    assert not np.shares_memory(example.labels_HW, one.labels)


def test_refused_scenes_leave_no_trace(tmp_path):
    """Those with an error while they are read, and those whose bands turn out to be others than most."""
    for seed, name in enumerate("abcd"):
        for root in ("good", "mixed"):
            write_scene(tmp_path / root, name, seed, side=48)
    for seed, name in enumerate(["bad", "odd"]):
        write_scene(tmp_path / "mixed", name, 10 + seed, side=48)
    write_labels(tmp_path / "mixed" / "labels" / "bad.tif", np.full((48, 48), 17, np.uint8))
    values = s2_values(np.random.default_rng(0), 48)
    write_s2(tmp_path / "mixed" / "s2" / "odd.tif", values[::-1], band_names=S2_BANDS[::-1])
    reports = {
        root: prepare(settings(tmp_path / root, tmp_path / f"{root}-out", s2_bands="12", on_bad="skip"))
        for root in ("good", "mixed")
    }
    assert [row["id"] for row in reports["mixed"]["refusals"]] == ["bad", "odd"]
    assert {key: reports["mixed"][key] for key in KEYS} == {key: reports["good"][key] for key in KEYS}


def test_the_store_repeats_counts_but_not_the_figures(tmp_path):
    import json

    write_scene(tmp_path / "in", "a", 0)
    report = prepare(settings(tmp_path / "in", tmp_path / "out"))
    kept = json.loads((tmp_path / "out" / "store.json").read_text())
    text = json.dumps(kept)
    assert report["images"]
    assert '"percentile_98"' not in text


def figures(**changes):
    image = {
        "sensor": "s2",
        "title": "Sentinel-2",
        "product": "L1C",
        "images": 100,
        "looks_like": {"L1C": 100},
        "looks_offset_by_1000": 0,
        "examples": {},
        "bands": [{"band": "B4", "mean": 1100.0, "percentile_98": 3000.0}],
    }
    radar = {"bands": [{"band": "VV", "mean": -12.0}, {"band": "VH", "mean": -19.0}]} | changes.pop("radar", {})
    shift = {"measured": 90, "measurable": 60, "shifted": 0}
    base = {
        "images": [
            {"sensor": "s1", "title": "Sentinel-1", "product": "GRD", "images": 100, **radar},
            image | changes.pop("image", {}),
        ],
        "shifts": {"s2-s1": shift | changes.pop("shift", {})},
        "shifted_places": [{"pair": "s2-s1", "id": "far", "length": 4.25}],
        "scaling": {},
        "splits": {"train": {"class_shares": {"water": 0.5, "trees": 0.5}}},
    }
    return base | changes


def test_a_set_without_faults_has_no_findings():
    assert findings(figures()) == []


FAULTS = [
    (
        {"image": {"looks_offset_by_1000": 40, "examples": {"offset": ["p1/0"]}}},
        ["40 of 100", "1000 DN", "p1/0", "s2_offset=1000"],
    ),
    (
        {"image": {"looks_like": {"L1C": 90, "L2A": 10}, "examples": {"L2A": ["p2/0"]}}},
        ["10 of 100", "L2A", "p2/0", "s2_product"],
    ),
    ({"image": {"bands": [{"band": "B4", "mean": 90.0, "percentile_98": 250.0}]}}, ["L1C", "255 DN", "8 bits"]),
    (
        {"radar": {"bands": [{"band": "VV", "mean": -19.0}, {"band": "VH", "mean": -12.0}]}},
        ["VH is brighter", "-12.0", "-19.0", "s1_bands"],
    ),
    ({"shift": {"shifted": 6}}, ["Sentinel-1 lies off Sentinel-2", "6 of the 60", "far: 4.2 px"]),
    (
        {"splits": {"train": {"class_shares": {"water": 1.0}}, "test": {"class_shares": {"built": 0.1}}}},
        ["test split", "built"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), FAULTS)
def test_each_fault_is_said_with_what_to_do(changes, words):
    (finding,) = findings(figures(**changes))
    text = f"{finding['what']} {finding['do']}"
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"looks_offset_by_1000": 2, "examples": {"offset": ["p1/0"]}}},
        {"image": {"looks_like": {"L1C": 50, "unknown": 48, "L2A": 2}, "examples": {"L2A": ["p2/0"]}}},
        {"image": {"bands": [{"band": b, "percentile_98": p} for b, p in (("B12", 40.0), ("B2", 700.0))]}},
        {"radar": {"bands": [{"band": "VH", "mean": -19.0}]}},
        {"shift": {"shifted": 3}},
        {"splits": {"": {"class_shares": {"water": 1.0}}, "test": {"class_shares": {"built": 0.1}}}},
    ],
)
def test_a_few_odd_images_are_no_finding(changes):
    assert findings(figures(**changes)) == []
