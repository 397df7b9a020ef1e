"""One suite for every object store: what holds for the directory holds for S3."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import ChecksumMismatch, ObjectExists, ObjectMissing, StorageError
from app.settings import Settings
from app.storage.base import ObjectStore
from app.storage.directory import DirectoryStore
from app.storage.open import open_store
from app.storage.s3 import S3Store


def _file(folder: Path, num_bytes: int) -> tuple[Path, str]:
    data = os.urandom(num_bytes)
    path = folder / "source.bin"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "num_bytes",
    [
        0,  # empty files exist
        1000,  # one request
        5 * 2**20,  # exactly one part
        12 * 2**20 + 7,  # multipart with an odd rest
    ],
)
def test_a_file_comes_back_as_it_went_in(store: ObjectStore, tmp_path: Path, num_bytes: int) -> None:
    path, sha256 = _file(tmp_path, num_bytes)
    store.put_file("a/b/file.bin", path, sha256)
    store.get_file("a/b/file.bin", tmp_path / "deep/er/back.bin", sha256)
    assert (tmp_path / "deep/er/back.bin").read_bytes() == path.read_bytes()
    assert store.head("a/b/file.bin") == num_bytes
    assert sorted(entry.name for entry in (tmp_path / "deep/er").iterdir()) == ["back.bin"]


@pytest.mark.parametrize("num_bytes", [100, 6 * 2**20])
def test_a_file_that_is_not_what_its_checksum_says_is_not_stored(
    store: ObjectStore, tmp_path: Path, num_bytes: int
) -> None:
    path, _ = _file(tmp_path, num_bytes)
    with pytest.raises(ChecksumMismatch):
        store.put_file("bad", path, "0" * 64)
    assert store.head("bad") is None
    assert list(store.list("")) == []


def test_an_upload_can_be_given_up_in_the_middle(store: ObjectStore, tmp_path: Path) -> None:
    path, sha256 = _file(tmp_path, 12 * 2**20)
    heard = []

    def cancelled(sent: int) -> None:
        heard.append(sent)
        if sent > 5 * 2**20:
            raise KeyError

    with pytest.raises(KeyError):
        store.put_file("given/up", path, sha256, between=cancelled)
    assert 0 < heard[0] < heard[-1] < 12 * 2**20
    assert store.head("given/up") is None


def test_a_download_with_a_wrong_checksum_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    store.put_bytes("x", b"data")
    with pytest.raises(ChecksumMismatch):
        store.get_file("x", tmp_path / "out/x", "0" * 64)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_first_of_two_conditional_writes_wins(store: ObjectStore) -> None:
    store.put_bytes("manifest.json", b"one", if_none_match=True)
    with pytest.raises(ObjectExists):
        store.put_bytes("manifest.json", b"two", if_none_match=True)
    assert b"".join(store.open("manifest.json")) == b"one"
    store.put_bytes("manifest.json", b"three")
    assert b"".join(store.open("manifest.json")) == b"three"


def test_one_of_many_parallel_conditional_writes_wins(store: ObjectStore) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        try:
            store.put_bytes("m", str(number).encode(), if_none_match=True)
            won.append(number)
        except ObjectExists:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert b"".join(store.open("m")) == str(won[0]).encode()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 5, b"34"),
        (0, 1, b"0"),
        (9, 10, b"9"),
        (4, 4, b""),
    ],
)
def test_ranges_are_half_open(store: ObjectStore, start: int, end: int | None, expected: bytes) -> None:
    store.put_bytes("digits", b"0123456789")
    assert b"".join(store.open("digits", start, end)) == expected


def test_a_missing_object_is_told_at_once(store: ObjectStore, tmp_path: Path) -> None:
    assert store.head("no/such") is None
    with pytest.raises(ObjectMissing):
        store.open("no/such")
    with pytest.raises(ObjectMissing):
        store.get_file("no/such", tmp_path / "x")
    store.delete("no/such")


def test_lists_are_sorted_and_prefixes_are_deleted_whole(store: ObjectStore) -> None:
    for key in ("p/2/b", "p/2/a", "p/1", "p/20", "q"):
        store.put_bytes(key, b"x")
    assert [item.key for item in store.list("p/2")] == ["p/2/a", "p/2/b", "p/20"]
    assert all(item.bytes == 1 and item.modified_at.tzinfo for item in store.list(""))
    assert store.delete_prefix("p/2/") == 2
    assert [item.key for item in store.list("")] == ["p/1", "p/20", "q"]
    assert list(store.list("nothing/here")) == []


def test_what_a_killed_upload_left_is_removed_when_it_is_old(tmp_path: Path, s3_store: S3Store) -> None:
    directory, now = DirectoryStore(tmp_path / "store"), datetime.now(UTC)
    (tmp_path / "store/.unfinished/.0123.part").write_bytes(b"half")
    s3_store.client.create_multipart_upload(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}half")
    for store in (directory, s3_store):
        store.put_bytes("a/whole", b"whole")
        assert store.delete_unfinished(now - timedelta(days=1)) == 0
        assert store.delete_unfinished(now + timedelta(days=1)) == 1
        assert store.delete_unfinished(now + timedelta(days=1)) == 0
        assert [stored.key for stored in store.list("a/")] == ["a/whole"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/./b", "a\n", "a\x00b", "a/"])
def test_keys_cannot_leave_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="keys"):
        store.put_bytes(key, b"x")


def test_check_passes_on_a_store_that_is_there(store: ObjectStore) -> None:
    store.check()


def test_a_missing_bucket_is_named(s3_server: str) -> None:
    with pytest.raises(StorageError, match="bucket"):
        S3Store("no-such-bucket", endpoint_url=s3_server).check()


def test_a_dead_endpoint_is_a_typed_error(s3_store: S3Store) -> None:
    dead = S3Store("b", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot be reached"):
        dead.put_bytes("x", b"x")


def test_a_directory_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        DirectoryStore(tmp_path / "file/below")


def test_a_half_written_object_is_never_seen(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    (tmp_path / "store/.unfinished/.123.part").write_bytes(b"half")
    assert list(store.list("")) == []


def test_the_settings_choose_the_store(tmp_path: Path, s3_server: str) -> None:
    assert isinstance(open_store(Settings(home=tmp_path)), DirectoryStore)
    opened = open_store(Settings(store_url="s3://bucket/some/prefix", s3_endpoint_url=s3_server))
    assert isinstance(opened, S3Store)
    assert (opened.bucket, opened.prefix) == ("bucket", "some/prefix/")
