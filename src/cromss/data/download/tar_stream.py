"""The members of a tar, plain or gzipped, possibly in parts, read from front to back in bounded memory.

In: the parts. Out: one `TarMember` after the other; the content of each can be read until the next is asked for.
The standard library's reader does the parsing; around it stand three guards that it lacks: a header that is neither
sound nor the end mark is damage, not the end; a name or extension header has a greatest length; all that comes out of
the decompressor is counted.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cromss.data.tar_header import SoundHeader
from cromss.errors import ArchiveError

__all__ = ["TarMember", "read_tar"]

_BUFFER = 2**20


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """name as it stands in the archive. plain: a file or a folder. content: None for all but files."""

    name: str
    plain: bool
    size: int
    content: IO[bytes] | None


class _Joined(io.RawIOBase):
    """Several files, read as one."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._rest = list(parts)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                if not self._rest:
                    return 0
                self._file = self._rest.pop(0).open("rb")
            chunk = self._file.read(len(buffer))
            if chunk:
                buffer[: len(chunk)] = chunk
                return len(chunk)
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class _Counted:
    """A stream that ends with an error after `longest` bytes."""

    def __init__(self, stream: IO[bytes], longest: int, archive: str) -> None:
        self._stream, self._left, self._longest, self._archive = stream, longest, longest, archive

    def read(self, count: int) -> bytes:
        chunk = self._stream.read(count)
        self._left -= len(chunk)
        if self._left < 0:
            raise ArchiveError(
                "an archive unpacks to far more than it holds",
                got=f"over {self._longest} bytes",
                expected=f"at most {self._longest} bytes with all headers",
                where=self._archive,
                do="do not unpack it unless you know where it comes from",
            )
        return chunk


def read_tar(parts: Sequence[Path], kind: str, longest: int, archive: str) -> Iterator[TarMember]:
    """Yield the members. kind: `tar` or `tar.gz`. longest: bytes that may come out of the decompressor.

    Raises, here and where content is read, ArchiveError beyond `longest`, and UnreadableTar, TarError, EOFError,
    zlib.error, BadGzipFile or ValueError where the archive is cut or garbled.
    """
    with io.BufferedReader(_Joined(parts), _BUFFER) as joined:
        stream: IO[bytes] = gzip.GzipFile(fileobj=joined) if kind == "tar.gz" else joined  # type: ignore[assignment]
        counted: Any = _Counted(stream, longest, archive)
        with tarfile.open(fileobj=counted, mode="r|", tarinfo=SoundHeader, bufsize=_BUFFER) as file:
            while (member := file.next()) is not None:
                plain = member.isreg() or member.isdir()
                content = file.extractfile(member) if member.isreg() else None
                yield TarMember(name=member.name, plain=plain, size=member.size, content=content)
                file.members = []  # type: ignore[attr-defined]  # else the reader holds every header it has seen
        while counted.read(_BUFFER):  # the padding, and with it the check sum of gzip
            pass
