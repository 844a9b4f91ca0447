"""The members of a tar file by id, read from where they lie, without unpacking it.

In: a tar file that is not compressed, and how its members are named. Out: the bytes of a member.
Headers are read once, when the shard is opened, and what they say is not believed further than the file bears it out:
every member is a plain file of that naming, no two have one id, all lie inside the file, and the end mark is there.
A tar holds no checksum of contents; what the members are (here zip files) must have their own.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cromss.data.tar_header import SoundHeader, UnreadableTar
from cromss.errors import DamagedFileError, MissingDataError, RangeError

__all__ = ["TarShard"]

_MOST_MEMBERS = 100_000
_UNREADABLE = (tarfile.TarError, UnreadableTar, EOFError, OSError, ValueError, OverflowError, RecursionError)


class TarShard:
    """A tar file whose headers have been read; nothing is kept open.

    pattern: of the names of members, with the group `id`. largest: bytes of a member at most.
    Raises MissingDataError; DamagedFileError for a tar that is not whole or holds anything else; RangeError for a
    member above `largest`.
    """

    def __init__(self, path: str | Path, *, pattern: re.Pattern[str], largest: int) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingDataError("a tar file is absent", where=self.path)
        self._spans: dict[str, tuple[int, int]] = {}  # id -> first byte and number of bytes
        try:
            for member in _members(self.path):
                self._add(member, pattern, largest)
        except _UNREADABLE as error:
            raise DamagedFileError(
                "a tar file can not be read",
                got=error,
                expected="a whole tar file, not compressed",
                where=self.path,
                do="fetch it again",
            ) from None

    @property
    def ids(self) -> Sequence[str]:
        """Of its members, in their order."""
        return tuple(self._spans)

    def read(self, member: str) -> bytes:
        """The bytes of a member. Raises DamagedFileError where the file has become shorter."""
        first, size = self._spans[member]
        try:
            with self.path.open("rb") as file:
                file.seek(first)
                content = file.read(size)
        except OSError as error:
            raise DamagedFileError("a tar file can not be read", got=error, where=self.path) from None
        if len(content) != size:
            raise DamagedFileError(
                "a tar file has changed since it was opened",
                got=f"{len(content)} bytes of {member}",
                expected=size,
                where=self.path,
            )
        return content

    def _add(self, member: tarfile.TarInfo, pattern: re.Pattern[str], largest: int) -> None:
        match = pattern.fullmatch(member.name)
        if match is None or not member.isreg() or member.issparse():
            raise DamagedFileError(
                "a tar file holds something that does not belong to the layout",
                got=f"{member.name!r}, {'a file' if member.isreg() else 'no plain file'}",
                expected=f"plain files named {pattern.pattern}",
                where=self.path,
                do="check that it is a shard of this data set",
            )
        if not 0 < member.size <= largest:
            raise RangeError(
                "a member of a tar file is empty or too large",
                got=f"{member.size} bytes",
                expected=f"1 to {largest}",
                where=self.path / member.name,
            )
        if match["id"] in self._spans or len(self._spans) == _MOST_MEMBERS:
            raise DamagedFileError(
                "a tar file holds a member twice, or too many",
                got=f"{member.name} after {len(self._spans)} members",
                expected=f"names that differ, at most {_MOST_MEMBERS}",
                where=self.path,
            )
        self._spans[match["id"]] = (member.offset_data, member.size)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """All members; their content is stepped over, and the end of the last one is only known once it is asked for."""
    with tarfile.open(path, mode="r:", tarinfo=SoundHeader) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it holds every header it has seen
            yield member
