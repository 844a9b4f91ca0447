from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch

from cromss.config import PredictConfig
from cromss.errors import BandError, ConfigError, DataError, GridError, NonFiniteError
from cromss.geo.bands import Normalization, Sensor, published_normalization
from cromss.geo.raster import grid_of, write_raster
from cromss.maps.predict import choose_branches, predict, predict_probabilities, predict_scene
from cromss.maps.scene import open_scene
from cromss.models.networks import NetworkSpec, build_network, forward_any_size
from cromss.training.checkpoint import save_checkpoint
from maps_helpers import LEGEND, Reader, pattern, plain_card, published_card, utm, write_scene
from small_scenes import dem_values, write_dem

NARROW = NetworkSpec(
    inputs={"s1": 2, "s2": 13},
    branches=("s1", "s2"),
    encoder="tu-cromss_narrow",
    decoder_channels=(32, 24, 16, 16, 8),
    num_classes=9,
)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return build_network(NARROW).eval()


def test_a_map_has_the_grid_colours_names_and_overviews_that_a_map_needs(tmp_path):
    classes = pattern(300, 517, missing=0.1)
    image = write_scene(tmp_path / "s2.tif", classes)
    report = predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", window=128)
    with rasterio.open(image) as scene, rasterio.open(report["files"]["class"]) as file:
        assert grid_of(file) == grid_of(scene)
        assert (file.dtypes, file.nodata, file.compression.name) == (("uint8",), 255, "deflate")
        assert file.profile["tiled"]
        assert file.overviews(1)
        assert {key: color for key, color in file.colormap(1).items() if key < 9} == {
            key: color for key, color in LEGEND.colormap().items() if key < 9
        }
        assert file.tags(1)["CLASS_6"] == "built"
        assert file.tags()["CLASS_NAMES"].startswith("0=water;1=trees;")
        np.testing.assert_array_equal(file.read(1), classes)
    with rasterio.open(report["files"]["class"], overview_level=0) as file:
        assert file.colormap(1)[6] == LEGEND.colormap()[6]
    with rasterio.open(report["files"]["confidence"]) as file:
        assert (file.nodata, file.units) == (255, ("percent",))
        assert set(np.unique(file.read(1)[classes != 255])) == {100}
        assert (file.read(1)[classes == 255] == 255).all()
    assert report["pixels"] == {name: int((classes == i).sum()) for i, name in enumerate(LEGEND.names)}
    assert report["no_data_pixels"] == int((classes == 255).sum())
    assert report["mean_confidence"] == 100


def test_probabilities_are_one_band_a_class_and_add_up_to_about_100_percent(tmp_path):
    image = write_scene(tmp_path / "s2.tif", pattern(40, 50))
    report = predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", probabilities=True)
    with rasterio.open(report["files"]["probabilities"]) as file:
        assert file.descriptions == LEGEND.names
        values = file.read().astype(int)
    assert (np.abs(values.sum(axis=0) - 100) <= 5).all()
    np.testing.assert_array_equal(values.argmax(axis=0), read(report["files"]["class"])[0])


def test_a_pixel_without_data_in_one_of_two_images_has_none_in_the_map(tmp_path):
    classes, other = pattern(70, 81, seed=1, missing=0.2), pattern(70, 81, seed=2, missing=0.2)
    both = np.where(other == 255, 255, classes)
    s2 = write_scene(tmp_path / "s2.tif", classes)
    s1 = write_scene(tmp_path / "s1.tif", np.where(other == 255, 255, np.minimum(classes, 8)), sensor="s1")
    report = predict_scene(Reader(), plain_card(), {"s1": s1, "s2": s2}, tmp_path / "out", window=32)
    assert report["branches"] == ["s1", "s2"]
    np.testing.assert_array_equal(read(report["files"]["class"])[0], both)


def test_s2_alone_gives_the_s2_branch_bit_for_bit(narrow):
    generator = torch.Generator().manual_seed(1)
    images = {sensor: torch.rand(2, bands, 64, 96, generator=generator) for sensor, bands in NARROW.inputs.items()}
    alone = predict_probabilities(narrow, ["s2"], {"s2": images["s2"]})
    with torch.inference_mode():
        assert torch.equal(alone, narrow.branch_logits("s2", {"s2": images["s2"]}).softmax(dim=1))
        assert torch.equal(alone, narrow(images)["s2"].softmax(dim=1))


