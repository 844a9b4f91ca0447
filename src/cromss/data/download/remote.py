"""One request to a server: from which byte on, and what it says about the file.

In: an address, a first byte, and the mark of the copy that was begun. Out: an open `Answer`, or an error.

Built on urllib of the standard library. What is needed is one streamed GET with a Range header, verified TLS, proxies
from the environment, and a say in every redirect; urllib has these, adds no dependency, and unlike the larger
libraries neither retries nor decompresses behind our back, which would spoil the count of bytes.

    200: the whole file; 206: the rest of it, from `start` on; 416: nothing is left, the file has `total` bytes
"""

from __future__ import annotations

import datetime
import email.utils
import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from cromss import __version__
from cromss.errors import DownloadError

__all__ = ["Answer", "TryAgain", "ask", "check_address", "check_redirect"]

MAX_REDIRECTS = 5
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # the server's own "later" (RFC 9110, RFC 6585, RFC 8470)
_HERE = {"127.0.0.1", "localhost", "::1"}


class TryAgain(Exception):  # noqa: N818 - not an error yet: another try may succeed
    """What may pass: a lost connection, a busy server. wait: seconds that the server asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An open response; close it by leaving `body`.

    start: the first byte that comes. total: length of the whole file, None where the server does not say.
    mark: strong ETag, or Last-Modified: equal marks are equal bytes. sha256: as the host announces it, if it does.
    framed: whether a body that is cut short can be told from a whole one.
    """

    status: int
    start: int
    total: int | None
    mark: str | None
    sha256: str | None
    framed: bool
    body: http.client.HTTPResponse | None


def check_address(url: str) -> None:
    """Raise DownloadError unless `url` is https, or http to this machine itself."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _HERE:
        return
    raise DownloadError(
        "an address is not safe to fetch from",
        got=url,
        expected="https://..., or http:// to this machine",
        do="use the https address of the same server",
    )


def check_redirect(old: str, new: str) -> None:
    """Raise DownloadError unless a redirect keeps the scheme, or goes from http to https."""
    schemes = urllib.parse.urlsplit(old).scheme, urllib.parse.urlsplit(new).scheme
    if schemes[1] != "https" and schemes != ("http", "http"):
        raise DownloadError(
            "a server sends its visitors on to an unsafe address", got=f"{old} -> {new}", expected="https all the way"
        )
    check_address(new)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows few and safe redirects, and keeps what the first server says of the file before it sends us on."""

    max_redirections = MAX_REDIRECTS

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_redirect(req.full_url, newurl)
        for name in ("X-Linked-Etag", "X-Linked-Size"):
            if headers.get(name):
                self.said.setdefault(name, headers[name])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def ask(url: str, *, start: int = 0, end: int | None = None, mark: str | None = None, timeout: float) -> Answer:
    """Ask for a file from byte `start` (to `end`, inclusive); with `mark`, for its rest only if it is still the same.

    timeout: seconds without a byte. Raises DownloadError for what will not change, TryAgain for what may.
    """
    check_address(url)
    headers = {"User-Agent": f"cromss/{__version__}", "Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end}"
    if start and mark:
        headers["If-Range"] = mark
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - check_address has looked at the scheme
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(error, url)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                "a server cannot prove who it is", got=error.reason, expected="a valid certificate", where=url
            ) from None
        raise TryAgain(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise TryAgain(_words(error)) from None
    try:
        return _answer(response, redirects.said, start, url)
    except DownloadError:
        response.close()
        raise


def _answer(response: http.client.HTTPResponse, said: Mapping[str, str], start: int, url: str) -> Answer:
    headers = response.headers
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError(
            "a server sends a file in another form than asked for", got=headers["Content-Encoding"], where=url
        )
    first, total = 0, _number(headers.get("Content-Length"))
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not match or int(match.group(1)) != start:
            raise DownloadError(
                "a server sends another part of a file than asked for",
                got=f"Content-Range: {headers.get('Content-Range')}",
                expected=f"bytes {start}-",
                where=url,
            )
        first, total = start, _number(match.group(2))
    elif response.status != 200:
        raise DownloadError("a server gives an unknown answer", got=f"status {response.status}", where=url)
    return Answer(
        status=response.status,
        start=first,
        total=total if total is not None else _number(said.get("X-Linked-Size")),
        mark=_mark(headers),
        sha256=_announced(said.get("X-Linked-Etag") or headers.get("X-Linked-Etag")),
        framed="Content-Length" in headers or headers.get("Transfer-Encoding", "").lower() == "chunked",
        body=response,
    )


def _refused(error: urllib.error.HTTPError, url: str) -> Answer:
    """The answer 416, or the error that another status means."""
    if error.code == 416:
        match = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        total = int(match.group(1)) if match else None
        return Answer(status=416, start=0, total=total, mark=None, sha256=None, framed=True, body=None)
    if error.code in _PASSING:
        raise TryAgain(f"status {error.code} {error.reason}", _wait(error.headers.get("Retry-After")))
    what, do = "a server refuses a file", "look at the data set's page"
    if error.code in {301, 302, 303, 307, 308}:
        what = "a server sends its visitors on and on, or nowhere"
    elif error.code in {404, 410}:
        what, do = "a file is not on its server", "look at the data set's page: it may have moved"
    elif error.code in {401, 403}:
        what, do = "a server wants an account or a consent", "get the file by hand from the data set's page"
    raise DownloadError(what, got=f"status {error.code} {error.reason}", expected="status 200", where=url, do=do)


def _mark(headers: http.client.HTTPMessage) -> str | None:
    """What If-Range may carry (RFC 9110, 13.1.5): a strong ETag, or else the date of the last change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _announced(tag: str | None) -> str | None:
    """The hub gives a large file's SHA-256 as the tag of the link to it."""
    digest = (tag or "").strip('"').lower()
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _wait(text: str | None) -> float | None:
    """Retry-After in seconds, given as a number or a date; None where it is neither."""
    if text and text.isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text or "")
    except ValueError:
        return None
    now = datetime.datetime.now(date.tzinfo or datetime.UTC)
    return max(0.0, (date.replace(tzinfo=date.tzinfo or datetime.UTC) - now).total_seconds())


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
