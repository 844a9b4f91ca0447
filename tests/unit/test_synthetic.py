"""Synthetic places: determinism, ranges, and the figures by which their labels err."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from cromss.config import SynthesizeConfig
from cromss.data.record import PlaceRecord
from cromss.data.store import Store, StoreWriter, verify_store
from cromss.data.synthetic import (
    SHIFTED_LEGEND,
    LabelTally,
    SyntheticWorld,
    make_place,
    synthesize,
    synthesize_scene,
    synthesize_store,
    write_scene,
)
from cromss.data.synthetic.fields import cells, correlated, edges, generator, number, uniform
from cromss.data.synthetic.noise import _bias_field
from cromss.data.synthetic.scenes import recipe
from cromss.data.synthetic.spectra import SPREAD
from cromss.errors import ArgumentError, ConfigError, StoreError
from cromss.geo.bands import SENSORS, check_values

PRETRAIN = SyntheticWorld()
SMALL = SyntheticWorld(size=32, seasons=2)


@pytest.fixture(scope="module")
def systematic() -> list[PlaceRecord]:
    return list(synthesize(PRETRAIN, 13))


@pytest.fixture(scope="module")
def idiosyncratic() -> list[PlaceRecord]:
    return list(synthesize(PRETRAIN, 8, design="idiosyncratic"))


def figures(records: Sequence[PlaceRecord]) -> dict:
    tally = LabelTally(names=PRETRAIN.legend.names)
    for record in records:
        tally.add(record.labels, record.truth)
    return tally.figures()


def assert_same(first: PlaceRecord, second: PlaceRecord) -> None:
    assert (first.id, first.seasons) == (second.id, second.seasons)
    for sensor, image in first.images.items():
        np.testing.assert_array_equal(image, second.images[sensor])
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.truth, second.truth)


# places ----------------------------------------------------------------------------------------------------------


def test_a_place_has_both_sensors_labels_and_truth_of_all_seasons(systematic: list[PlaceRecord]) -> None:
    record = systematic[12]
    assert record.id == "synthetic-0000012"
    assert record.seasons == ("january", "april", "july", "october")
    assert record.images["s1"].shape == (4, 2, 128, 128)
    assert record.images["s1"].dtype == np.float32
    assert record.images["s2"].shape == (4, 13, 128, 128)
    assert record.images["s2"].dtype == np.uint16
    assert record.labels.shape == record.truth.shape == (4, 128, 128)
    assert record.products == {"s1": "GRD", "s2": "L1C"}
    assert record.valid.all()


def test_values_are_those_a_sensor_could_give(systematic: list[PlaceRecord]) -> None:
    for record in systematic:
        for sensor, image in record.images.items():
            for season in image:
                check_values(sensor, season, np.ones(season.shape[1:], bool), SENSORS[sensor].bands, record.id)
        assert record.images["s2"].min() >= 1
        assert record.images["s2"].max() <= 16000
        assert record.images["s1"].min() >= -54
        assert record.images["s1"].max() <= 26


def test_all_nine_classes_occur_and_none_fills_the_land(systematic: list[PlaceRecord]) -> None:
    shares = figures(systematic)["class_share"]
    assert min(shares.values()) > 0.005
    assert max(shares.values()) < 0.40


def test_about_a_sixth_of_the_pixels_lies_at_a_border_of_classes(systematic: list[PlaceRecord]) -> None:
    shares = []
    for record in systematic:
        for truth in np.asarray(record.truth):
            across, down = truth[:, 1:] != truth[:, :-1], truth[1:] != truth[:-1]
            border = np.pad(across, ((0, 0), (0, 1))) | np.pad(across, ((0, 0), (1, 0)))
            border |= np.pad(down, ((0, 1), (0, 0))) | np.pad(down, ((1, 0), (0, 0)))
            shares.append(border.mean())
    assert 0.12 < np.mean(shares) < 0.20


def test_about_a_twentieth_of_the_pixels_changes_over_the_year(systematic: list[PlaceRecord]) -> None:
    assert 0.02 < figures(systematic)["changing"] < 0.09


def test_snow_lies_lower_in_winter_than_in_summer(systematic: list[PlaceRecord]) -> None:
    snow = np.stack([(record.truth == 8).sum((1, 2)) for record in systematic]).sum(0)
    assert snow[0] > snow[2] > 0


def test_fields_are_greener_in_season_and_woods_hold_their_colour(systematic: list[PlaceRecord]) -> None:
    spread = {}
    for label in (1, 4):
        ratios = []
        for record in systematic:
            always = (record.truth == label).all(0)
            s2 = record.images["s2"].astype(float)
            if always.sum() > 500:
                ratios.append([np.median(np.log(s2[t, 7] / s2[t, 3])[always]) for t in range(4)])
        spread[label] = np.ptp(np.mean(ratios, 0))
    assert spread[4] > 0.15
    assert spread[4] > spread[1] / 2


def test_pixels_of_one_class_differ_from_field_to_field(systematic: list[PlaceRecord]) -> None:
    """Parcel offsets must be so wide that a pixel alone is ambiguous: crops spread by half a log unit of NIR/red."""
    ratios = [np.log(r.images["s2"][2, 7] / r.images["s2"][2, 3].astype(float))[r.truth[2] == 4] for r in systematic]
    assert np.std(np.concatenate(ratios)) > 0.4 * SPREAD[4]


def test_speckle_is_that_of_four_looks(systematic: list[PlaceRecord]) -> None:
    """Over steady water neighbours differ by sqrt(2) times the 2.31 dB of a Gamma law of shape 4."""
    differences = []
    for record in systematic:
        water = ndimage.binary_erosion((record.truth == 0).all(0), iterations=4)
        pairs = water[:, 1:] & water[:, :-1]
        differences.append(np.diff(record.images["s1"][0, 0], axis=1)[pairs])
    assert np.std(np.concatenate(differences)) == pytest.approx(np.sqrt(2) * 2.31, rel=0.06)


# determinism -----------------------------------------------------------------------------------------------------


def test_a_place_depends_on_its_seed_and_number_alone(systematic: list[PlaceRecord]) -> None:
    assert_same(systematic[9], make_place(PRETRAIN, 9))
    in_order = list(synthesize(SMALL, 4, seed=7, design="idiosyncratic"))
    backwards = [make_place(SMALL, index, seed=7, design="idiosyncratic") for index in (3, 2, 1, 0)][::-1]
    later = list(synthesize(SMALL, 2, seed=7, start=2, design="idiosyncratic"))
    for first, second in zip(in_order, backwards, strict=True):
        assert_same(first, second)
    for first, second in zip(in_order[2:], later, strict=True):
        assert_same(first, second)


def test_another_seed_world_or_number_gives_another_place() -> None:
    first = make_place(SMALL, 0, design="idiosyncratic")
    others = [
        make_place(SMALL, 1, design="idiosyncratic"),
        make_place(SMALL, 0, design="idiosyncratic", seed=1),
        make_place(SyntheticWorld(name="shifted", size=32, seasons=2), 0),
    ]
    for other in others:
        assert (first.images["s2"] != other.images["s2"]).mean() > 0.9


@pytest.mark.slow
def test_the_design_of_the_noise_changes_labels_only(
    systematic: list[PlaceRecord], idiosyncratic: list[PlaceRecord]
) -> None:
    first, second = systematic[3], idiosyncratic[3]
    np.testing.assert_array_equal(first.images["s1"], second.images["s1"])
    np.testing.assert_array_equal(first.images["s2"], second.images["s2"])
    np.testing.assert_array_equal(first.truth, second.truth)
    assert (first.labels != second.labels).any()


# label noise -----------------------------------------------------------------------------------------------------


def test_systematic_labels_err_as_those_of_dynamic_world(systematic: list[PlaceRecord]) -> None:
    found = figures(systematic)
    assert 0.25 < found["error_rate"] < 0.34
    assert 0.45 < found["persistence"] < 0.68
    assert 0.74 < found["agreement_auroc"] < 0.88
    precision = found["precision"]
    assert precision["water"] > 0.80
    assert max(precision.values()) - min(precision.values()) > 0.25


@pytest.mark.slow
def test_idiosyncratic_labels_err_as_often_but_by_chance(idiosyncratic: list[PlaceRecord]) -> None:
    found = figures(idiosyncratic)
    assert 0.25 < found["error_rate"] < 0.33
    assert 0.42 < found["persistence"] < 0.58
    assert max(found["recall"].values()) - min(found["recall"].values()) < 0.15


def test_systematic_labels_lose_roads(systematic: list[PlaceRecord]) -> None:
    """Built pixels with little built land around them are labelled built far more rarely than the core of towns."""
    lost: list[np.ndarray] = [np.zeros(2), np.zeros(2)]
    for record in systematic:
        built = record.truth[2] == 6
        near = sum(np.roll(built.astype(int), (y, x), (0, 1)) for y in range(-3, 4) for x in range(-3, 4))
        for kind, where in enumerate((built & (near < 20), built & (near > 35))):
            lost[kind] += [(record.labels[2] != 6)[where].sum(), where.sum()]
    assert lost[0][0] / lost[0][1] > lost[1][0] / lost[1][1]


def test_the_tally_counts_by_hand() -> None:
    truth = np.zeros((2, 1, 4), np.uint8)
    truth[1, 0, 3] = 1
    labels = np.array([[[0, 1, 1, 0]], [[0, 1, 0, 1]]], np.uint8)
    tally = LabelTally(names=("a", "b"))
    tally.add(labels, truth)
    found = tally.figures()
    assert found["error_rate"] == pytest.approx(3 / 8)
    assert found["persistence"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["changing"] == pytest.approx(1 / 4)
    assert found["precision"] == {"a": 1.0, "b": 0.25}
    assert found["recall"] == {"a": pytest.approx(4 / 7, abs=1e-4), "b": 1.0}
    # right labels agree with the other season in 2 of 5 pixels, wrong ones in 2 of 3: 4 + half of 4 + 6 of 15 pairs
    assert found["agreement_auroc"] == pytest.approx((2 * 1 + 0.5 * (2 * 2 + 3 * 1)) / 15, abs=1e-4)


def test_the_tally_refuses_shapes_that_differ() -> None:
    with pytest.raises(ArgumentError, match="one shape"):
        LabelTally(names=("a",)).add(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 3), np.uint8))


# the shifted world -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shifted_world_has_exact_labels_in_a_legend_of_its_own() -> None:
    world = SyntheticWorld(name="shifted", seasons=2)
    records = list(synthesize(world, 6))
    assert world.legend is SHIFTED_LEGEND
    assert SHIFTED_LEGEND.num_classes == 8
    for record in records:
        np.testing.assert_array_equal(record.labels, record.truth)
    assert set(np.unique(np.stack([record.truth for record in records]))) == set(range(8))


# arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"name": "mars"}, "world"), ({"size": 8}, "16"), ({"seasons": 0}, "seasons"), ({"seed": -1}, "negative")],
)
def test_a_world_that_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SyntheticWorld(**arguments)


def test_an_unknown_design_and_negative_numbers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="design"):
        make_place(SMALL, 0, design="none")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="not negative"):
        make_place(SMALL, -1)


@pytest.mark.parametrize(("seasons", "names"), [(1, ("july",)), (2, ("january", "july")), (3, None), (12, None)])
def test_seasons_are_named_by_month(seasons: int, names: tuple[str, ...] | None) -> None:
    record = make_place(SyntheticWorld(size=16, seasons=seasons), 0, design="idiosyncratic")
    assert len(set(record.seasons)) == seasons
    assert names in (None, record.seasons)


# stores and scenes -----------------------------------------------------------------------------------------------


def config(out: Path, **settings: object) -> SynthesizeConfig:
    shared = {"train": 3, "validation": 2, "test": 1, "size": 32, "seasons": 2, "design": "idiosyncratic"}
    return SynthesizeConfig(out=str(out), **{**shared, **settings})  # type: ignore[arg-type]


def test_a_store_holds_the_places_in_order_with_their_splits(tmp_path: Path) -> None:
    report = synthesize_store(config(tmp_path / "store"))
    verify_store(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert list(store.splits) == ["train"] * 3 + ["validation"] * 2 + ["test"]
    assert list(store.ids) == [f"synthetic-{index:07d}" for index in range(6)]
    expected = make_place(SMALL, 4, design="idiosyncratic")
    arrays = store.read(4, 1)
    np.testing.assert_array_equal(arrays["s1"], expected.images["s1"][1])
    np.testing.assert_array_equal(arrays["labels"], expected.labels[1])
    assert set(report) == {"made", "places", "train", "validation", "test"}
    assert 0 < report["train"]["error_rate"] < 1


@pytest.mark.slow
def test_a_store_interrupted_is_continued_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize_store(config(tmp_path / "whole"))
    init = StoreWriter.__init__
    monkeypatch.setattr(StoreWriter, "__init__", lambda self, *a, **k: init(self, *a, **k, shard_places=2))
    synthesize_store(config(tmp_path / "expected"))
    writer = StoreWriter(tmp_path / "part", legend=SMALL.legend, sensors={n: SENSORS[n].bands for n in ("s1", "s2")})
    for record in synthesize(SMALL, 3, design="idiosyncratic"):
        writer.add(make_place(SMALL, int(record.id[-7:]), design="idiosyncratic", split="train"))
    synthesize_store(config(tmp_path / "part"))
    files = sorted(path.relative_to(tmp_path / "part") for path in (tmp_path / "part").rglob("*") if path.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


def test_an_unfinished_store_of_another_seed_is_not_continued(tmp_path: Path) -> None:
    bands = {name: SENSORS[name].bands for name in ("s1", "s2")}
    writer = StoreWriter(tmp_path / "store", legend=SMALL.legend, sensors=bands, shard_places=64)
    writer.add(make_place(SMALL, 0, design="idiosyncratic", split="train"))
    writer._write_shard()
    with pytest.raises(StoreError, match="other places"):
        synthesize_store(config(tmp_path / "store", seed=1))


def test_settings_that_make_no_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no places"):
        synthesize_store(config(tmp_path / "store", train=0, validation=0, test=0))


@pytest.mark.slow
def test_the_number_of_processes_does_not_change_the_store(tmp_path: Path) -> None:
    for workers in (1, 2):
        synthesize_store(config(tmp_path / str(workers), workers=workers, design="systematic"))
    assert Store.open(tmp_path / "1").fingerprint == Store.open(tmp_path / "2").fingerprint


@pytest.mark.slow
def test_the_bias_of_the_labels_is_one_for_a_place_and_changes_over_a_larger_scene() -> None:
    place = _bias_field(generator("bias"), 128)
    assert (place == place[:, :1, :1]).all()
    scenes = np.stack([_bias_field(generator("bias", number), 384) for number in range(40)])
    assert scenes.std((0, 1)).min() > 0.85
    assert scenes.std((0, 1)).max() < 1.15
    near, far = (np.mean(scenes[:, :, 64, 64] * scenes[:, :, 64, 64 + away]) for away in (16, 256))
    assert near > 0.8
    assert abs(far) < 0.2


@pytest.mark.slow
def test_a_scene_is_written_as_rasters_on_one_grid(tmp_path: Path) -> None:
    world = SyntheticWorld(size=32, seasons=2)
    record = synthesize_scene(world, 72, seed=5)
    paths = write_scene(record, tmp_path, world.legend)
    grids = set()
    for name, path in paths.items():
        with rasterio.open(path) as file:
            grids.add((file.shape, file.transform, str(file.crs)))
            bands = SENSORS[name].bands if name in SENSORS else (name,)
            assert file.descriptions == bands
            layer = {"labels": record.labels, "truth": record.truth}.get(name)
            expected = record.images[name][1] if layer is None else layer[1:2]
            np.testing.assert_array_equal(file.read(), expected)
            if name == "s2":
                assert file.tags()["LEVEL"] == "L1C"
            if layer is not None:
                assert file.colormap(1)[6][:3] == (0xC4, 0x28, 0x1B)
                assert file.nodata == 255
    assert grids == {((72, 72), record.grid.transform, "EPSG:32633")}


def test_a_record_without_a_grid_is_no_scene(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="synthesize_scene"):
        write_scene(make_place(SMALL, 0, design="idiosyncratic"), tmp_path, SMALL.legend)


def test_the_recipe_names_all_that_places_depend_on() -> None:
    text = recipe(SyntheticWorld(name="shifted", size=64, seasons=2, seed=3), "idiosyncratic", 9)
    assert all(part in text for part in ("shifted", "64 px", "2 seasons", "seed 3", "idiosyncratic", "seed 9"))


# the plane -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.6, 1.5, 4.0, 12.0, 40.0])
def test_correlated_noise_has_unit_variance_and_its_scale(scale: float) -> None:
    field = np.concatenate([correlated(generator(seed, "noise"), 256, scale) for seed in range(8)])
    assert np.std(field) == pytest.approx(1.0, abs=0.2)
    lag = max(1, round(scale))
    near = np.mean(field[:, :-lag] * field[:, lag:]) / np.mean(field**2)
    assert near == pytest.approx(np.exp(-(lag**2) / (4 * scale**2)), abs=0.12)


def test_cells_tile_the_plane_and_edges_lie_between_them() -> None:
    row, column = np.mgrid[:64, :64] / 8.0
    numbers, names = number(cells(column, row, 5))
    assert 50 < len(names) < 110
    assert len(np.unique(cells(column, row, 5))) == len(names)
    line = edges(numbers)
    assert not line[:-1, :-1][(numbers[:-1, :-1] == numbers[1:, :-1]) & (numbers[:-1, :-1] == numbers[:-1, 1:])].any()
    assert 0.1 < line.mean() < 0.5


def test_hashes_are_uniform() -> None:
    values = uniform(cells(*np.mgrid[:80.0, :80.0] + 0.5, 3, jitter=0.0))
    assert values.min() >= 0
    assert values.max() < 1
    assert np.histogram(values, 4, (0, 1))[0] / values.size == pytest.approx(0.25, abs=0.04)
