"""Archives to folders, so that nothing lands outside, nothing explodes, and nothing is left of an archive that would.

In: the parts of a .zip, .tar, .tar.gz or .tgz. Out: a new folder, complete, by one rename; or an ArchiveError and no
trace. Only plain files and folders are unpacked; archives inside archives stay files. A kill leaves a hidden folder
that the next run deletes before it begins anew.

    bytes unpacked <= max_ratio * bytes packed, and <= max_bytes where known;    files <= max_files
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cromss.data.download.tar_stream import TarMember, read_tar
from cromss.data.download.zip_directory import count_zip_entries
from cromss.data.tar_header import UnreadableTar
from cromss.errors import ArchiveError, DamagedFileError
from cromss.files import commit_folder, remove_stale, write_json

__all__ = ["MARKER", "archive_kind", "archive_stem", "unpack"]

MARKER = ".unpacked.json"
"""What a folder says about the archive that it came from."""

_ENDINGS = {".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar": "tar", ".zip": "zip"}
_CHUNK = 2**18
_LONGEST_NAME, _LONGEST_PATH = 255, 1024  # bytes; a file name and a sensible path on Linux, macOS and Windows

# what the readers of the standard library raise for bytes that make no sense
_UNREADABLE: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, UnreadableTar, gzip.BadGzipFile)
_UNREADABLE += (zlib.error, EOFError, NotImplementedError, ValueError)

Member = tuple[str, bool, int, IO[bytes] | None]
"""Name as it stands in the archive, whether it is a folder, bytes it declares, its content."""


def archive_kind(name: str) -> str:
    """`zip`, `tar` or `tar.gz`. Raises ArchiveError for another ending."""
    for ending, kind in _ENDINGS.items():
        if name.lower().endswith(ending):
            return kind
    raise ArchiveError("an archive is of an unknown kind", got=name, expected=f"one of {', '.join(_ENDINGS)}")


def archive_stem(name: str) -> str:
    """The name of the folder that an archive is unpacked to: its own without the ending."""
    return name[: -next(len(ending) for ending in _ENDINGS if name.lower().endswith(ending))]


@dataclass
class _Budget:
    """What may still be unpacked."""

    archive: str
    limit: float
    packed: int
    max_files: int
    files: int = 0
    bytes: int = field(default=0)

    def take_file(self) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise ArchiveError(
                "an archive holds too many files",
                got=f"over {self.max_files}",
                expected=f"at most {self.max_files} files and folders",
                where=self.archive,
                do="do not unpack it unless you know where it comes from",
            )

    def take_bytes(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limit:
            raise ArchiveError(
                "an archive unpacks to far more than it holds",
                got=f"over {self.bytes} bytes from {self.packed}",
                expected=f"at most {self.limit:.0f} bytes",
                where=self.archive,
                do="do not unpack it unless you know where it comes from; then raise max_ratio",
            )


def unpack(
    parts: Sequence[Path],
    folder: Path,
    *,
    archive: str,
    max_ratio: float = 20.0,
    max_files: int = 500_000,
    max_bytes: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Unpack the archive that `parts`, joined, are, into the new `folder`; return its numbers of files and bytes.

    archive: its name. about: goes into the folder's marker file, with the numbers.
    Raises ArchiveError for what must not be unpacked, DamagedFileError for what cannot be read.
    """
    kind = archive_kind(archive)
    packed = sum(part.stat().st_size for part in parts)
    limit = min(max_ratio * packed, max_bytes if max_bytes is not None else float("inf"))
    budget = _Budget(archive=str(parts[0]), limit=limit, packed=packed, max_files=max_files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, folder.name)
    with commit_folder(folder, many=True) as temporary:
        members = _zip_members(parts, budget) if kind == "zip" else _tar_members(parts, kind, budget)
        try:
            with closing(members):
                _write_all(members, temporary, budget)
        except _UNREADABLE as error:
            raise _damaged(budget.archive, " ".join(str(error).split()) or type(error).__name__) from None
        _refuse_case_clashes(temporary, budget.archive)
        counts = {"files": sum(1 for _ in _files(temporary)), "bytes": budget.bytes}
        if not counts["files"]:
            raise ArchiveError("an archive holds no file", got="0 files", expected="at least 1", where=budget.archive)
        write_json(temporary / MARKER, {**(about or {}), **counts})
    return counts


