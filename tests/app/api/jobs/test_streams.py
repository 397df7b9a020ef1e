"""Server-Sent Events: nothing is missed, nothing comes twice, and a stream ends with its job."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.bodies.access import KeyRequest
from app.db.job import Job
from app.db.queries.jobs import event_stream as queries
from app.db.queries.jobs import events as event_queries
from app.db.session import Database, clock
from app.db.tenancy import ApiKey, PortalSession
from app.errors import TooManyRequests
from app.platform.actor import DEFAULT_PROJECT, Actor
from app.portal.guard import COOKIE
from app.services.events.event_streams import EventStreams
from app.services.tenancy import keys
from app.services.tenancy.sessions import Sessions
from app.settings import Settings
from tests.fixtures.service import rows as make
from tests.fixtures.service.requests import REMOTE, submit
from tests.fixtures.workers.runs import job_fields

Frames = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def server(app: FastAPI) -> Iterator[str]:
    """The application on a real port: a test client would collect a stream before it shows it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def frames(text: str) -> Frames:
    events = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            events.append((fields["id"], json.loads(fields["data"])))
    return events


class Listener(threading.Thread):
    """Reads one stream to its end, or until it has seen enough."""

    def __init__(self, url: str, *, enough: int = 10**6, last: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(daemon=True)
        self.url, self.enough = url, enough
        self.headers = {**(headers or {}), **({"Last-Event-ID": last} if last else {})}
        self.text, self.ended, self.open = "", False, threading.Event()
        self.start()
        assert self.open.wait(60)

    def run(self) -> None:
        with httpx.stream("GET", self.url, headers=self.headers, timeout=60) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            for text in answer.iter_text():
                self.open.set()
                self.text += text
                if self.text.count("\n\n") > self.enough:  # the first one opens the stream
                    return
            self.ended = True

    @property
    def frames(self) -> Frames:
        return frames(self.text)

    def finish(self) -> Frames:
        self.join(60)
        assert not self.is_alive(), self.text
        return self.frames


def post(server: str, **fields: Any) -> str:
    return str(httpx.post(f"{server}/v1/jobs", json=REMOTE | fields).json()["id"])


def test_a_stream_tells_history_and_news_once_and_ends_with_the_job(server: str, app: FastAPI) -> None:
    rows: Database = app.state.resources.database
    job = post(server)
    early = Listener(f"{server}/v1/jobs/{job}/events/stream")
    make.start(rows, job)
    make.tell(rows, job, 1200)
    late = Listener(f"{server}/v1/jobs/{job}/events/stream?after=3")
    again = Listener(f"{server}/v1/jobs/{job}/events/stream?after=0", last="700")
    make.end(rows, job, "failed")
    assert [int(id_) for id_, _ in early.finish()] == list(range(1, 1205))
    assert [int(id_) for id_, _ in late.finish()] == list(range(4, 1205))
    assert [int(id_) for id_, _ in again.finish()] == list(range(701, 1205))
    assert early.ended
    listed = httpx.get(f"{server}/v1/jobs/{job}/events?limit=200").json()["items"]
    assert [data for _, data in early.frames][:200] == listed
    assert early.frames[-1][1]["type"] == "job.failed"

    done = httpx.get(f"{server}/v1/jobs/{job}/events/stream", headers={"Last-Event-ID": "1204"})
    assert (done.status_code, done.content) == (204, b"")
    assert httpx.post(f"{server}/v1/jobs/{job}/retry").status_code == 200
    resumed = Listener(f"{server}/v1/jobs/{job}/events/stream", last="1204")
    httpx.post(f"{server}/v1/jobs/{job}/cancel")
    assert [data["type"] for _, data in resumed.finish()] == ["job.queued", "job.cancel_requested", "job.cancelled"]


def test_the_stream_of_all_events_can_be_resumed_anywhere(server: str, app: FastAPI) -> None:
    rows: Database = app.state.resources.database
    before = post(server)
    whole = Listener(f"{server}/v1/events/stream", enough=10)
    jobs = [post(server) for _ in range(2)]
    for job in jobs:
        make.start(rows, job)
        make.tell(rows, job, 2)
    whole_frames = whole.finish()
    assert {data["job_id"] for _, data in whole_frames} == set(jobs) != {before}
    for job in jobs:
        assert [data["seq"] for _, data in whole_frames if data["job_id"] == job] == [1, 2, 3, 4, 5]
    rest = Listener(f"{server}/v1/events/stream", enough=6, last=whole_frames[3][0])
    assert rest.finish() == whole_frames[4:]
    with rows.reading() as session:
        number = session.get_one(Job, jobs[0]).id
    assert number not in whole_frames[0][0], "ids are opaque"


def test_bad_ids_and_unknown_jobs_are_refused(client: TestClient) -> None:
    job = submit(client)
    url = f"/v1/jobs/{job}/events/stream"
    assert client.get(url, headers={"Last-Event-ID": "x"}).status_code == 400
    assert client.get(f"{url}?after=-1").status_code == 422
    assert client.get("/v1/jobs/job_x/events/stream").status_code == 404
    for id_ in ("x", "!", "WzEsMl0", "W10", "bnVsbA"):
        assert client.get("/v1/events/stream", headers={"Last-Event-ID": id_}).json()["code"] == "invalid-cursor"


def test_a_silent_stream_beats_and_many_watchers_cost_one_loop(database: Database) -> None:
    async def watch(streams: EventStreams, job_id: str) -> list[int | None]:
        return [event.seq if event else None async for event in streams.of_job("prj_default", job_id, after=0)]

    async def scene() -> tuple[list[list[int | None]], int]:
        streams = EventStreams(database, silence_seconds=0.2)
        watchers = [asyncio.create_task(watch(streams, job_id)) for job_id in jobs for _ in range(100)]
        await asyncio.sleep(1.0)
        for job_id in jobs:
            await asyncio.to_thread(make.start, database, job_id)
            await asyncio.to_thread(make.end, database, job_id, "succeeded")
        seqs = await asyncio.wait_for(asyncio.gather(*watchers), 60)
        await streams.finish()
        return seqs, streams.queries

    jobs = [_add(database) for _ in range(3)]
    seqs, queries = asyncio.run(scene())
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert all([seq for seq in one if seq is not None] == [1, 2] for one in seqs)
    assert any(None in one for one in seqs)
    assert queries < len(jobs) * 100, "as many as if each watcher asked once"


def test_a_project_has_so_many_streams_and_leaves_the_others_theirs(database: Database) -> None:
    async def scene() -> None:
        streams = EventStreams(database, silence_seconds=0.01, most_per_project=2)
        first, never_begun = streams.of_project("prj_a", None), streams.of_job("prj_a", job_id, after=0)
        assert await anext(first) is None
        with pytest.raises(TooManyRequests):
            streams.of_project("prj_a", None)
        with pytest.raises(TooManyRequests):
            streams.of_job("prj_a", job_id, after=0)
        other = streams.of_project("prj_b", None)
        assert await anext(other) is None
        del never_begun
        second = streams.of_project("prj_a", None)
        assert await anext(second) is None
        await first.aclose()  # type: ignore[attr-defined]
        streams.of_project("prj_a", None)
        for left in (second, other):
            await left.aclose()  # type: ignore[attr-defined]
        await streams.finish()

    job_id = _add(database)
    asyncio.run(scene())


def test_a_stream_that_is_over_tells_no_more_of_what_was_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads years of events slowly has a revoked key meanwhile."""
    monkeypatch.setattr("app.services.events.event_streams.PAGE", 2)
    with database.reading() as session:
        position = queries.now(session)
    job_id = _add(database)
    make.tell(database, job_id, 9)

    async def scene() -> list[int]:
        counts = []
        for all_jobs in (False, True):
            streams = EventStreams(database)
            whole, one = streams.of_project("prj_default", position), streams.of_job("prj_default", job_id, after=0)
            stream = whole if all_jobs else one
            await anext(stream)
            streams.close()
            counts.append(1 + len([event async for event in stream]))
            await streams.finish()
        return counts

    assert asyncio.run(scene()) == [2, 2]


def test_a_late_commit_is_not_passed_by(postgres_url: str) -> None:
    database = Database(postgres_url)
    first, second = _add(database), _add(database)
    with database.reading() as session:
        position = queries.now(session)
    with database.unit_of_work() as late:
        job = event_queries.lock(late, first)
        assert job is not None
        event_queries.append(late, job, [("job.progress", {})], now=clock(late))
        make.tell(database, second, 1)  # begun later, committed first
        with database.reading() as session:
            assert queries.all_new_events(session, position, limit=10) == []
    with database.reading() as session:
        events = queries.all_new_events(session, position, limit=10)
    assert [event.job_id for event in events] == [first, second]
    database.dispose()


def _add(database: Database) -> str:
    with database.unit_of_work() as session:
        now = clock(session)
        job = Job(**job_fields("steady", now))
        session.add(job)
    return job.id


def _revoke(session: Session, key_id: str, cookie: str) -> None:
    session.get_one(ApiKey, key_id).revoked_at = clock(session)


def _expire(session: Session, key_id: str, cookie: str) -> None:
    session.get_one(ApiKey, key_id).expires_at = clock(session)


def _sign_out(session: Session, key_id: str, cookie: str) -> None:
    session.execute(delete(PortalSession))


@pytest.mark.parametrize(
    ("end", "ends"),
    [(_revoke, {"key", "session"}), (_expire, {"key", "session"}), (_sign_out, {"session"})],
    ids=["revoked", "expired", "signed out"],
)
def test_a_stream_ends_with_what_it_was_opened_with(
    app: FastAPI, server: str, settings: Settings, end: Callable[[Session, str, str], None], ends: set[str]
) -> None:
    rows: Database = app.state.resources.database
    row, token = keys.create(rows, settings, KeyRequest(name="k", scopes=["jobs:read"]), DEFAULT_PROJECT)
    cookie = Sessions(rows, settings).open(Actor("api_key", row.id, DEFAULT_PROJECT, frozenset({"jobs:read"})))
    with httpx.Client() as client:
        job = client.post(f"{server}/v1/jobs", json=REMOTE).json()["id"]

    def listen(path: str, headers: dict[str, str]) -> Listener:
        return Listener(server + path, enough=20, headers=headers)

    by_key, signed_in = {"Authorization": f"Bearer {token}"}, {"Cookie": f"{COOKIE}={cookie}"}
    streams = {
        "key": [listen(f"/v1/{path}/stream", by_key) for path in ("events", f"jobs/{job}/events")],
        "session": [listen(f"/portal/{path}stream", signed_in) for path in ("", f"jobs/{job}/")],
        "nothing": [listen("/v1/events/stream", {})],
    }
    with rows.unit_of_work() as session:
        end(session, row.id, cookie)
    for kind, listeners in streams.items():
        for listener in listeners if kind in ends else []:
            listener.join(30)
            assert listener.ended, kind
    make.tell(rows, job, 30)
    for listener in [one for kind, listeners in streams.items() if kind not in ends for one in listeners]:
        listener.join(30)
        assert "job.progress" in listener.text
