"""Ten thousand calls made from the OpenAPI document: every one is answered as the document says, none with a 5xx."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.result import Ok

from app.main import create_app
from app.settings import Settings
from tests.fixtures.services import free_port

NUM_CASES = int(os.environ.get("ESPALIER_FUZZ_CASES", "10000"))
SEED = 20261123
ROUNDS = 6


@pytest.mark.load
@pytest.mark.timeout(1800)
def test_any_call_is_answered_as_the_document_says(sqlite_url: str, tmp_path: Path) -> None:
    port = free_port()
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        seen = _fuzz(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(20)
    sys.stdout.write(f"schemathesis: {seen.total()} cases, seed {SEED}: {dict(sorted(seen.items()))}\n")
    assert seen.total() >= NUM_CASES
    assert not [status for status in seen if status >= 500]


def _fuzz(url: str) -> Counter[int]:
    """Call every operation with made-up input, again with other seeds until there were enough calls."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    operations = [operation for operation in found if not operation.path.endswith("/stream")]  # those do not end
    assert len(operations) > 40
    seen: Counter[int] = Counter()
    each = -(-NUM_CASES // len(operations))
    for round_ in range(ROUNDS):
        for operation in operations:
            _call(operation, url, each, SEED + round_, seen)
        if seen.total() >= NUM_CASES:
            break
    return seen


def _call(operation: Any, url: str, examples: int, number: int, seen: Counter[int]) -> None:
    wrong: list[str] = []

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        answer = case.call(base_url=url)
        seen[answer.status_code] += 1
        kind = answer.headers.get("content-type", [""])[0]
        if answer.status_code >= 500 or (answer.status_code >= 400 and "problem+json" not in kind):
            wrong.append(f"{case.method} {case.path}: {answer.status_code} {kind}")

    call()
    assert not wrong, wrong[:5]
