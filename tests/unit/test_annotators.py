"""Several annotators kept apart: from files to a store, to samples and priors; one annotator is as ever."""

from __future__ import annotations

import collections
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cromss.config import EvaluateConfig, PretrainConfig
from cromss.data.dataset import PatchDataset, collate
from cromss.data.prepare import prepare
from cromss.data.record import PlaceRecord
from cromss.data.store import Store, StoreWriter
from cromss.data.store.verify import verify_store
from cromss.errors import ConfigError, GridError, LabelError, MissingDataError, StoreError
from cromss.geo.bands import published_normalization
from cromss.geo.raster import read_raster
from cromss.method import label_prior
from cromss.training.checkpoint import load_card
from cromss.training.evaluate import evaluate
from cromss.training.pretrain import pretrain
from cromss.training.pretrain_setup import Setup
from records import BANDS, LEGEND, make_record, write_store
from small_scenes import grid, settings, write_labels, write_scene

SCALES = {name: published_normalization(name, "all", "paper") for name in ("s1", "s2")}
NAMES = ("dw", "osm", "rules")
PATTERNS = {"dw": "labels/{id}.tif", "osm": "osm/{id}.tif"}


def records() -> list[PlaceRecord]:
    """Place 0 has labels of all three, place 1 of dw and rules, place 2 of osm alone, place 3 of dw alone."""
    made = [make_record(number, height=40, width=48) for number in range(4)]
    other = {
        name: [make_record(10 * k + n, height=40, width=48).labels for n in range(4)] for k, name in enumerate(NAMES, 1)
    }
    return [
        dataclasses.replace(made[0], further_labels={name: other[name][0] for name in ("osm", "rules")}),
        dataclasses.replace(made[1], further_labels={"rules": other["rules"][1]}),
        dataclasses.replace(made[2], labels=None, further_labels={"osm": other["osm"][2]}),
        made[3],
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("several") / "store", records(), annotators=NAMES))


def test_a_store_keeps_the_maps_of_each_annotator_and_knows_who_has_none(store: Store):
    assert store.annotators == NAMES
    assert [store.labels_of(place) for place in range(4)] == [
        ("labels", "labels.osm", "labels.rules"),
        ("labels", "labels.rules"),
        ("labels.osm",),
        ("labels",),
    ]
    for place, record in enumerate(records()):
        for layer, labels in record.label_maps.items():
            assert np.array_equal(store.read_labels(place, layer), labels)
    assert verify_store(store.path)["places"] == 4


def test_each_draw_takes_one_annotator_that_has_labels_there_keyed_by_seed_epoch_and_place(store: Store):
    dataset = PatchDataset(store, SCALES, crop=16, seed=5, training=True)
    drawn: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for epoch in range(150):
        for place in range(4):
            drawn[place][dataset.describe((epoch, place, -1)).rpartition("/")[2]] += 1
    assert {place: set(names) for place, names in drawn.items()} == {
        0: {"dw", "osm", "rules"}, 1: {"dw", "rules"}, 2: {"osm"}, 3: {"dw"},
    }  # fmt: skip
    assert min(drawn[0].values()) > 30
    again = PatchDataset(store, SCALES, crop=16, seed=5, training=True)
    other = PatchDataset(store, SCALES, crop=16, seed=6, training=True)
    keys = [(epoch, 0, -1) for epoch in range(20)]
    assert list(map(dataset.describe, keys)) == list(map(again.describe, reversed(keys)))[::-1]
    assert list(map(dataset.describe, keys)) != list(map(other.describe, keys))


def test_the_labels_of_a_sample_are_those_of_the_drawn_annotator(store: Store):
    dataset = PatchDataset(store, SCALES, crop=16, seed=5, training=True)
    for epoch in range(12):
        key = (epoch, 0, -1)
        season, geometry = dataset._draw(key)
        sample = dataset[key]
        layer = dict(zip(NAMES, store.label_layers, strict=True))[sample["id"].rpartition("/")[2]]
        assert np.array_equal(sample["labels"].numpy(), geometry.apply(records()[0].label_maps[layer][season]))


def test_the_prior_averages_over_all_seasons_and_annotators(store: Store):
    dataset = PatchDataset(store, SCALES, prior="ts", seed=5, training=True)
    for epoch in range(8):
        key = (epoch, 0, -1)
        season, geometry = dataset._draw(key)
        sample = dataset[key]
        maps = records()[0].label_maps
        entry = NAMES.index(sample["id"].rpartition("/")[2]) * 2 + season
        stack = torch.from_numpy(np.concatenate(list(maps.values())))[None]
        expected = label_prior(stack, torch.tensor([entry]), 9)[0].numpy()
        assert np.abs(sample["prior"].numpy() - geometry.apply(expected)).max() < 1e-6