def test_two_branches_are_averaged_as_probabilities(narrow):
    images = {sensor: torch.rand(1, bands, 32, 32) for sensor, bands in NARROW.inputs.items()}
    both = predict_probabilities(narrow, ["s1", "s2"], images)
    apart = [predict_probabilities(narrow, [sensor], {sensor: images[sensor]}) for sensor in images]
    torch.testing.assert_close(both, (apart[0] + apart[1]) / 2)


def test_a_scene_of_one_window_is_the_plain_forward_pass(tmp_path, narrow, sentinel_mini):
    image = min((sentinel_mini / "pretrain" / "s2").glob("ssl4eo_*.tif"))
    report = predict_scene(narrow, published_card(), {"s2": image}, tmp_path, window=512, probabilities=True)
    scaled = torch.from_numpy(published_normalization("s2", "13").apply(read(image), "L1C"))[None]
    with torch.inference_mode():
        logits = forward_any_size(narrow, {"s2": scaled, "s1": torch.zeros(1, 2, *scaled.shape[-2:])})["s2"]
    expected = logits.softmax(dim=1)[0].numpy()
    np.testing.assert_array_equal(read(report["files"]["class"])[0], expected.argmax(axis=0))
    np.testing.assert_array_equal(read(report["files"]["probabilities"]), np.rint(expected * 100).astype(np.uint8))


@pytest.mark.parametrize(
    ("branches", "given", "branch", "chosen"),
    [
        (("s1", "s2"), ["s2"], None, ("s2",)),
        (("s1", "s2"), ["s1", "s2"], None, ("s1", "s2")),
        (("s1", "s2", "fused"), ["s1", "s2"], None, ("fused",)),
        (("s1", "s2", "fused"), ["s1"], None, ("s1",)),
        (("s1", "s2"), ["s1"], "s1", ("s1",)),
        (("s1", "s2", "fused"), ["s2", "s1"], "fused", ("fused",)),
    ],
)
def test_the_branch_that_maps_follows_from_the_images(branches, given, branch, chosen):
    assert choose_branches({"s1": 2, "s2": 13}, branches, given, branch) == chosen


@pytest.mark.parametrize(
    ("branches", "given", "branch"),
    [
        (("s1", "s2"), ["s1"], "s2"),
        (("s1", "s2"), ["s1", "s2"], "s2"),
        (("s1", "s2"), ["s2"], "fused"),
        (("fused",), ["s2"], None),
        (("s1", "s2"), ["s3"], None),
        (("s1", "s2"), [], None),
    ],
)
def test_images_that_do_not_go_with_the_branches_are_refused(branches, given, branch):
    with pytest.raises(ConfigError):
        choose_branches({"s1": 2, "s2": 13}, branches, given, branch)


def test_a_map_of_no_image_is_refused_as_such():
    with pytest.raises(ConfigError, match="no image is given") as caught:
        choose_branches({"s1": 2, "s2": 13}, ("s1", "s2"), [])
    assert "--s2" in caught.value.do


def test_existing_maps_are_kept_unless_overwrite_is_set(tmp_path):
    image = write_scene(tmp_path / "s2.tif", pattern(20, 20))
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out")
    write_scene(tmp_path / "s2.tif", pattern(20, 20, seed=5))
    with pytest.raises(ConfigError, match="exist already"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out" / "class.tif")[0], pattern(20, 20))
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / "out" / "class.tif")[0], pattern(20, 20, seed=5))


