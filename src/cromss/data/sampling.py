"""Which samples make up which batch: pure functions of the step, so that a run continues exactly where it stopped.

In: place numbers of a store, a seed. Out: batches of (epoch, place, season), the keys that a `PatchDataset` takes.
Each epoch of training is a permutation of the places keyed by (seed, epoch), cut into whole batches; each place gives
one season, which the dataset draws (season -1). Evaluation takes every season of every place once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cromss.data.store.reader import Store
from cromss.errors import ArgumentError

__all__ = ["BatchOrder", "EvaluationOrder", "SampleKey"]

SampleKey = tuple[int, int, int]
"""(epoch, place, season); season -1 stands for one drawn by the dataset."""


class BatchOrder:
    """The batches of steps `start_step` to `total_steps` - 1 for one of `world` ranks; iterating twice gives the same.

    places: numbers of the places to draw from, or how many there are. batch_size: samples a rank and step. The places
    that do not fill a last step of an epoch are left out of that epoch. Raises ArgumentError when one step needs more
    places than there are.
    """

    def __init__(
        self,
        places: int | ArrayLike,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        total_steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.places = np.arange(places) if isinstance(places, int) else np.asarray(places, dtype=np.int64)
        self.batch_size, self.seed = batch_size, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.rank, self.world = _check_rank(rank, world)
        if batch_size < 1 or not 0 <= start_step <= total_steps:
            raise ArgumentError(
                "these batches cannot be made",
                got=f"batch size {batch_size}, steps {start_step} to {total_steps}",
                expected="a batch size of at least 1, and 0 <= start_step <= total_steps",
            )
        self.steps_per_epoch = len(self.places) // (batch_size * world)
        if self.steps_per_epoch == 0:
            raise ArgumentError(
                "there are fewer places than one step needs",
                got=f"{len(self.places)} places",
                expected=f"at least {batch_size * world}: batch size {batch_size} on {world} ranks",
                do="lower the batch size, or add places",
            )

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> list[SampleKey]:
        """This rank's samples of one step."""
        return self._batch(step, self._permutation(self.epoch_of(step)))

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        drawn, order = -1, self.places
        for step in range(self.start_step, self.total_steps):
            epoch = self.epoch_of(step)
            if epoch != drawn:
                drawn, order = epoch, self._permutation(epoch)
            yield self._batch(step, order)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.places)

    def _batch(self, step: int, order: NDArray[np.int64]) -> list[SampleKey]:
        epoch, within = divmod(step, self.steps_per_epoch)
        begin = (within * self.world + self.rank) * self.batch_size
        return [(epoch, place, -1) for place in order[begin : begin + self.batch_size].tolist()]


class EvaluationOrder:
    """Every (place, season) once, in batches of equal image shapes; rank r of `world` takes each world-th batch.

    The last batch of a shape may be smaller. The order is that of `places` within each shape.
    """

    def __init__(
        self, store: Store, places: Sequence[int] | ArrayLike, batch_size: int, *, rank: int = 0, world: int = 1
    ) -> None:
        rank, world = _check_rank(rank, world)
        if batch_size < 1:
            raise ArgumentError("a batch needs at least one sample", got=batch_size, expected="at least 1")
        shapes: dict[tuple[int, int], list[SampleKey]] = {}
        for place in np.asarray(places, dtype=np.int64).tolist():
            keys = shapes.setdefault(store.shape(place), [])
            keys += [(0, place, season) for season in range(store.num_seasons(place))]
        batches = [keys[i : i + batch_size] for keys in shapes.values() for i in range(0, len(keys), batch_size)]
        self._batches = batches[rank::world]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self._batches)


def _check_rank(rank: int, world: int) -> tuple[int, int]:
    if not 0 <= rank < world:
        raise ArgumentError("no such rank", got=f"rank {rank} of {world}", expected="0 <= rank < world")
    return rank, world
