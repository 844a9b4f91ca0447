"""How far a file has come, how fast, and how long it still takes: a bar on a terminal, a line a minute elsewhere.

In: bytes held, as they grow. Out: text on stderr.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

__all__ = ["Meter", "progress_line", "size_text"]

_LINE_EVERY = 60.0  # seconds, where stderr is a file


def size_text(count: float) -> str:
    """Bytes in words: powers of 1000, as disks and servers count."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def progress_line(name: str, held: int, total: int | None, rate: float) -> str:
    """`NAME: 1.2 GB of 4.8 GB, 30.0 MB/s, 2 min left`. rate: bytes a second."""
    whole = f" of {size_text(total)}" if total else ""
    left = f", {(total - held) / rate / 60:.0f} min left" if total and rate > 0 else ""
    return f"{name}: {size_text(held)}{whole}, {size_text(rate)}/s{left}"


class Meter:
    """Shows the progress of one file while it is open. total: bytes, None where unknown."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name, self._total = name, total
        self._began = self._said = time.monotonic()
        self._first: int | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, held: int, total: int | None = None) -> None:
        """Take note of the bytes held; `total` once it is known."""
        self._total = total or self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=held, total=self._total)
            return
        now = time.monotonic()
        if self._first is None or held < self._first:
            self._first, self._began = held, now
        if now - self._said >= _LINE_EVERY:
            rate = (held - self._first) / max(1e-9, now - self._began)
            sys.stderr.write(progress_line(self._name, held, self._total, rate) + "\n")
            self._said = now
