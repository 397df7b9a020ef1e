"""The client rides out what a service may do: vanish, be busy, cut a download, lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from espalier.client import ATTEMPTS, Artifact, BadDownload, Client, ServiceError, Unreachable

JOB: dict[str, Any] = {
    "id": "job_1",
    "name": "a",
    "state": "queued",
    "created_at": "2026-11-21T08:00:00Z",
    "new_field": {"of": "later"},
}
CONTENT = bytes(range(256)) * 5000
FILE = Artifact(
    id="art_1", name="model.safetensors", kind="model", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
)

Handler = Callable[[httpx.Request], httpx.Response]


class Service:
    """Answers from a list, one entry a request, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    def client(self, **options: Any) -> Client:
        transport = httpx.MockTransport(self)
        return Client("http://127.0.0.1:1", transport=transport, sleep=self.slept.append, **options)


def problem(status: int, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"title": "no", "detail": "not so", **fields})


def test_a_lost_answer_is_asked_for_again_with_the_same_key() -> None:
    service = Service(httpx.ReadTimeout("gone"), httpx.ConnectError("refused"), httpx.Response(202, json=JOB))
    assert service.client().submit({"source": {}}).id == "job_1"
    keys = [request.headers["Idempotency-Key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_two_submits_have_two_keys() -> None:
    service = Service(httpx.Response(202, json=JOB), httpx.Response(202, json=JOB))
    client = service.client()
    client.submit({})
    client.submit({})
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_given_the_time_it_asks_for(status: int) -> None:
    service = Service(httpx.Response(status, headers={"Retry-After": "7"}), httpx.Response(200, json=JOB))
    assert service.client().get("job_1").state == "queued"
    assert service.slept == [7.0]


def test_delays_grow_and_a_request_to_wait_for_ever_is_not_followed() -> None:
    service = Service(
        *[httpx.ConnectError("no")] * 2,
        httpx.Response(503, headers={"Retry-After": "99999"}),
        httpx.Response(503, headers={"Retry-After": "soon"}),
        httpx.Response(200, json=JOB),
    )
    service.client().get("job_1")
    assert service.slept == [0.3, 0.6, 30.0, 2.4]


def test_a_service_that_stays_away_is_unreachable() -> None:
    service = Service(httpx.Response(200, json=JOB), *[httpx.ConnectError("refused")] * ATTEMPTS)
    client = service.client()
    client.get("job_1")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        client.get("job_1")


def test_a_service_that_never_answered_is_unreachable_within_a_second() -> None:
    service = Service(*[httpx.ConnectError("refused")] * ATTEMPTS)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        service.client().get("job_1")
    assert sum(service.slept) < 1


@pytest.mark.parametrize("url", ["localhost:8000", "", "http://", "http://host:port", "ftp://host"])
def test_what_is_no_address_is_told_at_once(url: str) -> None:
    with pytest.raises(Unreachable, match="no address"):
        Client(url)


def test_a_service_that_stays_busy_is_reported_as_it_answers() -> None:
    service = Service(*[problem(503)] * ATTEMPTS)
    with pytest.raises(ServiceError) as caught:
        service.client().get("job_1")
    assert caught.value.status == 503


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_a_refusal_is_raised_at_once_with_its_problem(status: int) -> None:
    service = Service(problem(status, code="x", errors=[{"pointer": "/spec", "code": "c", "detail": "d"}]))
    with pytest.raises(ServiceError, match="not so") as caught:
        service.client().cancel("job_1")
    assert caught.value.problem["code"] == "x"
    assert str(caught.value).endswith("; /spec d")
    assert len(service.requests) == 1


def test_an_answer_that_is_no_problem_document_is_still_an_error() -> None:
    service = Service(httpx.Response(502, text="<html>"))
    with pytest.raises(ServiceError, match="HTTP 502"):
        service.client().get("job_1")


def test_a_key_is_sent_as_a_bearer() -> None:
    service = Service(httpx.Response(200, json=JOB))
    service.client(api_key="esp_1_secret").get("job_1")
    assert service.requests[0].headers["Authorization"] == "Bearer esp_1_secret"


def events(first: int, count: int, kind: str = "job.metric") -> list[dict[str, Any]]:
    return [{"seq": first + i, "type": kind, "time": "2026-11-21T08:00:00Z"} for i in range(count)]


def page(items: list[dict[str, Any]], cursor: str | None = None) -> httpx.Response:
    return httpx.Response(200, json={"items": items, "next_cursor": cursor})


def sse(items: list[dict[str, Any]], *, cut: bool = False) -> httpx.Response:
    text = "retry: 2000\n\n: beat\n\n" + "".join(f"id: {e['seq']}\ndata: {json.dumps(e)}\n\n" for e in items)
    return httpx.Response(200, stream=Cut(text.encode())) if cut else httpx.Response(200, text=text)


def test_events_stream_on_after_a_cut_and_end_with_the_job() -> None:
    service = Service(
        sse(events(1, 3), cut=True),
        httpx.ConnectError("away"),
        problem(503),
        sse(events(4, 2)),
        sse([*events(6, 1, "job.failed"), *events(7, 1, "job.queued"), *events(8, 1, "job.succeeded")]),
    )
    assert [event.seq for event in service.client().events("job_1")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [request.headers["Last-Event-ID"] for request in service.requests] == ["0", "3", "3", "3", "5"]


def test_a_stream_that_has_nothing_left_is_over() -> None:
    service = Service(httpx.Response(204))
    assert list(service.client().events("job_1", after=7)) == []


def test_an_action_whose_answer_was_lost_is_done_when_the_job_is_where_it_leads() -> None:
    refused = problem(409, code="illegal-transition")
    service = Service(httpx.ReadTimeout("gone"), refused, httpx.Response(200, json=JOB | {"state": "paused"}))
    assert service.client().pause("job_1").state == "paused"
    service = Service(httpx.ReadTimeout("gone"), refused, httpx.Response(200, json=JOB | {"state": "failed"}))
    with pytest.raises(ServiceError):
        service.client().pause("job_1")
    with pytest.raises(ServiceError):
        Service(refused).client().pause("job_1")


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    Service(httpx.ReadTimeout("gone"), problem(404)).client().delete("job_1")
    Service(httpx.Response(204)).client().delete("job_1")
    with pytest.raises(ServiceError):
        Service(problem(404)).client().delete("job_1")


def test_events_are_polled_after_the_last_seen_where_there_is_no_stream() -> None:
    service = Service(
        problem(404), page(events(1, 200)), page(events(201, 3)), page([]), page(events(204, 1, "job.succeeded"))
    )
    polled = list(service.client().events("job_1", poll_seconds=0.5))
    assert [event.seq for event in polled] == list(range(1, 205))
    assert [request.url.params["after"] for request in service.requests[1:]] == ["0", "200", "203", "203"]
    assert service.slept == [0.5, 0.5]  # a full page is followed at once


def test_events_go_on_after_an_ending_that_a_retry_undid() -> None:
    service = Service(
        problem(404),
        page([*events(1, 1, "job.failed"), *events(2, 1, "job.queued")]),
        page(events(3, 1, "job.cancelled")),
    )
    assert [event.type for event in service.client().events("job_1")] == ["job.failed", "job.queued", "job.cancelled"]


def test_pages_are_followed_by_their_cursor() -> None:
    service = Service(page([{"text": "a"}], "next"), page([{"text": "b"}]))
    assert [line["text"] for line in service.client().logs("job_1")] == ["a", "b"]
    assert service.requests[1].url.params["cursor"] == "next"


def test_a_rejected_gate_is_no_good_job() -> None:
    done = JOB | {"state": "succeeded"}
    service = Service(
        httpx.Response(200, json=done),
        httpx.Response(200, json=done | {"gate": {"verdict": "rejected"}}),
        httpx.Response(200, json=done | {"gate": {"verdict": "accepted"}}),
        httpx.Response(200, json=JOB),
    )
    client = service.client()
    assert [client.get("job_1").good for _ in range(4)] == [True, False, True, False]


class Cut(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx.RemoteProtocolError("cut")


def ranged(request: httpx.Request) -> httpx.Response:
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    return httpx.Response(206 if start else 200, content=CONTENT[start:])


def test_a_cut_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cut = httpx.Response(200, stream=Cut(CONTENT[:1000]))
    service = Service(cut, httpx.ConnectError("no"), ranged)
    assert service.client().download(FILE, tmp_path).read_bytes() == CONTENT
    assert [request.headers.get("Range") for request in service.requests] == [None, "bytes=1000-", "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_part_of_another_run_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.part").write_bytes(CONTENT[:5])
    service = Service(ranged)
    assert service.client().download(FILE, tmp_path).read_bytes() == CONTENT
    assert service.requests[0].headers["Range"] == "bytes=5-"


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.part").write_bytes(b"old")
    service = Service(httpx.Response(200, content=CONTENT))
    assert service.client().download(FILE, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[:-1] + b"x", CONTENT + b"more", b"x" * 100])
def test_a_wrong_part_is_thrown_away(part: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.part").write_bytes(part)

    def strict(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        return httpx.Response(416) if start >= len(CONTENT) else ranged(request)

    assert Service(*[strict] * ATTEMPTS).client().download(FILE, tmp_path).read_bytes() == CONTENT


def test_a_file_with_other_bytes_is_never_handed_over(tmp_path: Path) -> None:
    service = Service(*[httpx.Response(200, content=b"other")] * ATTEMPTS)
    with pytest.raises(BadDownload, match="did not arrive whole"):
        service.client().download(FILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_store_is_waited_for_and_a_missing_file_is_not(tmp_path: Path) -> None:
    service = Service(problem(503), ranged)
    service.client().download(FILE, tmp_path)
    service = Service(problem(410))
    with pytest.raises(ServiceError):
        service.client().download(FILE, tmp_path / "other")


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / FILE.name).write_bytes(CONTENT)
    assert Service().client().download(FILE, tmp_path) == tmp_path / FILE.name


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadDownload, match="outside"):
        Service().client().download(FILE.model_copy(update={"name": name}), tmp_path)


def test_a_key_does_not_follow_a_redirect_to_the_store(tmp_path: Path) -> None:
    away = httpx.Response(307, headers={"Location": "http://store.example/object?signature=1"})
    service = Service(away, httpx.Response(200, content=CONTENT))
    service.client(api_key="esp_1_secret").download(FILE, tmp_path)
    assert service.requests[0].headers["Authorization"] == "Bearer esp_1_secret"
    assert service.requests[1].url.host == "store.example"
    assert "Authorization" not in service.requests[1].headers
