"""Models below a prefix of a bucket, through the real fetcher process and a real S3 server."""

from __future__ import annotations

from pathlib import Path

from app.integrations.s3.source import S3Source
from app.integrations.shared.sources import Access
from espalier.messages import PhaseCompleted
from tests.app.integrations.fetches import KEYS, Fetch, Read, demo, error, one
from tests.fixtures.library.demo_model import DEMO_MODEL
from workers.messages import Fetched, Resolved


def test_a_prefix_is_fetched_and_pinned_to_its_content(read: Read, fetch: Fetch) -> None:
    messages = read({**demo(), "pytorch_model.bin": b"\x80\x02", "deep/config.json": b"{}", "evil.py": b"boom"})
    resolved, fetched = one(messages, Resolved), one(messages, Fetched)
    assert isinstance(resolved, Resolved)
    assert isinstance(fetched, Fetched)
    laid_out = Path(fetched.model_dir)
    assert sorted(path.name for path in laid_out.iterdir()) == sorted(path.name for path in DEMO_MODEL.iterdir())
    assert (laid_out / "model.safetensors").read_bytes() == (DEMO_MODEL / "model.safetensors").read_bytes()
    elsewhere = one(read(demo(), "elsewhere"), Resolved)
    here = one(fetch({"kind": "local", "path": str(DEMO_MODEL)}), Resolved)
    assert resolved.revision == elsewhere.revision == here.revision  # type: ignore[union-attr]
    changed = one(read({"README.md": b"new"}), Resolved)
    assert changed.revision != resolved.revision  # type: ignore[union-attr]
    assert isinstance(messages[-1], PhaseCompleted)


def test_without_keys_of_the_project_nothing_is_asked(read: Read) -> None:
    refusal = error(read(demo(), s3={}))
    assert (refusal.class_, "PUT /v1/credentials/s3" in refusal.hint) == ("source_gated", True)


def test_keys_of_a_role_are_sent_with_their_token(tmp_path: Path) -> None:
    """`espalier run` takes them from the account of who runs it; without its token a server knows no such key."""
    access = Access(cache_dir=tmp_path, systems={"s3": {**KEYS, "session_token": "of-a-role"}})
    with S3Source(uri="s3://bucket/model").client(access) as client:
        url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "model/config.json"})
    assert "X-Amz-Security-Token=of-a-role" in url


def test_pickles_are_unsafe_and_an_empty_prefix_is_no_model(read: Read) -> None:
    assert error(read({"config.json": b"{}", "model.bin": b"\x80"}, "pickles")).class_ == "source_unsafe"
    assert error(read({}, "nothing")).class_ == "source_not_found"


def test_a_missing_bucket_is_not_found_and_a_server_that_is_away_is_asked_again(fetch: Fetch, s3_server: str) -> None:
    source = {"kind": "s3", "uri": "s3://no-such-bucket/model"}
    refusal = error(fetch(source, s3={**KEYS, "endpoint_url": s3_server}))
    assert (refusal.class_, refusal.retryable) == ("source_not_found", False)
    assert error(fetch(source, s3={**KEYS, "endpoint_url": "http://127.0.0.1:9"})).retryable
