"""Hooks and rules: a source, a rule tried on a document, a delivery, its verdict, a proposal and the job of it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from sqlalchemy import select

from app.db.hook import HookDelivery, HookProposal
from app.db.job import Job
from app.integrations.huggingface.hook import HuggingFaceHook
from app.services.hooks.evaluation import evaluate_next
from app.services.hooks.receivers import RECEIVERS
from app.services.resources import Resources
from tests.app.portal.browser import Browser

SECRET = "a-secret-of-the-hub"
RULE = {
    "name": "all of acme",
    "mode": "propose",
    "enabled": "on",
    "repo_glob": "org/*",
    "spec": '{"prune": {"method": "magnitude", "sparsity": 0.5}}',
    "max_per_day": "5",
}


@pytest.fixture
def source(browser: Browser) -> str:
    """A source of the Hub."""
    browser.get("/portal/hooks")
    made = browser.post("/portal/hooks/sources", {"name": "the Hub", "kind": "huggingface", "secret": SECRET})
    assert made.status_code == 201
    assert SECRET in made.text
    (source_id,) = set(re.findall(r"/v1/hooks/(src_[0-9A-Z]{26})", made.text))
    return str(source_id)


@pytest.fixture
def rule(browser: Browser, source: str) -> str:
    """A rule that proposes."""
    answer = browser.post("/portal/hooks/rules/new", {**RULE, "source_id": source})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def _deliver(browser: Browser, source: str, document: dict[str, Any] | None = None) -> str:
    body = json.dumps(document or HuggingFaceHook.EXAMPLE).encode()
    headers = RECEIVERS["huggingface"].headers(SECRET, body, now=time.time())
    headers["content-type"] = "application/json"
    answer = browser.client.post(f"/v1/hooks/{source}", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["delivery_id"])


def _evaluate(resources: Resources) -> None:
    while evaluate_next(resources.database, resources.settings) is not None:
        pass


def test_a_delivery_becomes_a_proposal_and_a_click_makes_it_a_job(
    browser: Browser, resources: Resources, source: str, rule: str
) -> None:
    delivery = _deliver(browser, source)
    _evaluate(resources)
    assert "Waiting for you" in browser.get("/portal/hooks").text
    assert "proposal</span>" in browser.get(f"/portal/hooks/deliveries/{delivery}").text
    with resources.database.reading() as session:
        proposal = session.scalars(select(HookProposal)).one()
    answer = browser.post(f"/portal/hooks/proposals/{proposal.id}/approve")
    with resources.database.reading() as session:
        job = session.scalars(select(Job)).one()
    assert answer.headers["location"] == f"/portal/jobs/{job.id}"
    assert "Waiting for you" not in browser.get("/portal/hooks").text
    assert browser.post(f"/portal/hooks/proposals/{proposal.id}/reject").status_code == 409


def test_a_rejected_proposal_waits_no_more(browser: Browser, resources: Resources, source: str, rule: str) -> None:
    _deliver(browser, source)
    _evaluate(resources)
    with resources.database.reading() as session:
        proposal = session.scalars(select(HookProposal)).one()
    assert browser.post(f"/portal/hooks/proposals/{proposal.id}/reject").status_code == 303
    assert "Waiting for you" not in browser.get("/portal/hooks").text


def test_a_rule_is_tried_without_effects(browser: Browser, resources: Resources, source: str, rule: str) -> None:
    other = json.loads(json.dumps(HuggingFaceHook.EXAMPLE)) | {
        "repo": {**HuggingFaceHook.EXAMPLE["repo"], "name": "elsewhere/model"}
    }
    page = browser.post(f"{rule}/test", {"payload": json.dumps(HuggingFaceHook.EXAMPLE)}).text
    assert "The job that it would be" in page
    page = browser.post(f"{rule}/test", {"payload": json.dumps(other)}).text
    assert "no match</span>" in page
    assert browser.post(f"{rule}/test", {"payload": "{"}).status_code == 422
    delivery = _deliver(browser, source)
    assert "proposal</span>" in browser.post(f"{rule}/test", {"delivery_id": delivery}).text
    with resources.database.reading() as session:
        assert session.scalars(select(HookProposal)).all() == []


def test_a_rule_that_could_never_be_a_job_is_refused_where_it_is_wrong(browser: Browser, source: str) -> None:
    wrong = {**RULE, "source_id": source, "spec": '{"prune": {"method": "magnitude", "sparsity": 7}}'}
    answer = browser.post("/portal/hooks/rules/new", wrong)
    assert answer.status_code == 422
    assert 'id="spec-wrong"' in answer.text
    assert "all of acme" in answer.text, "nothing is lost"
    answer = browser.post("/portal/hooks/rules/new", {**wrong, "spec": "{nonsense"})
    assert 'id="spec-wrong"' in answer.text


def test_a_rule_is_changed_switched_off_and_deleted(browser: Browser, source: str, rule: str) -> None:
    changed = {key: value for key, value in RULE.items() if key != "enabled"} | {"repo_glob": "acme/*", "mode": "run"}
    assert browser.post(rule, changed).status_code == 303
    page = browser.get(rule).text
    assert 'value="acme/*"' in page
    assert re.search(r'value="run" checked', page)
    assert "off</span>" in browser.get("/portal/hooks").text
    assert browser.post(f"{rule}/delete").status_code == 303
    assert browser.get(rule).status_code == 404


def test_a_delivery_is_replayed_against_rules_that_came_later(
    browser: Browser, resources: Resources, source: str
) -> None:
    delivery = _deliver(browser, source)
    _evaluate(resources)
    page = browser.get(f"/portal/hooks/deliveries/{delivery}").text
    assert "Its source had no rule." in page
    browser.post("/portal/hooks/rules/new", {**RULE, "source_id": source, "mode": "dry_run"})
    assert browser.post(f"/portal/hooks/deliveries/{delivery}/replay").status_code == 303
    _evaluate(resources)
    assert "dry run</span>" in browser.get(f"/portal/hooks/deliveries/{delivery}").text


def test_deliveries_are_filtered_by_source_and_state(browser: Browser, resources: Resources, source: str) -> None:
    _deliver(browser, source)
    assert "repo.content" in browser.get(f"/portal/hooks/deliveries?source={source}&state=").text
    assert "that is like this" in browser.get("/portal/hooks/deliveries?state=failed").text


def test_a_secret_is_rotated_and_shown_once(browser: Browser, source: str) -> None:
    rotated = browser.post(f"/portal/hooks/sources/{source}/rotate")
    assert SECRET not in rotated.text
    assert "UTC deliveries with the old one are taken too" in rotated.text
    assert "huggingface.co" in browser.get(f"/portal/hooks/sources/{source}").text


def test_a_source_goes_with_what_it_delivered(browser: Browser, resources: Resources, source: str) -> None:
    _deliver(browser, source)
    assert browser.post(f"/portal/hooks/sources/{source}/delete").status_code == 303
    with resources.database.reading() as session:
        assert session.scalars(select(HookDelivery)).all() == []
    assert "No registry has delivered anything yet." in browser.get("/portal/hooks").text


def test_every_registry_has_its_set_up(browser: Browser) -> None:
    browser.get("/portal/hooks")
    for kind, words in (("huggingface", "X-Webhook-Secret"), ("mlflow", "create_webhook"), ("generic", "Standard Web")):
        assert words in browser.post("/portal/hooks/sources", {"name": kind, "kind": kind}).text
    answer = browser.post("/portal/hooks/sources", {"name": "", "kind": "nobody"})
    assert answer.status_code == 422
