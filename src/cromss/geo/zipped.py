"""What lies inside a zip archive, GeoTIFFs above all, read without unpacking it.

In: an archive and the name of a member. Out: its bytes, or an open raster, whose name says archive and member; or an
error with both.
Every member is read once through its checksum before the raster library sees it, because that library does not check
it, and nothing is ever written to disk.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cromss.errors import DamagedFileError, MissingDataError, RangeError
from cromss.geo.tiff import check_tiff

__all__ = ["MAX_MEMBER_BYTES", "open_archive", "open_member", "read_member"]

MAX_MEMBER_BYTES = 256 * 1024**2
"""The most that one member may hold unpacked, in bytes; the largest published tile holds 14 MB."""


def open_archive(path: str | Path, *, content: bytes | None = None) -> zipfile.ZipFile:
    """Open a zip file and read its list of members.

    content: the bytes of a zip that is no file of its own; `path` then only names it.
    Raises MissingDataError; DamagedFileError for a file that is no whole zip, or that lists a name twice.
    """
    path = Path(path)
    if content is None and not path.is_file():
        raise MissingDataError("an archive is absent", where=path, do="check the path; it must be a zip file")
    try:
        archive = zipfile.ZipFile(path if content is None else io.BytesIO(content))
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DamagedFileError(
            "an archive can not be read", got=error, expected="a whole zip file", where=path, do="fetch it again"
        ) from None
    archive.filename = str(path)
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise DamagedFileError("an archive lists a name twice", got=f"{len(names)} members", where=path)
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member, compared with its checksum.

    Raises MissingDataError; RangeError for a member above `MAX_MEMBER_BYTES`; DamagedFileError.
    """
    where = Path(archive.filename or "") / name
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise MissingDataError("a file is absent from an archive", where=where) from None
    if info.file_size > MAX_MEMBER_BYTES:
        raise RangeError(
            "a file in an archive is too large", got=info.file_size, expected=f"at most {MAX_MEMBER_BYTES}", where=where
        )
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DamagedFileError(
            "a file in an archive can not be read", got=error, where=where, do="fetch the archive again"
        ) from None


def open_member(archive: zipfile.ZipFile, name: str) -> rasterio.DatasetReader:
    """Open a GeoTIFF in an archive for windowed reading (a context manager).

    Raises as `read_member`, and DamagedFileError for a member that is no whole GeoTIFF.
    """
    where = Path(archive.filename or "") / name
    content = read_member(archive, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a missing CRS shows in the grid
            check_tiff(where, content=content)
            return rasterio.open(f"/vsizip/{Path(archive.filename or '').resolve()}/{name}", driver="GTiff")
    except (RasterioError, OSError) as error:
        raise DamagedFileError(
            "a raster can not be read",
            got=" ".join(str(error.__cause__ or error).split()),
            expected="a whole GeoTIFF",
            where=where,
            do="fetch the archive again",
        ) from None
