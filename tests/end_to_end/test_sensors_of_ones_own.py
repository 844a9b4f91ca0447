"""Sensors other than Sentinel-1 and Sentinel-2, from files to a map: real optical scenes, heights and a third one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss.commands import export, verify
from cromss.config import (
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PrepareConfig,
    PretrainConfig,
    TransferConfig,
    VerifyConfig,
)
from cromss.data.prepare import prepare
from cromss.errors import ConfigError, MissingDataError
from cromss.files import read_json
from cromss.maps.predict import predict
from cromss.training.checkpoint import load_card
from cromss.training.evaluate import evaluate
from cromss.training.pretrain import pretrain
from cromss.training.transfer import transfer

pytestmark = pytest.mark.slow

SENSORS = {
    "dem": {
        "files": "dem/{id}.tif",
        "unit": "m",
        "bands": ["elevation", "slope"],
        "valid_min": -500,
        "valid_max": 9000,
    },
    "landsat": {
        "files": "landsat/{id}.tif",
        "unit": "DN",
        "bands": ["blue", "green", "red", "nir"],
        "valid_min": 0,
        "valid_max": 65535,
        "dtype": "uint16",
    },
}
SMALL = {
    "encoder": "tu-cromss_narrow", "decoder_channels": (16, 16, 8, 8, 8), "crop": 96, "batch_size": 4, "steps": 3,
    "workers": 0, "threads": 1, "pictures_every": 0, "s2_bands": "9", "ramp_epochs": 2,
}  # fmt: skip


def write(path: Path, values: np.ndarray, like: rasterio.DatasetReader, names: tuple[str, ...], nodata: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = {"crs": like.crs, "transform": like.transform, "height": like.height, "width": like.width}
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), dtype=values.dtype, nodata=nodata, **grid
    ) as dataset:
        dataset.write(values)
        dataset.descriptions = names


@pytest.fixture(scope="module")
def root(sentinel_mini, tmp_path_factory):
    """Ten real places: Sentinel-2 and labels as they are, a hill that is made up, four bands under other names."""
    folder = tmp_path_factory.mktemp("sensors") / "in"
    for number, path in enumerate(sorted((sentinel_mini / "pretrain" / "s2").glob("ben_*.tif"))[:10]):
        for role, source in (("s2", "s2"), ("labels", "dynamic_world")):
            (folder / role).mkdir(parents=True, exist_ok=True)
            (folder / role / path.name).write_bytes((sentinel_mini / "pretrain" / source / path.name).read_bytes())
        with rasterio.open(path) as image:
            rows, columns = np.mgrid[: image.height, : image.width]
            height = (200 + 3 * rows + 20 * np.sin(columns / 9 + number)).astype(np.float32)
            hill = np.stack([height, np.hypot(*np.gradient(height)).astype(np.float32)])
            write(folder / "dem" / path.name, hill, image, ("elevation", "slope"), -9999)
            optical = np.maximum(image.read([2, 3, 4, 8]) // 2, 1)
            write(folder / "landsat" / path.name, optical, image, (None,) * 4, 0)
    return folder


@pytest.fixture(scope="module")
def store(root):
    out = root.parent / "store"
    shares = {"validation_share": 0.2, "test_share": 0.2}
    prepare(PrepareConfig(root=str(root), out=str(out), s1=None, s2_bands="9", sensors=SENSORS, **shares))
    verify(VerifyConfig(path=str(out)))
    return out


@pytest.mark.parametrize("fusion", ["late", "middle"])
@pytest.mark.parametrize(
    ("method", "sensors"), [("cromss", ("s2", "dem", "landsat")), ("no_selection", ("landsat", "dem"))], ids=str
)
def test_any_sensors_go_the_whole_way(method, sensors, fusion, root, store, tmp_path):
    run = tmp_path / "run"
    result = pretrain(
        PretrainConfig(data=str(store), out=str(run), method=method, sensors=sensors, fusion=fusion, **SMALL)
    )
    assert {f"{sensor}_oa" for sensor in sensors} <= set(result["validation"]["summary"])
    card = load_card(run)
    assert list(card["network"]["inputs"]) == list(sensors)
    assert card["inputs"]["dem"]["unit"] == "m"
    settings = {"sensor": "dem", "steps": 2, "batch_size": 2, "crop": 96, "threads": 1}
    transfer(TransferConfig(data=str(store), out=str(tmp_path / "transfer"), checkpoint=str(run), **settings))
    evaluate(EvaluateConfig(checkpoint=str(run), data=str(store), out=str(tmp_path / "scores"), threads=1))
    assert set(sensors) <= set(read_json(tmp_path / "scores" / "scores.json")["scores"])
    name = sorted((root / "dem").iterdir())[0].name
    predict(PredictConfig(checkpoint=str(run), out=str(tmp_path / "map"), images={"dem": str(root / "dem" / name)}))
    with rasterio.open(tmp_path / "map" / "class.tif") as found, rasterio.open(root / "dem" / name) as image:
        assert (found.crs, found.transform, found.shape) == (image.crs, image.transform, image.shape)
        assert found.read(1).max() <= 8
    export(ExportConfig(checkpoint=str(run), sensor="dem", out=str(tmp_path / "encoder")))
    assert read_json(tmp_path / "encoder" / "card.json")["bands"] == ["elevation", "slope"]


def test_a_sensor_that_is_not_there_is_refused_with_the_nearest_name(root, store, tmp_path):
    with pytest.raises(MissingDataError, match="did you mean 'dem'"):
        pretrain(PretrainConfig(data=str(store), out=str(tmp_path / "run"), sensors=("s2", "dme"), **SMALL))
    with pytest.raises(ConfigError, match="needs two or more sensors"):
        pretrain(PretrainConfig(data=str(store), out=str(tmp_path / "run"), sensors=("s2",), **SMALL))
