"""The mean spectra and echoes of the synthetic classes are those of real scenes, by the rule stated beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss.data.synthetic.radar import CLASS_DB
from cromss.data.synthetic.spectra import BANDS, CLASS_DN, CLOUD_DN, PATH_DN

SNOW = 8
# Lines that carry L2A to L1C (slope, intercept in DN), as the labels of the same scenes were made with.
TO_L1C = {
    "B2": (0.6337, 796.7),
    "B3": (0.6867, 562.7),
    "B4": (0.7813, 372.8),
    "B5": (0.744, 365.9),
    "B6": (0.7877, 375.1),
    "B7": (0.8423, 357.0),
    "B8": (0.802, 305.2),
    "B11": (0.8974, 72.6),
    "B12": (0.8294, 24.5),
}


def medians_by_class(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Median over scenes of the median of each class: (9, 9) DN of the bands of TO_L1C, and (9, 2) dB."""
    optical: list[list[np.ndarray]] = [[] for _ in range(9)]
    radar: list[list[np.ndarray]] = [[] for _ in range(9)]
    for path in sorted((folder / "s2").glob("*.tif")):
        layers, level = {}, ""
        for kind in ("s2", "s1", "dynamic_world", "dynamic_world_confidence"):
            with rasterio.open(folder / kind / path.name) as file:
                layers[kind] = file.read().astype(float)
                level = file.tags()["LEVEL"] if kind == "s2" else level
        image = np.stack([layers["s2"][BANDS.index(name)] for name in TO_L1C])
        if level == "L2A":
            slope, intercept = np.array(list(TO_L1C.values())).T[:, :, None, None]
            image = slope * image + intercept
        labels, confidence = layers["dynamic_world"][0], layers["dynamic_world_confidence"][0]
        for label in range(9):
            sure = (labels == label) & (confidence >= (60 if label == SNOW else 40)) & (confidence <= 100)
            if sure.sum() >= 50:
                optical[label].append(np.median(image[:, sure], 1))
                radar[label].append(np.nanmedian(layers["s1"][:, sure], 1))
    return np.array([np.median(rows, 0) for rows in optical]), np.array([np.median(rows, 0) for rows in radar])


@pytest.fixture(scope="module")
def medians(sentinel_mini: Path) -> tuple[np.ndarray, np.ndarray]:
    return medians_by_class(sentinel_mini / "pretrain")


@pytest.mark.slow
def test_the_mean_spectra_are_the_medians_of_real_scenes(medians: tuple[np.ndarray, np.ndarray]) -> None:
    ours = CLASS_DN[:, [BANDS.index(name) for name in TO_L1C]]
    np.testing.assert_allclose(ours, medians[0], atol=1.0)


def test_the_mean_echoes_are_the_medians_of_real_scenes(medians: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(CLASS_DB, medians[1], atol=0.06)


@pytest.mark.slow
def test_the_bands_without_such_a_line_follow_from_a_real_l1c_scene(sentinel_mini: Path) -> None:
    with rasterio.open(sentinel_mini / "scene" / "eastern_shore_virginia_l1c.tif") as file:
        scene = dict(zip(BANDS, file.read()[:, ::4, ::4].astype(float), strict=True))
    for band, base in (("B1", "B2"), ("B8A", "B8"), ("B9", "B8A")):
        ratio = np.median(scene[band] / scene[base])
        ours = CLASS_DN[:, BANDS.index(band)] / CLASS_DN[:, BANDS.index(base)]
        np.testing.assert_allclose(ours, ratio, atol=0.015)
    assert abs(np.median(scene["B10"]) - 11) <= 1
    assert set(CLASS_DN[:, BANDS.index("B10")]) == {11}


def test_the_cloud_is_that_of_a_real_scene(sentinel_mini: Path) -> None:
    name = "ssl4eo_0000200_20200823.tif"
    with rasterio.open(sentinel_mini / "pretrain" / "s2" / name) as file:
        image = file.read()
    with rasterio.open(sentinel_mini / "pretrain" / "dynamic_world" / name) as file:
        cloud = file.read(1) == SNOW  # the model takes the cloud of this summer scene for snow
    np.testing.assert_allclose(CLOUD_DN, np.median(image[:, cloud], 1), atol=1.0)


def test_the_path_is_darker_than_every_class() -> None:
    assert (PATH_DN < CLASS_DN).all()