def _zip_members(parts: Sequence[Path], budget: _Budget) -> Generator[Member, None, None]:
    if len(parts) != 1:
        raise ArchiveError("a zip archive in parts cannot be read", got=f"{len(parts)} parts", where=budget.archive)
    count_zip_entries(parts[0], budget.max_files)
    with zipfile.ZipFile(parts[0]) as file:
        entries = file.infolist()
        _refuse_declared(sum(entry.file_size for entry in entries), budget)
        for entry in entries:
            budget.take_file()
            _require_plain(entry, budget.archive)
            if entry.is_dir():
                yield entry.filename, True, 0, None
                continue
            with file.open(entry) as content:
                yield entry.filename, False, entry.file_size, content


def _refuse_declared(declared: int, budget: _Budget) -> None:
    """Refuse before the first byte is written what the directory of the archive already admits."""
    if declared > budget.limit:
        budget.take_bytes(declared)


def _require_plain(entry: zipfile.ZipInfo, archive: str) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _unsafe(archive, entry.filename, "a link or a device")
    if entry.flag_bits & 1:
        raise _unsafe(archive, entry.filename, "encrypted")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise _unsafe(archive, entry.filename, f"packed by method {entry.compress_type}, not 0 or 8")


def _tar_members(parts: Sequence[Path], kind: str, budget: _Budget) -> Generator[Member, None, None]:
    def describe(member: TarMember) -> Member:
        budget.take_file()
        if not member.plain:
            raise _unsafe(budget.archive, member.name, "a link or a device")
        _refuse_declared(budget.bytes + member.size, budget)
        return member.name, member.content is None, member.size, member.content

    # headers and padding come on top of the files: 512 to 1,535 bytes each, more with long names
    longest = int(budget.limit) + 4096 * (budget.max_files + 1)
    yield from map(describe, read_tar(parts, kind, longest, budget.archive))


def _write_all(members: Iterator[Member], root: Path, budget: _Budget) -> None:
    for name, is_folder, size, content in members:
        target = root.joinpath(*_safe_parts(name, budget.archive))
        if target == root and is_folder:
            continue
        try:
            (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                _write_one(target, size, content, budget)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _unsafe(budget.archive, name, "there twice") from None


def _write_one(target: Path, size: int, content: IO[bytes], budget: _Budget) -> None:
    """Write one new file of exactly `size` bytes."""
    written = 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            budget.take_bytes(len(chunk))
            file.write(chunk)
    if written != size:
        raise _damaged(budget.archive, f"{target.name} has {written} bytes, not the {size} it declares")


def _safe_parts(name: str, archive: str) -> list[str]:
    """The parts of a member's path. Raises ArchiveError for one that is not plainly below the folder."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or (len(name) > 1 and name[1] == ":" and name[0].isalpha()):
        raise _unsafe(archive, name, "an absolute path")
    if ".." in parts:
        raise _unsafe(archive, name, "a path that leads out of its folder")
    if "\\" in name or any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in name):
        raise _unsafe(archive, name, "a path with backslashes, control signs or unreadable signs")
    if any(len(part.encode()) > _LONGEST_NAME for part in parts) or len(name.encode()) > _LONGEST_PATH:
        raise _unsafe(archive, name, "a path that is too long")
    if parts[:1] == [MARKER]:
        raise _unsafe(archive, name, "a name that is needed for other things")
    return parts


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        yield from (Path(path) / name for name in names)


def _refuse_case_clashes(folder: Path, archive: str) -> None:
    """Names that differ only in case, or in how accents are written, are one file on other systems."""
    for path, folders, names in os.walk(folder):
        seen: dict[str, str] = {}
        for name in (*folders, *names):
            other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                inside = (Path(path) / name).relative_to(folder)
                raise _unsafe(archive, str(inside), f"the same as {other} on systems that ignore case")


def _unsafe(archive: str, name: str, why: str) -> ArchiveError:
    return ArchiveError(
        "an archive holds what must not be unpacked",
        got=f"{name[:200]!a}, {why}",
        expected="plain files and folders, each once, all inside the archive's folder",
        where=archive,
        do="do not unpack it; tell those who publish it",
    )


def _damaged(archive: str, why: object) -> DamagedFileError:
    return DamagedFileError(
        "an archive cannot be read to its end", got=why, expected="a whole archive", where=archive, do="fetch it again"
    )
