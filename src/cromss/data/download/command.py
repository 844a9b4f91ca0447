"""The command: the plan with its sizes, the files one after the other, then the folders that the archives become.

In: a DownloadConfig. Out: a folder with the files, `downloads.json` (each file's address, length, SHA-256, who vouches
for it, date), and a folder an archive. What is there already is read and checked against that card, not fetched again.

The order of a file: `.part` is whole and checked, the card says so, then the file takes its name. A kill between any
two of these steps is repaired by the next run.
"""

from __future__ import annotations

import datetime
import difflib
import shutil
import sys
import textwrap
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cromss.config import DownloadConfig, require_at_least
from cromss.data.download.catalogue import CATALOGUE, DataSet, RemoteFile
from cromss.data.download.meter import Meter, size_text
from cromss.data.download.partial import Fetched, fetch_part, hashes, part_path, state_path
from cromss.data.download.remote import Answer, TryAgain, ask
from cromss.data.download.unpack import MARKER, archive_stem, unpack
from cromss.errors import ConfigError, DamagedFileError, DownloadError, MissingDataError
from cromss.files import lock, read_json, settle, write_json

__all__ = ["CARD_FILE", "describe_catalogue", "download"]

CARD_FILE = "downloads.json"
_LOCK_FILE = ".downloads.lock"

Card = dict[str, dict[str, Any]]


def download(config: DownloadConfig, catalogue: Mapping[str, DataSet] = CATALOGUE) -> None:
    """Fetch, check and unpack a data set, or list what is known.

    Raises ConfigError for an unknown data set or file, DownloadError for what a server does not give, DamagedFileError
    for what is not what it should be, ArchiveError for an archive that must not be unpacked, BusyError where another
    process is at work in the same folder.
    """
    if config.list:
        sys.stdout.write(describe_catalogue(catalogue))
        return
    require_at_least(config, retries=0, timeout=0.001, max_ratio=1)
    name, data_set = _chosen(config.name, catalogue)
    files = [_mirrored(file, config.mirror) for file in _chosen_files(name, data_set, config.files)]
    out = Path(config.out or name)
    out.mkdir(parents=True, exist_ok=True)
    with lock(out / _LOCK_FILE):
        job = _Job(config=config, data_set=data_set, out=out, card=_read_card(out))
        job.fetch(files)
        if config.unpack:
            job.unpack_all(files)
    _say(f"{out} is complete; {out / CARD_FILE} says where each file is from and what its SHA-256 is")


def describe_catalogue(catalogue: Mapping[str, DataSet] = CATALOGUE) -> str:
    """The known data sets, as text."""
    blocks = []
    for name, entry in catalogue.items():
        licence = entry.licence or "could not be seen: read it on the page before use"
        texts = [entry.title, entry.contents, f"page: {entry.page}", f"licence: {licence}", f"note: {entry.unseen}"]
        rows = [name, *(textwrap.fill(text, 112, initial_indent="  ", subsequent_indent="    ") for text in texts)]
        groups: dict[str, list[RemoteFile]] = {}
        for file in entry.files:
            groups.setdefault(file.archive or file.name, []).append(file)
        blocks.append("\n".join([*rows, *(_describe_group(title, group) for title, group in groups.items())]) + "\n")
    return "\n".join(blocks)


def _describe_group(title: str, files: Sequence[RemoteFile]) -> str:
    """One line: a file, or an archive in parts; its published size; how its bytes are vouched for."""
    sizes = [file.bytes if file.bytes is not None else file.about for file in files]
    total = sum(size or 0 for size in sizes)
    exact = all(file.bytes is not None for file in files)
    size = "size unknown" if None in sizes else size_text(total) if exact else f"about {size_text(total)}"
    pinned = "SHA-256" if files[0].sha256 else "MD5" if files[0].md5 else "no hash published"
    parts = f", {len(files)} parts" if len(files) > 1 else ""
    return f"    {title:<44} {size:>14}   {pinned}{parts}"


