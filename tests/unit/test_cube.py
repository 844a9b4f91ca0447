"""A Zarr cube becomes the records that the same pixels give as GeoTIFFs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import rasterio

pytest.importorskip("zarr", reason="needs the extra `zarr`")

from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.geo.raster import grid_of
from cube_scenes import CubeWriter
from small_scenes import grid, settings

DAYS = ("2021-06-01", "2021-06-11")
COMMON = {"s2_bands": "12", "tile": 50, "shift_samples": 0}


@pytest.fixture(scope="module")
def real(sentinel_mini):
    """One real place: role -> values, the grid, and its name."""
    folder = sentinel_mini / "pretrain"
    name = sorted(path.stem for path in (folder / "s2").glob("ben_*.tif"))[0]
    arrays = {}
    for role, source in {"s1": "s1", "s2": "s2", "labels": "dynamic_world"}.items():
        with rasterio.open(folder / source / f"{name}.tif") as dataset:
            arrays[role], where, bands = dataset.read(), grid_of(dataset), dataset.descriptions
            if role == "s2":
                names = bands
    return arrays, where, names, folder, name


def stored(path):
    with Store.open(path) as store:
        return {
            store.id(index)[-13:]: (
                [store.read(index, season) for season in range(store.num_seasons(index))],
                store.grid(index),
                store.seasons(index),
            )
            for index in range(len(store))
        }


@pytest.mark.parametrize("version", [2, 3])
def test_a_cube_of_real_scenes_gives_the_store_that_their_geotiffs_give(real, tmp_path, version):
    arrays, where, bands, folder, name = real
    writer = CubeWriter(tmp_path / "cube.zarr", where, version=version, days=DAYS)
    present = [index for index, band in enumerate(bands) if band != "B10"]
    writer.add_bands([f"band-{bands[index]}" for index in present])
    later = arrays["s2"][present].copy()
    later[:, :3, :5] = 0
    writer.add("s2", np.stack([arrays["s2"][present], later]), ("time", "band", "y", "x"), fill=0)
    for index, polarization in enumerate(("vv", "vh")):
        values = np.stack([arrays["s1"][index]] * 2)
        writer.add(polarization, values, ("time", "y", "x"), fill=float("nan"))
    labels = CubeWriter(tmp_path / "labels.zarr", where, version=version)
    labels.add("map", arrays["labels"][0], ("y", "x"), fill=255)
    section = {
        "path": "cube.zarr",
        "s2": {"variable": "s2", "bands": {f"band-{band}": band for band in bands if band != "B10"}},
        "s1": {"variables": {"vv": "VV", "vh": "VH"}},
        "labels": {"path": "labels.zarr", "variable": "map"},
    }
    prepare(settings(tmp_path, tmp_path / "a", layout="cube", cube=section, s2_product="L2A", **COMMON))
    for role, source in {"s1": "s1", "s2": "s2", "labels": "dynamic_world"}.items():
        (tmp_path / "in" / role).mkdir(parents=True)
        shutil.copy(folder / source / f"{name}.tif", tmp_path / "in" / role / "cube.tif")
    prepare(settings(tmp_path / "in", tmp_path / "b", **COMMON))
    cube, files = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert cube.keys() == files.keys()
    for name_of_patch, (samples, place, seasons) in cube.items():
        assert seasons == DAYS
        assert place.difference(files[name_of_patch][1], 1e-6) is None
        for key, values in files[name_of_patch][0][0].items():
            np.testing.assert_array_equal(samples[0][key], values)
        np.testing.assert_array_equal(samples[1]["labels"], samples[0]["labels"])
    first = cube[min(cube)][0]
    assert not first[1]["valid"][:3, :5].any()
    assert first[1]["valid"].sum() == 50 * 50 - 15


def test_only_the_chunks_under_a_patch_are_read(tmp_path):
    """A chunk that is damaged shows in the patches over it alone, so memory follows the patch and not the cube."""
    from cromss.data.sources.cube import cube_entries, cube_images
    from cromss.errors import DamagedFileError
    from cromss.geo.legends import get_legend

    rng = np.random.default_rng(0)
    writer = CubeWriter(tmp_path / "c.zarr", grid(80), chunk=40)
    writer.add("vv", rng.normal(-10, 2, (80, 80)).astype(np.float32), ("y", "x"), fill=float("nan"))
    (tmp_path / "c.zarr" / "vv" / "c" / "1" / "1").write_bytes(b"damaged")
    reader = {"legend": get_legend("dynamic_world"), "bands": {"s1": ("VV",)}, "tile": 40}
    section = {"path": "c.zarr", "s1": {"variables": {"vv": "VV"}}}
    source = cube_images(section, tmp_path, {}, roles=cube_entries(section), **reader)
    records = source.records(source.scenes[0])
    assert [next(records).id for _ in range(3)] == ["c_r00000_c00000", "c_r00000_c00040", "c_r00040_c00000"]
    with pytest.raises(DamagedFileError, match="vv"):
        next(records)


def test_the_offset_that_a_cube_declares_is_taken_off_and_power_becomes_decibels(tmp_path):
    rng = np.random.default_rng(0)
    digital = rng.integers(1300, 5000, (2, 32, 32)).astype(np.uint16)
    power = rng.uniform(0.001, 1, (2, 32, 32)).astype(np.float32)
    writer = CubeWriter(tmp_path / "c.zarr", grid(32))
    for index, name in enumerate(("B02", "B03")):
        scaled = {"scale_factor": 0.0001, "add_offset": -0.1}
        writer.add(name, digital[index], ("y", "x"), fill=0, attributes=scaled)
        writer.add(("vv", "vh")[index], power[index], ("y", "x"), fill=float("nan"))
    section = {
        "path": "c.zarr",
        "s2": {"variables": {"B02": "B2", "B03": "B3"}},
        "s1": {"variables": {"vv": "VV", "vh": "VH"}, "unit": "power"},
    }
    report = prepare(
        settings(tmp_path, tmp_path / "out", layout="cube", cube=section, labels=None, s2_bands="B2,B3",
                 s2_product="L2A", shift_samples=0)
    )  # fmt: skip
    assert report["changed"] == {
        "s1 band images turned from power into dB": 2,
        "s2 band images less an offset of 1000 DN": 2,
    }
    with Store.open(tmp_path / "out") as store:
        sample = store.read(0, 0)
    assert (sample["s2"] == digital - 1000).all()
    assert np.abs(sample["s1"] - 10 * np.log10(power)).max() < 1e-5
