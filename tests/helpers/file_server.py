"""A web server on this machine that keeps one file, and misbehaves on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` under every path.

    Attributes:
        content: The file.
        etag, last_modified: What tells its versions apart; None sends none.
        content_type: As declared.
        extra_headers: Sent with every answer.
        ranges: Whether Range is honoured.
        if_range: Whether If-Range is honoured; without it, a rest is sent of any version.
        announces_length: Whether Content-Length is sent.
        cuts: One for each of the next answers: bytes after which the connection ends.
        failures: One for each of the next answers, sent instead of the file: a status, or an address to redirect to.
        before_answer: Called for every request.
        asked: Path and headers of every request.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.etag: str | None = '"first"'
        self.last_modified: str | None = "Mon, 03 May 2021 10:00:00 GMT"
        self.content_type = "application/octet-stream"
        self.extra_headers: dict[str, str] = {}
        self.ranges = self.if_range = self.announces_length = True
        self.cuts: list[int] = []
        self.failures: list[int | str] = []
        self.before_answer: Callable[[], object] = lambda: None
        self.asked: list[tuple[str, Message]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:  # noqa: N802  (http.server's name)
        server = self.server
        server.asked.append((self.path, self.headers))
        server.before_answer()
        if server.failures:
            return self._fail(server.failures.pop(0))
        start = self._start()
        if start is not None and start >= len(server.content):
            return self._fail(416)
        rest = server.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.announces_length:
            self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Type", server.content_type)
        for name, value in {"ETag": server.etag, "Last-Modified": server.last_modified, **server.extra_headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest[: server.cuts.pop(0)] if server.cuts else rest)

    def _start(self) -> int | None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found is None or not self.server.ranges:
            return None
        same = self.headers.get("If-Range") in (self.server.etag, self.server.last_modified)
        return int(found[1]) if same or not self.server.if_range else None

    def _fail(self, failure: int | str) -> None:
        self.send_response(failure if isinstance(failure, int) else 302)
        if isinstance(failure, str):
            self.send_header("Location", failure)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests have their own words."""


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A running server."""
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
