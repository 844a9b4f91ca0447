from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cromss.errors import ArgumentError, BandError, DamagedFileError, LabelError
from cromss.maps.pictures import (
    GREY,
    encode_png,
    error_picture,
    label_picture,
    map_picture,
    s1_composite,
    sheet,
    to_data_uri,
    true_colour,
    weight_picture,
    write_png,
)
from cromss.maps.predict import predict_scene
from maps_helpers import LEGEND, Reader, pattern, plain_card, write_scene


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_each_label_has_its_colour_and_an_ignored_one_is_grey():
    picture = label_picture(np.array([[0, 6], [255, 8]], np.uint8), LEGEND)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[0x41, 0x9B, 0xDF], [0xC4, 0x28, 0x1B]], [list(GREY), [0xB3, 0x9F, 0xE1]]]


@pytest.mark.parametrize("labels", [np.array([[9]], np.uint8), np.array([[-1]], np.int16), np.array([[300]])])
def test_a_label_outside_the_legend_is_refused(labels):
    with pytest.raises(LabelError):
        label_picture(labels, LEGEND)


def test_true_colour_takes_bands_by_name_and_keeps_the_order_of_brightness():
    ramp = np.linspace(500, 3000, 100).reshape(10, 10)
    values = np.stack([np.zeros((10, 10)), ramp, ramp[::-1], ramp[:, ::-1]]).astype(np.uint16)
    picture = true_colour(values, ("B8", "B2", "B3", "B4"))
    for channel, band in enumerate((3, 2, 1)):
        order = values[band].ravel().argsort()
        assert (np.diff(picture[..., channel].ravel()[order].astype(int)) >= 0).all()
        assert np.ptp(picture[..., channel]) == 255


def test_true_colour_does_not_draw_the_noise_of_calm_water():
    noise = np.random.default_rng(0).integers(200, 212, (3, 20, 20)).astype(np.uint16)
    assert true_colour(noise, ("B4", "B3", "B2")).max() < 40


def test_one_bright_pixel_does_not_darken_the_rest():
    values = np.random.default_rng(0).integers(500, 3000, (3, 40, 40)).astype(np.uint16)
    brighter = values.copy()
    brighter[:, 0, 0] = 60000
    difference = true_colour(values, ("B4", "B3", "B2")).astype(int) - true_colour(brighter, ("B4", "B3", "B2"))
    assert np.abs(difference[1:]).max() <= 2


def test_the_radar_composite_shows_vv_vh_and_their_difference_on_fixed_ranges():
    dark_bright = np.array([[[-20, 0]], [[-27, -6]]], np.float32)
    assert s1_composite(dark_bright, ("VV", "VH"))[0].tolist() == [[0, 0, 106], [255, 255, 85]]
    assert (s1_composite(dark_bright[::-1], ("VH", "VV")) == s1_composite(dark_bright, ("VV", "VH"))).all()


def test_pixels_without_data_are_grey_in_every_picture():
    valid = np.array([[True, False]])
    s2 = np.full((3, 1, 2), 1000, np.uint16)
    s1 = np.array([[[-10, np.nan]], [[-17, np.nan]]], np.float32)
    for picture in (
        true_colour(s2, ("B4", "B3", "B2"), valid),
        true_colour(s2, ("B4", "B3", "B2"), np.zeros((1, 2), bool)),
        s1_composite(s1, ("VV", "VH")),
        weight_picture(np.array([[0.5, np.nan]])),
        error_picture(np.array([[1, 1]], np.uint8), np.array([[1, 255]], np.uint8)),
    ):
        assert tuple(picture[0, 1]) == GREY


def test_weights_grow_brighter_and_stay_within_0_and_1():
    brightness = weight_picture(np.linspace(0, 1, 50)[None]).astype(int).sum(axis=-1)[0]
    assert (np.diff(brightness) >= 0).all()
    with pytest.raises(ArgumentError):
        weight_picture(np.array([[1.01]]))


def test_errors_are_red_where_the_map_is_wrong_only():
    picture = error_picture(np.array([[1, 2]], np.uint8), np.array([[1, 3]], np.uint8)).astype(int)
    assert np.ptp(picture[0, 0]) == 0
    assert picture[0, 1, 0] > 150 > picture[0, 1, 1]


def test_a_picture_of_a_map_has_its_classes_and_at_most_the_pixels_asked_for(tmp_path):
    classes = np.kron(pattern(6, 9), np.ones((100, 100), np.uint8))
    image = write_scene(tmp_path / "s2.tif", classes)
    report = predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out")
    full = map_picture(report["files"]["class"], LEGEND)
    np.testing.assert_array_equal(full, label_picture(classes, LEGEND))
    small = map_picture(report["files"]["class"], LEGEND, max_side=90)
    assert small.shape == (60, 90, 3)
    np.testing.assert_array_equal(small[5::10, 5::10], label_picture(pattern(6, 9), LEGEND))
    with pytest.raises(DamagedFileError):
        map_picture(__file__, LEGEND)


def test_missing_bands_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(BandError):
        true_colour(np.zeros((2, 4, 4)), ("B4", "B3"))
    with pytest.raises(ArgumentError):
        true_colour(np.zeros((2, 4, 4)), ("B4", "B3", "B2"))
    with pytest.raises(ArgumentError):
        error_picture(np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(ArgumentError):
        encode_png(np.zeros((4, 4), np.uint8))


def test_a_png_holds_the_picture_in_a_file_and_in_an_address(tmp_path):
    picture = label_picture(pattern(13, 17), LEGEND)
    write_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(decode((tmp_path / "a.png").read_bytes()), picture)
    address = to_data_uri(encode_png(picture))
    np.testing.assert_array_equal(decode(base64.b64decode(address.removeprefix("data:image/png;base64,"))), picture)


def test_a_sheet_holds_every_picture_unsmoothed_and_the_colours_of_the_legend():
    tiles = [[np.full((24, 24, 3), 10 * (3 * row + column) + 5, np.uint8) for column in range(3)] for row in range(2)]
    page = sheet(tiles, titles=["a", "b", "c"], row_titles=["first", "second"], legend=LEGEND, tile=96)
    for row in tiles:
        for tile in row:
            assert (page == tile[0, 0]).all(axis=-1).sum() >= 96 * 96
    found = {tuple(color) for color in page.reshape(-1, 3)}
    assert {tuple(bytes.fromhex(color[1:])) for color in LEGEND.colors} <= found
    with pytest.raises(ArgumentError):
        sheet(tiles, titles=["a", "b"])
