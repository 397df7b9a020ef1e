"""Webhooks from the outbox to a receiver: signed, in order, repeated, given up; one slow endpoint hurts nobody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update

from app.db.session import Database, clock
from app.db.webhook import WebhookDelivery
from app.main import create_app
from app.platform import outbound, signing
from app.settings import Settings
from tests.fixtures.service import rows
from tests.fixtures.service.requests import submit
from workers.background.deliver import DELAYS_SECONDS, DeliveryOutcome, Dispatcher, asked_seconds, record_attempt


@dataclass
class Receiver:
    """A server that records what it is sent and answers as told."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """For the next requests; 204 afterwards."""
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.heard]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    endpoint = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            endpoint.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status, headers = endpoint.answers.pop(0) if endpoint.answers else (204, {})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield endpoint
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=database_url, webhook_allowed_cidrs="127.0.0.0/8")


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def dispatcher(client: TestClient, settings: Settings) -> Dispatcher:
    return Dispatcher(client.app.state.resources.database, settings)  # type: ignore[attr-defined]


def _database(client: TestClient) -> Database:
    database: Database = client.app.state.resources.database  # type: ignore[attr-defined]
    return database


def _endpoint(client: TestClient, url: str, *events: str) -> dict[str, Any]:
    answer = client.post("/v1/webhook-endpoints", json={"url": url, **({"events": list(events)} if events else {})})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def _drain(dispatcher: Dispatcher) -> None:
    while dispatcher.dispatch(wait=True):
        pass


def _make_due(client: TestClient) -> None:
    with _database(client).unit_of_work() as session:
        session.execute(update(WebhookDelivery).values(next_at=clock(session) - timedelta(seconds=1)))


def test_events_are_told_in_order_and_signed(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    endpoint = _endpoint(client, receiver.url)
    job = submit(client, labels={"team": "nlp"})
    rows.start(_database(client), job)
    rows.tell(_database(client), job, 5)  # progress, of which webhooks tell nothing
    rows.end(_database(client), job, "failed")
    _drain(dispatcher)
    assert receiver.types() == ["job.created", "job.queued", "job.started", "job.failed"]
    for headers, body in receiver.heard:
        assert signing.verify([endpoint["secret"]], headers, body) == headers["webhook-id"]
        assert headers["content-type"] == "application/json"
    last = json.loads(receiver.heard[-1][1])
    assert last["data"]["id"] == job
    assert last["data"]["state"] == "failed"
    assert last["data"]["labels"] == {"team": "nlp"}
    events = client.get(f"/v1/jobs/{job}/events").json()["items"]
    assert receiver.heard[-1][0]["webhook-id"] == events[-1]["id"]


def test_a_failed_message_is_repeated_and_holds_back_only_its_job(
    client: TestClient, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    endpoint = _endpoint(client, receiver.url, "job.created", "job.queued")
    receiver.answers = [(500, {})]
    first = submit(client)
    dispatcher.dispatch(wait=True)
    second = submit(client)
    _drain(dispatcher)
    subjects = [json.loads(body)["data"]["id"] for _, body in receiver.heard]
    assert subjects == [first, second, second]
    _make_due(client)
    _drain(dispatcher)
    assert [json.loads(body)["data"]["id"] for _, body in receiver.heard[3:]] == [first, first]
    assert receiver.heard[3][0]["webhook-id"] == receiver.heard[0][0]["webhook-id"]
    assert receiver.heard[3][1] == receiver.heard[0][1]
    items = client.get(f"/v1/webhook-endpoints/{endpoint['id']}/deliveries").json()["items"]
    assert {item["state"] for item in items} == {"delivered"}
    assert [[entry["status"] for entry in item["log"]] for item in items][-1] == [500, 204]


def test_gone_disables_the_endpoint_and_gives_up_what_waits(
    client: TestClient, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    endpoint = _endpoint(client, receiver.url)
    receiver.answers = [(410, {})]
    submit(client)
    _drain(dispatcher)
    stored = client.get(f"/v1/webhook-endpoints/{endpoint['id']}").json()
    assert (stored["enabled"], stored["disabled_reason"]) == (False, "gone")
    submit(client)
    _drain(dispatcher)
    assert len(receiver.heard) == 1
    again = client.patch(f"/v1/webhook-endpoints/{endpoint['id']}", json={"enabled": True}).json()
    assert (again["enabled"], again["disabled_reason"]) == (True, None)
    submit(client)
    _drain(dispatcher)
    assert len(receiver.heard) == 3


def test_redirects_are_failures(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    endpoint = _endpoint(client, receiver.url, "job.created")
    receiver.answers = [(302, {"Location": receiver.url})]
    submit(client)
    _drain(dispatcher)
    assert len(receiver.heard) == 1
    item = client.get(f"/v1/webhook-endpoints/{endpoint['id']}/deliveries").json()["items"][0]
    assert (item["state"], item["log"][0]["error"]) == ("pending", "HTTP 302")


def test_while_a_secret_rotates_both_sign(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    endpoint = _endpoint(client, receiver.url)
    rotated = client.post(f"/v1/webhook-endpoints/{endpoint['id']}/rotate-secret").json()
    assert rotated["secret"] != endpoint["secret"]
    assert rotated["old_secret_until"]
    client.post(f"/v1/webhook-endpoints/{endpoint['id']}/test")
    _drain(dispatcher)
    headers, body = receiver.heard[0]
    assert json.loads(body)["type"] == "webhook.test"
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (endpoint["secret"], rotated["secret"]):
        signing.verify([secret], headers, body)


def test_a_message_can_be_sent_again_by_hand(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    endpoint = _endpoint(client, receiver.url)
    base = f"/v1/webhook-endpoints/{endpoint['id']}"
    sent = client.post(f"{base}/test").json()
    _drain(dispatcher)
    assert client.get(f"{base}/deliveries/{sent['id']}").json()["state"] == "delivered"
    assert client.post(f"{base}/deliveries/{sent['id']}/redeliver").status_code == 202
    _drain(dispatcher)
    assert receiver.heard[0][0]["webhook-id"] == receiver.heard[1][0]["webhook-id"] == sent["message_id"]
    assert client.post(f"{base}/deliveries/dlv_x/redeliver").status_code == 404


def test_a_name_that_leads_inside_is_not_called(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    endpoint = _endpoint(client, f"http://localhost.localdomain.invalid:{receiver.url.split(':')[2]}")
    client.post(f"/v1/webhook-endpoints/{endpoint['id']}/test")
    _drain(dispatcher)
    assert receiver.heard == []


def test_a_dead_dispatcher_loses_nothing(client: TestClient, dispatcher: Dispatcher, receiver: Receiver) -> None:
    _endpoint(client, receiver.url, "job.created")
    submit(client)
    with _database(client).unit_of_work() as session:  # as another one that died while it sent
        session.execute(update(WebhookDelivery).values(locked_until=clock(session) + timedelta(seconds=60)))
    assert dispatcher.dispatch(wait=True) == 0
    with _database(client).unit_of_work() as session:
        session.execute(update(WebhookDelivery).values(locked_until=clock(session) - timedelta(seconds=1)))
    assert dispatcher.dispatch(wait=True) == 1
    assert receiver.types() == ["job.created"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/", 201),
        ("http://10.0.0.1/", 422),
        ("http://169.254.169.254/", 422),
        ("ftp://x/", 422),
        ("http://2130706433/", 422),
        ("https://example.com/hook", 201),
    ],
)
def test_an_endpoint_with_a_forbidden_address_is_not_made(client: TestClient, url: str, code: int) -> None:
    answer = client.post("/v1/webhook-endpoints", json={"url": url})
    assert answer.status_code == code
    if code == 422:
        assert answer.json()["errors"][0]["pointer"] == "/url"


def test_secrets_are_sealed_and_shown_once(client: TestClient, receiver: Receiver) -> None:
    endpoint = _endpoint(client, receiver.url)
    shown = client.get(f"/v1/webhook-endpoints/{endpoint['id']}").text + client.get("/v1/webhook-endpoints").text
    assert endpoint["secret"] not in shown
    with _database(client).reading() as session:
        assert endpoint["secret"] not in str(session.execute(text("SELECT * FROM webhook_endpoints")).all())


def _row() -> WebhookDelivery:
    return WebhookDelivery(state="pending", attempts=0, log=[])


def test_attempts_grow_apart_over_a_day_and_end() -> None:
    now, row, waits = datetime(2026, 1, 1, tzinfo=UTC), _row(), []
    while row.state != "failed":
        record_attempt(row, DeliveryOutcome(0.1, 500, "HTTP 500", ""), now)
        if row.state == "pending":
            waits.append((row.next_at - now).total_seconds())
    assert len(waits) == len(DELAYS_SECONDS) == row.attempts - 1
    assert all(0.8 * base <= wait <= 1.2 * base for wait, base in zip(waits, DELAYS_SECONDS, strict=True))
    assert 0.7 * 86_400 < sum(DELAYS_SECONDS) < 86_400


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, 0),
        ("120", 120),
        ("999999", 86_400),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120),
        ("soon", 0),
        ("-5", 0),
        ("Thu, 01 Jan 2025 00:00:00 GMT", 0),
        ("9" * 40, 0),
    ],
)
def test_retry_after_is_honoured_within_a_day(given: str | None, seconds: float) -> None:
    assert asked_seconds(given, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


def test_a_slow_endpoint_does_not_hold_up_the_others(
    client: TestClient, dispatcher: Dispatcher, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _endpoint(client, "http://127.0.0.1:9/slow", "job.created")
    _endpoint(client, receiver.url, "job.created")
    gate = threading.Event()
    real = outbound.post

    def post(target: Any, *args: Any, **fields: Any) -> Any:
        if target.path == "/slow":
            gate.wait(60)
            raise ConnectionRefusedError
        return real(target, *args, **fields)

    monkeypatch.setattr(outbound, "post", post)
    for _ in range(12):
        submit(client)
    try:
        for _ in range(1000):
            dispatcher.dispatch()
            if len(receiver.heard) == 12:
                break
            threading.Event().wait(0.05)
        assert len(receiver.heard) == 12
    finally:
        gate.set()
    assert client.get(f"/v1/webhook-endpoints/{slow['id']}").status_code == 200
