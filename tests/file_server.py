"""A small file server on this machine that can be told to fail in the ways that real ones do."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """files: path -> bytes. faults: what happens to the next requests for bodies, first in, first out.

    requests: (path, Range, If-Range) of each request, probes of one byte left out. hold_at: bytes of a body after which
    it waits for `go_on`.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    faults: list[Callable[[BaseHTTPRequestHandler], bool]] = field(default_factory=list)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    hold_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked != "bytes=0-0":
            self.requests.append((handler.path, asked, handler.headers.get("If-Range")))
            if self.faults and self.faults.pop(0)(handler):
                return
        if handler.path in self.redirects:
            self.head(handler, 302, {"Location": self.redirects[handler.path], "Content-Length": "0", **self.extra})
        elif handler.path not in self.files:
            self.head(handler, 404, {"Content-Length": "0"})
        else:
            self.send(handler, self.files[handler.path], asked)

    def send(self, handler: BaseHTTPRequestHandler, content: bytes, asked: str | None) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if self.ranges else None
        condition = handler.headers.get("If-Range")
        if match and self.if_range and condition not in (None, self.etag, self.last_modified):
            match = None
        if not match:
            self.head(handler, 200, {"Content-Length": str(len(content)), **self.marks()})
            self.body(handler, content)
            return
        start = int(match.group(1))
        if start >= len(content):
            self.head(handler, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        end = min(int(match.group(2) or len(content) - 1), len(content) - 1)
        headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}", "Content-Length": str(end + 1 - start)}
        self.head(handler, 206, {**headers, **self.marks()})
        self.body(handler, content[start : end + 1])

    def marks(self) -> dict[str, str]:
        named = {"ETag": self.etag, "Last-Modified": self.last_modified}
        return {name: text for name, text in named.items() if text} | self.extra

    def body(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        held = len(content) if self.hold_at is None else self.hold_at
        handler.wfile.write(content[:held])
        if held < len(content):
            self.go_on.wait()
            handler.wfile.write(content[held:])

    @staticmethod
    def head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name, text)
        handler.end_headers()


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Answer with this status alone."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        FileServer.head(handler, code, {"Content-Length": "0", **named})
        return True

    return fault


def cut(server: FileServer, count: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Promise the rest of the file, send `count` bytes of it, and hang up."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        content = server.files[handler.path]
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "bytes=0-")
        start = int(match.group(1))
        headers = {"Content-Length": str(len(content) - start), **server.marks()}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        FileServer.head(handler, 206 if start else 200, headers)
        handler.wfile.write(content[start : start + count])
        handler.close_connection = True
        return True

    return fault


def raw(text: bytes) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Send these bytes as they are, and hang up."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.wfile.write(text)
        handler.close_connection = True
        return True

    return fault


def passing(handler: BaseHTTPRequestHandler) -> bool:
    """No fault."""
    return False


@contextlib.contextmanager
def running(wrap: Callable[[ThreadingHTTPServer], None] | None = None) -> Iterator[FileServer]:
    """A server on a free port of this machine; `wrap` may put TLS around its socket."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                state.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.handle_error = lambda *arguments: None
        if wrap is not None:
            wrap(http)
        state.url = f"{'https' if wrap else 'http'}://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            http.shutdown()
            thread.join()