def test_one_annotator_draws_what_a_store_without_annotators_draws(tmp_path: Path):
    plain = [make_record(number, height=40, width=48) for number in range(3)]
    one = Store.open(write_store(tmp_path / "one", plain, annotators=("dw",)))
    none = Store.open(write_store(tmp_path / "none", plain))
    keys = [(epoch, place, -1) for epoch in range(5) for place in range(3)]
    batches = [
        collate([PatchDataset(s, SCALES, crop=16, prior="ts", seed=2, training=True)[key] for key in keys])
        for s in (one, none)
    ]
    assert batches[0]["id"] == batches[1]["id"]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0] if name != "id")


def test_season_and_crop_are_drawn_as_if_there_were_one_annotator(store: Store, tmp_path: Path):
    alone = [dataclasses.replace(record, further_labels={}) for record in records()]
    one = Store.open(write_store(tmp_path / "one", alone))
    several, single = (PatchDataset(s, SCALES, crop=16, seed=2, training=True) for s in (store, one))
    assert all(several._draw((epoch, 0, -1)) == single._draw((epoch, 0, -1)) for epoch in range(20))


def test_evaluation_takes_the_first_annotator_and_ignores_all_where_that_has_none(store: Store):
    dataset = PatchDataset(store, SCALES, training=False)
    assert np.array_equal(dataset[(0, 0, 1)]["labels"].numpy(), records()[0].labels[1])
    assert dataset[(0, 0, 1)]["id"] == "place0/2020-02/dw"
    assert (dataset[(0, 2, 1)]["labels"] == 255).all()


def test_an_unknown_annotator_has_no_room_in_a_store(tmp_path: Path):
    writer = StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS, annotators=("dw", "rules"))
    with pytest.raises(StoreError, match="no room for"):
        writer.add(records()[0])


def test_a_store_is_not_continued_with_other_annotators(tmp_path: Path):
    StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS, annotators=NAMES, shard_places=1).add(records()[0])
    for other in ((), ("dw", "osm")):
        with pytest.raises(StoreError, match="other settings"):
            StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS, annotators=other, shard_places=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        write_scene(tmp_path, name, seed=number)
    for name in "ab":
        labels = read_raster(tmp_path / "labels" / f"{name}.tif").values_BHW[0].copy()
        labels[:4] = (labels[:4] + 1) % 9
        labels[8:] = 255
        write_labels(tmp_path / "osm" / f"{name}.tif", labels)
    return tmp_path


def test_prepare_records_annotators_and_reports_their_shares_and_agreement(root: Path, tmp_path: Path, capsys):
    (root / "labels" / "b.tif").unlink()
    report = prepare(settings(root, tmp_path / "store", annotators=PATTERNS))
    store = Store.open(tmp_path / "store")
    assert store.annotators == ("dw", "osm")
    assert store.meta["annotators"] == ["dw", "osm"]
    assert [store.labels_of(place) for place in range(3)] == [("labels", "labels.osm"), ("labels.osm",), ("labels",)]
    assert [report["annotators"][name]["places"] for name in ("dw", "osm")] == [2, 2]
    assert [report["annotators"][name]["places_without"] for name in ("dw", "osm")] == [1, 1]
    assert report["annotators"]["osm"]["labelled_pixels"] == 2 * 8 * 16
    assert sum(report["annotators"]["dw"]["class_shares"].values()) == pytest.approx(1)
    assert report["agreement"] == [{"annotators": ["dw", "osm"], "pixels": 8 * 16, "share": 0.5}]
    assert "dw and osm agree on 50.0% of 128 px" in capsys.readouterr().out


def test_an_annotator_with_no_label_in_a_patch_is_left_out_of_it_and_counted(root: Path, tmp_path: Path):
    report = prepare(settings(root, tmp_path / "store", annotators=PATTERNS, tile=8))
    store = Store.open(tmp_path / "store")
    assert [store.labels_of(place) for place in range(4)] == [("labels", "labels.osm")] * 2 + [("labels",)] * 2
    assert report["changed"] == {"places without a label in labels.osm, which was left out there": 4}


def test_a_place_without_any_annotator_is_an_orphan(root: Path, tmp_path: Path):
    (root / "labels" / "c.tif").unlink()
    report = prepare(settings(root, tmp_path / "store", annotators=PATTERNS))
    assert report["places"] == 2
    assert [(o["id"], o["missing"]) for o in report["orphans"]] == [("c", ("labels", "labels.osm"))]


def test_labels_of_an_annotator_without_images_are_orphans(root: Path, tmp_path: Path):
    shutil.copy(root / "osm" / "a.tif", root / "osm" / "z.tif")
    report = prepare(settings(root, tmp_path / "store", annotators=PATTERNS))
    assert [(o["id"], o["missing"]) for o in report["orphans"]] == [("z", ("s1", "s2"))]


