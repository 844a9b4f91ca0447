"""Sensors defined wrongly, and files that are not what their definition says: refused with the file and a count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cromss.cli import main
from cromss.config import PretrainConfig
from cromss.data.dataset import PatchDataset
from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.data.store.layout import digest
from cromss.errors import BandError, ConfigError, CromssError, MissingDataError, RangeError, StoreError
from cromss.geo.bands import Normalization
from cromss.training.pretrain_setup import normalizations_of
from small_scenes import DEM_SECTION, dem_values, settings, write_dem, write_scene

DEM = DEM_SECTION["dem"]
RNG = np.random.default_rng


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abcd"):
        write_scene(tmp_path / "in", name, seed)
        write_dem(tmp_path / "in" / "dem" / f"{name}.tif", dem_values(RNG(seed)))
    return tmp_path / "in"


def prepared(root, out, section=DEM, name="dem", **changes):
    return prepare(settings(root, out, **{"s1": None, "sensors": {name: section}, **changes}))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"valid_mni": 0}, "did you mean 'valid_min'"),
        ({"unit": None}, "incomplete"),
        ({"valid_max": None}, "incomplete"),
        ({"valid_max": "high"}, "a number of the section is none"),
        ({"valid_max": -600}, "a range has no values"),
        ({"bands": ["elevation", "Elevation"]}, "bands of a sensor cannot be used"),
        ({"bands": 3}, "bands are a list of names"),
        ({"keep": ["slop"]}, "did you mean 'slope'"),
        ({"no_data": "some"}, "unknown rule"),
        ({"dtype": "float64"}, "a store cannot keep this type"),
        ({"dtype": "uint8"}, "uint8 cannot hold all values"),
        ({"band_names": {"h": "height"}}, "bands that the sensor does not have"),
        ({"band_names": ["h"]}, "names of bands are"),
        ({"mean": [1, 2]}, "mean and std do not fit"),
        ({"mean": [1, 2], "std": [1, 0]}, "mean and std do not fit"),
        ({"mean": [1], "std": [1]}, "mean and std do not fit"),
    ],
    ids=str,
)
def test_a_definition_that_cannot_be_is_refused_before_anything_is_read(section, words, root, tmp_path):
    with pytest.raises(ConfigError, match=words):
        prepared(root, tmp_path / "out", DEM | section)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["s1", "s2", "labels", "fused", "train", "Dem", "a_b"])
def test_a_sensor_cannot_be_named_like_what_is_there_already(name, root, tmp_path):
    with pytest.raises(ConfigError, match="name of"):
        prepared(root, tmp_path / "out", name=name)


def test_band_names_are_for_a_sensor_that_has_files(root, tmp_path):
    with pytest.raises(ConfigError, match="no files of its own"):
        prepared(root, tmp_path / "out", band_names={"dem": {"h": "elevation"}})
    with pytest.raises(MissingDataError, match=r"names\.yaml"):
        prepared(root, tmp_path / "out", band_names={"s2": "names.yaml"})


def test_a_published_layout_has_no_use_for_further_sensors(root, tmp_path):
    with pytest.raises(ConfigError, match="no use for the setting sensors"):
        prepared(root, tmp_path / "out", layout="ssl4eo_s12")


def change(values):
    return {
        "out of range": {"values": np.where(np.arange(16) == 3, np.float32(-9998), values)},
        "not finite": {"values": np.where(np.arange(16) == 3, np.float32("nan"), values)},
        "one band": {"values": values[:1]},
        "three bands": {"values": np.concatenate([values, values[:1]])},
        "complex": {"values": values.astype(np.complex64)},
        "unit": {"values": values, "tags": {"UNITS": "feet"}},
        "lacks slope": {"values": values, "band_names": ("elevation", "aspect")},
        "twice": {"values": values, "band_names": ("slope", "SLOPE")},
    }


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("out of range", RangeError, "16 pixels"),
        ("not finite", RangeError, "16 of 256 pixels"),
        ("one band", BandError, "another number of bands"),
        ("three bands", BandError, "another number of bands"),
        ("complex", RangeError, "wrong type"),
        ("unit", RangeError, "another unit"),
        ("lacks slope", BandError, "has no slope"),
        ("twice", BandError, "stands twice"),
    ],
)
def test_a_file_that_is_not_what_its_definition_says_is_refused_by_name(fault, error, words, root, tmp_path):
    options = change(dem_values(RNG(1)))[fault]
    write_dem(root / "dem" / "b.tif", **options)
    with pytest.raises(error, match=words) as caught:
        prepared(root, tmp_path / "out")
    assert "dem/b.tif" in str(caught.value.where)
    assert not (tmp_path / "out" / "store.json").exists()


def test_values_out_of_range_are_counted(root, tmp_path):
    values = dem_values(RNG(1))
    values[0, 2, :5], values[1, 2, 0] = 9001, -501
    write_dem(root / "dem" / "b.tif", values)
    with pytest.raises(RangeError, match="5 pixels in -501 to 9001, most in elevation") as caught:
        prepared(root, tmp_path / "out")
    assert "-500 to 9000 m" in str(caught.value)


def test_a_place_without_one_of_its_sensors_is_an_orphan_and_never_filled(root, tmp_path):
    (root / "dem" / "b.tif").unlink()
    report = prepared(root, tmp_path / "out")
    assert [(row["id"], row["missing"]) for row in report["orphans"]] == [("b", ("dem",))]
    assert Store.open(tmp_path / "out").ids == ["a", "c", "d"]


def test_a_band_with_one_value_everywhere_is_refused(root, tmp_path):
    for name in "abcd":
        values = dem_values(RNG(0))
        values[1] = 4
        write_dem(root / "dem" / f"{name}.tif", values)
    with pytest.raises(RangeError, match="one value") as caught:
        prepared(root, tmp_path / "out")
    assert caught.value.got == "slope"
    prepared(root, tmp_path / "kept", DEM | {"keep": ["elevation"]})


def pretraining(store, **changes):
    return PretrainConfig(data=str(store.path), out="run", **{"sensors": ("s2", "dem"), **changes})


def test_a_training_on_what_the_store_lacks_is_refused_with_the_nearest_name(root, tmp_path):
    prepared(root, tmp_path / "out", DEM | {"keep": ["elevation"]})
    store = Store.open(tmp_path / "out")
    with pytest.raises(MissingDataError, match="did you mean 'dem'"):
        normalizations_of(pretraining(store, sensors=("s2", "den")), store)
    with pytest.raises(MissingDataError, match="did you mean 'dem'"):
        normalizations_of(pretraining(store, bands={"den": "all"}), store)
    with pytest.raises(BandError, match="lacks bands of dem"):
        normalizations_of(pretraining(store, bands={"dem": "slope"}), store)
    with pytest.raises(ConfigError, match="two or more sensors"):
        normalizations_of(pretraining(store, sensors=("dem", "dem")), store)


def test_a_sensor_without_statistics_cannot_be_trained_on(root, tmp_path):
    (root / "split.csv").write_text("id,split\na,test\nb,test\nc,test\nd,test\n")
    prepared(root, tmp_path / "out", split="split.csv")
    store = Store.open(tmp_path / "out")
    with pytest.raises(MissingDataError, match="no statistics of dem"):
        normalizations_of(pretraining(store), store)


def test_a_network_that_takes_another_unit_gets_no_images(root, tmp_path):
    prepared(root, tmp_path / "out")
    store = Store.open(tmp_path / "out")
    content = normalizations_of(pretraining(store), store)["dem"].to_dict()
    with pytest.raises(BandError, match="another unit"):
        PatchDataset(store, {"dem": Normalization.from_dict(content | {"unit": "ft"})}, training=False)


@pytest.mark.parametrize("content", [{}, [], 3, {"title": "x", "unit": "m", "bands": [], "valid_min": 0}], ids=str)
def test_a_store_that_does_not_define_its_sensor_is_refused(content, root, tmp_path):
    prepared(root, tmp_path / "out")
    path = tmp_path / "out" / "store.json"
    meta = json.loads(path.read_text())
    del meta["digest"]
    meta["sensors"]["dem"]["definition"] = content
    path.write_text(json.dumps(meta | {"digest": digest(meta)}))
    with pytest.raises(StoreError, match="does not say what its sensor dem measures"):
        Store.open(tmp_path / "out")


def test_the_command_line_says_what_is_wrong_without_a_traceback(root, tmp_path, capsys):
    arguments = ["prepare", "--root", str(root), "--out", str(tmp_path / "out"), "--sensors", '{"dem": {"files": 3}}']
    assert main(arguments) == 2
    assert "the definition of a sensor is incomplete" in capsys.readouterr().err
    with pytest.raises(CromssError):
        prepared(root, tmp_path / "out", "dem/{id}.tif")
