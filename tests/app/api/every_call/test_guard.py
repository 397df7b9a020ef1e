"""What comes in is bounded, what goes out is a problem, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.api import guard as guards
from app.api.endpoints.jobs import jobs
from app.api.endpoints.jobs.jobs import EXAMPLES
from app.api.guard import BodyGuard
from app.bodies.sweep import place
from app.main import create_app
from app.platform.actor import LOCAL
from app.platform.fairness import KeyedLimiter
from app.settings import Settings
from tests.fixtures.service.requests import REMOTE

JSON_TYPE = {"Content-Type": "application/json"}
PROBLEM = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough here."""
    return sqlite_url


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed-request"),
        (b"\xff\xfe", 400, "malformed-request"),
        (b'{"a": NaN}', 400, "malformed-request"),
        (b'{"a": -Infinity}', 400, "malformed-request"),
        (b'{"a": 1, "a": 2}', 400, "malformed-request"),  # the second would win silently
        (b'{"a": "\\u0000"}', 400, "malformed-request"),  # Postgres cannot hold it
        (b'{"a": "\\ud800"}', 400, "malformed-request"),  # no UTF-8 for it
        (b'{"a": ' + b"9" * 5000 + b"}", 400, "malformed-request"),
        (b"[" * 40 + b"]" * 40, 400, "malformed-request"),
        (b"[" * 100_000, 400, "malformed-request"),
        (b'{"a": "' + b"[" * 1000 + b'"}', 422, "invalid-request"),  # brackets in a string do not nest
        (b"[]", 422, "invalid-request"),
        (b"null", 422, "invalid-request"),
        (b"", 422, "invalid-request"),
        (b'{"a": 1e999}', 422, "invalid-request"),
        (b" " * (256 * 1024 + 1), 413, "body-too-large"),
    ],
)
def test_bodies_are_strict_json_within_bounds(client: TestClient, body: bytes, status: int, code: str) -> None:
    answer = client.post("/v1/jobs", content=body, headers=JSON_TYPE)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == PROBLEM
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/v1/jobs", 200),
        ("DELETE", "/v1/rules/rul_1", 404),
        ("POST", "/v1/jobs/job_1/cancel", 404),
        ("POST", "/nowhere", 404),
    ],
)
def test_a_path_that_takes_no_body_reads_none(client: TestClient, method: str, path: str, status: int) -> None:
    headers = {**JSON_TYPE, "Content-Length": str(10**11)}
    assert client.request(method, path, content=b"not json", headers=headers).status_code == status


