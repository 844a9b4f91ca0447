"""One file of a remote store, or some bytes of it: over HTTP with every answer checked, or through any fsspec protocol.

In: an address such as https://host/folder or s3://bucket/folder. Out: exactly the bytes asked for, or an error of ours.
A dropped, slow or busy connection is tried again, ATTEMPTS times in all, with a pause that doubles.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from cromss.errors import ConfigError, MissingDataError, StoreError

__all__ = ["ATTEMPTS", "RemoteSource", "is_remote"]

ATTEMPTS, PAUSE = 4, 0.5
"""Tries of a request, and seconds before the second; the pauses between all of them are 3.5 s together."""

PATIENCE, SLOWEST = 15.0, 200_000.0
"""Seconds that one try may take beside the transfer, and bytes a second below which a transfer is given up."""

MAX_UNKNOWN = 2**26
"""Bytes that a file of unknown length (store.json) may have."""

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_inherited: list[Any] = []
"""Connections of a parent process: never closed by a child, because closing would disturb the parent's."""


class _TryAgainError(Exception):
    """A fault that may pass."""


def is_remote(path: object) -> bool:
    """Whether a path is an address, with a protocol."""
    return isinstance(path, str) and "://" in path


class RemoteSource:
    """The files below `address`. Raises ConfigError for an address that cannot be one; connects when first asked."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if "@" in parts.netloc or parts.query or parts.fragment or not (parts.netloc or parts.path.strip("/")):
            raise ConfigError(
                "this is no address of a store",
                got="an address with a user or password" if "@" in parts.netloc else address,
                expected="protocol://host/folder, without a password, query or fragment",
                do="passwords belong into ~/.netrc (https) or the usual settings of the object store (s3)",
            )
        self.address = address.rstrip("/")
        self._http = parts.scheme in ("http", "https")
        self._fs: Any = None
        self._pid = os.getpid()
        self._tags: dict[str, set[str]] = {}

    def where(self, name: str) -> str:
        """The address of a file."""
        return f"{self.address}/{name}"

    def get(self, name: str, start: int = 0, length: int | None = None, size: int | None = None) -> bytes:
        """Bytes `start` to `start + length` of a file that is `size` bytes long; all of it where they are None.

        Raises MissingDataError for a file that is not there, StoreError for one of another length, a server without
        range requests, a refusal, a connection that stays broken, or one that `connect` has not opened.
        """
        fetch: Callable[..., bytes] = self._get_http if self._http else self._get_any
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                return fetch(name, start, length, size)
            except _TryAgainError as error:
                last = error
        raise StoreError(
            f"a remote store did not answer in {ATTEMPTS} tries",
            got=last,
            where=self.where(name),
            do="check the connection and the address, then start the command again: it continues where it was",
        )

    def require_unchanged(self, name: str) -> None:
        """Raise StoreError when the server has named more than one version of a file (ETag) since it was opened."""
        if len(self._tags.get(name, ())) > 1:
            raise self._changed(name, f"versions {', '.join(sorted(self._tags[name]))}", "one version")

    def close(self) -> None:
        """Close the connections; they are opened again when needed."""
        if self._fs is not None and self._pid != os.getpid():
            _inherited.append(self._fs)
        elif self._fs is not None and self._http and self._fs._session is not None:
            _start(self._fs._session.close())  # not waited for: this may run wherever an object is deleted
        self._fs = None

    def connect(self) -> None:
        """Open the connections of this process where they are not; `get` never does, because it runs in many threads.

        Raises StoreError for a protocol that is unknown or not installed.
        """
        if self._pid != os.getpid():  # a fork: its event loop did not come along
            _inherited.append(self._fs)
            self._fs, self._pid = None, os.getpid()
        if self._fs is None:
            protocol = urlsplit(self.address).scheme
            try:
                import fsspec

                options: dict[str, Any] = {"client_kwargs": {"trust_env": True}} if self._http else {}
                fs = fsspec.filesystem(protocol, skip_instance_cache=True, asynchronous=self._http, **options)
            except (ImportError, ValueError) as error:
                raise StoreError(
                    f"{protocol}:// needs a package that is not installed, or is no protocol",
                    got=error,
                    where=self.address,
                    do="pip install 'cromss[remote]' for https, 'cromss[s3]' for s3",
                ) from None
            if self._http:  # now, so that closing finds it: a request that is still on its way must not make another
                _finished(fs.set_session(), PATIENCE)
            self._fs = fs

    def _connection(self) -> Any:
        """The filesystem that `connect` opened. Raises StoreError where it did not, or `close` came in between."""
        if self._fs is None or self._pid != os.getpid():
            raise StoreError("a remote store was closed while it was read", where=self.address)
        return self._fs

    def _get_http(self, name: str, start: int, length: int | None, size: int | None) -> bytes:
        import aiohttp

        fs = self._connection()
        try:
            content: bytes = _finished(self._request(fs, name, start, length, size), _seconds(length) + PATIENCE)
            return content
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:  # the last: the session is closed
            raise _TryAgainError(str(error) or type(error).__name__) from None

    async def _request(self, fs: Any, name: str, start: int, length: int | None, size: int | None) -> bytes:
        import aiohttp

        headers = {"Accept-Encoding": "identity"}
        if length is not None:
            headers["Range"] = f"bytes={start}-{start + length - 1}"
        timeout = aiohttp.ClientTimeout(total=_seconds(length), sock_connect=PATIENCE, sock_read=PATIENCE)
        session = await fs.set_session()
        async with session.get(fs.encode_url(self.where(name)), headers=headers, timeout=timeout) as answer:
            self._check_status(name, answer.status, length is not None)
            if length is not None:
                self._check_range(name, answer.headers, start, length, size)
            limit = MAX_UNKNOWN if length is None else length
            if (answer.content_length or 0) > limit:
                raise StoreError("a file of a remote store is too long", got=answer.content_length, expected=limit)
            content: bytes = await _read_at_most(answer.content, limit)
            if tag := answer.headers.get("ETag"):
                self._tags.setdefault(name, set()).add(tag)
        if length is not None and len(content) != length:
            raise _TryAgainError(f"{len(content)} of {length} bytes")
        return content

    def _check_status(self, name: str, status: int, ranged: bool) -> None:
        where = self.where(name)
        if status in _BUSY:
            raise _TryAgainError(f"status {status}")
        if status in (404, 410):
            raise MissingDataError("a file of a remote store is absent", got=f"status {status}", where=where)
        if status == 416:
            raise self._changed(name, "a shorter file", "the length in store.json")
        if ranged and status == 200:
            raise StoreError(
                "the server does not give parts of a file",
                got="the whole file (status 200)",
                expected="status 206: range requests",
                where=where,
                do="serve the store with a server that has them (nginx, Apache, any object store), or copy it here",
            )
        if status != (206 if ranged else 200):
            hint = "this account may not read it" if status in (401, 403) else None
            raise StoreError("a remote store refused a request", got=f"status {status}", where=where, do=hint)

    def _check_range(self, name: str, headers: Any, start: int, length: int, size: int | None) -> None:
        given = headers.get("Content-Range", "none")
        span, _, total = given.removeprefix("bytes ").partition("/")
        if size is not None and total.isdigit() and int(total) != size:
            raise self._changed(name, f"{total} bytes", f"{size} bytes")
        if span != f"{start}-{start + length - 1}":
            raise StoreError(
                "the server gave another part of a file",
                got=f"Content-Range: {given}",
                expected=f"bytes {start}-{start + length - 1}",
                where=self.where(name),
            )

    def _get_any(self, name: str, start: int, length: int | None, size: int | None) -> bytes:
        fs, where = self._connection(), self.where(name)
        try:
            if length is None:
                if fs.size(where) > MAX_UNKNOWN:
                    raise StoreError("a file of a remote store is too long", expected=MAX_UNKNOWN, where=where)
                return bytes(fs.cat_file(where))
            content = bytes(fs.cat_file(where, start=start, end=start + length))
            found = size if len(content) == length else int(fs.size(where))
        except FileNotFoundError as error:
            raise MissingDataError("a file of a remote store is absent", got=error, where=where) from None
        except PermissionError as error:
            raise StoreError("a remote store refused a request", got=error, where=where) from None
        except StoreError:
            raise
        except Exception as error:  # each protocol has errors of its own
            raise _TryAgainError(f"{type(error).__name__}: {error}") from None
        if found != size and size is not None:
            raise self._changed(name, f"{found} bytes", f"{size} bytes")
        if len(content) != length:
            raise _TryAgainError(f"{len(content)} of {length} bytes")
        return content

    def _changed(self, name: str, got: str, expected: str) -> StoreError:
        return StoreError(
            "a file of a remote store has changed, or is not of this store",
            got=got,
            expected=expected,
            where=self.where(name),
            do="open the store again once all of it is there; a store is never changed in place",
        )


def _seconds(length: int | None) -> float:
    """How long one try may take."""
    return PATIENCE + (length or MAX_UNKNOWN) / SLOWEST


async def _read_at_most(stream: Any, limit: int) -> bytes:
    """The content of an answer; a byte beyond `limit` is an error, so that no server can fill the memory."""
    content = bytearray()
    async for piece in stream.iter_any():
        content += piece
        if len(content) > limit:
            raise StoreError("a file of a remote store is too long", got="more", expected=f"{limit} bytes")
    return bytes(content)


def _finished(coroutine: Any, seconds: float) -> Any:
    """What a coroutine gives. Raises TimeoutError after some seconds; then it does not run on."""
    running = _start(coroutine)
    try:
        return running.result(seconds)
    finally:
        running.cancel()


def _start(coroutine: Any) -> Future[Any]:
    """Run a coroutine in the thread that fsspec keeps for them."""
    import asyncio

    import fsspec.asyn

    return asyncio.run_coroutine_threadsafe(coroutine, fsspec.asyn.get_loop())