def _chosen(name: str | None, catalogue: Mapping[str, DataSet]) -> tuple[str, DataSet]:
    if name is None:
        raise ConfigError(
            "no data set is named",
            expected=f"one of {', '.join(catalogue)}",
            do="cromss download NAME, or cromss download --list",
        )
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=1, cutoff=0.0)[0]
        raise ConfigError(
            "unknown data set", got=name, expected=f"one of {', '.join(catalogue)}", do=f"did you mean {near!r}?"
        )
    return name, catalogue[name]


def _chosen_files(name: str, data_set: DataSet, wanted: Sequence[str]) -> list[RemoteFile]:
    """The files that the settings name, in the table's order: by whole name, or by archive without its ending."""
    known = {text for file in data_set.files for text in _names(file)}
    unknown = [text for text in wanted if text not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(known), n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"{name} has no such file", got=unknown[0], expected=", ".join(sorted(known)), do=f"did you mean {near!r}?"
        )
    return [file for file in data_set.files if not wanted or set(_names(file)) & set(wanted)]


def _names(file: RemoteFile) -> list[str]:
    return [file.name] if file.archive is None else [file.name, file.archive, archive_stem(file.archive)]


def _mirrored(file: RemoteFile, mirror: str | None) -> RemoteFile:
    """The same file at another host: scheme and host are replaced, the path stays."""
    if mirror is None:
        return file
    path = urllib.parse.urlsplit(file.url).path
    return replace(file, url=mirror.rstrip("/") + path)


