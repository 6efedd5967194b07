"""Serving the pages, to this machine alone."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(SimpleHTTPRequestHandler):
    """Logs nothing, and lets no browser keep what the next build replaces."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
        pass


def make_server(pages: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the pages at that port of 127.0.0.1, with 0 at any free one; see its ``server_port``."""
    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=str(pages)))
