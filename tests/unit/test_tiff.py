"""A TIFF is whole, or it is refused: whatever its byte order, size of offsets, and number of directories."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from cromss.errors import DamagedFileError
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
