"""A published archive, unpacked in a folder or still in its zip file: the same names, read in the same way.

In: a folder or a zip file. Out: the names in it, texts and open rasters by name. Nothing is ever unpacked.
"""

from __future__ import annotations

from pathlib import Path

import rasterio

from cromss.errors import DamagedFileError, MissingDataError
from cromss.geo.raster import open_raster
from cromss.geo.zipped import open_archive, open_member, read_member

__all__ = ["FileTree", "find_tree"]


class FileTree:
    """Files below one path. A file is named by that path and its name, also where the path is a zip file.

    Raises MissingDataError, and DamagedFileError for a file that is no whole zip.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._archive = None if self.path.is_dir() else open_archive(self.path)
        self._members = frozenset(self._archive.namelist() if self._archive else ())

    def names(self) -> list[str]:
        """Every file, relative to the path, sorted; without hidden files and what some systems add to archives."""
        if self._archive:
            listed = [name for name in self._members if not name.endswith("/")]
        else:
            listed = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
        return sorted(name for name in listed if not any(p.startswith((".", "__MACOSX")) for p in name.split("/")))

    def has(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return name in self._members if self._archive else (self.path / name).is_file()

    def text(self, name: str) -> str:
        """A text file (UTF-8, a byte order mark is dropped). Raises MissingDataError, DamagedFileError."""
        if not self.has(name):
            raise MissingDataError("a file is absent", where=self.path / name)
        content = read_member(self._archive, name) if self._archive else (self.path / name).read_bytes()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DamagedFileError("a text file does not parse", got=error, where=self.path / name) from None

    def raster(self, path: Path) -> rasterio.DatasetReader:
        """Open the GeoTIFF at `self.path / name` (a context manager). Raises as `open_raster`."""
        if self._archive is None:
            return open_raster(path)
        return open_member(self._archive, path.relative_to(self.path).as_posix())

    def disk(self, path: Path) -> Path:
        """The file on disk that holds the one at `self.path / name`."""
        return self.path if self._archive else path


def find_tree(root: str | Path, archive: str, marker: str) -> FileTree:
    """The tree at `root`: a zip file itself, a folder that holds `marker` (or the one folder in it that does), or a
    folder that holds the zip file `archive`.

    Raises MissingDataError saying what was looked for.
    """
    root = Path(root)
    if root.is_file():
        return FileTree(root)
    holders = [folder for folder in (root, *_folders(root)) if any(folder.glob(marker))]
    if len(holders) == 1 or root in holders:
        return FileTree(root if root in holders else holders[0])
    if not holders and (root / archive).is_file():
        return FileTree(root / archive)
    raise MissingDataError(
        "there is no such data set",
        got=sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else "no folder",
        expected=f"a folder with {marker}, or {archive}" + (f"; {len(holders)} folders have it" if holders else ""),
        where=root,
        do="correct root (or the setting that names this folder), or choose another layout",
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
