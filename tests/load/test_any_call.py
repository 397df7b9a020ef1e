"""Ten thousand calls made from the OpenAPI document, on each database: answered as it says, none with a 5xx."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from app.main import create_app
from app.settings import Settings
from tests.app.api.tenants import one_of_each
from tests.fixtures.servers.processes import free_port
from tests.fixtures.servers.services import name_of
from tests.fixtures.suite.figures import load, record

NUM_CASES = int(os.environ.get("ESPALIER_FUZZ_CASES", "10000"))
SEED = 20261123
ROUNDS = 6
CONFORMS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.load
@pytest.mark.timeout(3600)
def test_any_call_is_answered_as_the_document_says(database_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path, database_url=database_url, hf_endpoint="http://127.0.0.1:9"))
    with TestClient(app) as client:
        known = one_of_each(client, app.state.resources)
    began = time.monotonic()
    with _serving(app) as url:
        seen, wrong = _fuzz(url, known)
    sys.stdout.write(f"schemathesis: {seen.total()} cases, seed {SEED}: {dict(sorted(seen.items()))}\n")
    failed = sum(count for status, count in seen.items() if status >= 500)
    record(
        "bad input",
        f"schemathesis over every operation of the OpenAPI document, {name_of(database_url)}",
        ">= 10,000 cases, 0 x 5xx",
        f"{seen.total():,} cases in {time.monotonic() - began:.0f} s, {failed} x 5xx, {len(wrong)} answers that do not "
        f"conform; {sum(count for status, count in seen.items() if status < 300):,} were done; {load()}",
    )
    assert not wrong, wrong[:5]
    assert seen.total() >= NUM_CASES
    assert not failed


@contextmanager
def _serving(app: Any) -> Iterator[str]:
    """Serve an application over a socket of its own."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def _fuzz(url: str, known: dict[str, str]) -> tuple[Counter[int], list[str]]:
    """Call every operation with made-up input, again with other seeds until there were enough calls."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json", timeout=60).json())
    schema.config.generation.update(with_security_parameters=False)  # made-up keys would be all that is refused
    every = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    operations = [operation for operation in every if not operation.path.endswith("/stream")]  # those do not end
    assert len(operations) > 40
    operations.sort(key=lambda operation: operation.method == "delete")  # what is there is asked about before it goes
    seen: Counter[int] = Counter()
    wrong: list[str] = []
    each = -(-NUM_CASES // len(operations))
    for round_ in range(ROUNDS):
        for operation in operations:
            _call(operation, url, known, each, SEED + round_, seen, wrong)
        if seen.total() >= NUM_CASES:
            break
    return seen, wrong


def _call(
    operation: Any, url: str, known: dict[str, str], examples: int, number: int, seen: Counter[int], wrong: list[str]
) -> None:
    """Call an operation with made-up input; every other time, where it takes an id, with one that is there."""
    there = known.get(operation.path.split("/")[2] if operation.path.startswith("/v1/") else "")
    first = next((parameter.name for parameter in operation.path_parameters), None)
    turn = 0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        nonlocal turn
        turn += 1
        if there and first and turn % 2:
            case.path_parameters[first] = there
        answer = case.call(base_url=url)
        seen[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CONFORMS)
        except FailureGroup as group:
            wrong.extend(f"{case.method} {case.path}: {answer.status_code} {error}" for error in group.exceptions)

    call()
