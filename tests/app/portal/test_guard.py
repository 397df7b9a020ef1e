"""Who may look, who may post, and what a browser may load."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.platform.actor import DEFAULT_PROJECT
from app.portal.guard import COOKIE, cookie_header
from app.services.resources import Resources
from app.services.tenancy import actor_cache
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project
from tests.app.portal.browser import Browser

JOBS = "/portal/jobs"


@pytest.fixture
def stranger(app: FastAPI, browser: Browser, settings: Settings) -> Browser:
    """A browser at an installation that listens on all addresses, so that keys count; `browser` has one for the API."""
    browser.client.headers.update(bearer(new_key(browser.client)["key"]))
    settings.host = "0.0.0.0"
    return Browser(TestClient(app, follow_redirects=False, base_url="http://espalier.example"))


def _sign_in(browser: Browser, key: str, **fields: str) -> str:
    browser.get("/portal/sign-in")
    answer = browser.post("/portal/sign-in", {"key": key, **fields})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def test_browsers_are_led_to_the_jobs_and_others_are_told_what_is_here(browser: Browser) -> None:
    assert browser.get("/").headers["location"] == JOBS
    assert browser.get("/portal").headers["location"] == JOBS
    for accept in ("*/*", "application/json"):
        answer = browser.client.get("/", headers={"accept": accept})
        assert (answer.status_code, answer.json()["service"], answer.headers["vary"]) == (200, "espalier", "Accept")
        for path in (answer.json()["documentation"], answer.json()["health"]):
            assert browser.client.get(path).status_code == 200


def test_every_answer_names_what_a_browser_may_load_and_nothing_may_be_inline(browser: Browser) -> None:
    for path in (JOBS, "/portal/none", "/portal/static/portal.css", "/portal/sign-in"):
        policy = browser.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy


def test_an_embedded_installation_takes_no_key(browser: Browser) -> None:
    assert browser.get(JOBS).status_code == 200
    assert browser.client.get(JOBS, headers={"host": "evil.example"}).status_code == 403


def test_a_stranger_is_led_to_the_sign_in_and_back(stranger: Browser, browser: Browser) -> None:
    wanted = "/portal/jobs?state=failed"
    answer = stranger.get(wanted)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/portal/sign-in?next=%2Fportal%2Fjobs%3Fstate%3Dfailed"
    page = stranger.get(answer.headers["location"])
    assert 'value="/portal/jobs?state=failed"' in page.text
    key = new_key(browser.client)["key"]
    assert _sign_in(stranger, key, next=wanted) == wanted
    assert stranger.get(wanted).status_code == 200


def test_a_wrong_key_is_refused_and_not_shown_again(stranger: Browser) -> None:
    stranger.get("/portal/sign-in")
    key = "esp_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "0" * 48
    answer = stranger.post("/portal/sign-in", {"key": key})
    assert answer.status_code == 401
    assert "revoked or expired" in answer.text
    assert key not in answer.text


@pytest.mark.parametrize(
    "next_", ["https://evil.example/", "//evil.example", "/portal/\\evil", "/v1/jobs", "/portal//x"]
)
def test_the_sign_in_leads_to_pages_of_ours_only(stranger: Browser, browser: Browser, next_: str) -> None:
    key = new_key(browser.client)["key"]
    assert _sign_in(stranger, key, next=next_) == JOBS


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: Browser, browser: Browser) -> None:
    key = new_key(browser.client)["key"]
    stranger.get("/portal/sign-in")
    before = stranger.client.cookies[COOKIE]
    answer = stranger.post("/portal/sign-in", {"key": key})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/portal" in cookie
    assert "Max-Age=43200" in cookie
    assert stranger.client.cookies[COOKIE] != before  # a cookie from before the sign-in is worth nothing after it


def test_production_sends_the_cookie_over_https_only() -> None:
    assert "Secure" in cookie_header(Settings(mode="production"), "x")
    assert "Secure" not in cookie_header(Settings(), "x")


def test_the_end_of_the_key_is_the_end_of_the_session(
    stranger: Browser, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_cache, "CACHE_SECONDS", 0.0)
    made = new_key(browser.client)
    _sign_in(stranger, made["key"])
    assert stranger.get(JOBS).status_code == 200
    assert browser.client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert stranger.get(JOBS).status_code == 303


def test_signing_out_ends_the_session_on_the_server_too(stranger: Browser, browser: Browser) -> None:
    key = new_key(browser.client)["key"]
    _sign_in(stranger, key)
    stranger.get(JOBS)
    kept = stranger.client.cookies[COOKIE]
    assert stranger.post("/portal/sign-out").headers["location"] == "/portal/sign-in"
    stranger.client.cookies.set(COOKIE, kept)
    assert stranger.get(JOBS).status_code == 303


def test_what_a_key_may_not_do_is_neither_shown_nor_done(stranger: Browser, browser: Browser) -> None:
    job = browser.submit()
    key = new_key(browser.client, DEFAULT_PROJECT, "jobs:read")["key"]
    _sign_in(stranger, key)
    page = stranger.get(JOBS).text
    assert job in page
    assert "New job" not in page
    assert "Cancel picked" not in page
    answer = stranger.post("/portal/several-jobs/cancel", {"job": job})
    assert answer.status_code == 403
    assert "jobs:cancel" in answer.text


def test_another_project_sees_nothing_of_this_one(stranger: Browser, browser: Browser) -> None:
    job = browser.submit(name="secret")
    key = new_key(browser.client, new_project(browser.client))["key"]
    _sign_in(stranger, key)
    assert "secret" not in stranger.get(JOBS).text
    assert stranger.get(f"/portal/jobs/{job}").status_code == 404


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
def test_a_form_without_its_token_is_refused(browser: Browser, token: str) -> None:
    job = browser.submit()
    browser.get(JOBS)
    answer = browser.client.post("/portal/several-jobs/cancel", data={"csrf": token, "job": job})
    assert answer.status_code == 403
    assert browser.client.get(f"/v1/jobs/{job}").json()["state"] == "queued"


def test_a_form_of_another_site_is_refused_whatever_it_carries(browser: Browser) -> None:
    browser.get(JOBS)
    assert browser.post("/portal/several-jobs/cancel", {}, origin="https://evil.example").status_code == 403
    assert browser.post("/portal/several-jobs/cancel", {}, origin="http://localhost").status_code == 200


def test_a_token_belongs_to_one_browser(app: FastAPI, browser: Browser) -> None:
    other = Browser(TestClient(app, follow_redirects=False, base_url="http://localhost"))
    other.get(JOBS)
    browser.get(JOBS)
    assert browser.csrf != other.csrf
    browser.csrf = other.csrf
    assert browser.post("/portal/several-jobs/cancel", {}).status_code == 403


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("x=" + "1" * 300_000, {}, 413),  # larger than any form of ours
        ("&".join(f"a{i}=1" for i in range(3000)), {}, 400),  # more fields than any form of ours
        ("{}", {"content-type": "application/json"}, 415),
        ("x=%00", {}, 400),
        ("x=%ff", {}, 400),
        ("x=1", {"content-encoding": "gzip"}, 415),
    ],
)
def test_a_body_that_is_no_form_of_ours_is_refused(
    browser: Browser, body: str, headers: dict[str, str], status: int
) -> None:
    browser.get(JOBS)
    sent = {"content-type": "application/x-www-form-urlencoded", "x-csrf-token": browser.csrf, **headers}
    assert browser.client.post("/portal/several-jobs/cancel", content=body, headers=sent).status_code == status


def test_a_page_that_breaks_says_so_and_nothing_else(
    app: FastAPI, browser: Browser, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    del app
    monkeypatch.setattr(resources.database, "reading", lambda: 1 / 0)
    answer = browser.get(JOBS)
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert re.search(r"<code>req_\w+</code>", answer.text)
    assert "content-security-policy" in answer.headers
