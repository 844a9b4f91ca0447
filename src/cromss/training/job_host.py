"""The process that jobs are forked from: what they share is imported once, and not by each of them for seconds.

    python -m cromss.training.job_host PROGRAM [MODULE ...]

In: on stdin, a line of JSON for each job, `arguments` and `log`. Out: on stdout, the exit code of each, once it ends.
A job is a child that runs `PROGRAM.main()` as `python -m PROGRAM ARGUMENTS` would, and says everything into its log.
SIGTERM goes on to the job that runs; the end of stdin ends the host.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

__all__ = ["main"]

_running: list[int] = []  # process id of the job, where there is one


def main() -> int:
    """Serve jobs one after another until stdin ends; in a job's own process, return what its program returns."""
    program, *shared = sys.argv[1:]
    for name in shared:
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, _pass_on)
    for line in sys.stdin:
        request = json.loads(line)
        # a signal between the fork and the next line would meet a host that does not know its job yet
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = os.fork()
        if child == 0:
            return _run(program, request)
        _running.append(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _, status = os.waitpid(child, 0)
        _running.clear()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    for child in _running:
        os.kill(child, number)


def _run(program: str, request: Mapping[str, Any]) -> int:
    """Become the job: its streams, its signals, its command line."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, stream)
    module = importlib.import_module(program)
    sys.modules["__main__"] = module  # so that processes which the job starts know how it was started
    sys.argv = [str(module.__file__), *request["arguments"]]
    code: int = module.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
