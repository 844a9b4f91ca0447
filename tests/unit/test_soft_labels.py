"""Soft labels: from probabilities to levels in a store, to samples, to the targets of a training step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cromss.config import PretrainConfig, TransferConfig
from cromss.data.dataset import PatchDataset, collate
from cromss.data.label_window import shares_of
from cromss.data.record import PlaceRecord
from cromss.data.soft_labels import levels_of, likeliest, settle, usable_levels
from cromss.data.store import Store, StoreWriter
from cromss.data.store.verify import verify_store
from cromss.errors import ArgumentError, DamagedFileError, LabelError, StoreError
from cromss.geo.bands import published_normalization
from cromss.method import label_prior
from cromss.training.pretrain import pretrain
from cromss.training.transfer import transfer
from records import BANDS, LEGEND, make_record, write_store

SCALES = {name: published_normalization(name, "all", "paper") for name in ("s1", "s2")}


def probabilities(seed: int, *shape: int) -> np.ndarray:
    """Random distributions over the classes (C, ...), some of them certain."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(LEGEND.num_classes, 0.3), shape)
    return np.moveaxis(shares, -1, 0).astype(np.float32)


def soft_record(number: int, **options: object) -> PlaceRecord:
    """A record whose labels are the likeliest of random probabilities, with a hole in them."""
    record = make_record(number, **options)
    shares = np.stack([probabilities(number * 10 + t, *record.valid.shape[1:]) for t in range(len(record.seasons))])
    shares[:, :, :3, :5] = 0
    labels = np.stack([likeliest(season) for season in shares])
    return dataclasses.replace(record, labels=labels, probabilities=np.stack([levels_of(s) for s in shares]))


RECORDS = [soft_record(number, height=40, width=48, holes=number == 1) for number in range(3)]


@pytest.fixture(scope="module")
def soft_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("soft") / "store", RECORDS, soft=("labels",)))


def test_levels_add_up_to_255_and_are_less_than_one_level_from_the_probabilities():
    shares = probabilities(0, 50, 50)
    levels = levels_of(shares)
    assert (levels.sum(axis=0, dtype=int) == 255).all()
    assert np.abs(shares / shares.sum(axis=0) - levels / 255).max() < 1 / 255
    order = np.take_along_axis(levels.astype(int), shares.argsort(axis=0), axis=0)
    assert (np.diff(order, axis=0) >= 0).all()


