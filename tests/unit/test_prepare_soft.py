"""`cromss prepare --probabilities`: soft labels of files become levels in a store; what is none is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cromss.cli import main
from cromss.config import LabelsConfig
from cromss.data.labelling.run import label
from cromss.data.prepare import prepare
from cromss.data.soft_labels import levels_of, likeliest
from cromss.data.store import Store
from cromss.errors import BandError, DataError, RangeError
from cromss.geo.raster import read_raster
from small_scenes import grid, settings, write, write_labels, write_scene

SOFT = "soft/{id}.tif"


def shares(seed: int, side: int = 16) -> np.ndarray:
    found = np.random.default_rng(seed).dirichlet(np.full(9, 0.3), (side, side))
    return np.moveaxis(found, -1, 0).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        write_scene(tmp_path, name, seed=number)
        write(tmp_path / "soft" / f"{name}.tif", shares(number), grid())
    return tmp_path


def test_without_a_label_map_the_likeliest_class_is_the_label(root: Path, tmp_path: Path):
    (root / "labels").rename(root / "other")
    for number, given in enumerate(("labels/{id}.tif", None)):
        prepare(settings(root, tmp_path / f"store{number}", labels=given, probabilities=SOFT))
        store = Store.open(tmp_path / f"store{number}")
        for place in range(2):
            assert np.array_equal(store.read_labels(place)[0], likeliest(shares(place)))
            assert np.array_equal(store.read_labels(place, "probabilities")[0], levels_of(shares(place)))


def test_a_label_map_beside_probabilities_stays_the_hard_label_and_what_only_one_has_is_counted(root, tmp_path):
    labels = read_raster(root / "labels" / "a.tif").values_BHW[0].copy()
    labels[:2] = 255
    write_labels(root / "labels" / "a.tif", labels)
    values = shares(1)
    values[:, 5, 5:8] = 0
    write(root / "soft" / "b.tif", values, grid())
    report = prepare(settings(root, tmp_path / "store", probabilities=SOFT))
    store = Store.open(tmp_path / "store")
    assert np.array_equal(store.read_labels(0)[0], labels)
    assert np.array_equal(store.read_labels(0, "probabilities")[0].any(axis=0), labels != 255)
    assert (store.read_labels(1)[0, 5, 5:8] == 255).all()
    assert report["changed"] == {
        "pixels of labels set to 255 for want of probabilities": 3,
        "pixels of probabilities left out for want of a label": 32,
    }


def test_percent_and_declared_no_data_are_understood(root: Path, tmp_path: Path):
    percent = np.rint(shares(0) * 100).astype(np.uint8)
    percent[:, :3] = 255
    write(root / "soft" / "a.tif", percent, grid(), nodata=255)
    prepare(settings(root, tmp_path / "store", labels=None, probabilities=SOFT))
    store = Store.open(tmp_path / "store")
    assert (store.read_labels(0)[0, :3] == 255).all()
    assert np.array_equal(store.read_labels(0, "probabilities")[0][:, 3:], levels_of(percent[:, 3:] / np.float32(100)))


def test_patches_and_a_raster_of_splits_keep_labels_and_probabilities_at_the_same_pixels(root: Path, tmp_path: Path):
    splits = np.ones((16, 16), np.uint8)
    splits[:, 5:] = 2
    for name in "ab":
        write(root / "split" / f"{name}.tif", splits, grid())
    prepare(settings(root, tmp_path / "store", labels=None, probabilities=SOFT, split="split/{id}.tif", tile=8))
    store = Store.open(tmp_path / "store")
    assert len(store) == 8
    assert (store.read_labels(0) == 255).sum() == 3 * 8
    for place in range(8):
        labels, levels = store.read_labels(place), store.read_labels(place, "probabilities")
        assert np.array_equal(labels != 255, levels.any(axis=1))


@pytest.mark.slow
def test_the_store_is_the_same_by_one_and_by_two_workers(root: Path, tmp_path: Path):
    stores = []
    for workers in (1, 2):
        prepare(settings(root, tmp_path / str(workers), probabilities=SOFT, workers=workers, shard_places=1))
        stores.append(Store.open(tmp_path / str(workers)).fingerprint)
    assert stores[0] == stores[1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p: p[:8], BandError),
        (lambda p: p * 2, RangeError),
        (lambda p: p * 1.03, RangeError),
        (lambda p: p - 0.2, RangeError),
        (lambda p: np.where(p > 0.9, np.float32(np.nan), p), RangeError),
        (lambda p: (p * 255).astype(np.uint8), RangeError),
    ],
)
def test_files_that_hold_no_probabilities_are_refused_by_name(root: Path, tmp_path: Path, change, error):
    write(root / "soft" / "b.tif", change(shares(1)), grid())
    with pytest.raises(DataError) as caught:
        prepare(settings(root, tmp_path / "store", labels=None, probabilities=SOFT))
    assert isinstance(caught.value, error)
    assert str(root / "soft" / "b.tif") in str(caught.value)


def test_probabilities_that_add_up_to_less_than_1_are_filled_up_evenly_and_counted(root: Path, tmp_path: Path):
    values = shares(0)
    values[:, :3] *= 0.4
    values[:, 4, 4] = 0
    write(root / "soft" / "a.tif", values, grid())
    report = prepare(settings(root, tmp_path / "store", labels=None, probabilities=SOFT))
    store = Store.open(tmp_path / "store")
    levels = store.read_labels(0, "probabilities")[0]
    expected = values.copy()
    expected[:, :3] += np.float32(0.6 / 9)
    assert np.abs(levels.astype(int) - levels_of(expected)).max() <= 1
    assert (levels.sum(axis=0, dtype=int) == np.where(store.read_labels(0)[0] == 255, 0, 255)).all()
    assert np.array_equal(store.read_labels(0)[0], likeliest(values))
    assert report["changed"] == {"pixels of probabilities filled up to 1, evenly over the classes": 48}


def test_the_probabilities_of_the_rules_can_be_prepared(root: Path, tmp_path: Path):
    options = {"s2_product": "L1C", "sun_zenith": 40.0, "write_probabilities": True, "root": str(root)}
    label(LabelsConfig(source="rules", out=str(root / "rules"), **options))
    report = prepare(settings(root, tmp_path / "store", labels=None, probabilities="rules/probabilities/{id}.tif"))
    assert report["places"] == 2


def test_a_scene_without_its_probabilities_is_an_orphan(root: Path, tmp_path: Path):
    (root / "soft" / "b.tif").unlink()
    report = prepare(settings(root, tmp_path / "store", probabilities=SOFT))
    assert [(o["id"], o["missing"]) for o in report["orphans"]] == [("b", ("probabilities",))]


@pytest.mark.slow
def test_the_command_line_takes_annotators_and_probabilities(root: Path, tmp_path: Path):
    common = ["prepare", "--root", str(root), "--shift_samples", "0"]
    (root / "labels").rename(root / "dw")
    (root / "osm").symlink_to(root / "dw")
    assert main([*common, "--out", str(tmp_path / "soft-store"), "--probabilities", SOFT]) == 0
    patterns = '{dw: "dw/{id}.tif", osm: "osm/{id}.tif"}'
    assert main([*common, "--out", str(tmp_path / "several"), "--annotators", patterns]) == 0
    assert Store.open(tmp_path / "soft-store").soft
    assert Store.open(tmp_path / "several").annotators == ("dw", "osm")
