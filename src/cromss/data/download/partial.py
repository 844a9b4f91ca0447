"""One file from a server to `NAME.part`, whole and checked, through any number of interruptions.

In: a RemoteFile and a folder. Out: `NAME.part`, complete, with its SHA-256; the caller gives it its final name.
Beside it stands `NAME.part.json`: the address, the server's mark of the copy, its length, and its announced hash. A
rest is only ever added to bytes of the same address and mark; a copy whose mark changed, or that has none, begins anew.

    refused, and deleted: another length than published or announced, another hash, bytes beyond the end
    tried again, after 1, 2, 4, ... 60 s or as long as the server asks: lost connections, cut bodies, busy servers
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO

from cromss.data.download.catalogue import RemoteFile
from cromss.data.download.remote import Answer, TryAgain, ask
from cromss.errors import DamagedFileError, DownloadError, MissingDataError
from cromss.files import read_json, write_json

__all__ = ["Fetched", "fetch_part", "hashes", "part_path", "state_path"]

_CHUNK = 2**18
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more is left in peace


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A complete part. source: who vouches for the hash: `published`, `announced` by the server, or only `recorded`."""

    bytes: int
    sha256: str
    mark: str | None
    source: str


def part_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.part"


def state_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.part.json"


def hashes(path: Path, *kinds: str) -> list[str]:
    """Digests of a file, read once."""
    states = [hashlib.new(kind, usedforsecurity=False) for kind in kinds]
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for state in states:
                state.update(chunk)
    return [state.hexdigest() for state in states]


def fetch_part(
    remote: RemoteFile,
    folder: Path,
    *,
    retries: int,
    timeout: float,
    progress: Callable[[int, int | None], None],
    say: Callable[[str], None],
) -> Fetched:
    """Bring `NAME.part` to its full length and check it.

    retries: tries in a row that bring no new byte. progress: called with the bytes held so far, and their final number.
    Raises DownloadError when the server does not give the file, DamagedFileError when it gives another one.
    """
    part = _Part(remote, folder)
    failures = 0
    while not part.whole:
        before = part.held
        try:
            _one_try(part, timeout, progress)
        except TryAgain as problem:
            failures = 0 if part.held > before else failures + 1
            _pause(problem, failures, retries, remote, say)
    return _checked(part)


