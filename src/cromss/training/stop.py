"""Stop signals: SIGTERM and SIGUSR1 ask a run to save and leave; the loop polls for them between steps.

In: signals to the process. Out: `requested()`, and after the run has saved, `SystemExit(143)` from `leave()`.
A second signal changes nothing: the save that is under way must not be torn.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["EXIT_STOPPED", "StopSignal"]

EXIT_STOPPED = 143  # 128 + SIGTERM, what schedulers expect of a job that left on request


class StopSignal:
    """Context manager that turns SIGTERM and SIGUSR1 into a flag, and restores the former handlers on leaving."""

    def __init__(self) -> None:
        self._requested = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True

    def request(self) -> None:
        """Ask for the stop from within the process."""
        self._requested = True

    def requested(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return self._requested

    def leave(self) -> None:
        """Say so and end the process with the exit code of a stopped job. Call it after the save."""
        sys.stderr.write("stopped by a signal; the same command goes on from what is saved\n")
        raise SystemExit(EXIT_STOPPED)
