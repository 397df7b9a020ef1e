"""A thousand deliveries at fifty a second: all stored, all answered at once, each that matches is one job."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import httpx
import pytest

from tests.fixtures.service.hooks import SPEC, push
from tests.fixtures.suite.figures import record
from tests.load.stack import Stack

pytestmark = [pytest.mark.load, pytest.mark.timeout(600)]

DELIVERIES = 1000
PER_SECOND = 50
MATCHING = 700


def _document(number: int) -> dict[str, Any]:
    """Every delivery another one; some of them pull requests, which no rule is about."""
    ref = "refs/heads/main" if number % 10 < 7 else f"refs/pr/{number}"
    return push(f"org/model-{number % 37}", f"{number + 1:040x}", ref)


async def _send(url: str, secret: str) -> tuple[list[float], list[int]]:
    seconds: list[float] = []
    statuses: list[int] = []

    async def one(client: httpx.AsyncClient, number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        body, began = json.dumps(_document(number)).encode(), time.monotonic()
        answer = await client.post(url, content=body, headers={"X-Webhook-Secret": secret})
        seconds.append(time.monotonic() - began)
        statuses.append(answer.status_code)

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        start = time.monotonic() + 0.5
        await asyncio.gather(*(one(client, number, start + number / PER_SECOND) for number in range(DELIVERIES)))
    return sorted(seconds), statuses


def test_a_thousand_deliveries_are_stored_and_answered_and_make_one_job_each(stack: Stack) -> None:
    with stack.api() as url, stack.running("workers.reconciler"):
        source = httpx.post(f"{url}/v1/hook-sources", json={"kind": "huggingface", "name": "hub"}).json()
        rule = {"name": "all", "source_id": source["id"], "mode": "run", "template": {"spec": SPEC}}
        assert httpx.post(f"{url}/v1/rules", json=rule).status_code == 201
        began = time.monotonic()
        seconds, statuses = asyncio.run(_send(url + source["path"], source["secret"]))
        sent = time.monotonic() - began
        while stack.count("SELECT count(*) FROM hook_deliveries WHERE state = 'pending'"):
            assert time.monotonic() - began < 300
            time.sleep(0.2)
        lasted = time.monotonic() - began
    assert set(statuses) == {202}
    assert stack.count("SELECT count(*) FROM hook_deliveries WHERE state = 'evaluated'") == DELIVERIES
    assert stack.count("SELECT count(*) FROM hook_verdicts") == DELIVERIES
    assert stack.count("SELECT count(*) FROM hook_verdicts WHERE outcome = 'job'") == MATCHING
    assert stack.count("SELECT count(DISTINCT job_id) FROM hook_verdicts WHERE outcome = 'job'") == MATCHING
    assert stack.count("SELECT count(*) FROM jobs") == MATCHING
    record(
        "load",
        f"{DELIVERIES} deliveries of a registry at {PER_SECOND}/s",
        "all stored, answered < 1 s, one job per match",
        f"{DELIVERIES} stored, {MATCHING} of {MATCHING} jobs; answered p50 {seconds[len(seconds) // 2] * 1e3:.0f} ms, "
        f"p99 {seconds[int(len(seconds) * 0.99)] * 1e3:.0f} ms, worst {seconds[-1] * 1e3:.0f} ms; sent in {sent:.0f} "
        f"s, evaluated {lasted - sent:.1f} s later; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
    )
    assert seconds[-1] < 1.0
