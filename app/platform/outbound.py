"""Calls to addresses that strangers name: resolved once, every answer checked, connected to what was checked.

The whole call has one deadline, follows no redirect and reads a bounded part of the answer.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from app.settings_rules import Network

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_URL = 2000
PORTS: Final = frozenset({80, 443})
"""What may be asked of public addresses; allowed networks have any port."""
_URL = re.compile(r"https?://[!-~]+")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # Of 2000::/3: Teredo and other protocol assignments, documentation, 6to4, which carry IPv4 addresses inside.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)


class ForbiddenAddress(Exception):
    """The address is one that the service does not call; the text says why."""


@dataclass(frozen=True)
class Destination:
    """A URL that may be called, if its addresses may."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def literal(self) -> Address | None:
        """The address, where the URL names one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def host_header(self) -> str:
        """The host as HTTP names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Reply:
    """What a GET brought."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    """Its beginning, where it is longer than what was asked for."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    retry_after: str | None
    excerpt: str


def parse(url: str) -> Destination:
    """Read a URL strictly; raises ForbiddenAddress for whatever two readers could understand differently."""
    if len(url) > MAX_URL or not _URL.fullmatch(url) or "\\" in url:
        raise ForbiddenAddress("give an http or https URL of printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        raise ForbiddenAddress("the URL has no valid host and port") from None
    if "@" in parts.netloc:
        raise ForbiddenAddress("a URL must not carry a user or a password")
    if parts.fragment or "#" in url:
        raise ForbiddenAddress("a URL must not carry a fragment")
    if parts.netloc.startswith("["):
        _strict_ipv6(host)
    elif not _HOST.fullmatch(host) or "%" in parts.netloc:
        raise ForbiddenAddress("the URL has no valid host")
    elif _NUMBER.fullmatch(host.rpartition(".")[2]):
        _strict_ipv4(host)
    if port == 0 or parts.netloc.endswith(":"):
        raise ForbiddenAddress("the URL has no valid port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host.lower(), port or (443 if parts.scheme == "https" else 80), path)


def _strict_ipv4(host: str) -> None:
    """Accept only the dotted decimal form of an IPv4 address: readers differ on octal, hexadecimal and fewer parts."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise ForbiddenAddress("write an IPv4 address as four decimal numbers") from None


def _strict_ipv6(host: str) -> None:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise ForbiddenAddress("the URL has no valid IPv6 address") from None
    if address.scope_id is not None:
        raise ForbiddenAddress("an address must not name an interface")


def is_allowed(address: Address, port: int, allowed: Sequence[Network]) -> bool:
    """Tell whether an address may be called: an allowed network's at any port, a public one's at 80 and 443."""
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if port not in PORTS or any(address in network for network in _SPECIAL if network.version == address.version):
        return False
    # IPv4 in IPv6 clothes (mapped, NAT64, compatible) lies outside of 2000::/3.
    return address.version == 4 or address in _PUBLIC_6


def check_literal(target: Destination, allowed: Sequence[Network]) -> None:
    """Refuse at once what needs no resolver to refuse; raises ForbiddenAddress."""
    literal = target.literal
    if literal is not None and not is_allowed(literal, target.port, allowed):
        raise ForbiddenAddress("the address is not a public one at port 80 or 443")
    if literal is None and target.port not in PORTS and not allowed:
        raise ForbiddenAddress("public hosts are called at port 80 or 443")


def resolve(target: Destination, allowed: Sequence[Network]) -> list[str]:
    """Resolve a host once; one bad answer spoils them all. Raises ForbiddenAddress or OSError."""
    entries = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    for text in addresses:
        if not is_allowed(ipaddress.ip_address(text), target.port, allowed):
            raise ForbiddenAddress("the host resolves to an address that is not public")
    return addresses


def post(
    target: Destination, body: bytes, headers: Mapping[str, str], *, allowed: Sequence[Network], seconds: float
) -> Answer:
    """POST and return the answer; raises ForbiddenAddress, OSError (TimeoutError too) or http.client.HTTPException."""
    sent = {"Content-Length": str(len(body)), **headers}
    reply = _call("POST", target, body, sent, MAX_ANSWER_BYTES, allowed=allowed, seconds=seconds)
    text = reply.body.decode("utf-8", errors="replace").replace("\x00", "")
    return Answer(reply.status, reply.headers.get("retry-after"), text[:500])


def get(
    target: Destination, headers: Mapping[str, str], *, most_bytes: int, allowed: Sequence[Network], seconds: float
) -> Reply:
    """GET and return the beginning of the answer; raises what `post` raises."""
    return _call("GET", target, b"", headers, most_bytes, allowed=allowed, seconds=seconds)


def _call(
    method: str,
    target: Destination,
    body: bytes,
    headers: Mapping[str, str],
    most_bytes: int,
    *,
    allowed: Sequence[Network],
    seconds: float,
) -> Reply:
    deadline = time.monotonic() + seconds
    plain = _connect(resolve(target, allowed), target.port, deadline)
    with plain:
        _check_peer(plain, target.port, allowed)
        # Timeouts of a socket start anew with every byte that drips in; this one does not.
        ender = threading.Timer(max(deadline - time.monotonic(), 0.01), _shut, (plain,))
        ender.daemon = True
        ender.start()
        try:
            with _secured(plain, target) as connection:
                return _exchange(connection, method, target, body, headers, most_bytes)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer within {seconds:g} seconds") from error
            raise
        finally:
            ender.cancel()


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    last: OSError = OSError("the host has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=max(deadline - time.monotonic(), 0.01))
        except OSError as error:
            last = error
    raise last


def _check_peer(connection: socket.socket, port: int, allowed: Sequence[Network]) -> None:
    """Check the address of the connected peer."""
    if not is_allowed(ipaddress.ip_address(connection.getpeername()[0]), port, allowed):
        raise ForbiddenAddress("the connection led to an address that is not public")


def _secured(plain: socket.socket, target: Destination) -> Any:  # noqa: ANN401 - both kinds of sockets
    return (
        ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)
        if target.scheme == "https"
        else plain
    )


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it ended meanwhile
        return


def _exchange(
    connection: socket.socket,
    method: str,
    target: Destination,
    body: bytes,
    headers: Mapping[str, str],
    most_bytes: int,
) -> Reply:
    client = http.client.HTTPConnection(target.host, target.port)
    client.sock = connection
    client.putrequest(method, target.path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": target.host_header, **headers}.items():
        client.putheader(name, value)
    client.putheader("Connection", "close")
    client.endheaders(body)
    answer = client.getresponse()
    return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read(most_bytes))
