"""An S3 server that misbehaves: a proxy before a good one that refuses, dawdles, cuts answers and changes bytes."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Mood = Literal["good", "errors", "slow", "cut", "wrong"]
MOODS: tuple[Mood, ...] = ("good", "errors", "slow", "cut", "wrong")
_HOP = {"connection", "transfer-encoding", "content-length"}


class S3Proxy:
    """Listens on a port of its own; `mood` may change at any time, `faults` counts what was done."""

    def __init__(self, target: str, seed: int) -> None:
        self.mood: Mood = "good"
        self.share = 0.3
        """Of the requests, that a mood touches."""
        self.faults: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.pass_on(self, urlsplit(target).netloc)

            do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def listening(self) -> Iterator[S3Proxy]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def pass_on(self, request: BaseHTTPRequestHandler, target: str) -> None:
        """Forward one request, well or badly."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault()
        if fault == "errors":
            _answer(request, 503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "slow":
            time.sleep(1.5)
        if fault == "wrong" and body:  # changed on the way: what a server that checks its checksums answers
            _answer(request, 400, [], b"<Error><Code>BadDigest</Code></Error>")
            return
        try:
            status, headers, data = _forward(request, target, body)
        except OSError:
            request.close_connection = True
            return
        if status < 300 and request.command in {"PUT", "POST"}:
            self.stored(request)
        if fault == "wrong" and data and request.command == "GET":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "cut" and data:
            _answer(request, status, headers, data, cut=True)
            return
        _answer(request, status, headers, data)

    def stored(self, request: BaseHTTPRequestHandler) -> None:
        """Hear that the server has taken something, before the client does; for servers that then spoil it."""

    def _fault(self) -> Mood:
        with self._lock:
            if self.mood == "good" or self._random.random() >= self.share:
                return "good"
            self.faults[self.mood] += 1
            return self.mood


def _forward(request: BaseHTTPRequestHandler, target: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(target, timeout=30)
    try:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        connection.request(request.command, request.path, body=body, headers=headers)  # the Host that was signed stays
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False
) -> None:
    with contextlib.suppress(OSError):
        request.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        for name, value in headers:
            if name.lower() not in _HOP:
                request.send_header(name, value)
        request.send_header("Content-Length", length if request.command == "HEAD" else str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data[: len(data) // 2] if cut else data)
        request.close_connection = cut
