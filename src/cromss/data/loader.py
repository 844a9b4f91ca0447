"""Batches made by worker processes, in order, with an error that names the samples when a worker dies or hangs.

In: a dataset, and an order of batches. Out: the batches of that order, the same for any number of workers and any way
of starting them. No random number is drawn here: the order and the dataset are pure functions of their keys.

Each worker has a pipe of its own and makes every workers-th batch, so no lock is shared that a killed worker could
keep. Tensors travel through shared memory. PyTorch's DataLoader is not used because it cannot say which samples were in
flight, turns a worker's death into an error wherever the main program happens to be, and stops workers with SIGTERM.
Workers ignore SIGTERM: a cluster sends it to all processes, and the main one still needs its batches to save the run.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
import torch.multiprocessing  # teaches pipes to send tensors through shared memory

from cromss.data.dataset import PatchDataset, Sample, collate
from cromss.data.sampling import SampleKey
from cromss.errors import ArgumentError, CromssError, WorkerError
from cromss.memory import keep_freed_memory

__all__ = ["BatchLoader", "Order", "make_loader"]

Batch = dict[str, Any]

PREFETCH = 2
"""Batches that each worker may be ahead of the training."""

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 2.0  # seconds that an idle worker has to leave before it is killed


class Order(Protocol):
    """What decides the batches: `BatchOrder` or `EvaluationOrder`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[SampleKey]]: ...


def make_loader(
    dataset: PatchDataset,
    order: Order,
    workers: int,
    seed: int = 0,
    timeout: float = 120.0,
    start_method: str | None = None,
) -> BatchLoader:
    """An iterable of the batches of `order`, made by `workers` processes (0: by this one).

    seed: of the workers' own PyTorch generators, which a dataset need not use. timeout: seconds to wait for a batch
    before its worker counts as hanging. start_method: "fork", "spawn" or "forkserver"; None takes Python's default.
    Raises ArgumentError.
    """
    if workers < 0 or timeout <= 0 or start_method not in (None, *multiprocessing.get_all_start_methods()):
        raise ArgumentError(
            "these workers cannot be started",
            got=f"workers {workers}, timeout {timeout}, start method {start_method}",
            expected=f"0 or more, a timeout above 0, one of {', '.join(multiprocessing.get_all_start_methods())}",
        )
    return BatchLoader(dataset, order, workers, seed, timeout, start_method)


