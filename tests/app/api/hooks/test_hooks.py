"""What registries get for an answer, who may send, and what sources and rules are refused for."""

from __future__ import annotations

import gzip
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.db.hook import HookDelivery, HookSource
from app.db.session import clock
from app.integrations.mlflow.hook import sign
from app.services.resources import Resources
from app.services.tenancy.encryption import encrypt
from app.settings import Settings
from espalier.client import Client
from tests.fixtures.service.hooks import SPEC, Registry, evaluate, push

HEADER = "X-Webhook-Secret"
MIB = 2**20
FILES = [{"path": f"data/part-{number:05d}.parquet", "size": number} for number in range(10_000)]
TARGET = {"kind": "huggingface"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements that differ are tested with the services."""
    return sqlite_url


@pytest.fixture
def hub(client: TestClient) -> Registry:
    return Registry.new(client)


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_the_contracts_answers_to_the_hub(hub: Registry) -> None:
    path, body = f"/v1/hooks/{hub.id}", json.dumps(push()).encode()
    good = {HEADER: hub.secret}
    post = hub.client.post
    assert code(post("/v1/hooks/src_01ARZ3NDEKTSV4RRFFQ69G5FAV", content=body, headers=good)) == (404, "not-found")
    assert code(post(path, content=body)) == (401, "unauthenticated")
    assert code(post(path, content=body, headers={HEADER: ""})) == (401, "unauthenticated")
    assert code(post(path, content=body, headers={HEADER: hub.secret + "x"})) == (403, "forbidden")
    assert code(post(path, content=body, headers={HEADER.encode(): b"\xe9"})) == (403, "forbidden")
    assert post(path, content=body, headers=good).status_code == 202
    assert post(path, content=body, headers=good).status_code == 200
    assert post(path, content=json.dumps(push(ref="refs/pr/3")), headers=good).status_code == 202
    assert hub.client.get(path).status_code == 405


@pytest.mark.parametrize(
    "document",
    [
        push(),
        push(ref="refs/pr/1"),
        push(ref="refs/tags/v1"),
        push(event={"action": "delete", "scope": "repo"}, updatedRefs=[]),
        push(event={"action": "move", "scope": "repo"}, updatedRefs=[], movedTo={"name": "org/new"}),
        push(event={"action": "create", "scope": "discussion"}, discussion={"id": "1", "title": "a PR"}),
        {**push(updatedRefs=[], updatedFiles=FILES), "repo": {"type": "bucket", "name": "org/bucket", "id": "1"}},
    ],
    ids=["push", "pull-request", "tag", "delete", "move", "discussion", "bucket"],
)
def test_every_event_is_written_down_and_only_the_push_to_main_starts_something(
    hub: Registry, resources: Resources, document: dict[str, Any]
) -> None:
    hub.rule()
    delivery = hub.deliver(document)
    evaluate(resources)
    shown = hub.client.get(f"/v1/hook-deliveries/{delivery}").json()
    assert json.loads(shown["body"]) == document
    (verdict,) = shown["verdicts"]
    assert verdict["detail"]
    assert (verdict["outcome"] == "job") == (document == push())
    assert bool(hub.client.get("/v1/jobs").json()["items"]) == (document == push())


@pytest.mark.parametrize(
    ("match", "document", "reason"),
    [
        ({}, push(ref="refs/pr/1"), "ref_glob"),
        ({}, push(ref="refs/tags/v1"), "ref_glob"),
        ({"ref_glob": "refs/tags/*"}, push(ref="refs/tags/v1"), "matched"),
        ({}, push(event={"action": "delete", "scope": "repo"}), "new-version"),
        ({}, push(event={"action": "move", "scope": "repo"}), "new-version"),
        ({"repo_glob": "org/*"}, push(), "matched"),
        ({"repo_glob": "other/*"}, push(), "repo_glob"),
        ({"exclude_glob": "*/model"}, push(), "exclude_glob"),
        ({"events": ["repo.content"]}, push(), "matched"),
        ({"events": ["repo.content.*"]}, push(), "matched"),
        ({"events": ["model_version.created"]}, push(), "events"),
        ({"alias": "champion"}, push(), "events"),
        ({"alias": "champion", "events": ["*"]}, push(), "alias"),
        ({"tags": {"stage": "*"}}, push(), "tags"),
    ],
)
def test_conditions(
    hub: Registry, resources: Resources, match: dict[str, Any], document: dict[str, Any], reason: str
) -> None:
    rule = hub.rule("dry_run", match=match)
    tried = hub.client.post(f"/v1/rules/{rule}/test", json={"payload": document}).json()
    assert tried["reason"] == reason, tried
    delivery = hub.deliver(document)
    evaluate(resources)
    (verdict,) = hub.verdicts(delivery)
    assert (verdict["outcome"], verdict["reason"]) == ("dry_run" if reason == "matched" else "no_match", reason)


def test_nothing_matched_and_no_rule_are_202_too(hub: Registry, resources: Resources) -> None:
    delivery = hub.deliver()
    evaluate(resources)
    shown = hub.client.get(f"/v1/hook-deliveries/{delivery}").json()
    assert (shown["state"], shown["verdicts"]) == ("evaluated", [])
    assert shown["evaluated_at"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"x" * (MIB + 1), {}, (413, "body-too-large")),
        (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, (415, "unsupported-media-type")),
        (b"{", {}, (400, "malformed-request")),
        (b"", {}, (400, "malformed-request")),
        (b'{"a": NaN}', {}, (400, "malformed-request")),
        (b"\xff", {}, (400, "malformed-request")),
        (b"[" * 100_000, {}, (400, "malformed-request")),
        (b"[]", {}, (422, "invalid-request")),
        (b'{"a": "' + b"x" * (MIB - 20) + b'"}', {}, (422, "invalid-request")),  # as large as may be, and no event
    ],
    ids=["large", "compressed", "cut", "empty", "nan", "no-text", "deep", "list", "no-event"],
)
def test_a_body_is_bounded_and_verified_before_it_is_read(
    hub: Registry, body: bytes, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    path = f"/v1/hooks/{hub.id}"
    assert code(hub.client.post(path, content=body, headers={HEADER: hub.secret, **headers})) == expected
    without = expected if expected[0] in {413, 415} else (403, "forbidden")
    assert code(hub.client.post(path, content=body, headers={HEADER: "wrong-secret", **headers})) == without


def test_what_is_missing_in_a_document_is_pointed_at(hub: Registry) -> None:
    document = push()
    del document["repo"]["name"]
    answer = hub.send(document)
    assert code(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["pointer"] == "/repo/name"


def test_a_source_without_a_secret_takes_nothing(hub: Registry, resources: Resources) -> None:
    other = encrypt(Settings(credentials_key="another"), hub.secret)
    for stored in (None, other):
        with resources.database.unit_of_work() as session:
            session.execute(update(HookSource).values(secret=stored))
        assert code(hub.send(push())) == (403, "forbidden")
        assert code(hub.client.post(f"/v1/hooks/{hub.id}", content=b"{}")) == (401, "unauthenticated")


@pytest.mark.parametrize("kind", ["huggingface", "mlflow", "generic"])
def test_a_replaced_secret_is_accepted_for_a_day(client: TestClient, resources: Resources, kind: str) -> None:
    old = Registry.new(client, kind)
    answer = client.post(f"/v1/hook-sources/{old.id}/rotate-secret")
    new = Registry(client, old.id, kind, answer.json()["secret"])
    assert answer.headers["Cache-Control"] == "no-store"
    assert new.secret != old.secret
    assert [one.send({}).status_code for one in (old, new)] == [422, 422]  # both verified, and then no event
    with resources.database.unit_of_work() as session:
        row = session.scalars(select(HookSource)).one()
        assert row.old_secret_until is not None
        assert timedelta(hours=23) < row.old_secret_until - clock(session) <= timedelta(hours=24)
        row.old_secret_until = clock(session)
    assert [one.send({}).status_code for one in (old, new)] == [403, 422]
    answer = client.post(f"/v1/hook-sources/{old.id}/rotate-secret", json={"overlap_seconds": 0})
    newest = Registry(client, old.id, kind, answer.json()["secret"])
    assert [one.send({}).status_code for one in (old, new, newest)] == [403, 403, 422]
    assert answer.json()["old_secret_until"] is None


def test_a_stale_or_changed_mlflow_delivery_is_refused_and_a_replayed_id_does_nothing_more(
    client: TestClient, resources: Resources
) -> None:
    registry = Registry.new(client, "mlflow", secret="my-mlflow-secret")
    document = {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "1"}}
    body, path = json.dumps(document).encode(), f"/v1/hooks/{registry.id}"

    def post(body: bytes, stamp: float, signed: bytes | None = None) -> int:
        signature = sign("my-mlflow-secret", "one", str(int(stamp)), signed or body)
        headers = {
            "X-MLflow-Signature": signature,
            "X-MLflow-Timestamp": str(int(stamp)),
            "X-MLflow-Delivery-Id": "one",
        }
        return client.post(path, content=body, headers=headers).status_code

    now = time.time()
    assert post(body, now - 310) == 403
    assert post(body, now + 310) == 403
    assert post(body.replace(b'"1"', b'"2"'), now, signed=body) == 403
    assert post(body, now) == 202
    assert post(body, now) == 200
    with resources.database.reading() as session:
        assert len(session.scalars(select(HookDelivery)).all()) == 1


def test_sources_are_managed(client: TestClient) -> None:
    made = client.post("/v1/hook-sources", json={"kind": "huggingface", "name": "hub", "secret": "my-own-secret"})
    assert made.json()["secret"] == "my-own-secret"
    assert made.headers["Cache-Control"] == "no-store"
    path = made.headers["Location"]
    shown = client.get(path).json()
    assert shown["path"] == f"/v1/hooks/{shown['id']}"
    assert "my-own-secret" not in json.dumps([shown, client.get("/v1/hook-sources").json()])
    assert client.patch(path, json={"name": "other"}).json()["name"] == "other"
    actions = [row["action"] for row in client.get("/v1/audit-events").json()["items"]]
    assert actions[:2] == ["hook_source.change", "hook_source.create"]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "nobody"}, "/kind"),
        ({"kind": "huggingface", "secret": "short"}, "/secret"),
        ({"kind": "huggingface", "secret": "with a space"}, "/secret"),
        ({"kind": "generic", "secret": "not-whsec-at-all"}, "/secret"),
    ],
)
def test_bad_sources_are_refused_with_a_pointer(client: TestClient, body: dict[str, str], pointer: str) -> None:
    answer = client.post("/v1/hook-sources", json={"name": "a", **body})
    assert code(answer) == (422, "invalid-request")
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]
    assert body.get("secret", "no secret") not in answer.text


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"source_id": "src_unknown"}, "/source_id"),
        ({"template": {}}, "/template"),
        ({"template": {"preset": "nobody"}}, "/template/preset"),
        ({"template": {"preset": "fast", "spec": {"preset": "quality"}}}, "/template/spec/preset"),
        ({"template": {"spec": {}}}, "/template/spec"),
        ({"template": {"spec": {"prune": {"method": "wanda", "sparsity": 2.0}}}}, "/template/spec/prune/sparsity"),
        ({"template": {"spec": {**SPEC, "compute_dtype": "{dtype}"}}}, "/template/spec/compute_dtype"),
        ({"template": {"preset": "fast", "publish": {**TARGET, "repo": "{who}/x"}}}, "/template/publish/repo"),
        ({"template": {"preset": "fast", "publish": [{**TARGET, "repo": "a b"}]}}, "/template/publish/0/repo"),
        ({"template": {"spec": {**SPEC, "output": {"publish": [{}]}}, "publish": [{}]}}, "/template/publish"),
        ({"mode": "maybe"}, "/mode"),
        ({"limits": {"max_per_day": 0}}, "/limits/max_per_day"),
        ({"match": {"repo": "x"}}, "/match/repo"),
    ],
)
def test_bad_rules_are_refused_with_a_pointer(hub: Registry, fields: dict[str, Any], pointer: str) -> None:
    body = {"name": "a", "source_id": hub.id, "template": {"spec": SPEC}, **fields}
    answer = hub.client.post("/v1/rules", json=body)
    assert code(answer) == (422, "invalid-request")
    assert pointer in [item["pointer"] for item in answer.json()["errors"]], answer.text


def test_rules_are_managed_and_a_regular_expression_is_no_placeholder(hub: Registry) -> None:
    spec = {"prune": {**SPEC["prune"], "targets": {"include": [r"layers\.\d{1,2}\.mlp"]}}}
    path = f"/v1/rules/{hub.rule(template={'spec': spec})}"
    assert hub.client.get(path).json()["template"]["spec"] == spec
    assert hub.client.get(f"/v1/rules?source_id={hub.id}").json()["items"][0]["mode"] == "run"
    assert hub.client.get("/v1/rules?source_id=src_other").json()["items"] == []
    changed = hub.client.patch(
        path, json={"mode": "dry_run", "enabled": False, "limits": {"cooldown_seconds": 5}}
    ).json()
    assert (changed["mode"], changed["enabled"], changed["limits"]["cooldown_seconds"]) == ("dry_run", False, 5)
    assert code(hub.client.patch(path, json={"template": {"preset": "{x}"}})) == (422, "invalid-request")
    assert hub.client.delete(path).status_code == 204
    assert hub.client.get(path).status_code == 404


def test_a_switched_off_rule_judges_nothing(hub: Registry, resources: Resources) -> None:
    hub.client.patch(f"/v1/rules/{hub.rule()}", json={"enabled": False})
    delivery = hub.deliver()
    evaluate(resources)
    assert hub.verdicts(delivery) == []


def test_a_trial_says_why_and_writes_nothing(hub: Registry, resources: Resources) -> None:
    rule = hub.rule("propose", match={"repo_glob": "org/*"}, limits={"max_per_day": 1})
    delivery = hub.deliver()
    path = f"/v1/rules/{rule}/test"
    trial = hub.client.post(path, json={"delivery_id": delivery}).json()
    assert (trial["outcome"], trial["reason"]) == ("proposal", "matched")
    assert trial["request"]["source"]["revision"] == trial["event"]["revision"]
    assert [check["name"] for check in trial["checks"]] == [
        "new-version",
        "events",
        "repo_glob",
        "ref_glob",
        "loop-guard",
        "template",
        "limits",
    ]
    assert hub.verdicts(delivery) == []
    evaluate(resources)
    again = hub.client.post(path, json={"payload": push("org/other")}).json()
    assert (again["outcome"], again["reason"]) == ("limited", "max-per-day")
    for body, pointer in (
        ({"payload": {"event": {}}}, "/payload/event"),
        ({"delivery_id": "dlv_unknown"}, "/delivery_id"),
        ({}, ""),
    ):
        answer = hub.client.post(path, json=body)
        assert code(answer) == (422, "invalid-request")
        assert pointer in [item["pointer"] for item in answer.json()["errors"]]


def test_a_value_that_the_event_lacks_is_a_refusal_with_its_reason(client: TestClient, resources: Resources) -> None:
    registry = Registry.new(client, "generic")
    registry.rule(template={"spec": SPEC, "publish": {"kind": "huggingface", "repo": "my/{alias}"}})
    delivery = registry.deliver()
    evaluate(resources)
    (verdict,) = registry.verdicts(delivery)
    assert (verdict["outcome"], verdict["reason"]) == ("refused", "no-valid-job")
    assert "{alias}" in verdict["detail"]


def test_deliveries_are_listed_in_pages_and_by_filter(hub: Registry, resources: Resources) -> None:
    made = [hub.deliver(push(sha=f"{number:040d}".replace("0", "f"))) for number in range(3)]
    evaluate(resources)
    waiting = hub.deliver(push(sha="1" * 40))
    first = hub.client.get("/v1/hook-deliveries?limit=2").json()
    assert [row["id"] for row in first["items"]] == [waiting, made[2]]
    rest = hub.client.get(f"/v1/hook-deliveries?limit=2&cursor={first['next_cursor']}").json()
    assert [row["id"] for row in rest["items"]] == [made[1], made[0]]
    assert [row["id"] for row in hub.client.get("/v1/hook-deliveries?state=pending").json()["items"]] == [waiting]
    assert hub.client.get("/v1/hook-deliveries?source_id=src_other").json()["items"] == []
    assert "body" not in first["items"][0]


def test_the_client_speaks_of_hooks(client: TestClient, resources: Resources) -> None:
    def forward(request: httpx.Request) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        answer = client.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx.Response(answer.status_code, content=answer.content)

    service = Client("http://testserver", transport=httpx.MockTransport(forward))
    source = service.hooks.create_source("huggingface", "hub")
    assert source.secret
    registry = Registry(client, source.id, "huggingface", source.secret)
    body = {"name": "all", "source_id": source.id, "template": {"spec": SPEC}}
    rule = service.hooks.change_rule(service.hooks.create_rule(body).id, name="every one")
    assert [row.name for row in service.hooks.rules()] == ["every one"]
    delivery = registry.deliver()
    assert service.hooks.try_rule(rule.id, delivery=delivery).outcome == "proposal"
    assert service.hooks.replay(delivery).state == "pending"
    evaluate(resources)
    assert [row.verdicts[0].outcome for row in service.hooks.deliveries()] == ["proposal"]
    (proposal,) = service.hooks.proposals()
    approved = service.hooks.approve(proposal.id)
    assert service.get(str(approved.job_id)).state == "queued"
    assert service.hooks.proposals() == []
    rotated = service.hooks.rotate_secret(source.id, secret="another-secret", overlap_seconds=0)
    assert (rotated.secret, service.hooks.sources()[0].secret) == ("another-secret", None)
    service.hooks.delete_rule(rule.id)
    service.hooks.delete_source(source.id)
    assert service.hooks.sources() == []
