"""A STAC API on this machine, for tests: one search page, and a list of what it was asked."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading


class _Api(http.server.BaseHTTPRequestHandler):
    """A STAC API of one search page, on this machine."""

    def _send(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        root = f"http://127.0.0.1:{self.server.server_port}/"
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        links = [
            {"rel": "self", "href": root},
            {"rel": "root", "href": root},
            {"rel": "search", "href": root + "search", "method": "POST", "type": "application/geo+json"},
        ]
        self._send(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "a",
                "description": "d",
                "conformsTo": conforms,
                "links": links,
            }
        )

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        if self.server.broken:
            self._send({"description": "out of order"}, 500)
            return
        found = [item for item in self.server.items if item["collection"] in asked["collections"]]
        self._send({"type": "FeatureCollection", "features": found, "links": []})

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(items):
    """A running API of these items (JSON types). asked: the searches. broken: whether it answers with an error."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.items, server.asked, server.broken = items, [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
