"""Annotators of whom some give class probabilities: in a store, in samples and priors, and from files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cromss.config import PretrainConfig
from cromss.data.dataset import PatchDataset, collate
from cromss.data.prepare import prepare
from cromss.data.record import PlaceRecord
from cromss.data.soft_labels import levels_of, levels_of_labels, likeliest
from cromss.data.store import Store, StoreWriter
from cromss.data.store.layout import soft_layers
from cromss.data.store.verify import verify_store
from cromss.errors import ArgumentError, ConfigError, LabelError, StoreError
from cromss.geo.bands import published_normalization
from cromss.geo.raster import read_raster
from cromss.method import label_prior, smooth_labels
from cromss.training.pretrain import pretrain
from cromss.training.pretrain_setup import Setup
from records import BANDS, LEGEND, make_record, write_store
from remote_server import serving
from small_scenes import grid, settings, write, write_scene

SCALES = {name: published_normalization(name, "all", "paper") for name in ("s1", "s2")}
NAMES = ("dw", "osm", "rules")
SOFT = ("labels", "labels.rules")


def probabilities(seed: int, *shape: int) -> np.ndarray:
    """Random distributions over the classes (C, ...)."""
    shares = np.random.default_rng(seed).dirichlet(np.full(LEGEND.num_classes, 0.3), shape)
    return np.moveaxis(shares, -1, 0).astype(np.float32)


def soft_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (2, 40, 48) and the levels beside them, with a hole."""
    shares = np.stack([probabilities(seed + season, 40, 48) for season in range(2)])
    shares[:, :, :3, :5] = 0
    return np.stack([likeliest(season) for season in shares]), np.stack([levels_of(season) for season in shares])


