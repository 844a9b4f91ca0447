"""A small file server on this machine with range requests, and with the faults of real ones, one after the other.

A fault in `plan` befalls the next request of a shard: "cut" (the connection drops in the middle), "delay" (nothing for
a while), "wrong" (a flipped byte), "busy" (status 503). `ranges` False answers every request with the whole file.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DELAY = 1.5  # seconds of the fault "delay"


class FileServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the default of 5 is fewer than one reader opens at once

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.ranges, self.latency = root, True, 0.0
        self.plan: deque[str] = deque()
        self.requests: list[tuple[str, str | None]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is part of the tests."""

    def shard_requests(self) -> int:
        return sum("shards" in path for path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        time.sleep(self.server.latency)
        path = self.server.root / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        fault = self.server.plan.popleft() if self.server.plan and "shards" in self.path else ""
        if fault == "busy":
            self.send_error(503)
            return
        if fault == "delay":
            time.sleep(DELAY)
        state = path.stat()
        size, tag = state.st_size, f"{state.st_mtime_ns:x}"
        begin, end = 0, size - 1
        if wanted and self.server.ranges:
            begin, end = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        with path.open("rb") as file:
            file.seek(begin)
            content = file.read(end + 1 - begin)
        if wanted and self.server.ranges:
            if not content:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(content) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Last-Modified", "Mon, 06 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: `requests` has it."""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[FileServer]:
    """A server of the files below `root`, for as long as the block lasts."""
    server = FileServer(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
