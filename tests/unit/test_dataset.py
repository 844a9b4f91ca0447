"""Samples: the right pixels, scaled, with their labels and prior, and the same from any process at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cromss.data.dataset import PatchDataset, collate
from cromss.data.store import Store, StoreWriter
from cromss.errors import ArgumentError, BandError, MissingDataError
from cromss.geo.bands import Normalization, published_normalization
from cromss.method.smoothing import label_prior
from records import BANDS, LEGEND, make_record, write_store

RECORDS = [
    make_record(number, height=40, width=48, seasons=3, truth=number == 0, holes=number == 1) for number in range(4)
]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("native") / "store", RECORDS))


@pytest.fixture(scope="module")
def eight_bit(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("uint8") / "store", RECORDS, edition="uint8"))


@pytest.fixture(scope="module")
def sixteen_bit(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("int16") / "store", RECORDS, edition="int16"))


def scales(bands: str = "9", kind: str = "paper") -> dict[str, Normalization]:
    return {"s1": published_normalization("s1", "all", kind), "s2": published_normalization("s2", bands, kind)}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if k != "id" else a[k] == b[k] for k in a)


@pytest.mark.parametrize("kind", ["paper", "standard"])
def test_evaluation_gives_the_whole_tile_of_the_asked_season_scaled(native: Store, kind: str) -> None:
    dataset = PatchDataset(native, scales("9", kind), crop=8, flip=1.0, rotate=1.0, training=False)
    sample = dataset[(0, 2, 1)]
    assert sample["id"] == "place2/2020-02"
    bands = [BANDS["s2"].index(name) for name in dataset._scalers["s2"]._normalization.bands]
    expected = scales("9", kind)["s2"].apply(RECORDS[2].images["s2"][1][bands], "L1C")
    assert np.array_equal(sample["s2"].numpy(), expected)
    assert np.array_equal(sample["labels"].numpy(), RECORDS[2].labels[1])
    assert sample["s1"].dtype == sample["s2"].dtype == torch.float32
    assert sample["labels"].dtype == torch.uint8


@pytest.mark.parametrize("kind", ["paper", "standard"])
def test_eight_bit_edition_gives_the_network_input_within_its_step(native: Store, eight_bit: Store, kind: str) -> None:
    exact = PatchDataset(native, scales("9", kind), training=False)[(0, 1, 2)]
    coarse = PatchDataset(eight_bit, scales("9", kind), training=False)[(0, 1, 2)]
    step = 1 / 255 if kind == "paper" else 4 / 255
    for sensor in ("s1", "s2"):
        kept = exact[sensor].clamp(0, 1) if kind == "paper" else exact[sensor].clamp(-2, 2)  # 8 bits hold mean +- 2 std
        assert ((kept - coarse[sensor]) <= step * 1.0001).all()
        assert ((kept - coarse[sensor]) >= -1e-5).all()


@pytest.mark.parametrize("kind", ["paper", "standard"])
def test_sixteen_bit_edition_gives_the_network_input_of_s2_to_the_bit_and_that_of_s1_within_half_a_step(
    native: Store, sixteen_bit: Store, kind: str
) -> None:
    for place, season in ((1, 0), (2, 1)):
        datasets = (PatchDataset(store, scales("9", kind), training=False) for store in (native, sixteen_bit))
        exact, stepped = (dataset[(0, place, season)] for dataset in datasets)
        assert torch.equal(exact["s2"], stepped["s2"])
        std = scales("9", kind)["s1"].statistics["GRD"]["std"]
        half = [0.0025 / (4 * one if kind == "paper" else one) for one in std]
        apart = (exact["s1"] - stepped["s1"]).abs().amax((1, 2))
        assert (apart > 0).all()
        assert all(got <= allowed * 1.001 + 1e-6 for got, allowed in zip(apart.tolist(), half, strict=True))
        assert torch.equal(exact["labels"], stepped["labels"])


def test_eight_bit_values_over_255_are_the_papers_input_to_the_bit(eight_bit: Store) -> None:
    stored = eight_bit.read(2, 0)["s2"]
    sample = PatchDataset(eight_bit, scales("13"), training=False)[(0, 2, 0)]
    assert np.array_equal(sample["s2"].numpy(), stored.astype(np.float32) / np.float32(255))


def test_eight_bit_edition_is_rescaled_for_other_statistics(eight_bit: Store) -> None:
    published = scales("9")["s2"]
    table = published.statistics["L1C"]
    shifted = {"mean": tuple(m + 300 for m in table["mean"]), "std": tuple(s * 1.5 for s in table["std"])}
    other = Normalization(sensor="s2", unit="DN", bands=published.bands, kind="standard", statistics={"L1C": shifted})
    values = PatchDataset(eight_bit, {"s2": other}, training=False)[(0, 2, 0)]["s2"].numpy()
    unit = PatchDataset(eight_bit, {"s2": published}, training=False)[(0, 2, 0)]["s2"].numpy().astype(float)
    mean, std = (np.array(table[name])[:, None, None] for name in ("mean", "std"))
    expected = (mean - 2 * std + unit * 4 * std - (mean + 300)) / (std * 1.5)
    assert np.abs(values - expected).max() < 1e-5


def test_pixels_without_data_are_ignored_and_filled_with_the_scaled_mean(
    native: Store, eight_bit: Store, sixteen_bit: Store
) -> None:
    for store in (native, eight_bit, sixteen_bit):
        for kind, fill in (("paper", 0.5), ("standard", 0.0)):
            sample = PatchDataset(store, scales("9", kind), training=False)[(0, 1, 0)]
            hole = torch.from_numpy(~RECORDS[1].valid[0])
            assert hole.any()
            assert (sample["labels"][hole] == 255).all()
            assert np.array_equal(sample["labels"][~hole].numpy(), RECORDS[1].labels[0][RECORDS[1].valid[0]])
            for sensor in ("s1", "s2"):
                assert torch.isfinite(sample[sensor]).all()
                assert (sample[sensor][:, hole] == fill).all()


def test_images_labels_truth_and_prior_move_together(native: Store) -> None:
    whole = PatchDataset(native, scales(), prior="ts", training=False)
    dataset = PatchDataset(native, scales(), crop=16, flip=0.5, rotate=0.5, prior="ts", seed=4, training=True)
    for epoch in range(20):
        key = (epoch, 0, -1)
        season, geometry = dataset._draw(key)
        full, sample = whole[(0, 0, season)], dataset[key]
        for name in ("s1", "s2", "labels", "truth"):
            assert np.array_equal(sample[name].numpy(), geometry.apply(full[name].numpy())), name
        assert np.abs(sample["prior"].numpy() - geometry.apply(full["prior"].numpy())).max() < 1e-6


@pytest.mark.parametrize("kind", ["ts", "t", "s"])
def test_prior_is_that_of_the_whole_tile_and_all_its_seasons(native: Store, kind: str) -> None:
    sample = PatchDataset(native, scales(), prior=kind, training=False)[(0, 3, 2)]
    labels = torch.from_numpy(RECORDS[3].labels)[None]
    expected = label_prior(labels, torch.tensor([2]), LEGEND.num_classes, kind)[0]
    assert torch.allclose(sample["prior"], expected, atol=1e-6)


def test_the_device_makes_the_very_prior_that_a_worker_makes(native: Store) -> None:
    options: dict[str, Any] = {"crop": 32, "flip": 0.5, "rotate": 0.5, "prior": "ts", "seed": 4, "training": True}
    worker, device = (PatchDataset(native, scales(), prior_on=where, **options) for where in ("worker", "device"))
    keys = [(epoch, place, -1) for epoch in range(5) for place in range(4)]
    made, given = (collate([dataset[key] for key in keys]) for dataset in (worker, device))
    assert given["prior_labels"].shape == (len(keys), 3, 32 + 24, 32 + 24)
    assert given["prior_labels"].dtype == torch.uint8
    assert device.prior_maker is not None
    assert torch.equal(device.prior_maker.prior(given.pop("prior_labels"), given.pop("season")), made.pop("prior"))
    assert same(made, given)


def test_a_sample_depends_on_seed_epoch_and_place_only(native: Store) -> None:
    def dataset(seed: int = 7) -> PatchDataset:
        return PatchDataset(native, scales(), crop=16, prior="ts", seed=seed, training=True)

    keys = [(epoch, place, -1) for epoch in range(3) for place in range(4)]
    forward = dict(zip(keys, map(dataset().__getitem__, keys), strict=True))
    again = dataset()
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002 - global generators must not matter
    assert all(same(again[key], forward[key]) for key in reversed(keys))
    assert any(not same(dataset(8)[key], forward[key]) for key in keys)
    assert len({forward[(epoch, 0, -1)]["labels"].numpy().tobytes() for epoch in range(3)}) > 1


def test_global_generators_are_left_alone(native: Store) -> None:
    dataset = PatchDataset(native, scales(), crop=16, prior="ts", training=True)
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    dataset[(0, 0, -1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], other)  # noqa: NPY002


def test_all_seasons_are_drawn_and_described_before_they_are_read(native: Store) -> None:
    dataset = PatchDataset(native, scales(), crop=16, training=True)
    keys = [(epoch, 2, -1) for epoch in range(30)]
    ids = [dataset[key]["id"] for key in keys]
    assert set(ids) == {f"place2/2020-{month:02d}" for month in (1, 2, 3)}
    assert [dataset.describe(key) for key in keys] == ids


def test_samples_do_not_share_memory_with_those_that_follow(native: Store) -> None:
    dataset = PatchDataset(native, scales("13"), training=False)
    first = dataset[(0, 0, 0)]
    kept = {name: value.clone() if name != "id" else value for name, value in first.items()}
    dataset[(0, 3, 1)]
    assert same(first, kept)


def test_truth_is_all_ignored_where_a_place_has_none(native: Store) -> None:
    dataset = PatchDataset(native, scales(), training=False)
    assert np.array_equal(dataset[(0, 0, 0)]["truth"].numpy(), RECORDS[0].truth[0])
    assert (dataset[(0, 2, 0)]["truth"] == 255).all()


def test_exact_labels_can_take_the_place_of_the_noisy_ones(native: Store) -> None:
    dataset = PatchDataset(native, scales(), label_source="truth", training=False)
    assert np.array_equal(dataset[(0, 0, 1)]["labels"].numpy(), RECORDS[0].truth[1])
    with pytest.raises(MissingDataError, match="place2"):
        dataset[(0, 2, 1)]


def test_a_store_without_truth_gives_none(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "store", [make_record(0)]))
    assert "truth" not in PatchDataset(store, scales(), training=False)[(0, 0, 0)]
    with pytest.raises(MissingDataError, match="truth"):
        PatchDataset(store, scales(), label_source="truth", training=False)


def test_one_sensor_is_enough(native: Store) -> None:
    sample = PatchDataset(native, {"s1": published_normalization("s1", "all")}, training=False)[(0, 0, 0)]
    assert sample.keys() == {"s1", "labels", "truth", "id"}


def test_a_crop_larger_than_a_tile_names_the_place_and_the_sizes(native: Store) -> None:
    dataset = PatchDataset(native, scales(), crop=41, training=True)
    with pytest.raises(ArgumentError, match=r"40 x 48[\s\S]*41 x 41[\s\S]*place2/2020"):
        dataset[(0, 2, -1)]


def test_bands_and_products_that_cannot_be_are_found_before_the_first_sample(tmp_path: Path, native: Store) -> None:
    store = Store.open(write_store(tmp_path / "l2a", [make_record(0, product="L2A")]))
    with pytest.raises(BandError, match="L2A"):
        PatchDataset(store, scales("13"), training=False)
    assert PatchDataset(store, scales("12"), training=False)[(0, 0, 0)]["s2"].shape == (12, 16, 16)
    writer = StoreWriter(tmp_path / "rgb", legend=LEGEND, sensors={"s2": ("B4", "B3", "B2")})
    record = make_record(1)
    writer.add(
        type(record)(
            id="a", seasons=record.seasons, images={"s2": record.images["s2"][:, [3, 2, 1]]}, products={"s2": "L1C"},
            labels=record.labels, valid=record.valid,
        )
    )  # fmt: skip
    rgb = Store.open(writer.finish())
    with pytest.raises(BandError, match=r"lacks bands of s2[\s\S]*B11"):
        PatchDataset(rgb, {"s2": scales("9")["s2"]}, training=False)
    turned = PatchDataset(rgb, {"s2": published_normalization("s2", "B2,B4")}, training=False)[(0, 0, 0)]
    expected = published_normalization("s2", "B2,B4").apply(record.images["s2"][0][[1, 3]], "L1C")
    assert np.array_equal(turned["s2"].numpy(), expected)


@pytest.mark.parametrize(
    "options", [{"prior": "x"}, {"prior_on": "x"}, {"label_source": "x"}, {"crop": 0}, {"flip": 1.5}, {"rotate": -0.1}]
)
def test_settings_that_cannot_be_are_refused(native: Store, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        PatchDataset(native, scales(), training=True, **options)


def test_evaluation_does_not_draw_seasons(native: Store) -> None:
    with pytest.raises(ArgumentError, match="does not draw"):
        PatchDataset(native, scales(), training=False)[(0, 0, -1)]


def test_collate_stacks_and_names_what_does_not_fit(native: Store) -> None:
    dataset = PatchDataset(native, scales(), crop=16, training=True)
    samples = [dataset[(0, place, -1)] for place in range(3)]
    batch = collate(samples)
    assert batch["id"] == [sample["id"] for sample in samples]
    assert batch["s2"].shape == (3, 9, 16, 16)
    assert torch.equal(batch["labels"][2], samples[2]["labels"])
    whole = PatchDataset(native, scales(), training=False)[(0, 3, 0)]
    with pytest.raises(ArgumentError, match=r"place3/2020-01[\s\S]*40, 48"):
        collate([*samples, whole])
