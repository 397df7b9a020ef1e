"""What the fetcher is asked to bring, and how to read what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espalier.messages import ErrorInfo, Failed
from tests.fixtures.library.demo_model import DEMO_MODEL
from workers.messages import AnyMessage, Fetched

Fetch = Callable[..., list[AnyMessage]]
"""Runs the fetcher for a source and a spec."""
Read = Callable[..., list[AnyMessage]]
"""Puts files below a prefix of a bucket and fetches it."""
SPEC: dict[str, Any] = {"prune": {"method": "magnitude", "sparsity": 0.5}, "evaluate": {"perplexity": []}}
HUGGINGFACE = {"kind": "huggingface", "repo": "org/model"}
KEYS = {"access_key_id": "test", "secret_access_key": "test"}
"""Of the S3 server of tests."""


def one(messages: list[AnyMessage], kind: type) -> AnyMessage:
    """The only message of a kind."""
    (only,) = [message for message in messages if isinstance(message, kind)]
    return only


def error(messages: list[AnyMessage]) -> ErrorInfo:
    """The error that ended a fetch, which has a hint and brought nothing."""
    failed = messages[-1]
    assert isinstance(failed, Failed)
    assert failed.error.hint
    assert not any(isinstance(message, Fetched) for message in messages)
    return failed.error


def demo() -> dict[str, bytes]:
    """The files of the demo's model."""
    return {path.name: path.read_bytes() for path in DEMO_MODEL.iterdir()}
