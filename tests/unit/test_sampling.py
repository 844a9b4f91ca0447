"""The order of samples is a pure function of the step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cromss.data.sampling import BatchOrder, EvaluationOrder
from cromss.data.store import Store
from cromss.errors import ArgumentError
from records import make_record, write_store


def test_an_epoch_gives_each_place_at_most_once_and_drops_the_remainder() -> None:
    order = BatchOrder(11, 3, seed=1, total_steps=6)
    assert order.steps_per_epoch == 3
    batches = list(order)
    assert len(batches) == len(order) == 6
    for epoch in (0, 1):
        keys = [key for batch in batches[3 * epoch : 3 * epoch + 3] for key in batch]
        assert {key[0] for key in keys} == {epoch}
        assert {key[2] for key in keys} == {-1}
        assert len({key[1] for key in keys}) == 9
    assert [order.epoch_of(step) for step in range(6)] == [0, 0, 0, 1, 1, 1]


def test_epochs_and_seeds_differ_and_iterating_twice_does_not() -> None:
    order = BatchOrder(40, 4, seed=1, total_steps=20)
    batches = list(order)
    assert batches == list(order)
    places = [[key[1] for key in batch] for batch in batches]
    assert places[:10] != places[10:]
    assert batches != list(BatchOrder(40, 4, seed=2, total_steps=20))


def test_a_run_continues_at_any_step_with_what_would_have_come() -> None:
    whole = list(BatchOrder(11, 3, seed=5, total_steps=10))
    for start in range(11):
        order = BatchOrder(11, 3, seed=5, start_step=start, total_steps=10)
        assert list(order) == whole[start:]
        assert start == 10 or order.batch(start) == whole[start]


def test_every_place_gets_its_turn() -> None:
    seen = Counter(key[1] for batch in BatchOrder([7, 8, 20, 21, 22], 2, seed=0, total_steps=400) for key in batch)
    assert set(seen) == {7, 8, 20, 21, 22}
    assert min(seen.values()) > 0.7 * 800 / 5


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("world", range(1, 9))
def test_ranks_take_equal_steps_and_together_what_one_would(world: int, batch: int) -> None:
    for places in range(world * batch, 65):
        epoch = places // (batch * world)
        alone = BatchOrder(places, batch * world, seed=3, total_steps=epoch + 1)
        ranks = [
            BatchOrder(places, batch, seed=3, total_steps=epoch + 1, rank=rank, world=world) for rank in range(world)
        ]
        assert {(len(order), order.steps_per_epoch) for order in ranks} == {(epoch + 1, epoch)}
        together = [[key for keys in step for key in keys] for step in zip(*ranks, strict=True)]
        assert together == list(alone)
        seen = [place for step in together[:epoch] for _, place, _ in step]
        assert len(set(seen)) == len(seen) == places - places % (batch * world)


@pytest.mark.parametrize(
    ("places", "batch", "options", "message"),
    [
        (3, 4, {}, "fewer places"),
        (7, 4, {"world": 2}, "fewer places"),
        (0, 1, {}, "fewer places"),
        (4, 0, {}, "batch size"),
        (4, 2, {"start_step": 9}, "start_step"),
        (4, 1, {"rank": 2, "world": 2}, "rank 2 of 2"),
    ],
)
def test_orders_that_cannot_be_are_refused(places: int, batch: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        BatchOrder(places, batch, seed=0, total_steps=5, **options)


@pytest.mark.parametrize("world", range(1, 9))
def test_evaluation_takes_every_season_once_in_batches_of_one_shape(tmp_path: Path, world: int) -> None:
    sizes = [(16, 16, 2), (16, 20, 1), (16, 16, 3), (8, 8, 2), (16, 20, 4)]
    records = [make_record(i, height=h, width=w, seasons=t) for i, (h, w, t) in enumerate(sizes)]
    store = Store.open(write_store(tmp_path / "store", records))
    orders = [EvaluationOrder(store, np.arange(1, 5), 2, rank=rank, world=world) for rank in range(world)]
    batches = [batch for order in orders for batch in order]
    assert sum(len(order) for order in orders) == len(batches)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(0, place, season) for place in range(1, 5) for season in range(sizes[place][2])]
    assert all(len({store.shape(key[1]) for key in batch}) == 1 and len(batch) <= 2 for batch in batches)