def records() -> list[PlaceRecord]:
    """dw and rules give probabilities, osm does not. Place 0 has all three, place 1 osm alone, place 2 dw and osm."""
    made = [make_record(number, height=40, width=48, holes=number == 0) for number in range(3)]
    osm = [make_record(10 + number, height=40, width=48).labels for number in range(3)]
    (first, levels), (rules, rules_levels), (other, other_levels) = (soft_maps(seed) for seed in (100, 200, 300))
    osm[0][1, -4:] = 255
    return [
        dataclasses.replace(
            made[0],
            labels=first,
            probabilities=levels,
            further_labels={"osm": osm[0], "rules": rules},
            further_probabilities={"rules": rules_levels},
        ),
        dataclasses.replace(made[1], labels=None, further_labels={"osm": osm[1]}),
        dataclasses.replace(made[2], labels=other, probabilities=other_levels, further_labels={"osm": osm[2]}),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("soft") / "store"
    return Store.open(write_store(path, records(), annotators=NAMES, soft=SOFT))


def levels_by_layer(record: PlaceRecord) -> dict[str, np.ndarray]:
    """Layer of labels -> the levels that stand for its annotator (T, C, H, W)."""
    hard = {layer: levels_of_labels(labels, 9) for layer, labels in record.label_maps.items()}
    return hard | record.soft_maps


def drawn(sample: dict) -> str:
    """The layer of the annotator that a sample is of; places of one annotator name it, too."""
    return dict(zip(NAMES, ("labels", "labels.osm", "labels.rules"), strict=True))[sample["id"].rpartition("/")[2]]


def test_a_store_keeps_the_probabilities_of_each_annotator_that_gives_any(store: Store):
    assert store.soft_layers == ("probabilities", "probabilities.rules")
    assert store.meta["probabilities"]["annotators"] == ["dw", "rules"]
    for place, record in enumerate(records()):
        assert store.labels_of(place) == tuple(record.label_maps)
        for layer, levels in record.soft_maps.items():
            assert np.array_equal(store.read_labels(place, layer.replace("labels", "probabilities")), levels)
    # 3 places of 2 seasons: images of 2 sensors; 3 + 1 + 2 label maps; 2 + 1 arrays of probabilities; 1 of validity
    assert verify_store(store.path)["arrays"] == 2 * (3 * 2 + 6 + 3) + 1
    assert store.read(0, 1, layers=("probabilities.rules",))["probabilities.rules"].shape == (9, 40, 48)


def test_the_probabilities_of_a_sample_are_those_of_the_drawn_annotator_or_its_labels_one_hot(store: Store):
    dataset = PatchDataset(store, SCALES, crop=16, flip=0.5, rotate=0.5, soft=True, seed=3, training=True)
    seen = set()
    for epoch in range(25):
        for place, record in enumerate(records()):
            key = (epoch, place, -1)
            season, geometry = dataset._draw(key)
            sample = dataset[key]
            layer = drawn(sample)
            seen.add((place, layer))
            expected = levels_by_layer(record)[layer][season] * record.valid[season]
            assert np.array_equal(sample["probabilities"].numpy(), geometry.apply(expected))
            assert torch.equal(sample["probabilities"].any(0), sample["labels"] != 255)
            labels = np.where(record.valid[season], record.label_maps[layer][season], 255)
            assert np.array_equal(sample["labels"].numpy(), geometry.apply(labels))
    assert len(seen) == 6


def test_the_prior_averages_the_probabilities_of_some_and_the_labels_of_others(store: Store):
    dataset = PatchDataset(store, SCALES, prior="ts", soft=True, seed=5, training=True)
    for epoch in range(8):
        for place, record in enumerate(records()):
            key = (epoch, place, -1)
            season, geometry = dataset._draw(key)
            sample = dataset[key]
            layers = levels_by_layer(record)
            layers = {layer: layers[layer] for layer in record.label_maps}
            entry = list(layers).index(drawn(sample)) * 2 + season
            stack = torch.from_numpy(np.concatenate(list(layers.values())))[None].float() / 255
            expected = label_prior(stack, torch.tensor([entry]), 9)[0].numpy()
            assert np.abs(sample["prior"].numpy() - geometry.apply(expected)).max() < 1e-6


def test_the_device_makes_the_very_prior_that_a_worker_makes(store: Store):
    options = {"crop": 16, "prior": "ts", "soft": True, "seed": 4, "training": True}
    keys = [(epoch, 0, -1) for epoch in range(4)]
    made, given = (
        collate([PatchDataset(store, SCALES, prior_on=where, **options)[key] for key in keys])
        for where in ("worker", "device")
    )
    assert given["prior_labels"].shape == (4, 6, 9, 40, 40)
    maker = PatchDataset(store, SCALES, **options).prior_maker
    assert torch.equal(maker.prior(given["prior_labels"], given["season"]), made["prior"])


def test_certain_probabilities_give_the_targets_that_labels_give(tmp_path: Path):
    hard = [dataclasses.replace(r, probabilities=None, further_probabilities={}) for r in records()]
    certain = [
        dataclasses.replace(
            record,
            probabilities=None if record.labels is None else levels_of_labels(record.labels, 9),
            further_probabilities={n: levels_of_labels(m, 9) for n, m in record.further_labels.items() if n == "rules"},
        )
        for record in hard
    ]
    stores = [
        Store.open(write_store(tmp_path / "hard", hard, annotators=NAMES)),
        Store.open(write_store(tmp_path / "certain", certain, annotators=NAMES, soft=SOFT)),
    ]
    keys = [(epoch, place, -1) for epoch in range(5) for place in range(3)]
    one, other = (
        collate([PatchDataset(s, SCALES, crop=16, prior="ts", soft=True, seed=2, training=True)[key] for key in keys])
        for s in stores
    )
    assert one["id"] == other["id"]
    assert torch.equal(one["labels"], other["labels"])
    targets = [
        smooth_labels(labels, 9, batch["prior"])
        for batch, labels in ((one, one["labels"]), (other, other["probabilities"].float() / 255))
    ]
    assert (one["prior"] - other["prior"]).abs().max() < 1e-6
    assert (targets[0] - targets[1]).abs().max() < 1e-6


def test_draws_do_not_depend_on_who_gives_probabilities_and_without_soft_samples_are_hard(store: Store):
    hard, soft = (
        PatchDataset(store, SCALES, crop=16, prior="ts", soft=s, seed=2, training=True) for s in (False, True)
    )
    for epoch in range(10):
        one, other = hard[(epoch, 0, -1)], soft[(epoch, 0, -1)]
        assert "probabilities" not in one
        assert one["id"] == other["id"]
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["s2"], other["s2"])


def test_where_the_first_annotator_has_nothing_evaluation_ignores_all(store: Store):
    sample = PatchDataset(store, SCALES, soft=True, training=False)[(0, 1, 1)]
    assert (sample["labels"] == 255).all()
    assert sample["probabilities"].shape == (9, 40, 48)
    assert not sample["probabilities"].any()


