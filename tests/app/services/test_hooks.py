"""From a delivery to a job: by mode, once, within limits, never of our own making."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.db.hook import HookDelivery, HookProposal, HookSource, HookVerdict
from app.db.job import Job
from app.db.publication import Publication
from app.db.queries.jobs import events
from app.db.session import clock
from app.integrations.mlflow.events import alias_set, version_created
from app.services import publications
from app.services.hooks import inbox
from app.services.hooks.evaluation import evaluate_next
from app.services.jobs import submit as jobs
from app.services.resources import Resources
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service import rows as make
from tests.fixtures.service.hooks import SPEC, Registry, evaluate, push
from tests.fixtures.service.requests import submit


@pytest.fixture
def hub(client: TestClient) -> Registry:
    return Registry.new(client)


def count(resources: Resources, table: Any) -> int:
    with resources.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def outcome(hub: Registry, resources: Resources, document: Any = None, **headers: str) -> tuple[str, str]:
    """Deliver, evaluate, and return what the only rule made of it."""
    delivery = hub.deliver(document, **headers)
    assert evaluate(resources) == 1
    (verdict,) = hub.verdicts(delivery)
    return verdict["outcome"], verdict["reason"]


def test_a_push_becomes_a_job_of_the_very_commit(hub: Registry, resources: Resources) -> None:
    rule = hub.rule(template={"spec": SPEC, "publish": {"kind": "huggingface", "repo": "my/{name}-{short_revision}"}})
    delivery = hub.deliver(push(sha="c" * 40))
    assert hub.verdicts(delivery) == []
    assert evaluate(resources) == 1
    (verdict,) = hub.verdicts(delivery)
    assert (verdict["rule_id"], verdict["outcome"], verdict["reason"]) == (rule, "job", "matched")
    job = hub.client.get(f"/v1/jobs/{verdict['job_id']}").json()
    assert job["state"] == "queued"
    assert job["source"] == {
        "kind": "huggingface",
        "repo": "org/model",
        "revision": "c" * 40,
        "resolved_revision": None,
    }
    assert job["spec"]["output"]["publish"] == [{"kind": "huggingface", "repo": "my/model-cccccccccccc"}]
    assert job["initiator"] == {"type": "hook", "id": rule}
    assert job["labels"] == {"espalier.rule": rule}
    created = hub.client.get(f"/v1/jobs/{verdict['job_id']}/events").json()["items"][0]
    assert created["data"]["delivery_id"] == delivery


@pytest.mark.parametrize(("classes", "outcome"), [("small=1e6,large=64e9", "job"), ("small=1e6,large=2e6", "refused")])
def test_a_job_of_a_known_model_goes_to_the_class_that_holds_it(
    hub: Registry, resources: Resources, classes: str, outcome: str
) -> None:
    source = {"kind": "huggingface", "repo": "org/model", "revision": "c" * 40}
    make.meet(resources.database, source, SPEC, at=DEMO_MODEL)
    hub.rule()
    delivery = hub.deliver(push(sha="c" * 40))
    evaluate_next(resources.database, resources.settings.model_copy(update={"worker_classes": classes}))
    (verdict,) = hub.verdicts(delivery)
    assert verdict["outcome"] == outcome
    if outcome == "refused":
        assert verdict["detail"].startswith("No worker class holds the job.; /source: ")
        return
    with resources.database.reading() as session:
        assert session.scalars(select(Job.worker_class)).all() == ["large"]


def test_a_dry_run_is_written_down_and_does_nothing(hub: Registry, resources: Resources) -> None:
    hub.rule("dry_run")
    assert outcome(hub, resources) == ("dry_run", "matched")
    assert (count(resources, Job), count(resources, HookProposal)) == (0, 0)


def test_a_proposal_waits_for_a_person_and_becomes_one_job(hub: Registry, resources: Resources) -> None:
    answer = hub.client.post(
        "/v1/rules", json={"name": "by default", "source_id": hub.id, "template": {"preset": "fast"}}
    )
    assert answer.json()["mode"] == "propose"
    assert outcome(hub, resources) == ("proposal", "matched")
    (proposal,) = hub.client.get("/v1/hook-proposals?state=waiting").json()["items"]
    assert hub.client.get(f"/v1/plans/{proposal['plan_id']}").status_code == 200
    assert proposal["request"]["spec"]["preset"] == "fast@1"
    assert count(resources, Job) == 0
    approved = [hub.client.post(f"/v1/hook-proposals/{proposal['id']}/approve") for _ in range(2)]
    assert [answer.status_code for answer in approved] == [200, 200]
    assert approved[0].json() == approved[1].json()
    job = hub.client.get(f"/v1/jobs/{approved[0].json()['job_id']}").json()
    assert job["initiator"] == {"type": "user", "id": "local"}
    assert count(resources, Job) == 1
    refused = hub.client.post(f"/v1/hook-proposals/{proposal['id']}/reject")
    assert (refused.status_code, refused.json()["code"]) == (409, "already-decided")


def test_a_rejected_proposal_stays_rejected(hub: Registry, resources: Resources) -> None:
    hub.rule("propose")
    outcome(hub, resources)
    (proposal,) = hub.client.get("/v1/hook-proposals").json()["items"]
    for _ in range(2):
        answer = hub.client.post(f"/v1/hook-proposals/{proposal['id']}/reject")
        assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    assert hub.client.post(f"/v1/hook-proposals/{proposal['id']}/approve").status_code == 409
    assert count(resources, Job) == 0


def test_aliases_and_tags_of_mlflow_are_matched(client: TestClient, resources: Resources) -> None:
    registry = Registry.new(client, "mlflow")
    rule = registry.rule("dry_run", match={"alias": "champion"})
    alias = {"entity": "model_version_alias", "action": "created", "data": {"name": "m", "version": "3"}}
    alias["data"]["alias"] = "champion"  # type: ignore[index]
    decision = client.post(f"/v1/rules/{rule}/test", json={"payload": alias}).json()
    assert [check["name"] for check in decision["checks"] if not check["passed"]] in ([], ["template"])
    alias["data"]["alias"] = "challenger"  # type: ignore[index]
    decision = client.post(f"/v1/rules/{rule}/test", json={"payload": alias}).json()
    assert (decision["outcome"], decision["reason"]) == ("no_match", "alias")


def _published(resources: Resources, client: TestClient, target: dict[str, Any], reference: str | None) -> None:
    done = submit(client)
    make.start(resources.database, done)
    make.end(resources.database, done, "succeeded")
    with resources.database.unit_of_work() as session:
        job = session.get_one(Job, done)
        session.add(publications.row(job, target, now=clock(session), reference=reference))


HUB_TARGET = {"kind": "huggingface", "repo": "org/model", "revision": "main", "private": True}


@pytest.mark.parametrize(
    ("target", "reference", "document", "reason"),
    [
        (HUB_TARGET, f"org/model@{'a' * 40}", push(), "own-publication"),  # the very commit
        (HUB_TARGET, f"org/model@{'b' * 40}", push(), "lineage"),  # somebody went on with our output
        ({**HUB_TARGET, "revision": "small"}, f"org/model@{'b' * 40}", push(), "matched"),  # beside its source
        ({**HUB_TARGET, "repo": "org/small"}, f"org/small@{'b' * 40}", push(), "matched"),
        (HUB_TARGET, None, push(discussion={"id": "1", "title": "[espalier] Publish job_1"}), "own-publication"),
    ],
)
def test_what_we_published_starts_nothing(
    hub: Registry, resources: Resources, target: dict[str, Any], reference: str | None, document: Any, reason: str
) -> None:
    _published(resources, hub.client, target, reference)
    hub.rule("dry_run")
    expected = ("dry_run" if reason == "matched" else "ignored", reason)
    assert outcome(hub, resources, document) == expected


def test_outputs_are_known_by_their_tags(client: TestClient, resources: Resources) -> None:
    registry = Registry.new(client, "generic")
    registry.rule("run")
    tagged = {"model": {"kind": "huggingface", "repo": "org/copy"}, "tags": {"espalier.job": "job_1", "a": "b"}}
    assert outcome(registry, resources, tagged) == ("ignored", "own-output")
    assert count(resources, Job) == 0


def test_another_projects_publications_say_nothing(hub: Registry, resources: Resources) -> None:
    _published(resources, hub.client, HUB_TARGET, f"org/model@{'a' * 40}")
    with resources.database.unit_of_work() as session:
        session.execute(update(Publication).values(project_id="prj_other"))
    hub.rule("dry_run")
    assert outcome(hub, resources) == ("dry_run", "matched")


def test_an_event_waits_while_a_publication_to_its_model_is_under_way(hub: Registry, resources: Resources) -> None:
    target = {"kind": "huggingface", "repo": "org/model"}
    job = submit(hub.client, spec={**SPEC, "output": {"publish": [target]}})
    make.start(resources.database, job)
    with resources.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == job).values(phase="publishing"))
    hub.rule("run")
    delivery = hub.deliver()
    assert evaluate(resources) == 1
    (verdict,) = hub.verdicts(delivery)
    assert (verdict["outcome"], verdict["reason"]) == ("waiting", "publication-under-way")
    make.end(resources.database, job, "succeeded")
    with resources.database.unit_of_work() as session:
        commit = hub.client.get(f"/v1/hook-deliveries/{delivery}").json()["event"]["refs"]["refs/heads/main"]
        session.add(
            publications.row(session.get_one(Job, job), HUB_TARGET, now=clock(session), reference=f"org/model@{commit}")
        )
        session.execute(update(HookDelivery).values(next_at=clock(session)))
    assert evaluate(resources) == 1
    (verdict,) = hub.verdicts(delivery)
    assert (verdict["outcome"], verdict["reason"]) == ("ignored", "own-publication")
    assert count(resources, Job) == 1


def _race(work: Callable[[], object], threads: int = 6) -> None:
    gate = threading.Barrier(threads)

    def run() -> None:
        gate.wait()
        work()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@pytest.mark.parametrize(
    ("limits", "let_through", "reason"),
    [
        ({"max_per_day": 3}, 3, "max-per-day"),
        ({"cooldown_seconds": 3600}, 1, "cooldown"),
        ({}, 12, None),
    ],
)
def test_limits_hold_however_many_deliver_and_evaluate_at_once(
    hub: Registry, resources: Resources, limits: dict[str, int], let_through: int, reason: str | None
) -> None:
    rule = hub.rule(limits=limits)
    pushes = iter([push(f"org/m{number}", f"{number:040d}".replace("0", "e")) for number in range(12)])

    def deliver_and_evaluate() -> None:
        for document in (next(pushes), next(pushes)):
            hub.deliver(document)
        evaluate(resources)

    _race(deliver_and_evaluate)
    evaluate(resources)  # what one delivered while another evaluated the last that it saw
    with resources.database.reading() as session:
        outcomes = Counter(session.execute(select(HookVerdict.outcome, HookVerdict.reason)).tuples())
    expected = Counter({("job", "matched"): let_through})
    if reason:
        expected["limited", reason] = 12 - let_through
    assert outcomes == expected
    assert count(resources, Job) == let_through
    assert hub.client.get(f"/v1/rules/{rule}").json()["day_count"] == let_through


def test_one_event_delivered_at_once_by_many_makes_one_job(hub: Registry, resources: Resources) -> None:
    hub.rule()
    answers: list[int] = []
    _race(lambda: answers.append(hub.send(push()).status_code))
    assert sorted(answers) == [200] * 5 + [202]
    _race(lambda: evaluate(resources))
    assert (count(resources, HookDelivery), count(resources, Job)) == (1, 1)


def test_a_death_between_the_job_and_the_commit_loses_and_doubles_nothing(
    hub: Registry, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.rule()
    delivery = hub.deliver()
    real = jobs.write

    def dying(*arguments: Any) -> Any:
        real(*arguments)
        raise SystemExit  # as if killed: nothing behind this line runs

    monkeypatch.setattr(jobs, "write", dying)
    with pytest.raises(SystemExit):
        evaluate_next(resources.database, resources.settings)
    assert count(resources, Job) == 0
    assert hub.client.get(f"/v1/hook-deliveries/{delivery}").json()["state"] == "pending"
    monkeypatch.undo()
    assert evaluate(resources) == 1
    assert count(resources, Job) == 1
    assert evaluate(resources) == 0


def test_a_delivery_that_breaks_us_waits_and_others_pass(
    hub: Registry, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.rule()
    broken, good = hub.deliver(push("org/broken")), hub.deliver(push("org/good", "b" * 40))
    real = jobs.new_job

    def picky(project: str, sent: Any, *rest: Any) -> Job:
        if sent["source"]["repo"] == "org/broken":
            raise KeyError("a surprise")
        return real(project, sent, *rest)

    monkeypatch.setattr(jobs, "new_job", picky)
    assert evaluate(resources) == 2
    assert hub.verdicts(good)[0]["outcome"] == "job"
    document = hub.client.get(f"/v1/hook-deliveries/{broken}").json()
    assert (document["state"], document["error"], document["verdicts"]) == ("pending", "KeyError", [])
    monkeypatch.undo()
    with resources.database.unit_of_work() as session:
        session.execute(update(HookDelivery).values(next_at=clock(session)))
    assert evaluate(resources) == 1
    assert hub.verdicts(broken)[0]["outcome"] == "job"


def test_a_replay_gives_what_a_changed_rule_makes_of_it_and_no_second_job(hub: Registry, resources: Resources) -> None:
    done = hub.rule()
    other = hub.rule(match={"repo_glob": "nobody/*"})
    delivery = hub.deliver()
    evaluate(resources)
    hub.client.patch(f"/v1/rules/{other}", json={"match": {"repo_glob": "org/*"}})
    first = {verdict["rule_id"]: verdict for verdict in hub.verdicts(delivery)}
    assert (first[done]["outcome"], first[other]["outcome"]) == ("job", "no_match")
    answer = hub.client.post(f"/v1/hook-deliveries/{delivery}/replay")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    evaluate(resources)
    second = {verdict["rule_id"]: verdict for verdict in hub.verdicts(delivery)}
    assert second[done] == first[done]
    assert second[other]["outcome"] == "job"
    assert count(resources, Job) == 2


def test_a_used_up_quota_is_waited_for(hub: Registry, resources: Resources) -> None:
    hub.rule()
    hub.client.patch("/v1/projects/prj_default", json={"quotas": {"max_queued_jobs": 1}})
    first, second = hub.deliver(push()), hub.deliver(push("org/other", "b" * 40))
    evaluate(resources)
    assert hub.verdicts(first)[0]["outcome"] == "job"
    (verdict,) = hub.verdicts(second)
    assert (verdict["outcome"], verdict["reason"]) == ("waiting", "quota")
    with resources.database.unit_of_work() as session:
        job = events.lock(session, hub.verdicts(first)[0]["job_id"])
        assert job is not None
        events.move(session, job, "cancelled", [("job.cancelled", {})], now=clock(session))
        session.execute(update(HookDelivery).values(next_at=clock(session)))
    evaluate(resources)
    assert hub.verdicts(second)[0]["outcome"] == "job"
    with resources.database.unit_of_work() as session:
        day = timedelta(days=1, seconds=1)
        session.execute(update(HookDelivery).where(HookDelivery.id == second).values(received_at=clock(session) - day))
    third = hub.deliver(push("org/third", "d" * 40))
    with resources.database.unit_of_work() as session:
        session.execute(update(HookDelivery).where(HookDelivery.id == third).values(received_at=clock(session) - day))
    evaluate(resources)
    assert (hub.verdicts(third)[0]["outcome"], hub.verdicts(third)[0]["reason"]) == ("refused", "quota")


def test_reconciliation_and_webhook_share_one_memory(client: TestClient, resources: Resources) -> None:
    registry = Registry.new(client, "mlflow")

    def recorded(event: Any) -> bool:
        """What the sweep of a registry does."""
        with resources.database.unit_of_work() as session:
            source = session.get(HookSource, registry.id)
            assert source is not None
            return not inbox.record_event(session, source, event, via="reconciliation").duplicate

    created = {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "1"}}
    assert recorded(version_created("m", "1", {}))
    assert registry.send(created).status_code == 200
    assert not recorded(version_created("m", "1", {"a": "b"}))

    def champion(version: str) -> int:
        data = {"name": "m", "alias": "champion", "version": version}
        answer = registry.send({"entity": "model_version_alias", "action": "created", "data": data})
        return int(answer.status_code)

    assert champion("1") == 202
    assert not recorded(alias_set("m", "champion", "1"))
    assert champion("1") == 200
    assert champion("2") == 202
    assert champion("1") == 202  # back again: news
    assert recorded(alias_set("m", "champion", "3"))
    deleted = {"entity": "model_version_alias", "action": "deleted", "data": {"name": "m", "alias": "champion"}}
    assert registry.send(deleted).status_code == 202
    assert registry.send(deleted).status_code == 200
    assert champion("3") == 202
    vias = Counter(row["via"] for row in client.get("/v1/hook-deliveries").json()["items"])
    assert vias == {"webhook": 5, "reconciliation": 2}
