"""The log of a run: a JSON line a row, the same numbers in TensorBoard, and one readable line on the terminal.

In: dictionaries of numbers at a step. Out: `<run>/log.jsonl`, `<run>/tensorboard/`, stderr.
A run that is continued first drops the rows behind the step that it continues from, so that every step stands once.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from cromss.files import commit

__all__ = ["RunLog", "read_log"]

_LINE_SECONDS = 5.0  # at most one progress line on the terminal in this time


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a log.jsonl; a last line that a crash left unfinished is not a row."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            yield json.loads(line)


class RunLog:
    """Context manager; `enabled` is False on all ranks but the first, where every call does nothing."""

    def __init__(self, folder: str | Path, *, start_step: int, total_steps: int, enabled: bool = True) -> None:
        self._enabled, self._total = enabled, total_steps
        self._started = self._last_line = time.monotonic()
        self._start_step = start_step
        if not enabled:
            return
        folder = Path(folder)
        path = folder / "log.jsonl"
        kept = [row for row in read_log(path) if row["step"] <= start_step] if path.exists() else []
        with commit(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._file.close()
            self._board.close()

    def row(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Write one row. `kind` is `train`, `validation` or `event`; a number that is not finite becomes null."""
        if not self._enabled:
            return
        clean = {key: _json_value(value) for key, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **clean}) + "\n")
        self._file.flush()
        for key, value in clean.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{key}", value, step)

    def progress(self, step: int, epoch: int, text: str, *, always: bool = False) -> None:
        """Show where the run is, how fast, and how long it still takes; not more often than every few seconds."""
        now = time.monotonic()
        if not self._enabled or (now - self._last_line < _LINE_SECONDS and not always):
            return
        self._last_line = now
        rate = (step - self._start_step) / max(now - self._started, 1e-9)
        left = _clock((self._total - step) / rate) if rate > 0 else "unknown"
        sys.stderr.write(f"step {step}/{self._total}  epoch {epoch}  {text}  {rate:.2f} steps/s  {left} left\n")
        sys.stderr.flush()


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