class BatchLoader:
    """Iterate to get batches; each iteration starts the order anew with workers of its own, gone when it ends.

    Iterating raises what the dataset raises, and WorkerError when a worker dies or is silent for `timeout` seconds.
    """

    def __init__(
        self, dataset: PatchDataset, order: Order, workers: int, seed: int, timeout: float, start_method: str | None
    ) -> None:
        self.dataset, self.order, self.workers = dataset, order, workers
        self._seed, self._timeout, self._start_method = seed, timeout, start_method

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            return (collate(_samples(self.dataset, keys)) for keys in self.order)
        return self._from_workers()

    def _from_workers(self) -> Iterator[Batch]:
        pool: list[_Worker] = []
        # at exit Python waits for processes that ignore SIGTERM for ever; what is registered later runs before that
        stop = functools.partial(_stop, pool)
        atexit.register(stop)
        try:
            with _signals_held():
                pool += (self._start(number) for number in range(min(self.workers, len(self.order))))
            upcoming = enumerate(self.order)
            for number, keys in itertools.islice(upcoming, PREFETCH * len(pool)):
                pool[number % len(pool)].ask(keys)
            for number in range(len(self.order)):
                worker = pool[number % len(pool)]
                batch = self._receive(worker, pool)
                worker.delivered += len(worker.flight.popleft())
                for _, keys in itertools.islice(upcoming, 1):  # number + PREFETCH * len(pool): the same worker's again
                    worker.ask(keys)
                yield batch
        finally:
            atexit.unregister(stop)
            stop()

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context(self._start_method)
        ours, theirs = context.Pipe()
        position = context.RawValue("q", 0)
        arguments = (self.dataset, theirs, position, self._seed + number)
        process = context.Process(target=_work, args=arguments, daemon=True, name=f"cromss data worker {number}")  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return _Worker(process=process, pipe=ours, position=position)

    def _receive(self, worker: _Worker, pool: Sequence[_Worker]) -> Batch:
        """The next batch of `worker`; notices at once when any worker of the pool dies."""
        deadline = time.monotonic() + self._timeout
        sentinels = {other.process.sentinel: other for other in pool}
        while True:
            ready = wait([worker.pipe, *sentinels], timeout=max(0.0, deadline - time.monotonic()))
            if worker.pipe in ready:
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):  # it died between writing and handing over the shared memory
                    raise self._death(worker) from None
                if isinstance(answer, CromssError):
                    raise answer
                return answer  # type: ignore[no-any-return]
            for sentinel in ready:
                raise self._death(sentinels[sentinel])  # type: ignore[index]
            if time.monotonic() >= deadline:
                raise self._hang(worker)

    def _death(self, worker: _Worker) -> WorkerError:
        worker.process.join(_PATIENCE)
        code = worker.process.exitcode
        reason = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        hints = {
            -signal.SIGKILL: "probably for want of memory (see the system's log): use fewer workers or a smaller batch",
            -signal.SIGBUS: "the shared memory is full: enlarge /dev/shm, or use fewer workers or a smaller batch",
        }
        return WorkerError(
            "a data worker died",
            got=f"{reason}, while reading {self._current(worker)}",
            where=f"samples in flight: {self._in_flight(worker)}",
            do=hints.get(code or 0, "its own message is above; read these samples with workers = 0 to see the error"),
        )

    def _hang(self, worker: _Worker) -> WorkerError:
        return WorkerError(
            "a data worker gave no batch in time",
            got=f"nothing for {self._timeout:g} s, while reading {self._current(worker)}",
            where=f"samples in flight: {self._in_flight(worker)}",
            do="look at the storage that holds the store, or allow more time with worker_timeout",
        )

    def _current(self, worker: _Worker) -> str:
        keys = [key for batch in worker.flight for key in batch]
        done = worker.position.value - worker.delivered
        return self.dataset.describe(keys[done]) if 0 <= done < len(keys) else "no sample"

    def _in_flight(self, worker: _Worker) -> str:
        return ", ".join(self.dataset.describe(key) for batch in worker.flight for key in batch)


@dataclass(kw_only=True)
class _Worker:
    """A process, our end of its pipe, how many samples it has read, and the batches asked of it and not yet here."""

    process: BaseProcess
    pipe: Connection
    position: Any
    flight: deque[list[SampleKey]] = field(default_factory=deque)
    delivered: int = 0

    def ask(self, keys: list[SampleKey]) -> None:
        self.flight.append(keys)
        with contextlib.suppress(OSError):  # it died: receiving says so, with the names of the samples
            self.pipe.send(keys)


def _stop(pool: Sequence[_Worker]) -> None:
    """Let idle workers leave, and kill those that do not."""
    for worker in pool:
        with contextlib.suppress(OSError):
            worker.pipe.send(None)
    deadline = time.monotonic() + _PATIENCE
    for worker in pool:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep back the signals that workers ignore until they can: a worker inherits this when it is forked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(dataset: PatchDataset, pipe: Connection, position: Any, seed: int) -> None:
    """The life of a worker: batches of keys in, batches of tensors or an error of ours out, until None comes."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    keep_freed_memory()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (keys := pipe.recv()) is not None:
            try:
                answer: Batch | CromssError = collate(_samples(dataset, keys, position))
            except CromssError as error:
                answer = error
            pipe.send(answer)


def _samples(dataset: PatchDataset, keys: Sequence[SampleKey], position: Any = None) -> list[Sample]:
    """The samples of a batch; `position` counts them as they come."""
    dataset.prefetch(keys)
    samples = []
    for key in keys:
        samples.append(dataset[key])
        if position is not None:
            position.value += 1
    return samples


def _leave_with_parent() -> None:
    """End this process when the main one is gone, however it went and whatever is being read."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
