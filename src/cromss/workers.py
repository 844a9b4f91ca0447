"""One function over many items: in this process, or in the processes of Dask, on this machine or on many.

In: a number of workers, or the address of a Dask scheduler. Out: an `Each`, which is called much like `map`: the same
results in the same order, however many workers there are. Dask is imported only where it is asked for.

Of a worker that dies, the work is done again by another. An error of the function is raised here as it was there. A
worker does one piece at a time, whatever number of threads it has, so its memory is that of one piece.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cromss import __version__
from cromss.errors import ConfigError, WorkerError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Each", "here", "open_workers", "require_workers"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # pieces a worker that are handed out before the first of them is back
_CONNECT_S, _WORKER_S = 10, 60  # how long a scheduler may take to answer, and its first worker to appear
_ONE_AT_A_TIME = threading.Lock()


class Each(Protocol):
    """`function(shared, item)` for every item, in order. function: of a module, so that other processes can import it.

    shared: sent once to every worker. together: items that are best done by one worker, one after the other.
    ahead: how many items, at least one piece, may be drawn from `items` whose results are not yet taken.
    Raises what the function raises, and WorkerError when workers die again and again, or the scheduler is gone.
    """

    def __call__(
        self,
        function: Callable[[S, T], R],
        shared: S,
        items: Iterable[T],
        *,
        together: int = 1,
        ahead: int = 2**31,
    ) -> Iterator[R]: ...


def here(
    function: Callable[[S, T], R], shared: S, items: Iterable[T], *, together: int = 1, ahead: int | None = None
) -> Iterator[R]:
    """The `Each` of this process: one item after the other, as results are asked for."""
    return (function(shared, item) for item in items)


@contextlib.contextmanager
def open_workers(workers: int = 1, scheduler: str | None = None) -> Iterator[Each]:
    """Give an `Each`: `here` for one worker, else `workers` processes of this machine, else those of a Dask scheduler.

    The processes end with the block, or with this process, whatever ends it; those of a scheduler stay.
    Raises what `require_workers` raises, and WorkerError where no scheduler, or no worker of it, answers.
    """
    require_workers(workers, scheduler)
    if scheduler is None and workers == 1:
        yield here
        return
    with contextlib.ExitStack() as stack:
        client = _connect(stack, scheduler) if scheduler is not None else _start(stack, workers)
        yield _OnDask(client, _require_workers(client))


def require_workers(workers: int, scheduler: str | None, **paths: str) -> None:
    """Raise ConfigError for workers that can not be had, before any work is begun.

    That is: less than one, both settings at once, no Dask, or relative `paths` (name of the setting -> path), which
    workers of other machines would look for in a folder of their own.
    """
    if workers < 1 or (scheduler is not None and workers != 1):
        raise ConfigError(
            "these workers can not be had",
            got=f"workers {workers}, dask_scheduler {scheduler}",
            expected="at least one worker, or the address of a scheduler, which has workers of its own",
            do="give one of the two settings",
        )
    if scheduler is None and workers == 1:
        return
    _require_dask()
    relative = {name: path for name, path in paths.items() if not Path(path).is_absolute()}
    if scheduler is not None and relative:
        raise ConfigError(
            "a path must be whole where workers may be on other machines",
            got=", ".join(f"{name} {path}" for name, path in relative.items()),
            expected="paths that begin with /, and lead to the same files for every worker",
            do=", ".join(f"{name}={Path(path).absolute()}" for name, path in relative.items()),
        )


class _OnDask:
    """The `Each` of Dask: a few pieces a worker are under way at any time, so that nothing piles up."""

    def __init__(self, client: Client, workers: int) -> None:
        self._client, self._ahead = client, _AHEAD * workers

    def __call__(
        self,
        function: Callable[[S, T], R],
        shared: S,
        items: Iterable[T],
        *,
        together: int = 1,
        ahead: int = 2**31,
    ) -> Iterator[R]:
        # a task, not scattered data: if all workers that hold it die, the scheduler can make it again
        sent = self._client.submit(_unchanged, shared, pure=False)
        waiting: deque[Future[list[R]]] = deque()
        most = self._ahead if ahead is None else max(1, min(self._ahead, ahead // together))
        drawn = iter(items)
        while True:
            if len(waiting) == most:
                yield from _result(waiting.popleft())
            piece = tuple(itertools.islice(drawn, together))
            if not piece:
                break
            waiting.append(self._client.submit(_run, function, sent, piece, pure=False))
        while waiting:
            yield from _result(waiting.popleft())


def _unchanged(shared: S) -> S:
    return shared


def _run(function: Callable[[S, T], R], shared: S, items: Sequence[T]) -> list[R]:
    with _ONE_AT_A_TIME:
        return [function(shared, item) for item in items]


def _result(future: Future[list[R]]) -> list[R]:
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    try:
        results: list[R] = future.result()
    except KilledWorker as error:
        raise WorkerError(
            "workers died, one after the other, on the same piece of work",
            got=f"{error.allowed_failures + 1} dead workers",
            where=f"the last at {error.last_worker.address}",
            do="use fewer workers if memory is short; run again: finished work is kept",
        ) from None
    except (CancelledError, CommClosedError) as error:
        raise WorkerError(
            "the Dask scheduler is gone", got=error, do="start it, and run again: finished work is kept"
        ) from None
    return results


def _require_dask() -> None:
    try:
        import distributed  # noqa: F401  # asked for by the settings, and an extra
    except ImportError as error:
        raise ConfigError(
            "more than one worker needs Dask, which is not installed",
            got=error,
            do="pip install 'cromss[scale]', or leave workers and dask_scheduler out",
        ) from None


def _start(stack: contextlib.ExitStack, workers: int) -> Client:
    from distributed import Client, LocalCluster

    cluster = stack.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a piece of work is bounded; one that Dask stops for its size would only be tried again
            dashboard_address="127.0.0.1:0",  # else the port that every other cluster here wants, too
            preload="cromss.workers",
            silence_logs=logging.CRITICAL,  # what matters is raised here; a worker that was replaced changes no result
        )
    )
    return stack.enter_context(Client(cluster, set_as_default=False))


def dask_setup(worker: object) -> None:
    """Dask calls this in every worker that `open_workers` starts: Ctrl-C is for the command, which then ends them.

    The scheduler ends with the command, so a worker may find it gone before it is ended itself: nothing to tell a user.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # `silence_logs` ends when a worker begins to close


def _connect(stack: contextlib.ExitStack, address: str) -> Client:
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        stack.enter_context(client)
        client.wait_for_workers(1, timeout=_WORKER_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise WorkerError(
            "no Dask scheduler with workers is there",
            got=error,
            expected="an address such as tcp://10.0.0.5:8786, of a scheduler with at least one worker",
            where=address,
            do="start one: `dask scheduler`, and `dask worker ADDRESS` on every machine",
        ) from None
    return client


def _require_workers(client: Client) -> int:
    """How many workers there are. Raises WorkerError unless each has this version of the package."""
    found: dict[str, Any] = client.run(_version, on_error="return")
    other = {worker: answer for worker, answer in found.items() if answer != __version__}
    if other:
        worker, answer = next(iter(other.items()))
        raise WorkerError(
            f"{len(other)} of {len(found)} workers have not this version of cromss",
            got=answer if isinstance(answer, str) else repr(answer),
            expected=__version__,
            where=worker,
            do="install the same cromss, with its extra `scale`, where the workers run",
        )
    return len(found)


def _version() -> str:
    return __version__
