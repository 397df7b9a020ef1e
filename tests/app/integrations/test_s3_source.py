"""Models below a prefix of a bucket, through the real fetcher process and a real S3 server."""

from __future__ import annotations

from pathlib import Path

from espalier.messages import PhaseCompleted
from tests.app.integrations.fetches import KEYS, Fetch, Read, demo, error, one
from tests.fixtures.library.demo_model import DEMO_MODEL
from workers.messages import Fetched, Resolved


def test_a_prefix_is_fetched_and_pinned_to_its_content(read: Read, fetch: Fetch) -> None:
    said = read({**demo(), "pytorch_model.bin": b"\x80\x02", "deep/config.json": b"{}", "evil.py": b"boom"})
    resolved, fetched = one(said, Resolved), one(said, Fetched)
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
    assert isinstance(said[-1], PhaseCompleted)


def test_without_keys_of_the_project_nothing_is_asked(read: Read) -> None:
    found = error(read(demo(), s3={}))
    assert (found.class_, "PUT /v1/credentials/s3" in found.hint) == ("source_gated", True)


def test_pickles_are_unsafe_and_an_empty_prefix_is_no_model(read: Read) -> None:
    assert error(read({"config.json": b"{}", "model.bin": b"\x80"}, "pickles")).class_ == "source_unsafe"
    assert error(read({}, "nothing")).class_ == "source_not_found"


def test_a_missing_bucket_is_not_found_and_a_server_that_is_away_is_asked_again(fetch: Fetch, s3_server: str) -> None:
    source = {"kind": "s3", "uri": "s3://no-such-bucket/model"}
    found = error(fetch(source, s3={**KEYS, "endpoint_url": s3_server}))
    assert (found.class_, found.retryable) == ("source_not_found", False)
    assert error(fetch(source, s3={**KEYS, "endpoint_url": "http://127.0.0.1:9"})).retryable