def test_an_annotator_that_lacks_a_season_is_left_out_of_the_place_and_listed(tmp_path: Path):
    for season in "xy":
        write_scene(tmp_path, f"a/{season}", seed=ord(season))
    write_labels(tmp_path / "osm" / "a" / "x.tif", np.zeros((16, 16), np.uint8))
    write_scene(tmp_path, "b/x", seed=1)
    write_labels(tmp_path / "osm" / "b" / "x.tif", np.zeros((16, 16), np.uint8))
    patterns = {"dw": "labels/{id}/{season}.tif", "osm": "osm/{id}/{season}.tif"}
    changes = {name: f"{name}/{{id}}/{{season}}.tif" for name in ("s1", "s2")}
    report = prepare(settings(tmp_path, tmp_path / "store", annotators=patterns, **changes))
    store = Store.open(tmp_path / "store")
    assert [store.labels_of(place) for place in range(2)] == [("labels",), ("labels", "labels.osm")]
    assert [(o["id"], o["season"], o["missing"]) for o in report["orphans"]] == [
        ("a", "x", ("labels.osm of other seasons",))
    ]


def test_annotators_of_different_legends_are_refused(root: Path, tmp_path: Path):
    labels = np.zeros((16, 16), np.uint8)
    write_labels(root / "labels" / "a.tif", labels, tags={"LEGEND": "dynamic_world"})
    write_labels(root / "osm" / "a.tif", labels, tags={"LEGEND": "osm13"})
    with pytest.raises(LabelError, match="different legends") as caught:
        prepare(settings(root, tmp_path / "store", annotators=PATTERNS))
    assert "osm13 in" in str(caught.value.got)


def test_a_value_that_the_legend_does_not_have_is_refused_for_every_annotator(root: Path, tmp_path: Path):
    write_labels(root / "osm" / "a.tif", np.full((16, 16), 12, np.uint8))
    with pytest.raises(LabelError) as caught:
        prepare(settings(root, tmp_path / "store", annotators=PATTERNS))
    assert str(root / "osm" / "a.tif") in str(caught.value)


def test_an_annotator_on_another_grid_is_refused(root: Path, tmp_path: Path):
    write_labels(root / "osm" / "a.tif", np.zeros((15, 16), np.uint8), grid(16, height=15))
    with pytest.raises(GridError):
        prepare(settings(root, tmp_path / "store", annotators=PATTERNS))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": "osm/{id}.tif"}, "in the place of labels"),
        ({"annotators": {"d/w": "labels/{id}.tif", "osm": "osm/{id}.tif"}}, "name that cannot be used"),
        ({"layout": "ssl4eo_s12"}, "no use for the setting annotators"),
    ],
)
def test_settings_that_do_not_go_with_annotators_are_refused(root: Path, tmp_path: Path, changes, what):
    with pytest.raises(ConfigError, match=what):
        prepare(settings(root, tmp_path / "store", **{"annotators": PATTERNS, **changes}))


@pytest.mark.slow
def test_pretraining_learns_from_all_annotators_is_scored_by_the_first_and_says_so(store: Store, tmp_path, capsys):
    splits = ("train", "train", "validation", "validation")
    parted = [dataclasses.replace(record, split=split) for record, split in zip(records(), splits, strict=True)]
    several = write_store(tmp_path / "several", parted, annotators=NAMES)
    config = PretrainConfig(
        data=str(several), out=str(tmp_path / "run"), encoder="tu-cromss_narrow", decoder_channels=(8, 8, 8, 8, 8),
        crop=32, batch_size=2, steps=2, pictures_every=0,
    )  # fmt: skip
    result = pretrain(config)
    assert "validation on 2 by dw, 1 of them without its labels" in capsys.readouterr().err
    assert load_card(tmp_path / "run" / "final")["data"]["annotators"] == list(NAMES)
    assert 0 <= result["validation"]["summary"]["mean_oa"] <= 1
    scored = {"checkpoint": str(tmp_path / "run" / "final"), "data": str(several), "split": "validation"}
    evaluate(EvaluateConfig(out=str(tmp_path / "scores"), **scored))
    assert "scored by dw, who has no labels in 1 of 2 places" in capsys.readouterr().err
    only_osm = [dataclasses.replace(parted[2], id=f"place{number}") for number in range(2)]
    scored["data"] = str(write_store(tmp_path / "osm", only_osm, annotators=NAMES))
    with pytest.raises(MissingDataError, match="no validation place has labels of the first annotator"):
        evaluate(EvaluateConfig(out=str(tmp_path / "other"), **scored))


def test_priors_on_the_device_need_equally_many_annotators_everywhere(store: Store, tmp_path: Path):
    config = PretrainConfig(data=str(store.path), out=str(tmp_path), crop=32, prior_on="device")
    with pytest.raises(ConfigError, match="equally many seasons and annotators"):
        Setup(config)
