"""A TIFF is whole, or it is refused: whatever its byte order, size of offsets, and number of directories."""

from __future__ import annotations

import resource
import struct
import time

import numpy as np
import pytest
import rasterio

from cromss.errors import DamagedFileError, RangeError
from cromss.geo.raster import open_raster, read_raster
from cromss.geo.tiff import check_tiff


def write(path, overviews=False, **options):
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 2, "dtype": "uint16", "tiled": True}
    profile |= {
        "blockxsize": 16,
        "blockysize": 16,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 0, 0, -10, 0),
    }
    with rasterio.open(path, "w", **profile, **options) as dataset:
        dataset.write(np.random.default_rng(0).integers(1, 60000, (2, 64, 64)).astype(np.uint16))
        if overviews:
            dataset.build_overviews([2, 4])
    return path


VARIANTS = [
    {},
    {"BIGTIFF": "YES"},
    {"ENDIANNESS": "BIG"},
    {"ENDIANNESS": "BIG", "BIGTIFF": "YES"},
    {"INTERLEAVE": "PIXEL", "compress": "lzw"},
    {"overviews": True, "compress": "deflate"},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_whole_file_passes_and_a_file_without_its_end_does_not(options, tmp_path):
    path = write(tmp_path / "a.tif", **options)
    check_tiff(path, gaps_allowed=False)
    whole = path.read_bytes()
    for cut in [0, 3, 7, 12, 200, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError) as caught:
            check_tiff(path)
        assert caught.value.where == path


def test_gaps_need_a_declared_no_data_value_and_permission(tmp_path):
    for name, nodata in (("a.tif", None), ("b.tif", 0)):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=16, width=16, count=1, dtype="uint8", nodata=nodata,
            SPARSE_OK=True, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        ):  # fmt: skip
            pass
    with pytest.raises(DamagedFileError, match="no declared no-data value"):
        check_tiff(tmp_path / "a.tif")
    check_tiff(tmp_path / "b.tif")
    with pytest.raises(DamagedFileError, match="1 blocks without data"):
        check_tiff(tmp_path / "b.tif", gaps_allowed=False)


def test_directories_in_a_circle_are_refused(tmp_path):
    content = b"II*\0" + (8).to_bytes(4, "little") + (0).to_bytes(2, "little") + (8).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DamagedFileError, match="do not end"):
        check_tiff(tmp_path / "a.tif")


def claim(path, width, height, block, *, listed=1, packed=False, tiled=False):
    """A TIFF of a few hundred bytes that claims a size, lists so many empty blocks, and declares no data."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 8 if packed else 1)}
    entries |= {262: (3, 1, 1), 277: (3, 1, 1), 42113: (2, 2, int.from_bytes(b"0\0\0\0", "little"))}
    shape = {322: (4, 1, block), 323: (4, 1, block)} if tiled else {278: (4, 1, block)}
    first = 8 + 2 + 12 * (len(entries) + len(shape) + 2) + 4
    lists = {324: first, 325: first + 4 * listed} if tiled else {273: first, 279: first + 4 * listed}
    entries |= shape | {tag: (4, listed, 0 if listed == 1 else place) for tag, place in lists.items()}
    rows = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4 + 8 * listed)
    path.write_bytes(content.ljust(548, b"\0"))
    return path


BOMBS = {
    "one strip of everything": {"block": 339116},
    "one packed strip": {"block": 339116, "packed": True},
    "tiles that are not listed": {"block": 256, "tiled": True},
    "rows that are not listed": {"block": 1},
    "30 strips of 4 GB": {"block": 11304, "listed": 30},
}


@pytest.mark.parametrize("name", BOMBS)
def test_548_bytes_that_claim_115_gigabytes_are_refused_at_once(name, tmp_path):
    path = claim(tmp_path / "a.tif", 339116, 339116, **BOMBS[name])
    assert path.stat().st_size == 548
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RangeError, match="114999661456 bytes") as caught:
        open_raster(path)
    assert time.process_time() - begin < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert caught.value.where == path
    assert caught.value.do


def test_a_packed_block_that_would_fill_the_memory_is_refused_and_a_plain_one_is_not(tmp_path):
    with pytest.raises(RangeError, match="blocks of at most 268435456 bytes"):
        check_tiff(claim(tmp_path / "a.tif", 20_000, 20_000, 20_000, packed=True))
    check_tiff(claim(tmp_path / "b.tif", 20_000, 20_000, 20_000))
    check_tiff(claim(tmp_path / "c.tif", 16_384, 16_384, 16_384, packed=True))


def test_blocks_that_are_not_listed_are_refused_because_they_would_read_as_zeros(tmp_path):
    check_tiff(claim(tmp_path / "a.tif", 64, 64, 16, listed=4))
    for listed in (1, 3, 5):
        with pytest.raises(DamagedFileError, match="expected: 4 of each"):
            check_tiff(claim(tmp_path / "a.tif", 64, 64, 16, listed=listed))


@pytest.mark.parametrize(("width", "height", "block"), [(0, 5, 5), (5, 0, 5), (5, 5, 0)])
def test_a_raster_without_a_size_is_refused(width, height, block, tmp_path):
    with pytest.raises(DamagedFileError, match="no size"):
        check_tiff(claim(tmp_path / "a.tif", width, height, block, tiled=True))


def test_an_empty_scene_of_the_largest_tile_passes(tmp_path):
    """A Sentinel-2 tile with 13 bands and not one written block: 3.1 GB claimed by some ten kB."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=10980, width=10980, count=13, dtype="uint16", nodata=0,
        tiled=True, SPARSE_OK=True, compress="deflate", INTERLEAVE="PIXEL", crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
    ):  # fmt: skip
        pass
    assert (tmp_path / "a.tif").stat().st_size < 50_000
    with open_raster(tmp_path / "a.tif") as dataset:
        assert not read_raster(dataset, (5000, 5000, 64, 64)).valid_HW.any()
