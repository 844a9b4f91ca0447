"""SSL4EO-S12 v1.0: bands on one grid, seasons paired by date, editions told apart, and differences refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import rasterio

from cromss.data.prepare import prepare
from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_s12 import Ssl4eoS12, pair_by_date, season_date
from cromss.data.store import Store, verify_store
from cromss.errors import BandError, ConfigError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.geo.bands import SENSORS
from cromss.geo.raster import read_raster
from published_archives import S1_SEASONS, S2_SEASONS, box, write_season, write_ssl4eo
from small_scenes import settings, write

ALL = {sensor: SENSORS[sensor].bands for sensor in ("s1", "s2")}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("ssl4eo")
    write_ssl4eo(root, places=2, seasons=2)
    return root


@pytest.fixture
def place(tmp_path, archive):
    """A copy with one place and one season that a test may damage."""
    for sensor, name in (("s1", S1_SEASONS[0]), ("s2c", S2_SEASONS[0])):
        shutil.copytree(archive / sensor / "0000200" / name, tmp_path / sensor / "0000200" / name)
    return tmp_path


def only_record(root, tally=None, **options):
    source = Ssl4eoS12(root, bands=options.pop("bands", ALL), **options)
    (record,) = source.records(source.scenes[0], tally)
    return record


def test_bands_of_10_m_are_kept_to_the_bit_and_the_others_resampled_and_counted(archive):
    tally = Tally()
    record = only_record(archive, tally)
    folder = archive / "s2c" / "0000200" / S2_SEASONS[0]
    assert record.images["s1"].shape == (2, 2, 264, 264)
    for name in ("B2", "B8"):
        stored = record.images["s2"][0, ALL["s2"].index(name)]
        assert (stored == read_raster(folder / f"{name}.tif").values_BHW[0]).all()
    assert tally.changed == {
        "s2 band images of 20 m resampled to 10 m (cubic)": 2 * 6,
        "s2 band images of 60 m resampled to 10 m (cubic)": 2 * 3,
    }


def test_resampled_bands_keep_their_place(archive):
    image = only_record(archive).images["s2"][0]
    folder = archive / "s2c" / "0000200" / S2_SEASONS[0]
    for name, step in (("B11", 2), ("B9", 6)):
        native = read_raster(folder / f"{name}.tif").values_BHW[0].astype(float)
        back = image[ALL["s2"].index(name)].astype(float).reshape(264 // step, step, -1, step).mean((1, 3))
        apart = [np.abs(back - np.roll(native, move, (0, 1)))[2:-2, 2:-2].mean() for move in (0, 1, -1)]
        assert apart[0] < 0.4 * min(apart[1:])


def test_the_real_place_is_read_as_it_was_published(sentinel_mini):
    native = sentinel_mini / "native" / "ssl4eo_s12"
    record = only_record(native)
    assert record.id == "0000200"
    assert record.notes["s2_date"] == "2020-06-04,2020-08-23"
    assert record.notes["s1_date"] == "2020-06-07,2020-09-03"
    assert float(record.notes["boxes_apart_px"]) == pytest.approx(4.0, abs=0.05)
    for season, date in enumerate(("2020-06-04", "2020-08-23")):
        (path,) = (sentinel_mini / "pretrain" / "s2").glob(f"ssl4eo_0000200_{date.replace('-', '')}*.tif")
        mini = read_raster(path).values_BHW
        for name, metres in (("B2", 10), ("B3", 10), ("B4", 10), ("B8", 10)):
            index = ALL["s2"].index(name)
            assert (record.images["s2"][season, index] == mini[index]).all(), metres
        # there the coarser bands were interpolated bilinearly: nearly the same, and nowhere moved
        for name in ("B8A", "B12", "B9"):
            index = ALL["s2"].index(name)
            pair = np.corrcoef(record.images["s2"][season, index].ravel(), mini[index].ravel())
            assert pair[0, 1] > 0.995


def test_both_products_of_the_real_place_go_into_a_store(sentinel_mini, tmp_path):
    root = sentinel_mini / "native" / "ssl4eo_s12"
    with pytest.raises(ConfigError, match="both Sentinel-2 products"):
        prepare(settings(root, tmp_path / "out", layout="ssl4eo_s12"))
    for product, bands in (("L1C", "13"), ("L2A", "12")):
        options = {"layout": "ssl4eo_s12", "s2_product": product, "s2_bands": bands}
        report = prepare(settings(root, tmp_path / product, **options))
        assert report["samples"] == 2
        assert sum(report["changed"].values()) == 2 * (len(SENSORS["s2"].products[product]) - 4)
        assert verify_store(tmp_path / product)["places"] == 1


def test_seasons_are_paired_by_date_and_not_by_the_order_of_their_names(archive):
    (scene, _) = Ssl4eoS12(archive, bands=ALL).scenes
    assert [path.name for path in scene.files["s1"]] == list(S1_SEASONS[:2])  # S1B comes before S1A
    assert scene.seasons == S2_SEASONS[:2]


def test_a_season_pairs_only_with_its_nearest_within_45_days():
    names = ["20200601T000000_20200601T000000_T43RCP", "20200611T000000_20200611T000000_T43RCP"]
    other = "S1A_IW_GRDH_1SDV_20200608T131212_20200608T131237_034195_03F8F5_AC1C"
    assert pair_by_date(names, "s2", [other], "s1") == {names[1]: other}
    late = other.replace("20200608", "20200801")
    assert pair_by_date(names, "s2", [late], "s1") == {}


def test_seasons_and_places_without_partners_are_orphans(archive, tmp_path):
    shutil.copytree(archive, tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "s1" / "0000200" / S1_SEASONS[1])
    shutil.rmtree(tmp_path / "in" / "s2c" / "0000201")
    source = Ssl4eoS12(tmp_path / "in", bands=ALL)
    assert [(scene.id, scene.seasons) for scene in source.scenes] == [("0000200", S2_SEASONS[:1])]
    assert {(orphan.id, orphan.season, orphan.missing) for orphan in source.orphans} == {
        ("0000200", S2_SEASONS[1], ("s1",)),
        ("0000201", S1_SEASONS[0], ("s2",)),
        ("0000201", S1_SEASONS[1], ("s2",)),
    }


def test_the_8_bit_edition_is_turned_back_and_counted(tmp_path):
    write_ssl4eo(tmp_path / "native", seasons=1)
    write_ssl4eo(tmp_path / "uint8", seasons=1, eight_bit=True)
    tally = Tally()
    exact, restored = only_record(tmp_path / "native"), only_record(tmp_path / "uint8", tally)
    assert tally.changed["s1 band images turned back from 8 bits"] == 2
    assert tally.changed["s2 band images turned back from 8 bits"] == 13
    for sensor, names in ALL.items():
        for index, name in enumerate(names):
            mean, std = SENSORS[sensor].statistics["GRD" if sensor == "s1" else "L1C"][name]
            step = 4 * std / 255
            a, b = (record.images[sensor][0, index].astype(float) for record in (exact, restored))
            inside = np.abs(a - mean) < 1.9 * std
            assert np.abs(a - b)[inside].max() <= step * 0.5 + 1 + (0.5 * step if name not in ("VV", "VH") else 0)


def test_the_8_bit_edition_keeps_its_bytes_through_an_8_bit_store(tmp_path):
    write_ssl4eo(tmp_path / "in", seasons=1, eight_bit=True)
    prepare(settings(tmp_path / "in", tmp_path / "out", layout="ssl4eo_s12", edition="uint8", s2_bands="B4,B3"))
    with Store.open(tmp_path / "out") as store:
        sample = store.read(0, 0)
    for sensor, folder, season, names in (
        ("s1", "s1", S1_SEASONS[0], ("VV", "VH")),
        ("s2", "s2c", S2_SEASONS[0], ("B4", "B3")),
    ):
        for index, name in enumerate(names):
            raw = read_raster(tmp_path / "in" / folder / "0000200" / season / f"{name}.tif").values_BHW[0]
            assert (sample[sensor][index] == raw).all()


def test_the_8_bit_edition_may_be_compressed_with_loss(tmp_path):
    write_ssl4eo(tmp_path, seasons=1, eight_bit=True)
    for path in tmp_path.rglob("*.tif"):
        raster = read_raster(path)
        profile = {"height": raster.grid.height, "width": raster.grid.width, "count": 1, "dtype": "uint8"}
        profile |= {"transform": raster.grid.transform, "crs": raster.grid.crs, "compress": "jpeg"}
        with rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
            dataset.write(raster.values_BHW)
    record = only_record(tmp_path)
    b2 = record.images["s2"][0, 1].astype(float)
    mean, std = SENSORS["s2"].statistics["L1C"]["B2"]
    assert abs(b2.mean() - mean) < std


def test_one_sensor_alone_is_enough(archive):
    record = only_record(archive, bands={"s1": ("VH",)})
    path = archive / "s1" / "0000200" / S1_SEASONS[1] / "VH.tif"
    assert record.images["s1"].shape == (2, 1, 264, 264)
    assert (record.images["s1"][1, 0] == read_raster(path).values_BHW[0]).all()  # the second by date
    assert only_record(archive, bands={"s2": ("B4",)}).seasons == S2_SEASONS[:2]


def test_zero_in_every_band_is_no_data_and_so_is_what_resampling_mixes_with_it(place, archive):
    folder = place / "s2c" / "0000200" / S2_SEASONS[0]
    for path in folder.glob("*.tif"):
        raster = read_raster(path)
        values = raster.values_BHW[0].copy()
        values[:, : len(values) // 11] = 0
        write(path, values, raster.grid)
    whole, record = only_record(archive), only_record(place)
    assert not record.valid[0, :, : 24 + 12].any()  # 24 px of fill, and two pixels of 60 m beyond
    assert record.valid[0, :, 24 + 12 :].all()
    assert (record.images["s2"][0, :, :, 36:] == whole.images["s2"][0, :, :, 36:]).all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("band", MissingDataError, "B5"),
        ("size", GridError, "264 x 264 px of 10 m"),
        ("type", RangeError, "float64"),
        ("edition", BandError, "8-bit"),
        ("band_box", GridError, "at most 0.5 px"),
        ("coarse_box", GridError, "half a pixel of B9"),
        ("sensor_box", GridError, "at most 16 px"),
        ("truncated", DamagedFileError, "B3.tif"),
        ("power", RangeError, "linear power"),
    ],
)
def test_what_differs_from_the_layout_is_refused_with_what_was_expected_and_found(place, change, error, text):
    s1, s2 = place / "s1" / "0000200" / S1_SEASONS[0], place / "s2c" / "0000200" / S2_SEASONS[0]
    b3 = read_raster(s2 / "B3.tif").values_BHW[0]
    if change == "band":
        (s2 / "B5.tif").unlink()
    elif change == "size":
        write(s2 / "B3.tif", b3[:132, :132], box(132, 20))
    elif change == "type":
        write(s2 / "B3.tif", b3.astype(np.float64), box(264, 10))
    elif change == "edition":
        write(s2 / "B3.tif", b3.clip(0, 255).astype(np.uint8), box(264, 10))
    elif change == "band_box":
        write(s2 / "B3.tif", b3, box(264, 10, right=1))
    elif change == "coarse_box":
        write(s2 / "B9.tif", read_raster(s2 / "B9.tif").values_BHW[0], box(44, 60, right=4, down=6))
    elif change == "sensor_box":
        shutil.rmtree(s1)
        write_season(s1, "GRD", 0, right=17.0)
    elif change == "truncated":
        (s2 / "B3.tif").write_bytes((s2 / "B3.tif").read_bytes()[:2000])
    else:
        for name in ("VV", "VH"):
            write(s1 / f"{name}.tif", np.full((264, 264), 0.1, np.float32), box(264, 10))
    with pytest.raises(error, match=text) as caught:
        only_record(place)
    assert "0000200" in str(caught.value.where)


def test_roots_and_names_of_another_layout_are_refused_at_once(tmp_path, archive):
    with pytest.raises(MissingDataError, match="s2c in"):
        Ssl4eoS12(tmp_path, bands={"s2": ALL["s2"]})
    (tmp_path / "s2c" / "patch1" / "x").mkdir(parents=True)
    with pytest.raises(MissingDataError, match="7 digits"):
        Ssl4eoS12(tmp_path, bands={"s2": ALL["s2"]})
    (tmp_path / "s2c" / "0000001" / "summer").mkdir(parents=True)
    with pytest.raises(DamagedFileError, match="summer"):
        Ssl4eoS12(tmp_path, bands={"s2": ALL["s2"]})
    with pytest.raises(BandError, match="no B10"):
        Ssl4eoS12(archive, bands=ALL, product="L2A")


def test_the_day_of_an_acquisition_is_read_from_its_name():
    assert season_date(S2_SEASONS[0], "s2").isoformat() == "2020-06-04"
    assert season_date(S1_SEASONS[1], "s1").isoformat() == "2020-09-03"
    with pytest.raises(DamagedFileError):
        season_date("20209904T054639_20200604T054831_T43RCP", "s2")
