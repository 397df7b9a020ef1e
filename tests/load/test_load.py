"""Posts per second, a long queue drained, a thousand watchers, and keys that many threads share."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.service import rows as make
from tests.fixtures.suite.figures import load, record
from tests.load.stack import BODY, Stack

pytestmark = [pytest.mark.load, pytest.mark.timeout(1800)]

CLIENTS = 128
SECONDS = float(os.environ.get("ESPALIER_LOAD_SECONDS", "15"))
JOBS = int(os.environ.get("ESPALIER_LOAD_JOBS", "10000"))
WATCHERS = 1000
WORKERS = 2
"""One a core of a small machine: with more, a claim waits for a core and measures nothing but that."""


def test_posts_are_taken_fast(stack: Stack) -> None:
    with stack.api("tests.load.bare:create_app") as url:
        stack.clients(url, "/bare", clients=CLIENTS, seconds=2)  # warm
        bare = stack.clients(url, "/bare", clients=CLIENTS, seconds=SECONDS)
    with stack.api() as url:
        warm = stack.clients(url, "/v1/jobs", clients=CLIENTS, seconds=2)
        ours = stack.clients(url, "/v1/jobs", clients=CLIENTS, seconds=SECONDS)
        accepted = sum(run["statuses"].get("202", 0) for run in (warm, ours))
        assert set(ours["statuses"]) == {"202"}
        assert stack.count("SELECT count(*) FROM jobs") == accepted
        assert stack.count("SELECT count(*) FROM events") == 2 * accepted
        ratio = ours["rate"] / bare["rate"]
        record(
            "load",
            f"{CLIENTS} clients POST /v1/jobs, Postgres + Redis",
            ">= 500/s, p99 < 250 ms",
            f"{ours['rate']:.0f}/s, p99 {ours['p99'] * 1e3:.0f} ms; bare insert {bare['rate']:.0f}/s, "
            f"p99 {bare['p99'] * 1e3:.0f} ms; ratio {ratio:.2f}; {load()}",
        )
    assert ratio > 0.15, (ours, bare)


def test_a_long_queue_of_posts_is_drained_and_none_is_lost_or_doubled_on_its_way_to_an_artifact(stack: Stack) -> None:
    jobs = 0
    with stack.api() as url:
        while jobs < JOBS:
            jobs += stack.clients(url, "/v1/jobs", clients=CLIENTS, seconds=2)["statuses"]["202"]
    terminal = "SELECT count(*) FROM jobs WHERE state = 'succeeded'"
    began = time.monotonic()
    with stack.workers(WORKERS):
        while stack.count(terminal) < jobs:
            assert time.monotonic() - began < 1200, stack.count(terminal)
            time.sleep(1)
    seconds = time.monotonic() - began
    assert stack.count("SELECT count(*) FROM jobs WHERE state <> 'succeeded'") == 0
    assert stack.count("SELECT count(*) FROM artifacts") == 2 * jobs
    assert stack.count("SELECT count(*) FROM (SELECT DISTINCT job_id, name FROM artifacts) AS sets") == 2 * jobs
    assert stack.count("SELECT count(*) FROM attempts") == jobs
    claims = sorted(one for file in stack.home.glob("claims-*.json") for one in json.loads(file.read_text()))
    assert len(claims) == jobs
    record(
        "load",
        f"10,000 queued micro-jobs (null child), {WORKERS} workers",
        "all terminal, one artifact set each, claim p99 < 20 ms",
        f"{jobs:,}, all succeeded in {seconds:.0f} s ({jobs / seconds:.0f}/s), one attempt and one set each; claim p50 "
        f"{claims[len(claims) // 2] * 1e3:.1f} ms, p99 {claims[int(len(claims) * 0.99)] * 1e3:.1f} ms; {load()}",
    )


def test_a_hundred_threads_with_a_hundred_keys_make_a_hundred_jobs(stack: Stack) -> None:
    statuses: Counter[int] = Counter()
    seeds = iter(range(100))

    def call(url: str) -> None:
        keys = [f"key-{number}" for number in range(100)]
        random.Random(next(seeds)).shuffle(keys)
        with httpx.Client(base_url=url, timeout=60) as client:
            for key in keys:
                headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
                statuses[client.post("/v1/jobs", content=BODY, headers=headers).status_code] += 1

    with stack.api() as url:
        threads = [threading.Thread(target=call, args=(url,)) for _ in range(100)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    assert dict(statuses) == {202: 100, 200: 9900}
    assert stack.count("SELECT count(*) FROM jobs") == 100
    record(
        "idempotency",
        "100 threads x 100 Idempotency-Keys",
        "100 jobs",
        f"100 jobs, 9,900 replays in {seconds:.0f} s; {load()}",
    )


def test_a_thousand_watchers_miss_no_terminal_event(stack: Stack) -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard_limit), hard_limit))
    with stack.api(processes=1) as url:
        jobs = [
            httpx.post(f"{url}/v1/jobs", content=BODY, headers={"Content-Type": "application/json"}).json()["id"]
            for _ in range(20)
        ]
        began = time.monotonic()
        ended = asyncio.run(_watch_all(stack, url, jobs))
        seconds = time.monotonic() - began
    assert ended == Counter(dict.fromkeys(jobs, WATCHERS // len(jobs)))
    record(
        "load",
        f"{WATCHERS:,} SSE watchers of {len(jobs)} jobs",
        "no terminal event missed",
        f"{ended.total()} of {WATCHERS} saw the end, streams closed, in {seconds:.0f} s; {load()}",
    )


async def _watch_all(stack: Stack, url: str, jobs: list[str]) -> Counter[str]:
    opened = asyncio.Semaphore(0)

    async def watch(job: str) -> str | None:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"GET /v1/jobs/{job}/events/stream HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        opened.release()
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):  # the end of a chunked answer
            seen += await reader.read(65536)
        writer.close()
        return job if seen.count(b'"type":"job.succeeded"') == 1 else None

    def finish(job: str) -> None:
        make.start(stack.database, job)
        make.tell(stack.database, job, 20)
        make.end(stack.database, job, "succeeded")

    watchers = [asyncio.create_task(watch(jobs[number % len(jobs)])) for number in range(WATCHERS)]
    for _ in range(WATCHERS):
        await opened.acquire()
    for job in jobs:
        await asyncio.to_thread(finish, job)
    ended = await asyncio.wait_for(asyncio.gather(*watchers), 120)
    return Counter(job for job in ended if job)
