"""Commands run as processes, several at a time, each once: what has finished with the same settings is not run again.

In: jobs, each a command of this package with its settings and the names of the jobs that must finish before it.
Out: a folder a job with job.yaml (the settings), log.txt (what it said), run/ (what it made) and, last, finished.json.

The folder's name ends in a fingerprint of command, settings, package version, and the fingerprints of what it needs, so
a changed recipe never meets old results, and nothing is deleted. What a fingerprint cannot see is a change of the
user's own files below an unchanged path: give such a run a new folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import yaml

from cromss import __version__
from cromss.errors import ConfigError, TrainingError
from cromss.files import commit, read_json, write_json
from cromss.training.stop import StopSignal

__all__ = ["THIS_PACKAGE", "Job", "Place", "place_jobs", "run_jobs"]

THIS_PACKAGE = (
    "cromss.__main__",
    "cromss.commands",
    "cromss.training.transfer",
    "cromss.training.evaluate",
    "cromss.data.synthetic",
)
"""The program of a job, and what is imported once for all jobs."""

_POLL_SECONDS = 0.1
_STOP_SECONDS = 60.0  # a job that was asked to stop may save its checkpoint first
_END_SECONDS = 10.0  # a host without a job ends at once


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a command. A setting of the form "@name" means the `run` folder of the job of that name.

    needs: names of jobs that must finish first; those referred to by "@name" are needed without being named here.
    """

    name: str
    command: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        referred = tuple(v[1:] for v in self.settings.values() if isinstance(v, str) and v.startswith("@"))
        object.__setattr__(self, "requires", tuple(dict.fromkeys((*self.needs, *referred))))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job lives, and the settings it is started with."""

    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]

    @property
    def run(self) -> Path:
        """What the job makes."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """What the job said on stdout and stderr."""
        return self.folder / "log.txt"

    @property
    def finished(self) -> Path:
        """Exists once the job has ended well."""
        return self.folder / "finished.json"

    def is_finished(self) -> bool:
        """Whether the job ended well with just these settings."""
        return self.finished.exists() and read_json(self.finished)["fingerprint"] == self.fingerprint

    def seconds(self) -> float:
        """How long the job took."""
        return float(read_json(self.finished)["seconds"])


def place_jobs(jobs: Sequence[Job], out: str | Path) -> dict[str, Place]:
    """Give each job its folder below `out`; jobs stand behind what they need. Raises ConfigError if they do not."""
    places: dict[str, Place] = {}
    for job in jobs:
        absent = [name for name in job.requires if name not in places]
        if absent or job.name in places:
            raise ConfigError(f"job {job.name} stands before what it needs, or twice", got=absent or job.name)
        content = [job.command, dict(job.settings), __version__, [places[name].fingerprint for name in job.requires]]
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(out) / f"{job.name}-{fingerprint[:8]}"
        settings = {key: _resolve(value, places) for key, value in job.settings.items()}
        places[job.name] = Place(
            folder=folder, fingerprint=fingerprint, settings={**settings, "out": str(folder / "run")}
        )
    return places


def _resolve(value: Any, places: Mapping[str, Place]) -> Any:
    return str(places[value[1:]].run) if isinstance(value, str) and value.startswith("@") else value


def run_jobs(
    jobs: Sequence[Job],
    places: Mapping[str, Place],
    *,
    at_a_time: int,
    threads: int,
    say: Callable[[str], None],
    program: Sequence[str] = THIS_PACKAGE,
) -> None:
    """Run all jobs that have not finished yet, `at_a_time` of them together with `threads` CPU threads each.

    Raises TrainingError naming the log of the first job that fails; the others are asked to stop, and go on next time.
    Leaves with SystemExit 143 after a stop signal, once all jobs have stopped.
    """
    if at_a_time < 1 or threads < 1:
        raise ConfigError("jobs and threads must be at least 1", got=(at_a_time, threads))
    done = {job.name for job in jobs if places[job.name].is_finished()}
    waiting = [job for job in jobs if job.name not in done]
    waited_for = _followers(jobs)
    if done:
        say(f"{len(done)} of {len(jobs)} jobs had finished before")
    running: dict[str, _Host] = {}
    idle: list[_Host] = []
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        stack.callback(lambda: _end_all(running, idle))
        while waiting or running:
            if stop.requested():
                stop.leave()
            ready = [job for job in waiting if done.issuperset(job.requires)]
            ready.sort(key=lambda job: -waited_for[job.name])  # else they keep all others waiting at the end
            for job in ready[: at_a_time - len(running)]:
                running[job.name] = idle.pop() if idle else _Host(threads, program)
                running[job.name].start(job, places[job.name])
                waiting.remove(job)
            for name, host in list(running.items()):
                code = host.code()
                if code is None:
                    continue
                idle.append(running.pop(name))
                host.conclude(code)
                done.add(name)
                say(f"{len(done)}/{len(jobs)}  {name}  {places[name].seconds():.0f} s")
            time.sleep(_POLL_SECONDS)


def _followers(jobs: Sequence[Job]) -> dict[str, int]:
    """How many jobs can not begin before each of them has ended; jobs stand behind what they need."""
    followers: dict[str, set[str]] = {job.name: set() for job in jobs}
    for job in reversed(jobs):
        for needed in job.requires:
            followers[needed] |= {job.name, *followers[job.name]}
    return {name: len(those) for name, those in followers.items()}


class _Host:
    """A process that runs jobs one after another (see `job_host.py`), and the job that it runs now."""

    def __init__(self, threads: int, program: Sequence[str]) -> None:
        # One thread count for every library below torch: more than the cores there are slows all jobs down.
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        # job.yaml alone decides: a setting from the environment would be in no fingerprint
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CROMSS_")}
        self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-m", "cromss.training.job_host", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**inherited, **limits},
            process_group=0,  # Ctrl-C reaches this process alone, which then asks the jobs to save and stop
        )
        self._requests, self._codes = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def start(self, job: Job, place: Place) -> None:
        """Let the job begin."""
        with commit(place.folder / "job.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(dict(place.settings), sort_keys=False), encoding="utf-8")
        self.job, self.place, self.started = job, place, time.monotonic()
        arguments = [job.command, "--config", str(place.folder / "job.yaml")]
        request = {"arguments": arguments, "log": str(place.log)}
        place.log.touch()
        with suppress(BrokenPipeError):  # a host that died while it was importing is found by `code`
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def code(self, seconds: float = 0.0) -> int | None:
        """The exit code of the job, or None if it still runs after `seconds`."""
        ready, _, _ = select.select([self._codes], [], [], seconds)
        if not ready:
            return None
        if line := self._codes.readline():
            return int(line)
        with suppress(ProcessLookupError):  # the host itself has died, and must not leave its job behind
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait() or -1

    def conclude(self, code: int) -> None:
        """Note the end of the job. Raises TrainingError if it did not end well."""
        if code != 0:
            raise TrainingError(
                f"job {self.job.name} failed with exit code {code}",
                got=_last_lines(self.place.log),
                where=self.place.log,
                do="read the log, mend the cause, and start the same command again: finished jobs are kept",
            )
        seconds = round(time.monotonic() - self.started, 1)
        write_json(self.place.finished, {"fingerprint": self.place.fingerprint, "seconds": seconds})

    def ask_to_stop(self) -> None:
        """Have the running job save what it has and end."""
        self._process.terminate()

    def end(self) -> None:
        """End the host, which runs no job, or none that has heeded."""
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._codes.close()


def _last_lines(path: Path, count: int = 8) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n       ".join(lines[-count:]) or "it said nothing"


def _end_all(running: Mapping[str, _Host], idle: Sequence[_Host]) -> None:
    """Ask what still runs to stop, and wait: nobody may write into the folders after this command has ended."""
    for host in running.values():
        host.ask_to_stop()
    asked = time.monotonic()
    for host in running.values():
        host.code(max(0.0, asked + _STOP_SECONDS - time.monotonic()))
    for host in (*running.values(), *idle):
        host.end()