def test_from_afar_a_batch_is_fetched_whole_before_its_samples_are_read(store: Store, tmp_path: Path):
    pytest.importorskip("aiohttp", reason="reading over HTTP needs the extra `remote`")
    with serving(store.path.parent) as server, Store.open(f"{server.address}/store", cache=tmp_path) as remote:
        here, afar = (PatchDataset(s, SCALES, prior="ts", soft=True, training=True) for s in (store, remote))
        keys = [(epoch, place, -1) for epoch in range(4) for place in range(3)]
        afar.prefetch(keys)
        asked = server.shard_requests()
        for key in keys:
            one, other = here[key], afar[key]
            assert all(torch.equal(one[name], other[name]) for name in one if name != "id")
        assert server.shard_requests() == asked


def test_a_store_that_does_not_say_whose_its_probabilities_are_holds_those_of_the_first():
    one = {"dtype": "uint8", "one": 255}
    assert soft_layers({"probabilities": one}) == ("probabilities",)
    assert soft_layers({"annotators": ["dw", "osm"], "probabilities": one}) == ("probabilities",)
    assert soft_layers({"annotators": ["dw", "osm"], "probabilities": {**one, "annotators": ["osm"]}}) == (
        "probabilities.osm",
    )
    assert soft_layers({"annotators": ["dw", "osm"]}) == ()


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda r: {}, StoreError, "labels.rules alone"),
        (lambda r: {"osm": levels_of_labels(r.further_labels["osm"], 9)}, StoreError, "no room"),
        (lambda r: {"rules": r.probabilities // 2}, LabelError, "probabilities.rules of 9 classes"),
        (lambda r: {"rules": np.zeros_like(r.probabilities)}, ArgumentError, "at the same pixels"),
        (lambda r: {"other": r.probabilities}, ArgumentError, "at the same pixels"),
    ],
)
def test_probabilities_of_annotators_that_do_not_fit_are_refused(tmp_path: Path, change, error, what):
    writer = StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS, annotators=NAMES, soft=SOFT)
    with pytest.raises(error, match=what):
        writer.add(dataclasses.replace(records()[0], further_probabilities=change(records()[0])))


@pytest.mark.slow
@pytest.mark.parametrize("prior_on", ["worker", "device"])
def test_pretraining_learns_from_both_kinds(tmp_path: Path, prior_on: str):
    three = [
        dataclasses.replace(records()[0], id=f"place{n}", split=("train", "train", "validation")[n]) for n in range(3)
    ]
    path = write_store(tmp_path / "store", three, annotators=NAMES, soft=SOFT)
    options = {"encoder": "tu-cromss_narrow", "decoder_channels": (8, 8, 8, 8, 8), "crop": 32, "batch_size": 2}
    options |= {"data": str(path), "steps": 2, "pictures_every": 0, "prior_on": prior_on}
    results = [
        pretrain(PretrainConfig(out=str(tmp_path / str(soft)), soft_labels=soft, **options)) for soft in (True, False)
    ]
    assert results[0] != results[1]
    batch = next(iter(Setup(PretrainConfig(out=str(tmp_path / "x"), **options)).training_batches(0)))
    assert batch["probabilities"].shape == (2, 9, 32, 32)


