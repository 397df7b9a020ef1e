"""Server-side request forgery: hostile forms of addresses, answers of resolvers, peers, and receivers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.platform import outbound
from app.platform.outbound import ForbiddenAddress, check_literal, parse, post, resolve
from app.settings_rules import networks
from tests.app.platform.hostile_urls import HOSTILE_URLS

LOOPBACK = networks("127.0.0.0/8")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an outbound connection was made")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_battery_is_large_enough() -> None:
    assert len(set(HOSTILE_URLS)) >= 60


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_hostile_forms_are_refused_without_a_look_up(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_literal(parse(url), ())


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:443/a?b=c",
        "http://8.8.8.8/",
        "https://xn--exmple-cua.com/",
        "https://[2606:4700::1111]/",
        "https://a_b.example.com./x",
    ],
)
def test_public_forms_are_taken(url: str) -> None:
    check_literal(parse(url), ())


def test_an_allowed_network_opens_its_addresses_only() -> None:
    check_literal(parse("http://127.0.0.1:9999/"), LOOPBACK)
    for url in ("http://10.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/"):
        with pytest.raises(ForbiddenAddress):
            check_literal(parse(url), LOOPBACK)


def _answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("93.184.215.14", "10.0.0.1"), ("::ffff:169.254.169.254",), ("64:ff9b::a00:1",), ("fe80::1",)],
)
def test_one_bad_answer_of_the_resolver_spoils_them_all(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    _answers(monkeypatch, *addresses)
    with pytest.raises(ForbiddenAddress):
        resolve(parse("https://rebound.example.com/"), ())


@contextmanager
def _receiver(answer: bytes, *, drip: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads one request and answers with these bytes, perhaps one a tenth of a second."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = server.accept()
                with connection:
                    data = b""
                    while (b"\r\n\r\n" not in data or not data.endswith(b"}")) and (piece := connection.recv(65536)):
                        data += piece
                    if not data:
                        continue  # left before it asked anything
                    heard.append(data)
                    for chunk in [answer[i : i + 1] for i in range(len(answer))] if drip else [answer]:
                        connection.sendall(chunk)
                        time.sleep(0.1 if drip else 0)
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.close()


def test_the_checked_address_is_called_once_with_the_name_as_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answers(monkeypatch, "127.0.0.1")
    connected: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, at: Any) -> None:
        connected.append(at)
        real(self, at)

    monkeypatch.setattr(socket.socket, "connect", connect)
    with _receiver(b"HTTP/1.1 204 No Content\r\nRetry-After: 7\r\n\r\n") as (port, heard):
        monkeypatch.setattr(socket, "create_connection", _direct)
        answer = post(parse(f"http://hooks.example.com:{port}/a?b=1"), b"{}", {"X-A": "b"}, allowed=LOOPBACK, seconds=5)
    assert (answer.status, answer.retry_after) == (204, "7")
    assert asked == ["hooks.example.com"]
    assert connected == [("127.0.0.1", port)]
    assert heard[0].startswith(b"POST /a?b=1 HTTP/1.1\r\nHost: hooks.example.com:%d\r\n" % port)


def _direct(address: tuple[str, int], timeout: float) -> socket.socket:
    """What create_connection does to an address, without the resolver, which the fixture watches."""
    made = socket.socket(socket.AF_INET)
    made.settimeout(timeout)
    made.connect(address)
    return made


def test_a_connection_that_leads_elsewhere_than_what_was_checked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "93.184.215.14")
    with _receiver(b"") as (port, heard):
        monkeypatch.setattr(socket, "create_connection", lambda *_, timeout: _direct(("127.0.0.1", port), timeout))
        with pytest.raises(ForbiddenAddress):
            post(parse("http://example.com/"), b"{}", {}, allowed=(), seconds=5)
    assert heard == []


def test_redirects_are_answers_and_long_answers_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(socket, "create_connection", _direct)
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    with _receiver(moved) as (port, heard):
        assert post(parse(f"http://x.example:{port}/"), b"{}", {}, allowed=LOOPBACK, seconds=5).status == 302
    assert len(heard) == 1
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10**6
    with _receiver(endless) as (port, _):
        assert len(post(parse(f"http://x.example:{port}/"), b"{}", {}, allowed=LOOPBACK, seconds=5).excerpt) == 500


def test_an_answer_that_drips_in_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(socket, "create_connection", _direct)
    with _receiver(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000, drip=True) as (port, _):  # 500 seconds of them
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            post(parse(f"http://x.example:{port}/"), b"{}", {}, allowed=LOOPBACK, seconds=0.6)
    assert time.monotonic() - started < 60
    assert outbound.MAX_ANSWER_BYTES == 65536