def test_a_body_that_trickles_is_not_waited_for(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.guard.RECEIVE_SECONDS", 0.1)

    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(0.04)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/jobs",
            "raw_path": b"/v1/jobs",
            "query_string": b"",
            "headers": headers,
            "scheme": "http",
            "root_path": "",
            "server": ("testserver", 80),
            "client": None,
            "http_version": "1.1",
            "state": {},
        }
        await client.app(scope, receive, send)
        return sent

    assert client.portal is not None
    begin, body = client.portal.call(ask)
    assert begin["status"] == 408
    assert json.loads(body["body"])["code"] == "request-timeout"


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("&".join(["model=a"] * 101), {}, 400, "malformed-request"),
        ("model=" + "a" * 16_384, {}, 400, "malformed-request"),
        ("", {f"X-{number}": "v" for number in range(100)}, 431, "headers-too-large"),
        ("", {"X-Long": "v" * 33_000}, 431, "headers-too-large"),
    ],
)
def test_addresses_and_headers_are_bounded(
    client: TestClient, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.get(f"/v1/jobs?{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


NUMBERS = ["1" + "0" * 400, "-1" + "0" * 999, "9" * 5000, "1e308", "1e999", "-1e308", "1e-400"]
FIELDS = [
    "limits.max_host_memory_bytes",
    "limits.max_run_seconds",
    "limits.max_pending_seconds",
    "spec.objective.parameters",
    "spec.objective.bytes",
    "spec.objective.seconds_per_token",
    "spec.calibration.samples",
    "spec.calibration.seed",
    "spec.retrain.steps",
    "spec.retrain.alpha",
    "spec.gate.max_perplexity",
    "spec.gate.min_sparsity",
    "name",
    "labels.k",
    "spec.reconstruct.window.blocks",
    "spec.cycles.count",
    "spec.soup.members",
    "plan_id",
    "priority",
]


def test_what_comes_without_a_key_takes_turns_as_one_however_many_addresses_it_names() -> None:
    done: list[str] = []

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        done.append(scope["path"])

    async def whole() -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def nowhere(message: Message) -> None:
        raise AssertionError(message)

    async def scene() -> None:
        guard = BodyGuard(work, routes=jobs.router.routes, shares=KeyedLimiter(4))
        paths = [*(f"/v1/hooks/src_{number}" for number in range(100)), "/v1/jobs"]
        headers = [(b"content-type", b"application/json")]
        calls = [
            {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "state": {}}
            for path in paths
        ]
        calls[-1]["state"] = {"actor": LOCAL}
        await asyncio.gather(*(guard(call, whole, nowhere) for call in calls))

    asyncio.run(scene())
    assert len(done) == 101
    assert done.index("/v1/jobs") < guards.WORKED_ON_AT_ONCE + 6, "behind those at work, and not behind the hundred"


def test_no_number_is_too_large_to_be_refused(client: TestClient, model: Path) -> None:
    steps = [{"method": "angular", "sparsity": 0.5}, {"method": "flap", "sparsity": 0.5}]
    for source in (REMOTE["source"], {"kind": "local", "path": str(model)}):
        for field in FIELDS:
            body = {"source": source, "spec": {"prune": steps if "objective" in field else REMOTE["spec"]["prune"]}}
            place(body, f"/{field.replace('.', '/')}", "@")
            for number in NUMBERS:
                content = json.dumps(body).replace('"@"', number)
                for path in ("/v1/jobs", "/v1/plans"):
                    answer = client.post(path, content=content, headers=JSON_TYPE)
                    assert answer.status_code in {201, 202, 400, 422}, (field, number[:10], answer.text)


def test_a_body_without_a_length_is_counted_while_it_comes(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b" " * 1024

    assert client.post("/v1/jobs", content=endless(), headers=JSON_TYPE).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {**JSON_TYPE, "Content-Encoding": "gzip"},
        {"Content-Type": "text/plain"},  # what a web page may post without asking
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_other_kinds_of_bodies_are_415(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(REMOTE), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


def test_a_request_id_is_kept_or_made(client: TestClient) -> None:
    answer = client.get("/nope", headers={"X-Request-ID": "mine-1"})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "mine-1"
    made = client.get("/nope", headers={"X-Request-ID": "bad id <script>"})
    assert made.headers["X-Request-ID"] == made.json()["request_id"]
    assert made.json()["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not-found"),
        ("GET", "/v1/jobs/x/nope", 404, "not-found"),
        ("DELETE", "/v1/jobs", 405, "method-not-allowed"),
        ("PUT", "/v1/methods", 405, "method-not-allowed"),
        ("POST", "/v1/hooks", 404, "not-found"),
        ("GET", "/v1/rules/x", 404, "not-found"),
        ("POST", "/v1/sweeps/swp_1/cancel", 404, "not-found"),
        ("POST", "/v1/hooks/src_1", 404, "not-found"),
        ("GET", "/v1/jobs/a%00b", 400, "malformed-request"),
        ("GET", "/v1/jobs?model=%00", 400, "malformed-request"),
    ],
)
def test_every_refusal_is_a_problem(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == PROBLEM
    assert answer.json()["status"] == status


def test_a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes(client: TestClient) -> None:
    assert client.put("/v1/jobs").headers["Allow"] == "GET, POST"
    assert client.post("/v1/artifacts/x/download").headers["Allow"] == "GET, HEAD"


def test_an_id_of_any_length_is_not_found(client: TestClient) -> None:
    answer = client.get(f"/v1/jobs/{'a' * 1000}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_a_surprise_is_a_problem_without_a_trace(app: FastAPI) -> None:
    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("secret detail")

    with TestClient(app) as client:
        answer = client.get("/boom")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_a_database_out_of_reach_is_503(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none")
    with TestClient(create_app(settings)) as client:
        answer = client.get("/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        ready = client.get("/readyz")
    assert ready.status_code == 503
    assert [error["code"] for error in ready.json()["errors"]] == ["database"]


def test_readiness_names_every_part_that_is_away(tmp_path: Path, sqlite_url: str) -> None:
    settings = Settings(
        home=tmp_path,
        database_url=sqlite_url,
        broker_url="redis://127.0.0.1:9/0",
        store_url="s3://bucket/x",
        s3_endpoint_url="http://127.0.0.1:9",
    )
    with TestClient(create_app(settings)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert [error["code"] for error in answer.json()["errors"]] == ["broker", "store"]


def test_a_database_without_migrations_is_not_ready(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'empty.db'}")
    with TestClient(create_app(settings)) as client:
        assert client.get("/readyz").status_code == 503


def test_production_does_not_start_with_what_is_only_safe_on_one_machine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"PEPPER.*DATABASE_URL.*STORE_URL"):
        create_app(Settings(mode="production", home=tmp_path))


def test_the_catalogue_holds_every_method_with_its_schema(client: TestClient) -> None:
    catalogue = client.get("/v1/methods").json()
    criteria = {item["name"]: item for item in catalogue["criteria"]}
    patterns = {item["name"]: item for item in catalogue["patterns"]}
    assert {"magnitude", "random", "wanda"} <= set(criteria)
    assert {"unstructured", "nm"} <= set(patterns)
    assert criteria["wanda"]["needs"] == "norms"
    assert set(patterns["nm"]["parameters"]["properties"]) == {"n", "m"}
    assert patterns["nm"]["constraints"]
    assert {item["name"] for item in catalogue["recovery"]} == {"reconstruct", "perp"}


def test_the_spec_schema_publishes_bounds_and_defaults(client: TestClient) -> None:
    schema = client.get("/v1/spec-schema").json()
    samples = schema["$defs"]["Calibration"]["properties"]["samples"]
    assert (samples["default"], samples["maximum"]) == (128, 65_536)


def test_the_spec_schema_takes_one_prune_step_or_a_list_of_them(client: TestClient) -> None:
    schema = client.get("/v1/spec-schema").json()["$defs"]
    one, several = schema["CompressionSpec"]["properties"]["prune"]["anyOf"]
    assert one["discriminator"]["propertyName"] == "method"
    assert several["type"] == "array"
    assert schema["WandaPrune"]["properties"]["pattern"]["default"] == {"kind": "unstructured", "scope": "row"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_document_are_accepted(client: TestClient, name: str) -> None:
    content = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    answer = client.post("/v1/jobs", json=content["application/json"]["examples"][name]["value"])
    assert answer.status_code == 202, answer.text


def test_prometheus_sees_jobs_by_state(client: TestClient) -> None:
    client.post("/v1/jobs", json=REMOTE)
    assert 'espalier_jobs{state="queued"} 1.0\n' in client.get("/metrics").text
