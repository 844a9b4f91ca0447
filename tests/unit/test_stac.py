"""Items of a STAC catalogue become the records that the same files give by pattern."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pystac = pytest.importorskip("pystac", reason="needs the extra `stac`")
pytest.importorskip("pystac_client", reason="needs the extra `stac`")

from cromss.data.preparation import Preparation  # noqa: E402
from cromss.data.prepare import prepare  # noqa: E402
from cromss.data.sensor_section import plan_sensors  # noqa: E402
from cromss.data.sources.layouts import Opening, settled  # noqa: E402
from cromss.data.sources.stac_items import find_items  # noqa: E402
from cromss.data.sources.stac_section import plan_stac  # noqa: E402
from cromss.data.store import Store  # noqa: E402
from cromss.errors import DamagedFileError  # noqa: E402
from cromss.geo.legends import get_legend  # noqa: E402
from small_scenes import settings  # noqa: E402
from stac_api import serving  # noqa: E402
from stac_scenes import band_files, catalogue, item  # noqa: E402

BANDS = ("B2", "B3", "B4", "B8", "B11")


@pytest.fixture(scope="module")
def real(sentinel_mini, tmp_path_factory):
    """Three real places as items of collections s1, s2 and labels, each with one asset of all bands."""
    root = tmp_path_factory.mktemp("stac")
    folder = sentinel_mini / "pretrain"
    ids = sorted(path.stem for path in (folder / "s2").glob("ben_*.tif"))[:3]
    roles = {"s1": "s1", "s2": "s2", "labels": "dynamic_world"}
    items = {
        role: [item(name, {"image": folder / source / f"{name}.tif"}) for name in ids] for role, source in roles.items()
    }
    catalogue(root / "catalogue", items)
    return root, folder, ids


SECTION = {
    "catalog": "catalogue/catalog.json",
    "s1": {"collection": "s1", "asset": "image"},
    "s2": {"collection": "s2", "asset": "image"},
    "labels": {"collection": "labels", "asset": "image"},
}


def stored(path):
    """Every array of a store, by id."""
    with Store.open(path) as store:
        return {
            store.id(index): (store.read(index, 0), store.read_labels(index), store.grid(index), store.products(index))
            for index in range(len(store))
        }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, (sample, labels, grid, products) in one.items():
        assert (labels == other[name][1]).all()
        assert grid == other[name][2]
        assert products == other[name][3]
        for key, values in sample.items():
            np.testing.assert_array_equal(values, other[name][0][key])


def test_a_catalogue_of_real_scenes_gives_the_store_that_their_folders_give(real, tmp_path):
    root, folder, ids = real
    for name in ids:
        for role, source in {"s1": "s1", "s2": "s2", "labels": "dynamic_world"}.items():
            (tmp_path / "in" / role).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / source / f"{name}.tif", tmp_path / "in" / role / f"{name}.tif")
    common = {"s2_bands": "12", "tile": 60, "shift_samples": 0}
    prepare(settings(root, tmp_path / "a", layout="stac", stac=SECTION, **common))
    prepare(settings(tmp_path / "in", tmp_path / "b", **common))
    assert_same(stored(tmp_path / "a"), stored(tmp_path / "b"))


def test_bands_of_their_own_assets_meet_on_the_finest_grid_and_offsets_are_taken_off(real, tmp_path):
    _, folder, ids = real
    name = ids[0]
    paths = band_files(folder / "s2" / f"{name}.tif", tmp_path / "bands", added=1000)
    made = item(
        name,
        {f"asset-{band}": paths[band] for band in BANDS},
        {"s2:processing_baseline": "05.09", "processing:level": "L2A"},
    )
    catalogue(tmp_path / "catalogue", {"s2": [made]})
    section = {
        "catalog": "catalogue/catalog.json",
        "s2": {"collection": "s2", "assets": {f"asset-{band}": band for band in BANDS}},
    }
    common = {"s2_bands": ",".join(BANDS), "labels": str(folder / "dynamic_world" / "{id}.tif"), "shift_samples": 0}
    report = prepare(settings(tmp_path, tmp_path / "out", layout="stac", stac=section, **common))
    assert report["changed"] == {
        "s2 band images less an offset of 1000 DN": 5,
        "s2 bands brought onto the grid of the finest band of their item, bilinear": 1,
    }
    (tmp_path / "s2").mkdir()
    shutil.copy(folder / "s2" / f"{name}.tif", tmp_path / "s2" / f"{name}.tif")
    prepare(settings(tmp_path, tmp_path / "plain", s1=None, **common))
    mine, plain = stored(tmp_path / "out")[name], stored(tmp_path / "plain")[name]
    inner = mine[0]["valid"]
    assert inner.mean() > 0.95, "only the edge, where a coarse pixel lacks neighbours, has no data"
    assert not inner[0].any()
    for band in range(4):
        assert (mine[0]["s2"][band] == plain[0]["s2"][band])[inner].all()
    far = np.abs(mine[0]["s2"][4].astype(int) - plain[0]["s2"][4].astype(int))[inner]
    assert np.median(far) < 60, "B11 was averaged to 20 m and brought back"
    assert mine[3] == {"s2": "L2A"}


@pytest.mark.parametrize(
    ("properties", "band", "expected"),
    [
        ({}, {}, None),
        ({"s2:processing_baseline": "03.01"}, {}, None),
        ({"s2:processing_baseline": "04.00"}, {}, "-1000"),
        ({}, {"scale": 0.0001, "offset": -0.1}, "-1000"),
        ({"s2:processing_baseline": "05.10"}, {"scale": 0.0001, "offset": 0}, "0"),
        (
            {"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True},
            {"scale": 0.0001, "offset": -0.1},
            "0",
        ),
    ],
)
def test_the_offset_of_sentinel_2_is_what_the_item_says(real, tmp_path, properties, band, expected):
    _, folder, ids = real
    extra = {"raster:bands": [band]} if band else {}
    asset = pystac.Asset(str(folder / "s2" / f"{ids[0]}.tif"), extra_fields=extra)
    path = catalogue(tmp_path, {"s2": [item(ids[0], {"image": asset}, properties)]})
    plan = plan_stac({"catalog": "c", "s2": {"collection": "s2", "asset": "image"}})
    (found,) = find_items(plan, str(path)).items["s2"].values()
    assert found.tags.get("BOA_ADD_OFFSET") == expected


def test_items_are_grouped_by_place_and_month_the_clearest_used_and_the_rest_listed(real, tmp_path):
    _, folder, ids = real
    file, place = folder / "s2" / f"{ids[0]}.tif", {"grid:code": "MGRS-29SNB"}
    days = {"2021-06-01": 40, "2021-06-20": 3, "2021-07-02": 9, "2022-01-01": 0}
    made = [item(day, {"image": file}, place | {"eo:cloud_cover": cloud}, day) for day, cloud in days.items()]
    made.append(item("2021-08-02", {"other": file}, place, "2021-08-02"))
    catalogue(tmp_path / "catalogue", {"s2": made})
    section = {
        "catalog": "catalogue/catalog.json",
        "s2": {"collection": "s2", "asset": "image"},
        "place": "grid:code",
        "season": "month",
        "start": "2021-06-01",
        "end": "2021-12-31",
    }
    report = prepare(
        settings(tmp_path, tmp_path / "out", layout="stac", stac=section, labels=None, s2_bands="12", shift_samples=0)
    )
    with Store.open(tmp_path / "out") as store:
        assert store.id(0) == "MGRS-29SNB"
        assert store.seasons(0) == ("2021-06", "2021-07")
    assert {(orphan["season"], orphan["missing"], orphan["found"]) for orphan in report["orphans"]} == {
        ("2021-06", ("a season of its own: s2 2021-06-20 is clearer",), ("item 2021-06-01",)),
        ("2021-08", ("asset image of s2",), ("item 2021-08-02",)),
    }


def test_backscatter_in_linear_power_becomes_decibels_and_is_counted(real, tmp_path):
    import rasterio

    from cromss.geo.raster import grid_of
    from small_scenes import write

    _, folder, ids = real
    with rasterio.open(folder / "s1" / f"{ids[0]}.tif") as dataset:
        decibels, where = dataset.read(), grid_of(dataset)
    power = (10 ** (decibels / 10)).astype(np.float32)
    power[:, 3, 4] = -32768
    paths = {}
    for name, values in zip(("vv", "vh"), power, strict=True):
        paths[name] = tmp_path / f"{name}.tif"
        write(paths[name], values, where, nodata=-32768)
    catalogue(tmp_path / "catalogue", {"rtc": [item("a", paths)]})
    section = {
        "catalog": "catalogue/catalog.json",
        "s1": {"collection": "rtc", "assets": {"vv": "VV", "vh": "VH"}, "unit": "power"},
    }
    report = prepare(settings(tmp_path, tmp_path / "out", layout="stac", stac=section, labels=None, shift_samples=0))
    assert report["changed"] == {"s1 band images turned from power into dB": 2}
    with Store.open(tmp_path / "out") as store:
        sample = store.read(0, 0)
        assert not sample["valid"][3, 4]
        assert np.abs(sample["s1"] - decibels)[:, sample["valid"]].max() < 1e-4


@pytest.mark.slow
def test_workers_write_the_store_that_one_process_writes(real, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `scale`")
    common = {"s2_bands": "12", "tile": 60, "shift_samples": 0, "layout": "stac", "stac": SECTION}
    prepare(settings(real[0], tmp_path / "one", **common))
    prepare(settings(real[0], tmp_path / "two", workers=2, **common))
    assert_same(stored(tmp_path / "one"), stored(tmp_path / "two"))


def test_a_process_that_is_sent_the_items_asks_the_catalogue_no_more(real, tmp_path):
    import pickle

    root = tmp_path / "copy"
    shutil.copytree(real[0], root)
    config = settings(root, tmp_path / "out", layout="stac", stac=SECTION, s2_bands="12")
    sensors = plan_sensors(config)
    opening = settled(
        Opening(
            config=config,
            legend=get_legend("dynamic_world"),
            bands={name: plan.keep for name, plan in sensors.items()},
            split_of=str,
            by_table=False,
        )
    )
    shutil.rmtree(root)
    sent = pickle.loads(pickle.dumps(Preparation(opening)))  # noqa: S301
    assert [scene.id for scene in sent.source.scenes] == real[2]
    assert all(path.is_file() for path in sent.source.files(sent.source.scenes[0]))


def test_an_api_is_searched_once_for_the_box_and_the_days(real, tmp_path):
    _, folder, ids = real
    made = item(ids[0], {"image": folder / "s2" / f"{ids[0]}.tif"})
    content = made.to_dict(include_self_link=False) | {"collection": "s2"}
    with serving([content]) as api:
        section = {
            "catalog": f"http://127.0.0.1:{api.server_port}/",
            "s2": {"collection": "s2", "asset": "image"},
            "bbox": [-180, -80, 180, 80],
            "start": "2021-06-01",
        }
        config = {"layout": "stac", "stac": section, "labels": None, "s2_bands": "12", "shift_samples": 0}
        prepare(settings(tmp_path, tmp_path / "out", **config))
        (asked,) = api.asked
        assert asked["collections"] == ["s2"]
        assert asked["bbox"] == [-180, -80, 180, 80]
        assert asked["datetime"].startswith("2021-06-01T00:00:00Z/")
        api.broken = True
        with pytest.raises(DamagedFileError, match="STAC catalogue"):
            prepare(settings(tmp_path, tmp_path / "other", **config))
    with Store.open(tmp_path / "out") as store:
        assert store.ids == [ids[0]]