class _Part:
    """`NAME.part` and its state; `held` bytes of it are good."""

    def __init__(self, remote: RemoteFile, folder: Path) -> None:
        self.remote = remote
        self.path, self._state = part_path(folder, remote.name), state_path(folder, remote.name)
        self.mark: str | None = None
        self.total: int | None = None
        self.announced: str | None = None
        self.finished = False
        self._load()

    @property
    def held(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def whole(self) -> bool:
        return self.finished or (self.total is not None and self.held == self.total)

    def _load(self) -> None:
        """Take up what an earlier run left, unless it belongs to another address or says too little."""
        try:
            state: Any = read_json(self._state) if self.path.exists() else {}
        except (MissingDataError, DamagedFileError):
            state = {}
        if not isinstance(state, dict) or state.get("url") != self.remote.url or not state.get("mark"):
            self.discard()
            return
        self.mark, self.total, self.announced = state["mark"], state.get("total"), state.get("sha256")
        if self.total is not None and self.held > self.total:
            self.discard()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
        self.mark = self.total = self.announced = None
        self.finished = False

    def begin(self, answer: Answer) -> None:
        """Take note of the copy that comes; the note stands before the first byte does."""
        self.discard()
        self.mark, self.total, self.announced = answer.mark, answer.total, answer.sha256
        state = {"url": self.remote.url, "mark": self.mark, "total": self.total, "sha256": self.announced}
        write_json(self._state, state)


def _one_try(part: _Part, timeout: float, progress: Callable[[int, int | None], None]) -> None:
    """One request, its body added to the part. Raises TryAgain where the body ends early."""
    start = part.held if part.mark else 0
    answer = ask(part.remote.url, start=start, mark=part.mark, timeout=timeout)
    if answer.body is None:  # 416: what is held is no beginning of what is there now
        part.discard()
        raise TryAgain("the server has nothing after what is held; beginning anew")
    with contextlib.closing(answer.body) as body:
        if start and (answer.start != start or answer.mark != part.mark or answer.total != part.total):
            if answer.start:
                part.discard()
                raise TryAgain("the file has changed on its server; beginning anew")
            start = 0
        if not start:
            _require_length(part.remote, answer)
            part.begin(answer)
        with part.path.open("ab") as file:
            for held in _receive(body, file, start, part):
                progress(held, part.total)
    if part.total is None:
        part.finished = True
    elif part.held < part.total:
        raise TryAgain(f"the connection ended after {part.held} of {part.total} bytes")


def _receive(body: http.client.HTTPResponse, file: BinaryIO, held: int, part: _Part) -> Iterator[int]:
    """Write what comes; yield the bytes held. Raises TryAgain, or DownloadError beyond the known length."""
    known = part.total if part.total is not None else part.remote.bytes
    while True:
        try:
            chunk = body.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(f"the connection broke: {type(error).__name__}") from None
        if not chunk:
            return
        held += len(chunk)
        if known is not None and held > known:
            part.discard()
            raise DownloadError(
                "a server sends more bytes than the file has",
                got=f"over {held} bytes",
                expected=f"{known} bytes",
                where=part.remote.url,
                do="run the same command again; nothing was kept",
            )
        file.write(chunk)
        yield held


def _require_length(remote: RemoteFile, answer: Answer) -> None:
    if remote.bytes is not None and answer.total not in (None, remote.bytes):
        raise DownloadError(
            "a file on its server is not the published one",
            got=f"{answer.total} bytes",
            expected=f"{remote.bytes} bytes",
            where=remote.url,
            do="look at the data set's page for a newer edition",
        )
    vouched = remote.sha256 or remote.md5 or answer.sha256 or remote.bytes
    if answer.total is None and not answer.framed and not vouched:
        raise DownloadError(
            "nothing tells when a file is complete",
            got="no length from the server, no published length or hash",
            where=remote.url,
            do="get the file by hand",
        )


def _pause(problem: TryAgain, failures: int, retries: int, remote: RemoteFile, say: Callable[[str], None]) -> None:
    wait = problem.wait if problem.wait is not None else min(60.0, 2.0 ** max(0, failures - 1))
    if failures > retries or wait > _LONGEST_WAIT:
        asked = f"; the server asks to wait {wait:.0f} s" if wait > _LONGEST_WAIT else ""
        raise DownloadError(
            "a file could not be fetched",
            got=f"{problem}{asked}",
            expected=f"the whole file within {retries} tries without progress",
            where=remote.url,
            do="run the same command later: it goes on from the bytes that are here",
        )
    number = f" ({failures} of {retries})" if failures else ""
    say(f"{remote.name}: {problem}; trying again in {wait:.0f} s{number}")
    sleep(wait)


def _checked(part: _Part) -> Fetched:
    """Compare a whole part, as it is on disk, with everything known about it. Deletes it where anything differs."""
    remote, held = part.remote, part.held
    sha256, md5 = hashes(part.path, "sha256", "md5")
    wanted = [
        ("bytes", held, remote.bytes),
        ("SHA-256", sha256, remote.sha256),
        ("MD5", md5, remote.md5),
        ("SHA-256 announced by the server", sha256, part.announced),
    ]
    for kind, got, expected in wanted:
        if expected is not None and got != expected:
            mark = part.mark
            part.discard()
            raise DamagedFileError(
                "a downloaded file is not the right one; it was deleted",
                got=f"{kind} {got}" + (f", marked {mark}" if mark else ""),
                expected=f"{kind} {expected}",
                where=remote.url,
                do="run the same command again; if this repeats, look at the data set's page",
            )
    source = "published" if remote.sha256 or remote.md5 else "announced" if part.announced else "recorded"
    return Fetched(bytes=held, sha256=sha256, mark=part.mark, source=source)