ANNOTATORS = {"rules": None, "dw": "labels/{id}.tif"}
PATTERN = {"rules": "soft/{id}.tif"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        write_scene(tmp_path, name, seed=number)
        write(tmp_path / "soft" / f"{name}.tif", probabilities(number, 16, 16), grid())
    return tmp_path


def test_an_annotator_may_give_probabilities_alone_and_the_likeliest_class_is_its_label(root, tmp_path, capsys):
    report = prepare(settings(root, tmp_path / "store", annotators=ANNOTATORS, probabilities=PATTERN))
    store = Store.open(tmp_path / "store")
    assert (store.annotators, store.soft_layers) == (("rules", "dw"), ("probabilities",))
    for place, name in enumerate("ab"):
        assert store.labels_of(place) == ("labels", "labels.dw")
        assert np.array_equal(store.read_labels(place)[0], likeliest(probabilities(place, 16, 16)))
        assert np.array_equal(store.read_labels(place, "probabilities")[0], levels_of(probabilities(place, 16, 16)))
        labels = read_raster(root / "labels" / f"{name}.tif").values_BHW[0]
        assert np.array_equal(store.read_labels(place, "labels.dw")[0], labels)
    assert report["agreement"][0]["pixels"] == 2 * 16 * 16
    assert [report["annotators"][name]["probabilities"] for name in ("rules", "dw")] == [True, False]
    assert "rules: labels and probabilities in 2 places, none in 0" in capsys.readouterr().out


def test_the_order_of_annotators_is_that_of_the_settings_whoever_gives_probabilities(root: Path, tmp_path: Path):
    (root / "osm").symlink_to(root / "labels")
    annotators = {"dw": "labels/{id}.tif", "rules": None, "osm": "osm/{id}.tif"}
    report = prepare(settings(root, tmp_path / "store", annotators=annotators, probabilities=PATTERN))
    store = Store.open(tmp_path / "store")
    assert store.annotators == ("dw", "rules", "osm")
    assert store.soft_layers == ("probabilities.rules",)
    agreement = {tuple(entry["annotators"]): entry for entry in report["agreement"]}
    assert agreement["dw", "osm"]["share"] == 1
    assert agreement["dw", "rules"] == {**agreement["rules", "osm"], "annotators": ["dw", "rules"]}
    assert 0 < agreement["dw", "rules"]["share"] < 1


def test_a_map_and_probabilities_of_one_annotator_are_settled_and_what_is_lost_is_counted_by_name(root, tmp_path):
    values = probabilities(0, 16, 16)
    values[:, 5, 5:8] = 0
    write(root / "soft" / "a.tif", values, grid())
    (root / "rules").symlink_to(root / "labels")
    annotators = {"dw": "labels/{id}.tif", "rules": "rules/{id}.tif"}
    report = prepare(settings(root, tmp_path / "store", annotators=annotators, probabilities=PATTERN))
    store = Store.open(tmp_path / "store")
    assert (store.read_labels(0, "labels.rules")[0, 5, 5:8] == 255).all()
    assert (store.read_labels(0)[0, 5, 5:8] != 255).all()
    assert report["changed"] == {"pixels of labels.rules set to 255 for want of probabilities": 3}


def test_an_annotator_that_lacks_its_probabilities_is_left_out_of_the_place_and_its_files_listed(root, tmp_path):
    (root / "soft" / "b.tif").unlink()
    (root / "rules").symlink_to(root / "labels")
    annotators = {"rules": "rules/{id}.tif", "dw": "labels/{id}.tif"}
    report = prepare(settings(root, tmp_path / "store", annotators=annotators, probabilities=PATTERN))
    store = Store.open(tmp_path / "store")
    assert [store.labels_of(place) for place in range(2)] == [("labels", "labels.dw"), ("labels.dw",)]
    orphans = [(o["id"], o["missing"], o["found"]) for o in report["orphans"]]
    assert orphans == [("b", ("probabilities",), (str(root / "rules" / "b.tif"),))]


def test_patches_splits_and_clouds_keep_labels_and_probabilities_at_the_same_pixels(root: Path, tmp_path: Path):
    splits = np.ones((16, 16), np.uint8)
    splits[:, 5:] = 2
    clouds = np.zeros((16, 16), np.uint8)
    clouds[::3] = 1
    for name in "ab":
        write(root / "split" / f"{name}.tif", splits, grid())
        write(root / "clouds" / f"{name}.tif", clouds, grid())
    masks = {"cloud_mask": "clouds/{id}.tif", "cloud_values": "1", "mask_clouds": True, "split": "split/{id}.tif"}
    annotators = {"dw": "labels/{id}.tif", "rules": None}
    prepare(settings(root, tmp_path / "store", annotators=annotators, probabilities=PATTERN, tile=8, **masks))
    store = Store.open(tmp_path / "store")
    for place in range(8):
        labels, levels = store.read_labels(place, "labels.rules"), store.read_labels(place, "probabilities.rules")
        assert np.array_equal(labels != 255, levels.any(axis=1))
        assert np.array_equal(labels != 255, store.read_labels(place) != 255)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"probabilities": "soft/{id}.tif"}, "by the name of theirs"),
        ({"probabilities": {"osm": "soft/{id}.tif"}}, "by the name of theirs"),
        ({"probabilities": None}, "neither maps nor probabilities"),
        ({"annotators": {}}, "and there are none"),
    ],
)
def test_probabilities_that_are_nobodys_are_refused(root: Path, tmp_path: Path, changes, what):
    given = {"annotators": ANNOTATORS, "probabilities": PATTERN, **changes}
    with pytest.raises(ConfigError, match=what):
        prepare(settings(root, tmp_path / "store", **given))