def _read_card(out: Path) -> Card:
    try:
        return dict(read_json(out / CARD_FILE)["files"])
    except MissingDataError:
        return {}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            "the card of a download folder is not one", got=error, where=out / CARD_FILE, do="delete it"
        ) from None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One run of the command on one folder, which is locked."""

    config: DownloadConfig
    data_set: DataSet
    out: Path
    card: Card

    def fetch(self, files: Sequence[RemoteFile]) -> None:
        """Check what is there, say what is to come, fetch it."""
        lacking = []
        for file in files:
            if self._unpacked(file):
                _say(f"{file.name}: unpacked already")
            elif (self.out / file.name).exists():
                self._check(file)
            else:
                lacking.append(file)
        if not lacking:
            return
        self._require_space(lacking)
        for file in lacking:
            self._fetch_one(file)

    def _unpacked(self, file: RemoteFile) -> bool:
        """Whether this file is gone because the folder of its archive, made from just this file, is there."""
        if file.archive is None:
            return False
        marker = self.out / archive_stem(file.archive) / MARKER
        if (self.out / file.name).exists() or not marker.exists() or file.name not in self.card:
            return False
        return bool(read_json(marker).get("sha256", {}).get(file.name) == self.card[file.name]["sha256"])

    def _check(self, file: RemoteFile) -> None:
        """Read a file that is there. Raises DamagedFileError unless it is the one on the card, or the published one."""
        path, entry = self.out / file.name, self.card.get(file.name)
        vouched = file.sha256 or file.md5
        announced = None if entry or vouched else self._ask(file).sha256
        if not (entry or vouched or announced):
            raise DamagedFileError(
                "a file is there that this command did not fetch, and nothing is published to check it by",
                got=f"{path.stat().st_size} bytes",
                where=path,
                do="move it away and run the same command again",
            )
        sha256, md5 = hashes(path, "sha256", "md5")
        wanted = [(sha256, file.sha256), (md5, file.md5), (sha256, announced), (sha256, entry and entry["sha256"])]
        for got, expected in wanted:
            if expected and got != expected:
                raise DamagedFileError(
                    "a file is not what it was, or not the published one",
                    got=f"{got}, {path.stat().st_size} bytes",
                    expected=expected,
                    where=path,
                    do="delete it and run the same command again",
                )
        if entry is None:
            source = "published" if vouched else "announced"
            self._note(file, Fetched(bytes=path.stat().st_size, sha256=sha256, mark=None, source=source))
        _say(f"{file.name}: there already, {size_text(path.stat().st_size)}, SHA-256 checked")

    def _require_space(self, files: Sequence[RemoteFile]) -> None:
        """Say how much is to come. Raises DownloadError where the disk has less room than that."""
        needed, unknown = 0, 0
        for file in files:
            total = file.bytes if file.bytes is not None else self._ask(file).total
            part = part_path(self.out, file.name)
            held = part.stat().st_size if part.exists() else 0
            unknown += total is None
            needed += max(0, (total or 0) - held)
            there = f", {size_text(held)} of it here" if held else ""
            _say(f"{file.name}: {'size unknown' if total is None else size_text(total)}{there}")
        free = shutil.disk_usage(self.out).free
        unsized = f" and {unknown} of unknown size" if unknown else ""
        _say(f"to fetch: {size_text(needed)}{unsized}; free in {self.out}: {size_text(free)}")
        if self.data_set.licence is None:
            _say(f"its licence is not known here: read it at {self.data_set.page}")
        if needed > free:
            raise DownloadError(
                "the disk is too small",
                got=f"{size_text(free)} free",
                expected=f"{size_text(needed)}, and as much again or more to unpack it",
                where=self.out,
                do="free some space, choose another out, or name fewer files",
            )

    def _ask(self, file: RemoteFile) -> Answer:
        """What the server says of a file, without fetching it."""
        try:
            answer = ask(file.url, end=0, timeout=self.config.timeout)
        except TryAgain:  # it may answer when the file's turn comes
            return Answer(status=0, start=0, total=None, mark=None, sha256=None, framed=False, body=None)
        if answer.body is not None:
            answer.body.close()
        return answer

    def _fetch_one(self, file: RemoteFile) -> None:
        with Meter(file.name, file.bytes) as meter:
            fetched = fetch_part(
                file,
                self.out,
                retries=self.config.retries,
                timeout=self.config.timeout,
                progress=meter.update,
                say=_say,
            )
        self._note(file, fetched)
        settle(part_path(self.out, file.name), self.out / file.name)
        state_path(self.out, file.name).unlink(missing_ok=True)
        _say(f"{file.name}: {size_text(fetched.bytes)}, SHA-256 {fetched.sha256} ({fetched.source})")

    def _note(self, file: RemoteFile, fetched: Fetched) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"url": file.url, "bytes": fetched.bytes, "sha256": fetched.sha256, "vouched": fetched.source}
        self.card[file.name] = {**entry, "mark": fetched.mark, "date": now}
        write_json(self.out / CARD_FILE, {"files": self.card})

    def unpack_all(self, files: Sequence[RemoteFile]) -> None:
        """Unpack every archive of which all parts are named by the settings."""
        archives: dict[str, list[RemoteFile]] = {}
        for file in self.data_set.files:
            if file.archive is not None:
                archives.setdefault(file.archive, []).append(file)
        named = {file.name for file in files}
        for archive, parts in archives.items():
            lacking = [part.name for part in parts if part.name not in named]
            if not lacking:
                self._unpack_one(archive, [part.name for part in parts])
            elif len(lacking) < len(parts):
                _say(f"{archive} is not unpacked: its other {len(lacking)} parts are not among the files named")

    def _unpack_one(self, archive: str, names: Sequence[str]) -> None:
        folder = self.out / archive_stem(archive)
        wanted = {name: self.card[name]["sha256"] for name in names}
        if folder.exists():
            marker = folder / MARKER
            if not marker.exists() or read_json(marker).get("sha256") != wanted:
                raise DamagedFileError(
                    "a folder is in the way of an archive",
                    got="not made from this archive" if marker.exists() else "not made by this command",
                    where=folder,
                    do="move it away and run the same command again",
                )
            _say(f"{folder}: unpacked already")
            return
        _say(f"unpacking {archive} to {folder}")
        counts = unpack(
            [self.out / name for name in names],
            folder,
            archive=archive,
            max_ratio=self.config.max_ratio,
            max_files=self.data_set.max_files,
            max_bytes=self.data_set.max_bytes,
            about={"archive": archive, "sha256": wanted},
        )
        _say(f"{folder}: {counts['files']} files, {size_text(counts['bytes'])}")
        if not self.config.keep_archives:
            for name in names:
                (self.out / name).unlink()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
