"""The commands that join rooms which do not know each other: training with pictures, a benchmark with its report.

In: the settings of one command. Out: what the command wrote, said in one line.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from cromss.config import BenchmarkConfig, DemoConfig, ExportConfig, ImportConfig, PretrainConfig, VerifyConfig
from cromss.data.store import Store, verify_store
from cromss.data.store.remote_source import is_remote
from cromss.errors import ConfigError, MissingDataError
from cromss.maps.benchmark_report import write_benchmark_report
from cromss.maps.demo import run_demo
from cromss.maps.run_report import draw_tiles, write_run_report
from cromss.models.reference_import import import_reference
from cromss.models.weights import export_encoder
from cromss.training.benchmark import benchmark as run_benchmark
from cromss.training.checkpoint import find_checkpoint, verify_checkpoint
from cromss.training.pretrain import pretrain as run_pretraining
from cromss.training.pretrain_setup import normalizations_of
from cromss.workers import open_workers, require_workers

__all__ = ["benchmark", "demo", "export", "import_", "pretrain", "verify"]


def verify(config: VerifyConfig) -> None:
    """Check a store, a checkpoint or a run by every byte. Raises the error of the first thing that is wrong."""
    require_workers(config.workers, config.dask_scheduler, path=config.path)
    path = Path(config.path)
    if is_remote(config.path):
        verify_store(config.path)
    if (path / "store.json").exists() or (path / "shards").exists():
        with open_workers(config.workers, config.dask_scheduler) as each:
            report = verify_store(path, each)
        _say(f"{path} is whole: {', '.join(f'{value} {name}' for name, value in report.items())}")
        return
    if not path.exists():
        raise MissingDataError("there is nothing to verify", where=path, do="name a store, a checkpoint or a run")
    folder = find_checkpoint(path)
    with open_workers(config.workers, config.dask_scheduler) as each:
        files = verify_checkpoint(folder, each)
    _say(f"{folder} is whole: {len(files)} files, {sum(files.values())} bytes")


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrain, drawing sample pictures on the way and a report at the end."""
    with Store.open(config.data) as store:
        draw = functools.partial(draw_tiles, store.legend, normalizations_of(config, store))
        return run_pretraining(config, draw=draw, report=lambda out: _say(f"report {write_run_report(out, store)}"))


def benchmark(config: BenchmarkConfig) -> None:
    """Run a recipe; print its tables and write its report."""
    result = run_benchmark(config)
    sys.stdout.write((result.out / "table.md").read_text(encoding="utf-8"))
    _say(f"the report is {write_benchmark_report(result.out)}")


def demo(config: DemoConfig) -> None:
    """Run the demonstration; print its tables and say where the report and the maps are."""
    run_demo(config)


def export(config: ExportConfig) -> None:
    """Write an encoder for use without this package."""
    _say(f"the encoder is {export_encoder(config.checkpoint, config.sensor, config.out, config.layout)}")


def import_(config: ImportConfig) -> None:
    """Turn a published checkpoint file into a checkpoint of this package."""
    given = {"s1": config.s1_bands, "s2": config.s2_bands, **config.bands}
    bands = {sensor: names for sensor, names in given.items() if names is not None}
    if not bands:
        raise ConfigError(
            "say which bands the file's encoders take",
            expected="s1_bands, s2_bands, both, or bands",
            do="e.g. --s2_bands 13",
        )
    report = import_reference(
        config.file,
        config.out,
        bands=bands,
        encoder=config.encoder,
        legend=config.legend,
        normalization=config.normalization,
    )
    _say(f"{config.out} is written: {', '.join(f'{name} {value}' for name, value in report.items())}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
