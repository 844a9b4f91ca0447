"""Where the tests find real scenes and the oracle: a folder `shared` beside the checkout, or $CROMSS_SHARED."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder(*parts: str) -> Path:
    root = Path(os.environ.get("CROMSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"needs {'/'.join(parts) or 'the shared data'}, which is not at {folder}; set CROMSS_SHARED to its parent")
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
