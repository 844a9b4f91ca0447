"""The loader gives the same batches for any number of workers, and passes our errors through whole."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cromss.data.dataset import PatchDataset
from cromss.data.loader import make_loader
from cromss.data.sampling import BatchOrder, EvaluationOrder
from cromss.data.store import Store
from cromss.errors import ArgumentError, DamagedFileError
from cromss.geo.bands import published_normalization
from records import make_record, write_store

SCALES = {"s1": published_normalization("s1", "all"), "s2": published_normalization("s2", "9")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("loader") / "store"
    return Store.open(write_store(path, [make_record(number, seasons=3) for number in range(7)], shard_places=3))


def training(store: Store) -> PatchDataset:
    return PatchDataset(store, SCALES, crop=12, prior="ts", seed=2, training=True)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def assert_same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        assert one["id"] == other["id"]
        assert all(torch.equal(one[name], other[name]) for name in one if name != "id")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_are_those_of_this_process_alone(store: Store, workers: int) -> None:
    order = BatchOrder(7, 3, seed=1, total_steps=9)
    alone = list(make_loader(training(store), order, 0))
    assert len(alone) == 9
    assert_same(list(make_loader(training(store), order, workers)), alone)


def test_a_run_continued_at_a_step_gets_the_batches_it_would_have_had(store: Store) -> None:
    whole = list(make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=8), 2))
    for start in (1, 3, 8):
        order = BatchOrder(7, 3, seed=1, start_step=start, total_steps=8)
        assert_same(list(make_loader(training(store), order, 2)), whole[start:])


def test_a_loader_can_be_iterated_again_and_evaluates_every_season(store: Store) -> None:
    dataset = PatchDataset(store, SCALES, training=False)
    loader = make_loader(dataset, EvaluationOrder(store, np.arange(7), 4), 2)
    first, second = list(loader), list(loader)
    assert_same(first, second)
    assert len(loader) == len(first) == 6
    assert len({name for batch in first for name in batch["id"]}) == 21


def test_workers_draw_nothing_from_the_global_generators(store: Store) -> None:
    state = torch.get_rng_state()
    for workers in (0, 2):
        list(make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=3), workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_are_gone_when_an_iteration_ends_or_is_given_up(store: Store) -> None:
    before = children()
    loader = make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=50), 2)
    iterator = iter(loader)
    next(iterator)
    assert len(children() - before) == 2
    del iterator
    gc.collect()
    assert children() == before
    list(make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=3), 2))
    assert children() == before


def test_a_stop_signal_to_the_workers_does_not_stop_them(store: Store) -> None:
    before = children()
    iterator = iter(make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=20), 2))
    count = len([next(iterator)])
    for pid in children() - before:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(pid, number)
    assert count + len(list(iterator)) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_ours_comes_through_as_it_was_raised(tmp_path: Path, workers: int) -> None:
    path = write_store(tmp_path / "store", [make_record(number) for number in range(4)])
    store = Store.open(path)
    shard = path / "shards" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    dataset = PatchDataset(store, SCALES, training=False)
    with pytest.raises(DamagedFileError, match=r"labels of a sample[\s\S]*place3/2020-02") as caught:
        list(make_loader(dataset, EvaluationOrder(store, np.arange(4), 2), workers))
    assert caught.value.what == "labels of a sample is not what was written"


@pytest.mark.parametrize(
    "options", [{"workers": -1}, {"workers": 1, "timeout": 0}, {"workers": 1, "start_method": "x"}]
)
def test_workers_that_cannot_be_are_refused(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        make_loader(training(store), BatchOrder(7, 3, seed=1, total_steps=3), **options)
