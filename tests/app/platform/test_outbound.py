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

LOOPBACK = networks("127.0.0.0/8")
HOSTILE_URLS = [
    # not http
    "ftp://example.com/", "file:///etc/passwd", "gopher://127.0.0.1:70/", "javascript:alert(1)", "//example.com/", "",
    "example.com", "HTTP://example.com", "http:/example.com", "http:///path", "https://", "http://?x", "dict://x:1/",
    # two readers, two hosts
    "http://example.com@127.0.0.1/", "http://user:pass@example.com/", "http://127.0.0.1\\@example.com/",
    "http://example.com\\.evil.com/", "http://exa mple.com/", "http://example.com\t/", "http://example.com\r\nX: y",
    "http://example.com/\x00", "http://ex\u00e4mple.com/", "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020.0.1/",
    "http://example.com#@127.0.0.1/", "http://example.com%00.evil/", "http://%31%32%37.0.0.1/", "http://[::1/",
    "http://::1/", "http://example..com/", "http://-example.com/", "http://example.com:0/", "http://example.com:/",
    "http://example.com:99999/", "http://example.com:8o/", "https://example.com/#fragment", "http://" + "a" * 3000,
    # numbers that only some understand
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/",
    "http://127.0.1/", "http://017700000001/", "http://127.0.0.1.0/", "http://1.2.3.256/", "http://0/",
    "http://00000177.0.0.1/", "http://example.0x1/", "http://127.0.0.01/",
    # addresses that are nobody's business
    "http://127.0.0.1/", "http://127.255.255.254/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/",
    "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/", "http://100.100.100.200/",
    "http://192.0.0.192/", "http://198.18.0.1/", "http://203.0.113.1/", "http://224.0.0.1/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://192.88.99.1/", "http://127.0.0.1./",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:8.8.8.8]/", "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::1]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fec0::1]/", "http://[ff02::1]/", "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/", "http://[2001:db8::1]/", "http://[100::1]/", "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:7f00:1]/", "http://[1::127.0.0.1]/",
    # other ports
    "http://example.com:22/", "http://example.com:6379/", "https://example.com:8443/", "http://8.8.8.8:25/",
]  # fmt: skip


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


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com:443/a?b=c", "http://8.8.8.8/", "https://xn--exmple-cua.com/",
                                 "https://[2606:4700::1111]/", "https://a_b.example.com./x"])  # fmt: skip
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
