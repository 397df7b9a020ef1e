"""Bytes that change on the way to an S3 server, in it, or on the way back: found out, sent again, or told."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from app.errors import ChecksumMismatch, StorageError
from app.storage.base import CHUNK_BYTES
from app.storage.s3 import S3Store
from tests.chaos.s3_proxy import Mood, S3Proxy
from workers.lease.retries import from_exception

PART = 5 * 2**20
HARM: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "altered": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "lost": lambda _: b"",
}


class Careless(S3Proxy):
    """Passes everything on; behind the back of its client it spoils so many objects after they were stored."""

    def __init__(self, target: str, store: S3Store) -> None:
        super().__init__(target, seed=0)
        self.store, self.left, self.harm = store, 0, HARM["altered"]
        self.spoilt = 0

    def stored(self, request: BaseHTTPRequestHandler) -> None:
        """Spoil an object that is just complete."""
        path, _, query = request.path.partition("?")
        whole = request.command == "PUT" and "partNumber" not in query
        whole = whole or (request.command == "POST" and "uploadId" in query)
        if not whole or not self.left:
            return
        self.left -= 1
        self.spoilt += 1
        key = path.removeprefix(f"/{self.store.bucket}/")
        held = self.store.client.get_object(Bucket=self.store.bucket, Key=key)["Body"].read()
        self.store.client.put_object(Bucket=self.store.bucket, Key=key, Body=self.harm(held))


@pytest.fixture
def careless(s3_server: str, s3_store: S3Store) -> Iterator[tuple[Careless, S3Store]]:
    """A careless server, and a store that believes in it."""
    with contextlib.ExitStack() as stack:
        proxy = Careless(s3_server, s3_store)
        stack.enter_context(proxy.listening())
        store = S3Store(s3_store.bucket, s3_store.prefix, endpoint_url=proxy.url, part_bytes=PART)
        yield proxy, store


def _file(folder: Path, num_bytes: int) -> tuple[Path, str]:
    path = folder / "source.bin"
    path.write_bytes(os.urandom(num_bytes))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("num_bytes", [1000, PART + 7])
def test_what_arrived_wrong_is_sent_again(
    harm: str, num_bytes: int, careless: tuple[Careless, S3Store], tmp_path: Path
) -> None:
    proxy, store = careless
    path, sha256 = _file(tmp_path, num_bytes)
    proxy.harm, proxy.left = HARM[harm], 2
    store.put_file("a/file", path, sha256)
    assert proxy.spoilt == 2
    store.get_file("a/file", tmp_path / "back", sha256)


def test_a_server_that_never_holds_what_it_was_sent_is_a_storage_failure_that_is_tried_again(
    careless: tuple[Careless, S3Store], tmp_path: Path
) -> None:
    proxy, store = careless
    path, sha256 = _file(tmp_path, 1000)
    proxy.left = 99
    with pytest.raises(ChecksumMismatch, match="holds other bytes") as caught:
        store.put_file("a/file", path, sha256)
    assert store.head("a/file") is None, "nobody may read what was stored"
    error = from_exception(caught.value, "uploading")
    assert (error.class_, error.retryable) == ("storage", True)


def test_a_manifest_that_arrived_wrong_is_written_again_and_still_only_once(
    careless: tuple[Careless, S3Store],
) -> None:
    proxy, store = careless
    proxy.left = 1
    store.put_bytes("manifest.json", b"{}", if_none_match=True)
    assert b"".join(store.open("manifest.json")) == b"{}"


def test_an_answer_that_breaks_off_is_asked_for_the_rest(careless: tuple[Careless, S3Store], tmp_path: Path) -> None:
    proxy, store = careless
    path, sha256 = _file(tmp_path, 3 * CHUNK_BYTES + 7)
    store.put_file("a/file", path, sha256)
    proxy.mood, proxy.share = "cut", 0.7
    for number in range(8):
        store.get_file("a/file", tmp_path / f"back{number}", sha256)
    assert b"".join(store.open("a/file", 10, CHUNK_BYTES + 20)) == path.read_bytes()[10 : CHUNK_BYTES + 20]
    assert b"".join(store.open("a/file", 10)) == path.read_bytes()[10:]
    assert proxy.faults["cut"] > 8


def test_the_rest_of_another_object_is_not_taken(careless: tuple[Careless, S3Store], s3_store: S3Store) -> None:
    proxy, store = careless
    store.put_bytes("a/file", b"a" * 1000)
    proxy.mood, proxy.share = "cut", 1.0
    chunks = store.open("a/file")
    assert set(next(chunks)) == set(b"a")
    s3_store.put_bytes("a/file", b"b" * 1000)
    proxy.mood = "good"
    with pytest.raises(StorageError, match="was replaced"):
        next(chunks)


def test_answers_that_all_break_off_are_a_storage_failure_that_is_tried_again(
    careless: tuple[Careless, S3Store], tmp_path: Path
) -> None:
    proxy, store = careless
    path, sha256 = _file(tmp_path, 1000)
    store.put_file("a/file", path, sha256)
    proxy.mood, proxy.share = "cut", 1.0
    with pytest.raises(StorageError, match="broke off") as caught:
        store.get_file("a/file", tmp_path / "back", sha256)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    error = from_exception(caught.value, "resolving")
    assert (error.class_, error.retryable) == ("storage", True)


def test_a_server_whose_etags_mean_nothing_is_read_back(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    head, opened = s3_store.client.head_object, S3Store.open

    def opaque(**fields: str) -> dict[str, object]:
        return {**head(**fields), "ETag": '"0x8DC"'}  # type: ignore[arg-type]

    def noted(self: S3Store, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        reads.append(key)
        return opened(self, key, start, end)

    monkeypatch.setattr(s3_store.client, "head_object", opaque)
    monkeypatch.setattr(S3Store, "open", noted)
    path, sha256 = _file(tmp_path, 1000)
    s3_store.put_file("a/file", path, sha256)
    assert reads == ["a/file"]


class BadLine(S3Proxy):
    """Changes the bytes of so many requests on their way, in either direction."""

    left = 0

    def _fault(self) -> Mood:
        self.left -= 1
        return "wrong" if self.left >= 0 else "good"


@pytest.fixture
def bad_line(s3_server: str, s3_store: S3Store) -> Iterator[tuple[BadLine, S3Store]]:
    """A good server behind a bad line."""
    with BadLine(s3_server, seed=0).listening() as proxy:
        assert isinstance(proxy, BadLine)
        yield proxy, S3Store(s3_store.bucket, s3_store.prefix, endpoint_url=proxy.url)


def test_what_changed_on_the_way_is_sent_and_read_again(bad_line: tuple[BadLine, S3Store], tmp_path: Path) -> None:
    proxy, store = bad_line
    path, sha256 = _file(tmp_path, 1000)
    proxy.left = 2
    store.put_file("a/file", path, sha256)
    proxy.left = 2
    store.get_file("a/file", tmp_path / "back", sha256)
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_line_that_stays_bad_is_told_and_leaves_nothing(bad_line: tuple[BadLine, S3Store], tmp_path: Path) -> None:
    proxy, store = bad_line
    path, sha256 = _file(tmp_path, 1000)
    proxy.left = 99
    with pytest.raises(ChecksumMismatch):
        store.put_file("a/file", path, sha256)
    proxy.left = 0
    assert store.head("a/file") is None
    store.put_file("a/file", path, sha256)
    proxy.left = 99
    with pytest.raises(ChecksumMismatch):
        store.get_file("a/file", tmp_path / "back", sha256)
    assert sorted(tmp_path.iterdir()) == [path]
