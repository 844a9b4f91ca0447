"""Maps of scenes that are small, odd, empty or broken, and maps whose making is killed or runs out of disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS

from cromss.errors import CromssError, DamagedFileError
from cromss.geo.raster import Grid, grid_of, open_raster
from cromss.maps.predict import predict_scene
from cromss.models.networks import NetworkSpec, build_network
from maps_helpers import Reader, pattern, plain_card, published_card, write_scene

MAPS = ["class.tif", "confidence.tif"]


def class_map(folder: Path) -> np.ndarray:
    with rasterio.open(folder / "class.tif") as file:
        return file.read(1)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_every_size_from_1_to_600_comes_back_pixel_by_pixel(tmp_path, missing):
    """A network that reads the class from the pixel itself gives the scene back, on the scene's grid."""
    sizes = [1, 2, 3, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 383, 384, 385, 511, 512, 513, 599, 600]
    for index, height in enumerate(sizes):
        width = sizes[(7 * index + 3) % len(sizes)]
        classes = pattern(height, width, missing=missing)
        image = write_scene(tmp_path / "s2.tif", classes)
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path, window=128, batch_size=3, overwrite=True)
        np.testing.assert_array_equal(class_map(tmp_path), classes, err_msg=f"{height} x {width}")


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_no_overlap_moves_a_pixel(tmp_path, overlap):
    classes = pattern(203, 307)
    image = write_scene(tmp_path / "s2.tif", classes)
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path, window=96, overlap=overlap)
    np.testing.assert_array_equal(class_map(tmp_path), classes)


def test_a_scene_without_any_data_gives_a_map_without_any(tmp_path):
    image = write_scene(tmp_path / "s2.tif", np.full((70, 300), 255, np.uint8))
    report = predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path, window=64)
    assert (class_map(tmp_path) == 255).all()
    assert report["no_data_pixels"] == 70 * 300
    assert report["mean_confidence"] is None


def test_a_frame_without_data_stays_without_and_does_not_eat_into_the_rest(tmp_path):
    classes = pattern(150, 170)
    classes[:40], classes[-3:], classes[:, :70], classes[:, -1:] = 255, 255, 255, 255
    image = write_scene(tmp_path / "s2.tif", classes)
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path, window=32)
    np.testing.assert_array_equal(class_map(tmp_path), classes)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(height=40, width=50, transform=Affine(1e-4, 0, 179.998, 0, -1e-4, -16.5), crs=CRS.from_epsg(4326)),
        Grid(height=40, width=50, transform=Affine(7, 7, 5e5, 7, -7, 4e6), crs=CRS.from_epsg(32601)),
        Grid(height=40, width=50, transform=Affine(10, 0, 5e5, 0, 10, 4e6), crs=CRS.from_epsg(32601)),
        Grid(height=40, width=50, transform=Affine.identity(), crs=None),
    ],
    ids=["across the antimeridian", "rotated", "south up", "no georeference"],
)
def test_the_map_keeps_an_unusual_grid_exactly(tmp_path, grid):
    image = write_scene(tmp_path / "s2.tif", pattern(40, 50), grid=grid)
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path)
    with open_raster(tmp_path / "class.tif") as file:
        assert grid_of(file) == grid
        np.testing.assert_array_equal(file.read(1), pattern(40, 50))


