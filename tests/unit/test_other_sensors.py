"""Sets with sensors besides, or instead of, Sentinel-1 and Sentinel-2 become stores that say what they hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import toy_records
from cromss.data.prepare import prepare
from cromss.data.sensor_section import plan_sensors
from cromss.data.store import Store, StoreWriter
from cromss.data.store.layout import digest
from cromss.errors import ConfigError
from cromss.geo.bands import SENSORS, published_normalization
from cromss.geo.legends import get_legend
from cromss.geo.raster import read_raster
from small_scenes import (
    DEM_SECTION,
    S2_BANDS,
    dem_values,
    s2_values,
    settings,
    write_dem,
    write_labels,
    write_s2,
    write_scene,
)  # fmt: skip

RNG = np.random.default_rng


@pytest.fixture
def root(tmp_path):
    """Four scenes with heights; one pixel of scene a has none."""
    for seed, name in enumerate("abcd"):
        write_scene(tmp_path / "in", name, seed)
        values = dem_values(RNG(seed))
        if name == "a":
            values[1, 3, 4] = -9999
        write_dem(tmp_path / "in" / "dem" / f"{name}.tif", values)
    return tmp_path / "in"


def with_dem(root, out, **changes):
    return settings(root, out, **{"s1": None, "sensors": DEM_SECTION, **changes})


def test_a_store_holds_the_values_and_the_definition_of_another_sensor(root, tmp_path):
    prepare(with_dem(root, tmp_path / "out"))
    store = Store.open(tmp_path / "out")
    assert store.sensors == {"s2": S2_BANDS, "dem": ("elevation", "slope")}
    dem = store.definitions["dem"]
    assert (dem.unit, dem.valid_min, dem.valid_max, dem.missing, dem.dtype) == ("m", -500, 9000, "any", "float32")
    sample = store.read(0, 0)
    assert (sample["dem"] == read_raster(root / "dem" / "a.tif").values_BHW)[:, sample["valid"]].all()
    assert np.argwhere(~sample["valid"]).tolist() == [[3, 4]]


def test_statistics_are_those_of_the_valid_training_pixels(root, tmp_path):
    (root / "split.csv").write_text("id,split\na,train\nb,train\nc,validation\nd,test\n")
    prepare(with_dem(root, tmp_path / "out", split="split.csv"))
    dem = Store.open(tmp_path / "out").definitions["dem"]
    pixels = np.concatenate(
        [values[:, (values != -9999).all(axis=0)] for values in
         (read_raster(root / "dem" / f"{name}.tif").values_BHW.astype(np.float64) for name in "ab")], axis=1
    )  # fmt: skip
    assert pixels.shape[1] == 2 * 256 - 1
    for index, band in enumerate(("elevation", "slope")):
        assert dem.statistics["dem"][band] == pytest.approx((pixels[index].mean(), pixels[index].std()), rel=1e-12)
    assert published_normalization(dem, "all").unit == "m"


@pytest.mark.slow
def test_statistics_and_store_are_the_same_for_any_number_of_workers(root, tmp_path):
    reports = [prepare(with_dem(root, tmp_path / str(count), workers=count)) for count in (1, 2)]
    one, two = (Store.open(tmp_path / str(count)) for count in (1, 2))
    assert one.fingerprint == two.fingerprint
    assert reports[0]["scaling"] == reports[1]["scaling"] == {"dem": dict(one.definitions["dem"].statistics)}


def test_given_statistics_are_used_as_they_are(root, tmp_path):
    section = {"dem": DEM_SECTION["dem"] | {"keep": ["slope"], "mean": [7.5], "std": [2.5]}}
    prepare(with_dem(root, tmp_path / "out", sensors=section))
    store = Store.open(tmp_path / "out")
    assert store.sensors["dem"] == ("slope",)
    assert store.definitions["dem"].statistics == {"dem": {"slope": (7.5, 2.5)}}


def test_a_set_without_training_places_is_stored_and_the_report_says_what_it_lacks(root, tmp_path):
    (root / "split.csv").write_text("id,split\na,test\nb,test\nc,test\nd,test\n")
    report = prepare(with_dem(root, tmp_path / "out", split="split.csv"))
    assert Store.open(tmp_path / "out").definitions["dem"].statistics == {}
    assert any("no training split to take mean and std of dem" in finding["what"] for finding in report["findings"])


def test_an_image_without_season_serves_all_seasons_of_its_place(tmp_path):
    root = tmp_path / "in"
    for number, season in enumerate(["spring", "summer"]):
        write_s2(root / "s2" / "a" / f"{season}.tif", s2_values(RNG(number)))
        write_s2(root / "s2" / "b" / f"{season}.tif", s2_values(RNG(10 + number)))
    for place in "ac":
        write_dem(root / "dem" / f"{place}.tif", dem_values(RNG(5)))
        write_labels(root / "labels" / f"{place}.tif", RNG(6).integers(0, 9, (16, 16)).astype(np.uint8))
    report = prepare(with_dem(root, tmp_path / "out", s2="s2/{id}/{season}.tif"))
    store = Store.open(tmp_path / "out")
    assert (store.ids, store.seasons(0)) == (["a"], ("spring", "summer"))
    for season in (0, 1):
        sample = store.read(0, season)
        assert (sample["dem"] == dem_values(RNG(5))).all()
        assert (sample["s2"] == s2_values(RNG(season))).all()
    lacking = {(row["id"], row["season"]): row["missing"] for row in report["orphans"]}
    assert lacking == {
        ("b", "spring"): ("dem", "labels"), ("b", "summer"): ("dem", "labels"), ("c", None): ("s2",)
    }  # fmt: skip


def test_bands_are_taken_by_the_names_in_the_file_whatever_their_order(root, tmp_path):
    for name in "abcd":
        values = dem_values(RNG(7))
        write_dem(root / "dem" / f"{name}.tif", np.stack([values[1], values[0] * 0, values[0]]),
                  band_names=("SLOPE", "aspect", "height"))  # fmt: skip
    section = {"dem": DEM_SECTION["dem"] | {"band_names": {"Height": "elevation"}}}
    report = prepare(with_dem(root, tmp_path / "out", sensors=section))
    assert (Store.open(tmp_path / "out").read(0, 0)["dem"] == dem_values(RNG(7))).all()
    assert report["changed"] == {}


def test_bands_named_otherwise_are_taken_in_order_and_counted(root, tmp_path):
    for name in "abcd":
        write_dem(root / "dem" / f"{name}.tif", dem_values(RNG(7)), band_names=("z", "dz"))
    report = prepare(with_dem(root, tmp_path / "out"))
    assert (Store.open(tmp_path / "out").read(0, 0)["dem"] == dem_values(RNG(7))).all()
    assert report["changed"] == {"dem band images named by the order of the settings, not as in their files": 8}


@pytest.mark.parametrize("by_file", [False, True])
def test_files_of_s2_may_name_their_bands_otherwise(tmp_path, by_file):
    root, names = tmp_path / "in", {"blue": "B2", "green": "B3", "red": "B4"}
    values = RNG(0).integers(300, 4000, (4, 16, 16)).astype(np.uint16)
    write_s2(root / "s2" / "a.tif", values, band_names=("red", "cloud", "Green", "blue"))
    (root / "names.yaml").write_text("".join(f"{text}: {band}\n" for text, band in names.items()))
    given = {"s2": "names.yaml" if by_file else names}
    prepare(settings(root, tmp_path / "out", s1=None, labels=None, s2_bands="B2,B3,B4", band_names=given))
    store = Store.open(tmp_path / "out")
    assert (store.read(0, 0)["s2"] == values[[3, 2, 0]]).all()
    assert store.definitions["s2"].aliases == names
    assert store.definitions["s2"].statistics == SENSORS["s2"].statistics


def test_a_store_of_before_sensors_were_defined_in_it_opens(tmp_path):
    writer = StoreWriter(tmp_path, legend=get_legend("dynamic_world"), sensors={"s2": S2_BANDS})
    for record in toy_records(2, sensors=("s2",)):
        writer.add(record)
    writer.finish()
    meta = json.loads((tmp_path / "store.json").read_text())
    del meta["digest"], meta["sensors"]["s2"]["definition"]
    (tmp_path / "store.json").write_text(json.dumps(meta | {"digest": digest(meta)}))
    assert Store.open(tmp_path).definitions == {"s2": SENSORS["s2"]}


def test_the_plan_of_a_set_has_the_known_sensors_first(root, tmp_path):
    plans = plan_sensors(with_dem(root, tmp_path / "out", s1="s1/{id}.tif", s2_bands="3"))
    assert [(name, plan.keep) for name, plan in plans.items()] == [
        ("s1", ("VV", "VH")), ("s2", ("B4", "B3", "B2")), ("dem", ("elevation", "slope"))
    ]  # fmt: skip


def test_the_uint8_edition_needs_statistics_beforehand(root, tmp_path):
    with pytest.raises(ConfigError, match="edition uint8"):
        prepare(with_dem(root, tmp_path / "out", edition="uint8"))
    section = {"dem": DEM_SECTION["dem"] | {"mean": [300, 8], "std": [40, 2]}}
    prepare(with_dem(root, tmp_path / "out", edition="uint8", sensors=section))
    assert Store.open(tmp_path / "out").read(0, 0)["dem"].dtype == np.uint8