def test_old_probabilities_never_stand_beside_new_maps(tmp_path):
    image = write_scene(tmp_path / "s2.tif", pattern(20, 20))
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", probabilities=True)
    with pytest.raises(ConfigError, match="older probabilities"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", overwrite=True)
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", overwrite=True, probabilities=True)


def test_a_network_that_gives_nan_is_refused_and_leaves_no_map(tmp_path):
    image = write_scene(tmp_path / "s2.tif", pattern(20, 20))
    with pytest.raises(NonFiniteError):
        predict_scene(Reader(broken=True), plain_card(), {"s2": image}, tmp_path / "out")
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("settings", [{"window": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"batch_size": 0}])
def test_impossible_windows_are_refused(tmp_path, settings):
    image = write_scene(tmp_path / "s2.tif", pattern(20, 20))
    with pytest.raises(ConfigError, match="windows"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", **settings)


def test_images_on_different_grids_are_refused_with_both_names(tmp_path):
    s2 = write_scene(tmp_path / "s2.tif", pattern(20, 20))
    s1 = write_scene(tmp_path / "s1.tif", pattern(20, 20), sensor="s1", grid=utm(20, 20).window(0, 1, 20, 20))
    with pytest.raises(GridError, match=r"(?s)s1\.tif.*s2\.tif"):
        predict_scene(Reader(), plain_card(), {"s1": s1, "s2": s2}, tmp_path / "out")


def test_bands_are_found_by_name_in_any_order(tmp_path):
    classes = pattern(30, 40)
    values = np.stack([np.full((30, 40), 5000), np.full((30, 40), 900), 1000 + classes.astype(int)]).astype(np.uint16)
    write_raster(
        tmp_path / "s2.tif", values, utm(30, 40), nodata=0, band_names=("B8", "B03", "B2"), tags={"LEVEL": "L1C"}
    )
    report = predict_scene(Reader(), plain_card(), {"s2": tmp_path / "s2.tif"}, tmp_path / "out")
    np.testing.assert_array_equal(read(report["files"]["class"])[0], classes)


def test_an_image_that_lacks_a_band_or_its_product_is_refused(tmp_path):
    image = write_scene(tmp_path / "a.tif", pattern(20, 20), band_names=("B2", "B4"))
    with pytest.raises(BandError, match="B3"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out")
    image = write_scene(tmp_path / "b.tif", pattern(20, 20), tags={})
    with pytest.raises(DataError, match="L1C"):
        predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out")
    predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / "out", s2_product="L2A")


def test_an_offset_that_was_added_to_the_image_is_taken_off_as_the_setting_or_the_tags_say(tmp_path):
    classes = pattern(30, 40)
    plain, shifted = write_scene(tmp_path / "a.tif", classes), write_scene(tmp_path / "b.tif", classes, added=1000)
    tags = {"LEVEL": "L1C", "BOA_ADD_OFFSET": "-1000"}
    tagged = write_scene(tmp_path / "c.tif", classes, added=1000, tags=tags)
    expected = read(predict_scene(Reader(), plain_card(), {"s2": plain}, tmp_path / "plain")["files"]["class"])
    for number, (image, offset) in enumerate(((shifted, 1000), (tagged, None), (tagged, 1000))):
        report = predict_scene(Reader(), plain_card(), {"s2": image}, tmp_path / str(number), s2_offset=offset)
        np.testing.assert_array_equal(read(report["files"]["class"]), expected)
    report = predict_scene(Reader(), plain_card(), {"s2": shifted}, tmp_path / "raw")
    assert (read(report["files"]["class"]) != expected).any()


def test_the_command_maps_from_a_checkpoint(tmp_path, narrow, sentinel_mini, capsys):
    save_checkpoint(tmp_path / "run" / "final", network=narrow, card=published_card())
    image = sentinel_mini / "downstream" / "flood_hand" / "India_900498" / "s1.tif"
    config = PredictConfig(
        checkpoint=str(tmp_path / "run"), s1=str(image), out=str(tmp_path / "out"), accelerator="cpu", window=512
    )
    report = predict(config)
    assert report["branches"] == ["s1"]
    with rasterio.open(image) as scene, rasterio.open(tmp_path / "out" / "class.tif") as file:
        assert grid_of(file) == grid_of(scene)
        missing = np.isnan(scene.read()).any(axis=0)
        np.testing.assert_array_equal(file.read(1) == 255, missing)
    assert "snow_and_ice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        (("slope", "elevation"), {}),
        ((), {}),
        (("VV", "VH"), {"dem": "VV, VH taken as elevation, slope"}),
    ],
)
def test_a_scene_says_which_bands_are_told_by_their_order_alone(names, renamed, tmp_path):
    dem = Sensor(name="dem", title="dem", unit="m", bands=("elevation", "slope"), valid_min=-500, valid_max=9000)
    write_dem(tmp_path / "a.tif", dem_values(np.random.default_rng(0)), band_names=names)
    numbers = {"dem": {"mean": (0.0, 0.0), "std": (1.0, 1.0)}}
    scaling = Normalization(sensor="dem", unit="m", bands=dem.bands, kind="standard", statistics=numbers)
    with open_scene({"dem": tmp_path / "a.tif"}, {"dem": scaling}, definitions={"dem": dem}) as scene:
        assert scene.renamed == renamed
