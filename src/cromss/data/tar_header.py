"""A tar header that is sound or refused: the standard library takes a damaged one for the end of the archive.

In: the 512 bytes where a header or the end mark should stand. Out: a `tarfile.TarInfo`, or `UnreadableTar`; no size is
below zero, and a name or extension header has a greatest length. To be given to `tarfile.open` as `tarinfo`.
"""

from __future__ import annotations

import tarfile
from typing import Any

__all__ = ["SoundHeader", "UnreadableTar"]

_LONGEST_EXTENSION = 2**20  # bytes of a long name or of a PAX header; real ones have a few hundred
_EXTENSIONS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}
_EXTENSIONS |= {tarfile.GNUTYPE_LONGLINK}


class UnreadableTar(Exception):  # noqa: N818 - one of several that the caller turns into its own error
    """A header that is not one, or one that is absurd."""


class SoundHeader(tarfile.TarInfo):
    """A header that refuses damage; the base class takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            return super().frombuf(buf, encoding, errors)  # raises what says: the end
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise UnreadableTar(f"{error} where a header or the end mark should stand") from None
        if header.size < 0:  # would be read as: all that is left
            raise UnreadableTar(f"a header of {header.size} bytes")
        if header.type in _EXTENSIONS and header.size > _LONGEST_EXTENSION:
            raise UnreadableTar(f"a name or extension of {header.size} bytes")
        return header
