"""Every error that the package raises on purpose, as one tree.

    CromssError
    ├── ConfigError            a setting is unknown, of the wrong type, or does not go with another
    ├── ArgumentError          a public function got a tensor or value that it cannot take (also a ValueError)
    ├── DataError              something in a user's file
    │   ├── MissingDataError     a file, folder, split or sensor is absent or empty
    │   ├── DamagedFileError     truncated, unreadable, or its checksum differs
    │   ├── GridError            two rasters that must share a grid do not
    │   ├── BandError            bands missing, unknown, or in the wrong number
    │   ├── LabelError           a label value that the legend does not know
    │   ├── RangeError           pixel values outside the unit's range, or not finite
    │   └── ArchiveError         an archive that must not be unpacked as it is
    ├── DownloadError          a file that could not be fetched
    ├── BusyError              another process is at work in the same folder
    ├── StoreError             a training store that cannot be used as it is
    ├── CheckpointError        a checkpoint that cannot be used as it is
    │   └── ResumeError          a run that cannot be continued with these settings
    ├── ModelError             a network that cannot be built, or an image size that it cannot take
    └── TrainingError          a run that had to stop
        ├── NonFiniteError       NaN or infinity in a batch, a loss or a gradient
        └── WorkerError          a data worker died or hangs

Each error says what is wrong, what it got, what it expected, where, and what to do; the command line prints it without
a traceback and leaves with exit code 2.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ArchiveError",
    "ArgumentError",
    "BandError",
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "CromssError",
    "DamagedFileError",
    "DataError",
    "DownloadError",
    "GridError",
    "LabelError",
    "MissingDataError",
    "ModelError",
    "NonFiniteError",
    "RangeError",
    "ResumeError",
    "StoreError",
    "TrainingError",
    "WorkerError",
]


class CromssError(Exception):
    """The root. `what` is one sentence; the rest is printed below it, a line each, where given."""

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        where: str | Path | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.where, self.do = what, got, expected, where, do
        rows = [("got", got), ("expected", expected), ("in", where), ("do", do)]
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in rows if text is not None)]))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders (data workers), so they must rebuild from their parts."""
        parts = (_sendable(part) for part in (self.got, self.expected, self.where))
        return (_rebuild, (type(self), self.what, *parts, self.do))


def _sendable(part: object) -> object:
    """Plain values as they are; of others, such as an error of a library, only the text that is printed."""
    if part is None or isinstance(part, str | int | float | Path):
        return part
    if type(part) in (list, tuple) and all(isinstance(item, str | int | float) for item in part):  # type: ignore[attr-defined]
        return part
    return str(part)


def _rebuild(
    kind: type[CromssError], what: str, got: object, expected: object, where: str | Path | None, do: str | None
) -> CromssError:
    return kind(what, got=got, expected=expected, where=where, do=do)


class ConfigError(CromssError):
    """A setting is unknown, of the wrong type, or does not go with another."""


class ArgumentError(CromssError, ValueError):
    """A public function was called with a tensor or value that it cannot take."""


class DataError(CromssError):
    """Something in a user's file."""


class MissingDataError(DataError):
    """A file, folder, split or sensor is absent or empty."""


class DamagedFileError(DataError):
    """A file is truncated, unreadable, or its checksum differs."""


class GridError(DataError):
    """Two rasters that must share a grid do not."""


class BandError(DataError):
    """Bands are missing, unknown, or of the wrong number."""


class LabelError(DataError):
    """A label value that the legend does not know."""


class RangeError(DataError):
    """Pixel values outside the unit's range, or not finite."""


class ArchiveError(DataError):
    """An archive that must not be unpacked as it is: it would escape its folder, or is far larger than it looks."""


class DownloadError(CromssError):
    """A file that could not be fetched, or not as it was announced."""


class BusyError(CromssError):
    """Another process is at work in the same folder."""


class StoreError(CromssError):
    """A training store that cannot be used as it is."""


class CheckpointError(CromssError):
    """A checkpoint that cannot be used as it is."""


class ResumeError(CheckpointError):
    """A run that cannot be continued with these settings."""


class ModelError(CromssError):
    """A network that cannot be built, or an image size that it cannot take."""


class TrainingError(CromssError):
    """A run that had to stop."""


class NonFiniteError(TrainingError):
    """NaN or infinity in a batch, a loss or a gradient."""


class WorkerError(TrainingError):
    """A data worker died or hangs."""