@pytest.mark.parametrize(
    "name",
    [
        "s1_linear_power",
        "s1_nan_block",
        "s1_other_crs",
        "s2_reflectance_float",
        "s2_shifted_half_pixel",
        "s2_truncated",
        "s2_wrong_band_count",
        "s2_zero_byte",
    ],
)
def test_a_broken_image_is_refused_by_name_and_leaves_no_map(tmp_path, sentinel_mini, name):
    torch.manual_seed(0)
    spec = NetworkSpec(inputs={"s1": 2, "s2": 12}, branches=("s1", "s2"), encoder="tu-cromss_narrow", num_classes=9)
    network, card = build_network(spec), published_card("12")
    images = {s: sentinel_mini / "pretrain" / s / "ben_33UUP_20170613_34_71.tif" for s in ("s1", "s2")}
    predict_scene(network, card, images, tmp_path / "sound")
    broken = sentinel_mini / "broken" / f"{name}.tif"
    if name == "s2_wrong_band_count":
        spec = NetworkSpec(inputs={"s1": 2, "s2": 13}, branches=("s1", "s2"), encoder="tu-cromss_narrow", num_classes=9)
        network, card = build_network(spec), published_card("13")
    with pytest.raises(CromssError) as caught:
        predict_scene(network, card, {**images, name[:2]: broken}, tmp_path / "out")
    assert broken.name in str(caught.value)
    assert caught.value.do is not None or isinstance(caught.value, DamagedFileError)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_file_damaged_in_the_middle_stops_the_map_and_leaves_none(tmp_path):
    image = write_scene(tmp_path / "s2.tif", pattern(700, 700))
    content = bytearray(image.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    image.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"s2\.tif"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", window=64)
    assert not [*(tmp_path / "out").iterdir()]


def map_and_kill(image: Path, out: Path, seconds: float) -> None:
    """Map in a child process that is killed after `seconds`."""
    child = os.fork()
    if child == 0:
        predict_scene(Reader(delay=0.002), plain_card(), {"s2": image}, out, window=64, overwrite=True)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.slow
def test_50_kills_leave_the_old_maps_or_the_new_ones_and_never_part_of_one(tmp_path):
    """Half of the kills start from an empty folder, half from the maps of an older image of the same name."""
    torch.set_num_threads(1)
    image, out, contents = tmp_path / "s2.tif", tmp_path / "out", []
    for seed in (0, 1):
        write_scene(image, pattern(300, 300, seed=seed))
        began = time.monotonic()
        predict_scene(Reader(delay=0.002), plain_card(), {"s2": image}, out, window=64, overwrite=True)
        length = time.monotonic() - began
        contents.append({name: (out / name).read_bytes() for name in MAPS})
    old, new = contents
    generator, finished = random.Random(0), 0  # noqa: S311 - moments of kills, no secrets
    for index in range(50):
        before = old if index % 2 else dict.fromkeys(MAPS)
        for name, content in before.items():
            (out / name).unlink(missing_ok=True)
            if content is not None:
                (out / name).write_bytes(content)
        map_and_kill(image, out, length * generator.uniform(0, 1) ** (0.2 if index % 5 else 1))
        found = {name: (out / name).read_bytes() if (out / name).exists() else None for name in MAPS}
        assert all(found[name] in (before[name], new[name]) for name in MAPS)
        if found["class.tif"] == new["class.tif"]:  # it comes last, so all the others are new too
            assert found == new
            finished += 1
        # follows the load of the machine, so that about half of the runs end just before their kill
        length *= 0.8 if found["class.tif"] == new["class.tif"] else 1.25
    assert 5 <= finished <= 45
    predict_scene(Reader(), plain_card(), {"s2": image}, out, window=64, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == new


def test_a_full_disk_is_an_error_and_leaves_the_old_maps(tmp_path):
    """Limits the size of files in a child process; the raster library itself reports nothing then."""
    image = write_scene(tmp_path / "s2.tif", pattern(300, 300))
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", window=64)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_scene(image, pattern(300, 300, seed=1))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", window=64, overwrite=True)
        except CromssError as error:
            os.write(write_end, error.what.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    assert b"nothing was saved" in os.read(read_end, 1000)
    os.close(read_end)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_the_scene(tmp_path):
    """The peak memory of a process that maps 4096 rows more is at most 3 MB higher; the rows alone are 12 MB."""
    code = r"""
        import re, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[3])
        from maps_helpers import Reader, plain_card
        from cromss.maps.predict import predict_scene
        predict_scene(Reader(), plain_card(), {"s2": sys.argv[1]}, sys.argv[2], window=128, overlap=0.25)
        print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))
    """
    peaks = []
    for height in (4 * 1024, 8 * 1024):
        image = write_scene(tmp_path / "s2.tif", pattern(height, 512))
        arguments = [str(image), str(tmp_path / str(height)), str(Path(__file__).parents[1])]
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            capture_output=True,
            text=True,
            check=True,
            # glibc keeps freed arrays unless told to hand them back, which blurs the figure by tens of MB
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"},
        )
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] - peaks[0] < 3, peaks
