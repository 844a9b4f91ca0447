"""Grids, and GeoTIFFs that are read whole, in windows, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from cromss.errors import BandError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.geo import raster as module
from cromss.geo.raster import create_raster, open_raster, read_raster, require_same_grid, write_raster
from small_scenes import grid


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 17}, "size 16 x 16 and 17 x 16"),
        ({"crs": CRS.from_epsg(32634)}, "CRS EPSG:32633 and EPSG:32634"),
        ({"crs": None}, "CRS EPSG:32633 and missing"),
        ({"transform": Affine(10, 0, 340805, 0, -10, 5314800)}, "shifted by 0.5 px in x and 0 px in y"),
        ({"transform": Affine(10, 0, 340800, 0, -10, 5314790)}, "shifted by 0 px in x and 1 px in y"),
        ({"transform": Affine(10, 0, 340800, 0, 10, 5314640)}, "flipped"),
        ({"transform": Affine(9.9, 1, 340800, 1, -9.9, 5314800)}, "rotated"),
        ({"transform": Affine(20, 0, 340800, 0, -20, 5314800)}, "pixel size 10, -10 and 20, -20"),
    ],
)
def test_the_difference_of_two_grids_is_said_in_words(change, words):
    assert words in grid().difference(grid(**change))
    with pytest.raises(GridError, match=r"a\.tif\n.*b\.tif"):
        require_same_grid(grid(), grid(**change), "a.tif", "b.tif")


@pytest.mark.parametrize(("shift_m", "same"), [(0.0, True), (0.09, True), (0.11, False)])
def test_grids_are_equal_within_a_hundredth_of_a_pixel(shift_m, same):
    other = grid(transform=Affine(10, 0, 340800 + shift_m, 0, -10, 5314800))
    assert (grid().difference(other) is None) is same


def test_a_small_scale_error_shows_at_the_far_corner():
    wide = grid(4000)
    stretched = grid(4000, transform=Affine(10.0001, 0, 340800, 0, -10, 5314800))
    assert wide.difference(stretched) is not None


def test_a_window_keeps_pixels_where_they_are():
    part = grid().window(3, 5, 4, 4)
    assert part.shape == (4, 4)
    assert (part.transform.c, part.transform.f) == (340850, 5314770)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_what_is_written_is_read_again(dtype, tmp_path):
    values = np.arange(2 * 16 * 16).reshape(2, 16, 16).astype(dtype)
    write_raster(tmp_path / "a.tif", values, grid(), band_names=("p", "q"), tags={"LEVEL": "L1C"}, nodata=3)
    read = read_raster(tmp_path / "a.tif")
    assert (read.values_BHW == values).all()
    assert read.values_BHW.dtype == dtype
    assert read.grid == grid()
    assert read.band_names == ("p", "q")
    assert read.tags["LEVEL"] == "L1C"
    assert read.nodata == 3
    assert (read.valid_HW == (values != 3).all(axis=0)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_colour_table_is_written(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), grid(), colormap={1: (1, 2, 3, 255)})
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.colormap(1)[1] == (1, 2, 3, 255)


def test_windows_are_read_and_written_in_place(tmp_path):
    values = np.arange(300 * 300, dtype=np.uint16).reshape(1, 300, 300)
    with create_raster(tmp_path / "a.tif", grid(300), bands=1, dtype="uint16") as dataset:
        for row in range(0, 300, 100):
            dataset.write(values[:, row : row + 100], window=rasterio.windows.Window(0, row, 300, 100))
    part = read_raster(tmp_path / "a.tif", (10, 20, 30, 40))
    assert (part.values_BHW == values[:, 10:40, 20:60]).all()
    assert part.grid == grid(300).window(10, 20, 30, 40)
    with pytest.raises(GridError, match="outside"):
        read_raster(tmp_path / "a.tif", (290, 0, 20, 20))


def test_writing_that_fails_leaves_nothing_behind(tmp_path):
    def fail_half_way():
        with create_raster(tmp_path / "a.tif", grid(), bands=1, dtype="uint8"):
            raise KeyError("on purpose")

    with pytest.raises(KeyError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_values_must_fit_their_grid_and_names(tmp_path):
    with pytest.raises(GridError):
        write_raster(tmp_path / "a.tif", np.zeros((8, 8), np.uint8), grid())
    with pytest.raises(BandError):
        write_raster(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), grid(), band_names=("p", "q"))


def test_a_file_without_georeference_is_read_without_a_warning(tmp_path):
    where = grid(transform=Affine.identity(), crs=None)
    write_raster(tmp_path / "a.tif", np.ones((16, 16), np.uint8), where)
    assert read_raster(tmp_path / "a.tif").grid == where


def test_the_files_own_mask_is_kept(tmp_path):
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        create_raster(tmp_path / "a.tif", grid(), bands=2, dtype="uint8") as dataset,
    ):
        dataset.write(np.ones((2, 16, 16), np.uint8))
        mask = np.full((16, 16), 255, np.uint8)
        mask[2, 3] = 0
        dataset.write_mask(mask)
    valid = read_raster(tmp_path / "a.tif").valid_HW
    assert not valid[2, 3]
    assert valid.sum() == 255


def test_absent_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(MissingDataError):
        read_raster(tmp_path / "none.tif")
    (tmp_path / "a.tif").write_text("no raster")
    with pytest.raises(DamagedFileError):
        read_raster(tmp_path / "a.tif")


def test_a_file_that_the_disk_refuses_to_give_is_named(tmp_path, monkeypatch):
    write_raster(tmp_path / "a.tif", np.ones((16, 16), np.uint8), grid())

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "check_tiff", fail)
    with pytest.raises(DamagedFileError, match="Input/output error") as caught:
        read_raster(tmp_path / "a.tif")
    assert caught.value.where == tmp_path / "a.tif"


def test_blocks_that_were_never_written_are_refused_unless_no_data_is_declared(tmp_path):
    for name, nodata in (("a.tif", None), ("b.tif", 0)):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint8", nodata=nodata,
            tiled=True, blockxsize=16, blockysize=16, SPARSE_OK=True, crs=grid().crs, transform=grid().transform,
        ) as dataset:  # fmt: skip
            dataset.write(np.ones((1, 16, 64), np.uint8), window=rasterio.windows.Window(0, 0, 64, 16))
    with pytest.raises(DamagedFileError, match="12 blocks without data"):
        read_raster(tmp_path / "a.tif")
    assert read_raster(tmp_path / "b.tif").valid_HW.sum() == 16 * 64


def test_a_claim_of_a_huge_size_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    write_raster(tmp_path / "a.tif", np.ones((16, 16), np.uint8), grid())
    monkeypatch.setattr(module, "MAX_BYTES", 255)
    with open_raster(tmp_path / "a.tif") as dataset, pytest.raises(RangeError, match="too large"):
        read_raster(dataset)