def test_probabilities_that_are_levels_already_come_back_and_nothing_stays_nothing():
    levels = levels_of(probabilities(1, 20, 20))
    levels[:, :4] = 0
    assert np.array_equal(levels_of(levels.astype(np.float32) / 255), levels)
    assert (likeliest(levels.astype(np.float32))[:4] == 255).all()
    assert usable_levels(levels, 9)
    assert not usable_levels(levels, 8)
    assert not usable_levels(levels // 2, 9)


def test_labels_and_levels_are_settled_on_the_same_pixels_and_both_losses_are_counted():
    levels = levels_of(probabilities(2, 4, 5))[None]
    labels = np.full((1, 4, 5), 3, np.uint8)
    levels[0, :, 0, 0], labels[0, 1, :2] = 0, 255
    hard, soft, labels_lost, levels_lost = settle(labels, levels)
    assert (labels_lost, levels_lost) == (1, 2)
    assert ((hard != 255) == soft.any(axis=1)).all()
    assert (hard != 255).sum() == 17


def test_a_store_gives_back_the_levels_that_went_in(soft_store: Store):
    assert soft_store.soft
    for place, record in enumerate(RECORDS):
        assert np.array_equal(soft_store.read_labels(place, "probabilities"), record.probabilities)
        assert "probabilities" not in soft_store.read(place, 1)
        read = soft_store.read(place, 1, sensors=("s1",), layers=("labels", "probabilities"))
        assert np.array_equal(read["probabilities"], record.probabilities[1])
        assert np.array_equal(read["labels"], record.labels[1])
    assert verify_store(soft_store.path)["arrays"] == 3 * 2 * 4 + 1


def test_a_store_without_probabilities_is_written_as_before(tmp_path: Path):
    store = Store.open(write_store(tmp_path / "store", [make_record(0)]))
    assert not store.soft
    assert not {"probabilities", "annotators"} & store.meta.keys()
    with pytest.raises(ArgumentError, match="unknown kind of labels"):
        store.read_labels(0, "probabilities")


def test_samples_hold_probabilities_that_move_with_the_labels_and_are_0_where_those_are_ignored(soft_store: Store):
    dataset = PatchDataset(soft_store, SCALES, crop=16, flip=0.5, rotate=0.5, soft=True, seed=3, training=True)
    for epoch in range(12):
        key = (epoch, 1, -1)
        season, geometry = dataset._draw(key)
        sample = dataset[key]
        expected = RECORDS[1].probabilities[season] * RECORDS[1].valid[season]
        assert np.array_equal(sample["probabilities"].numpy(), geometry.apply(expected))
        assert torch.equal(sample["probabilities"].any(0), sample["labels"] != 255)


def test_the_prior_of_a_sample_is_that_of_the_probabilities_of_all_seasons(soft_store: Store):
    sample = PatchDataset(soft_store, SCALES, prior="ts", soft=True, training=False)[(0, 2, 1)]
    shares = torch.from_numpy(RECORDS[2].probabilities)[None].float() / 255
    assert torch.allclose(sample["prior"], label_prior(shares, torch.tensor([1]), 9)[0], atol=1e-6)


def test_the_device_makes_the_very_soft_prior_that_a_worker_makes(soft_store: Store):
    options = {"crop": 16, "prior": "ts", "soft": True, "seed": 4, "training": True}
    keys = [(epoch, place, -1) for epoch in range(3) for place in range(3)]
    made, given = (
        collate([PatchDataset(soft_store, SCALES, prior_on=where, **options)[key] for key in keys])
        for where in ("worker", "device")
    )
    maker = PatchDataset(soft_store, SCALES, **options).prior_maker
    assert given["prior_labels"].shape == (9, 2, 9, 40, 40)
    assert torch.equal(maker.prior(given["prior_labels"], given["season"]), made["prior"])


def test_without_soft_samples_are_hard(soft_store: Store):
    sample = PatchDataset(soft_store, SCALES, prior="ts", training=False)[(0, 2, 1)]
    assert "probabilities" not in sample
    labels = torch.from_numpy(RECORDS[2].labels)[None]
    assert torch.allclose(sample["prior"], label_prior(labels, torch.tensor([1]), 9)[0], atol=1e-6)


def test_levels_become_shares_that_add_up_to_one():
    levels = torch.from_numpy(levels_of(probabilities(5, 30, 30)))
    torch.testing.assert_close(shares_of(levels).sum(0), torch.ones(30, 30), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda r: {"probabilities": r.probabilities[:, :8]}, LabelError, "no levels of this legend"),
        (lambda r: {"probabilities": r.probabilities // 2 + (r.probabilities > 0)}, LabelError, "no levels"),
        (lambda r: {"probabilities": None}, StoreError, "needs labels and probabilities"),
        (lambda r: {"probabilities": r.probabilities[:, :, :5]}, ArgumentError, "probabilities must be"),
        (lambda r: {"probabilities": r.probabilities / 255}, ArgumentError, "probabilities must be uint8"),
        (lambda r: {"labels": np.zeros_like(r.labels)}, ArgumentError, "at the same pixels"),
        (lambda r: {"labels": None}, ArgumentError, "at the same pixels"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(tmp_path: Path, change, error, what):
    writer = StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS, soft=("labels",))
    with pytest.raises(error, match=what):
        writer.add(dataclasses.replace(RECORDS[0], **change(RECORDS[0])))


def test_probabilities_need_a_store_that_was_opened_for_them(tmp_path: Path):
    with pytest.raises(StoreError, match="no room for"):
        StoreWriter(tmp_path, legend=LEGEND, sensors=BANDS).add(RECORDS[0])


def pretrained(store: Path, out: Path, **changes: object) -> dict[str, Any]:
    """The result of two steps on a tiny network."""
    config = PretrainConfig(
        data=str(store), out=str(out), encoder="tu-cromss_narrow", decoder_channels=(8, 8, 8, 8, 8), crop=32,
        batch_size=3, steps=2, pictures_every=0, prior_on="worker", **changes,
    )  # fmt: skip
    return pretrain(config)


def first_loss(store: Path, out: Path, **changes: object) -> float:
    """The loss of the only step of a transfer to a tiny network."""
    config = TransferConfig(
        data=str(store), out=str(out), init="random", encoder="tu-cromss_narrow", decoder_channels=(8, 8, 8, 8, 8),
        batch_size=2, crop=32, steps=1, save_networks=False, accelerator="cpu", **changes,
    )  # fmt: skip
    transfer(config)
    (log,) = out.rglob("log.jsonl")
    (loss,) = (line["loss"] for line in map(json.loads, log.read_text().splitlines()) if "loss" in line)
    return float(loss)


@pytest.mark.slow
def test_transfer_learns_from_probabilities_where_the_store_has_them_and_from_hard_labels_on_request(tmp_path: Path):
    records = [dataclasses.replace(record, split="test" if n == 2 else "train") for n, record in enumerate(RECORDS)]
    soft = write_store(tmp_path / "soft", records, soft=("labels",))
    hard = write_store(tmp_path / "hard", [dataclasses.replace(record, probabilities=None) for record in records])
    losses = [
        first_loss(soft, tmp_path / "a"),
        first_loss(soft, tmp_path / "b", soft_labels=False),
        first_loss(hard, tmp_path / "c"),
    ]
    assert losses[0] != losses[1] == losses[2]


@pytest.mark.slow
def test_pretraining_takes_soft_labels_where_the_store_has_them_and_hard_ones_on_request(tmp_path: Path):
    records = [dataclasses.replace(record, split="train" if n else "validation") for n, record in enumerate(RECORDS)]
    records += [dataclasses.replace(soft_record(7, height=40, width=48), split="train")]
    soft = write_store(tmp_path / "soft", records, soft=("labels",))
    hard = write_store(tmp_path / "hard", [dataclasses.replace(record, probabilities=None) for record in records])
    results = [
        pretrained(soft, tmp_path / "a"),
        pretrained(soft, tmp_path / "b", soft_labels=False),
        pretrained(hard, tmp_path / "c"),
    ]
    losses = [result["validation"]["summary"]["loss"] for result in results]
    assert losses[0] != losses[1] == losses[2]


def test_a_flipped_bit_of_probabilities_is_found_by_name(tmp_path: Path):
    path = write_store(tmp_path / "store", RECORDS[:1], soft=("labels",))
    (shard,) = (path / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[content.index(RECORDS[0].probabilities[1].tobytes()) + 7000] ^= 1
    shard.write_bytes(content)
    with Store.open(path) as store:
        assert store.read(0, 1)["labels"].shape == (40, 48)
        with pytest.raises(DamagedFileError, match="probabilities of a sample is not what was written"):
            store.read_labels(0, "probabilities")
        with pytest.raises(DamagedFileError, match="place0/2020-02"):
            PatchDataset(store, SCALES, soft=True, training=False)[(0, 0, 1)]
    with pytest.raises(DamagedFileError, match="place0/probabilities/01"):
        verify_store(path)
