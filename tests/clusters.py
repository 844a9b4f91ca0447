"""A Dask cluster of two processes for the tests of everything that fans out, started once a test module."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def two_workers(**settings: object) -> Iterator[str]:
    """The address of a scheduler with two workers on this machine; skips where Dask is absent. settings: of Dask."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
    import dask

    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),  # that a busy machine is slow
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster.scheduler_address
