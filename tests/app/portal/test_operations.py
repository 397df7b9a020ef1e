"""Keys, usage, the audit log, workers and webhooks: what operators look at and do."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import TypeVar

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.bodies.access import SCOPES
from app.db.job import Worker
from app.db.queries.tenancy import audit, quotas
from app.db.session import clock
from app.db.tenancy import ApiKey, Project
from app.db.webhook import WebhookDelivery, WebhookEndpoint
from app.platform.actor import DEFAULT_PROJECT, LOCAL, acting
from app.portal.pages.operations.audit import PAGE
from app.portal.pages.operations.keys import SCOPE_WORDS
from app.portal.spec_form.values import EXTRA, PRESET
from app.services.resources import Resources
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project
from tests.app.portal.browser import Browser
from tests.fixtures.service import rows

Row = TypeVar("Row", ApiKey, WebhookEndpoint)


def _row(resources: Resources, table: type[Row]) -> Row:
    with resources.database.reading() as session:
        return session.scalars(select(table)).one()


def test_a_key_is_shown_once_and_opens_what_was_picked(browser: Browser, resources: Resources) -> None:
    browser.get("/portal/keys")
    made = browser.post("/portal/keys", {"name": "ci", "scope": ["jobs:read", "jobs:write"], "days": "30"})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    (token,) = re.findall(r"esp_[0-9A-Z]{26}_[0-9a-f]{48}", made.text)
    assert browser.client.get("/v1/jobs", headers=bearer(token)).status_code == 200
    row = _row(resources, ApiKey)
    assert row.scopes == ["jobs:read", "jobs:write"]
    assert row.expires_at is not None
    assert row.expires_at - row.created_at < timedelta(days=30, minutes=1)
    assert token not in browser.get("/portal/keys").text


def test_a_revoked_key_is_shown_as_such(browser: Browser, resources: Resources) -> None:
    browser.get("/portal/keys")
    browser.post("/portal/keys", {"name": "ci", "scope": "admin", "days": ""})
    row = _row(resources, ApiKey)
    assert browser.post(f"/portal/keys/{row.id}/revoke").headers["location"] == "/portal/keys"
    page = browser.get("/portal/keys").text
    assert "revoked" in page
    assert "/revoke" not in page


def test_a_key_without_name_or_scope_is_asked_for_them_and_nothing_is_lost(browser: Browser) -> None:
    browser.get("/portal/keys")
    answer = browser.post("/portal/keys", {"name": "", "scope": "jobs:read"})
    assert answer.status_code == 422
    assert 'id="key-name-wrong"' in answer.text
    assert re.search(r'value="jobs:read" checked', answer.text)
    answer = browser.post("/portal/keys", {"name": "kept"})
    assert answer.status_code == 422
    assert 'value="kept"' in answer.text
    assert "Pick at least one." in answer.text


def test_every_scope_is_explained() -> None:
    assert set(SCOPE_WORDS) == set(SCOPES)


def test_usage_stands_beside_its_quota(browser: Browser, resources: Resources) -> None:
    assert "No attempt has ended this month." in browser.get("/portal/usage").text
    with resources.database.unit_of_work() as session:
        now = clock(session)
        session.get_one(Project, DEFAULT_PROJECT).max_gpu_seconds = 7200
        quotas.charge(session, DEFAULT_PROJECT, seconds=3600, gpu=True, now=now)
        quotas.charge(session, DEFAULT_PROJECT, seconds=90, gpu=False, now=now)
    page = browser.get("/portal/usage").text
    assert "GPU time: 1 h of 2 h" in page
    assert f"{now.day}: GPU 1 h, CPU 1 min 30 s" in page
    assert f"<td>{now.date().isoformat()}</td>" in page


def test_the_audit_log_names_who_did_what_and_can_be_searched(browser: Browser) -> None:
    browser.get("/portal/keys")
    browser.post("/portal/keys", {"name": "ci", "scope": "admin"})
    assert "api_key.create" in browser.get("/portal/audit").text
    assert "api_key.create" in browser.get("/portal/audit?action=api_key&actor=local").text
    assert "Nothing like this was done." in browser.get("/portal/audit?action=job").text
    assert "Nothing like this was done." in browser.get("/portal/audit?action=%25").text


def test_old_entries_of_the_audit_log_are_a_page_away(browser: Browser, resources: Resources) -> None:
    with acting(LOCAL), resources.database.unit_of_work() as session:
        for number in range(PAGE + 1):
            audit.record(session, f"act.{number}", "thing", now=clock(session))
    first = browser.get("/portal/audit?action=act").text
    assert f"act.{PAGE}<" in first
    assert "act.0<" not in first
    older = re.search(r'href="([^"]+)" rel="next"', first)
    assert older is not None
    second = browser.get(html.unescape(older[1])).text
    assert "act.0<" in second
    assert "act.1<" not in second


@pytest.fixture
def worker(resources: Resources) -> str:
    """A worker that was just seen."""
    return rows.see(resources.database, host="gpu-1", pid=7, device="cuda", memory_bytes=80 * 2**30)


def test_a_worker_is_drained(browser: Browser, worker: str) -> None:
    page = browser.get("/portal/workers").text
    assert "gpu-1" in page
    assert "80.0 GiB" in page
    assert "idle" in page
    assert browser.post(f"/portal/workers/{worker}/drain").status_code == 303
    assert "drained" in browser.get("/portal/workers").text
    assert browser.post(f"/portal/workers/{worker}/undrain").status_code == 303
    assert "idle" in browser.get("/portal/workers").text


def test_a_worker_whose_device_does_not_answer_is_shown_and_can_be_drained(
    browser: Browser, resources: Resources, worker: str
) -> None:
    with resources.database.unit_of_work() as session:
        session.get_one(Worker, worker).device_lost_at = clock(session)
    page = browser.get("/portal/workers").text
    assert "device lost" in page
    assert "idle" not in page
    assert f"{worker}/drain" in page


def _visitor(app: FastAPI, settings: Settings, key: str) -> Browser:
    """Somebody who has signed in with a key."""
    settings.host = "0.0.0.0"
    visitor = Browser(TestClient(app, follow_redirects=False, base_url="http://espalier.example"))
    visitor.get("/portal/sign-in")
    assert visitor.post("/portal/sign-in", {"key": key}).status_code == 303
    return visitor


def test_machines_are_neither_named_to_a_tenants_admin_nor_drained_by_one(
    app: FastAPI, browser: Browser, settings: Settings, worker: str
) -> None:
    tenant = _visitor(app, settings, new_key(browser.client, new_project(browser.client))["key"])
    page = tenant.get("/portal/workers").text
    assert worker in page
    assert "gpu-1" not in page
    assert f"{worker}/drain" not in page
    for verb in ("drain", "undrain"):
        refused = tenant.post(f"/portal/workers/{worker}/{verb}")
        assert (refused.status_code, "default project" in refused.text) == (403, True)


def test_the_form_of_a_job_publishes_for_those_who_may(app: FastAPI, browser: Browser, settings: Settings) -> None:
    keys = [
        new_key(browser.client, DEFAULT_PROJECT, *scopes)["key"]
        for scopes in (("jobs:write",), ("jobs:write", "models:write"))
    ]
    target = '{"spec": {"output": {"publish": [{"kind": "s3", "uri": "s3://models/out/"}]}}}'
    fields = {"/source/kind": "huggingface", "/source/repo": "org/model", PRESET: "fast", EXTRA: target}
    answers = []
    for key in keys:
        visitor = _visitor(app, settings, key)
        assert visitor.get("/portal/new-job").status_code == 200
        answers.append(visitor.post("/portal/new-job", fields))
    refused, taken = answers
    assert (refused.status_code, "models:write" in refused.text) == (403, True)
    assert taken.status_code == 303, taken.text


def test_queues_tell_what_waits_and_that_nobody_takes_it(browser: Browser) -> None:
    browser.submit()
    page = browser.get("/portal/workers", **{"hx-request": "true"}).text
    assert "nobody takes these" in page
    assert "<html" not in page, "a script of ours gets the tables alone"


def test_an_endpoint_is_made_tested_rotated_changed_and_removed(browser: Browser, resources: Resources) -> None:
    browser.get("/portal/webhooks")
    made = browser.post("/portal/webhooks", {"url": "https://example.com/in", "event": ["job.succeeded", "job.failed"]})
    assert made.status_code == 201
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", made.text)
    row = _row(resources, WebhookEndpoint)
    assert row.events == ["job.failed", "job.succeeded"]
    place = f"/portal/webhooks/{row.id}"
    assert secret not in browser.get(place).text
    assert browser.post(f"{place}/test").status_code == 303
    assert "webhook.test" in browser.get(place).text
    rotated = browser.post(f"{place}/rotate")
    assert secret not in rotated.text
    assert "whsec_" in rotated.text
    assert browser.post(f"{place}/disable").status_code == 303
    assert "by its owner" in browser.get(place).text
    assert browser.post(place, {"url": "https://example.com/other", "description": "CI"}).status_code == 303
    assert "https://example.com/other" in browser.get("/portal/webhooks").text
    assert browser.post(f"{place}/delete").status_code == 303
    assert browser.get(place).status_code == 404


def test_a_delivery_shows_its_attempts_and_is_sent_again(browser: Browser, resources: Resources) -> None:
    browser.get("/portal/webhooks")
    browser.post("/portal/webhooks", {"url": "https://example.com/in"})
    endpoint = _row(resources, WebhookEndpoint).id
    browser.post(f"/portal/webhooks/{endpoint}/test")
    attempt = {"time": "2026-11-21T08:00:00Z", "status": 500, "seconds": 0.2, "error": "status 500", "answer": "<b>no"}
    with resources.database.unit_of_work() as session:
        row = session.scalars(select(WebhookDelivery)).one()
        row.state, row.attempts, row.log = "failed", 1, [attempt]
        delivery = row.id
    page = browser.get(f"/portal/webhooks/{endpoint}").text
    assert "500" in page
    assert "2026-11-21 08:00:00" in page
    browser.post(f"/portal/webhooks/{endpoint}/deliveries/{delivery}/redeliver")
    assert "pending" in browser.get(f"/portal/webhooks/{endpoint}").text


def test_an_address_that_is_never_called_is_refused_with_the_reason(browser: Browser) -> None:
    browser.get("/portal/webhooks")
    answer = browser.post("/portal/webhooks", {"url": "http://169.254.169.254/", "event": "job.failed"})
    assert answer.status_code == 422
    assert 'id="url-wrong"' in answer.text
    assert 'value="http://169.254.169.254/"' in answer.text
    assert re.search(r'value="job.failed" checked', answer.text)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("keys", "admin"),
        ("audit", "admin"),
        ("webhooks", "webhooks:manage"),
        ("usage", "jobs:read"),
        ("workers", "jobs:read"),
    ],
)
def test_pages_take_the_scopes_of_the_api(
    app: FastAPI, browser: Browser, settings: Settings, path: str, wanted: str
) -> None:
    other = next(scope for scope in SCOPES if scope != wanted)
    tokens = {scope: new_key(browser.client, DEFAULT_PROJECT, scope)["key"] for scope in (wanted, other)}
    for scope, expected in ((wanted, 200), (other, 403)):
        visitor = _visitor(app, settings, tokens[scope])
        assert visitor.get(f"/portal/{path}").status_code == expected
        assert (f'href="/portal/{path}"' in visitor.get("/portal/sign-in/none").text) == (scope == wanted)
