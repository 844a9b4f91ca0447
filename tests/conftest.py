"""Where the tests find real scenes and the oracle: a folder `shared` beside the checkout, or $CROMSS_SHARED.

One thread a process, set before any numerical library is loaded: a process that has used OpenMP threads can not be
forked (its child waits for them for ever), some tests fork, and several processes of tests share the cores anyway.

Ctrl-C is heard by the programs that tests start, also where the tests themselves run behind a shell's `&`, which makes
all that it starts deaf to it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _folder(*parts: str) -> Path:
    root = Path(os.environ.get("CROMSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        what = "/".join(parts) or "the shared data"
        pytest.skip(f"needs {what}, which is not at {folder}; set CROMSS_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    return _folder()


@pytest.fixture(scope="session")
def sentinel_mini() -> Path:
    """Real Sentinel-1/2 scenes with Dynamic World labels, exact-label tasks and broken files."""
    return _folder("data", "sentinel-mini")


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Inputs and outputs computed with the paper's authors' own functions, as .npz files."""
    return _folder("oracle", "b2c9h32w32")


def toy_records(places=10, size=64, seasons=2, seed=0, sensors=("s1", "s2")):
    """Small scenes of square patches whose class shows in every band, with a fifth of the labels wrong."""
    import numpy as np

    from cromss.data.record import PlaceRecord

    for index in range(places):
        draw = np.random.default_rng([seed, index])
        coarse = draw.integers(0, 9, (seasons, size // 8, size // 8))
        truth = coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
        labels = np.where(draw.random(truth.shape) < 0.2, draw.integers(0, 9, truth.shape), truth).astype(np.uint8)
        labels[:, :2] = 255
        images = {
            "s1": (-22.0 + 2.0 * truth[:, None] + draw.normal(0, 1, (seasons, 2, size, size))).astype(np.float32),
            "s2": (800 + 250.0 * truth[:, None] + draw.normal(0, 60, (seasons, 13, size, size))).astype(np.uint16),
        }
        split = "validation" if index % 5 == 4 else "test" if index % 5 == 3 else "train"
        yield PlaceRecord(
            id=f"toy-{index:03d}",
            seasons=tuple(f"season{number}" for number in range(seasons)),
            images={sensor: images[sensor] for sensor in sensors},
            products={sensor: {"s1": "GRD", "s2": "L1C"}[sensor] for sensor in sensors},
            labels=labels,
            truth=truth,
            valid=np.ones(truth.shape, dtype=bool),
            split=split,
        )


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 20 toy places (12 train, 4 validation, 4 test) of 64 px with two seasons and both sensors."""
    from cromss.data.store import StoreWriter
    from cromss.geo.bands import SENSORS
    from cromss.geo.legends import get_legend

    path = tmp_path_factory.mktemp("toy") / "store"
    writer = StoreWriter(
        path,
        legend=get_legend("dynamic_world"),
        sensors={"s1": SENSORS["s1"].bands, "s2": SENSORS["s2"].bands},
    )
    for record in toy_records(20):
        writer.add(record)
    writer.finish({})
    return path
