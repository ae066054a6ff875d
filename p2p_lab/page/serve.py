"""A small server for this machine alone: a folder on 127.0.0.1, with the headers that threads need.

Browsers give a page several threads only when it is isolated from other origins, which two headers
say. A static host cannot always send them; the page's service worker adds them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {".mjs": "text/javascript", ".js": "text/javascript"}


class Handler(SimpleHTTPRequestHandler):
    """Send files of one folder; nothing is written, and folders are not listed."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}

    def end_headers(self) -> None:
        """Add the headers of isolation to every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: str | bytes | object) -> None:
        """Answer that there is no such page."""
        self.send_error(HTTPStatus.NOT_FOUND, "There is no such page")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: a reader needs no log of requests."""


def server_of(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a folder that is bound to a port; port 0 takes a free one."""
    return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(folder)))


def first_server_of(folder: Path, ports: Sequence[int]) -> ThreadingHTTPServer:
    """Return a server of a folder on the first of some ports that is free.

    Raises:
        OSError: If none is.
    """
    for port in ports[:-1]:
        with suppress(OSError):
            return server_of(folder, port)
    return server_of(folder, ports[-1])


def address_of(server: ThreadingHTTPServer) -> str:
    """Return the address that a server answers at."""
    return f"http://{HOST}:{server.server_address[1]}/"
