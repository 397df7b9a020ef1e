"""Signing in at an identity provider: who gets in, as whom, and what no provider's answer can bring about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import SecretStr

from app.bodies.access import KeyRequest
from app.main import create_app
from app.platform.actor import DEFAULT_PROJECT
from app.portal.pages.operations.sign_in import ATTEMPT
from app.production import refuse_unsafe_production
from app.services.resources import Resources
from app.services.tenancy import keys
from app.services.tenancy import oidc as service
from app.settings import Settings
from tests.app.api.tenants import bearer, new_project
from tests.app.portal.browser import Browser
from tests.fixtures.servers.oidc import CLIENT, SECRET, OidcServer, oidc, private_key

__all__ = ["oidc"]  # a fixture
JOBS, DOOR = "/portal/jobs", "/portal/sign-in/oidc"
HERE = "https://espalier.example"


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path, oidc: OidcServer) -> Settings:
    """An installation that strangers reach, and that knows a provider."""
    return Settings(
        home=tmp_path / "home",
        database_url=sqlite_url,
        host="0.0.0.0",
        public_url=HERE,
        oidc_issuer=oidc.url,
        oidc_client_id=CLIENT,
        oidc_client_secret=SecretStr(SECRET),
        oidc_project=DEFAULT_PROJECT,
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application, not yet started."""
    return create_app(settings)


@pytest.fixture
def browser(app: FastAPI) -> Iterator[Browser]:
    """A browser that nobody has signed in with."""
    with TestClient(app, follow_redirects=False, base_url=HERE) as client:
        yield Browser(client)


def _leave(browser: Browser, oidc: OidcServer, door: str = DOOR) -> str:
    """Go to the provider; return the address that it sends the browser back to."""
    answer = browser.get(door)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(f"{oidc.url}/authorize?")
    return oidc.arrive(answer.headers["location"])


def _sign_in(browser: Browser, oidc: OidcServer, door: str = DOOR) -> Response:
    return browser.get(_leave(browser, oidc, door))


def _stays_outside(browser: Browser, answer: Response, text: str, status: int = 401) -> None:
    assert answer.status_code == status
    assert text in answer.text
    assert browser.get(JOBS).status_code == 303


def test_a_person_goes_to_the_provider_and_comes_back_to_the_page_that_was_wanted(
    browser: Browser, oidc: OidcServer
) -> None:
    wanted = "/portal/jobs?state=failed"
    page = browser.get(browser.get(wanted).headers["location"])
    assert f'href="{DOOR}?next=/portal/jobs%3Fstate%3Dfailed">Sign in with single sign-on</a>' in page.text
    answer = _sign_in(browser, oidc, f"{DOOR}?next=%2Fportal%2Fjobs%3Fstate%3Dfailed")
    assert answer.headers["location"] == wanted
    page = browser.get(wanted)
    assert page.status_code == 200
    assert f"{DEFAULT_PROJECT}<br> ada" in page.text


def test_the_provider_sends_browsers_to_the_address_of_the_settings_whatever_a_request_says(browser: Browser) -> None:
    answer = browser.get(DOOR, host="evil.example")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["redirect_uri"] == [f"{HERE}{DOOR}/return"]


def test_what_was_granted_can_be_done_and_nothing_else(browser: Browser, oidc: OidcServer) -> None:
    _sign_in(browser, oidc)
    assert "New job" in browser.get(JOBS).text
    assert browser.get("/portal/hooks").status_code == 403
    assert browser.get("/portal/audit").status_code == 403


def test_the_audit_log_says_who_it_was(browser: Browser, oidc: OidcServer, resources: Resources) -> None:
    _sign_in(browser, oidc)
    browser.post("/portal/sign-out")
    admin = _admin(resources)
    done = browser.client.get("/v1/audit-events", headers=bearer(admin)).json()["items"]
    assert ("portal.sign_in", {"type": "user", "id": "ada"}) in [(item["action"], item["actor"]) for item in done]


def _admin(resources: Resources) -> str:
    made = KeyRequest(name="admin", scopes=["admin"])
    return keys.create(resources.database, resources.settings, made, DEFAULT_PROJECT)[1]


NAMES: list[tuple[dict[str, Any], str, str]] = [
    ({"email": "ada@x.example", "email_verified": True}, "email", "ada@x.example"),
    ({"email": "boss@x.example", "email_verified": False}, "email", "ada"),  # anybody can say that they are the boss
    ({"email": "boss@x.example"}, "email", "ada"),
    ({"preferred_username": "Ada L."}, "preferred_username", "Ada L."),
    ({"preferred_username": "a\nb"}, "preferred_username", "ada"),
    ({"preferred_username": ["a"]}, "preferred_username", "ada"),
]


def test_people_are_called_by_a_claim_that_is_proven_or_else_by_their_subject(
    browser: Browser, oidc: OidcServer, settings: Settings
) -> None:
    for claims, settings.oidc_name_claim, name in NAMES:
        oidc.claims = {"sub": "ada", **claims}
        _sign_in(browser, oidc)
        assert f"{DEFAULT_PROJECT}<br> {name}</span>" in browser.get(JOBS).text, claims
        browser.post("/portal/sign-out")


def test_a_claim_leads_to_a_project_and_to_no_other(
    browser: Browser, oidc: OidcServer, settings: Settings, resources: Resources
) -> None:
    browser.client.headers.update(bearer(_admin(resources)))
    project = new_project(browser.client)
    del browser.client.headers["Authorization"]
    settings.oidc_project_claim, settings.oidc_project = "groups", ""
    oidc.claims["groups"] = ["everybody", project, DEFAULT_PROJECT]
    _sign_in(browser, oidc)
    assert f"{project}<br> ada" in browser.get(JOBS).text


def test_who_has_no_project_stays_outside_where_there_is_no_default_and_that_is_written_down_once(
    browser: Browser, oidc: OidcServer, settings: Settings, resources: Resources
) -> None:
    settings.oidc_project_claim, settings.oidc_project = "groups", ""
    for groups in (None, "prj_none", [], [1, {}], {"a": "b"}, True):
        oidc.claims["groups"] = groups
        _stays_outside(browser, _sign_in(browser, oidc), "not assigned to a project", 403)
    events = browser.client.get("/v1/audit-events", headers=bearer(_admin(resources))).json()["items"]
    refused = [(row["actor"], row["data"]) for row in events if row["action"] == "portal.sign_in_refused"]
    assert refused == [({"type": "user", "id": "ada"}, {"why": "no-project"})]


NOW = int(time.time())


OTHERWISE: list[dict[str, Any]] = [
    {"iss": "https://evil.example"},
    {"aud": "another client"},
    {"aud": [CLIENT, "another client"]},  # for both of them, and it does not say for whom it was made
    {"aud": [CLIENT, "another client"], "azp": "another client"},
    {"azp": "another client"},
    {"exp": NOW - 3600},
    {"iat": NOW + 3600},
    {"nbf": NOW + 3600},
    {"nonce": "another sign-in's"},
    {"nonce": None},
    {"sub": None},
    {"sub": ""},
    {"sub": 7},
    {"exp": None},
    {"aud": None},
]


def test_a_token_that_says_something_else_lets_nobody_in(browser: Browser, oidc: OidcServer) -> None:
    for claims in OTHERWISE:
        oidc.claims = {"sub": "ada", **claims}
        _stays_outside(browser, _sign_in(browser, oidc), "did not come to its end")
    oidc.claims = {"sub": "ada", "aud": [CLIENT, "another client"], "azp": CLIENT}
    assert _sign_in(browser, oidc).status_code == 303


def _unsigned(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, "", "none", {"kid": "first"})


def _by_a_stranger(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, private_key("stranger"), "RS256", {"kid": "first"})


def _by_a_key_unheard_of(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, private_key("stranger"), "RS256", {"kid": "stranger"})


def _by_what_is_public(claims: dict[str, Any]) -> str:
    modulus = private_key("first").public_key().public_numbers().n.to_bytes(256, "big")
    return jwt.encode(claims, modulus, "HS256", {"kid": "first"})


FORGED: list[Callable[[dict[str, Any]], Any]] = [
    _unsigned,
    _by_a_stranger,
    _by_a_key_unheard_of,
    _by_what_is_public,
    lambda _: "x.y.z",
    lambda _: 7,
]


def test_a_token_that_the_provider_has_not_signed_lets_nobody_in(browser: Browser, oidc: OidcServer) -> None:
    for oidc.sign in FORGED:
        _stays_outside(browser, _sign_in(browser, oidc), "did not come to its end")


def test_a_new_key_of_the_provider_is_found(
    browser: Browser, oidc: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sign_in(browser, oidc)
    browser.post("/portal/sign-out")
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.0)
    oidc.kid, oidc.published = "second", ["first", "second"]
    assert _sign_in(browser, oidc).status_code == 303
    assert oidc.asked.count("/keys") == 2


def test_keys_unheard_of_do_not_make_us_ask_again_and_again(browser: Browser, oidc: OidcServer) -> None:
    oidc.sign = _by_a_key_unheard_of
    for _ in range(3):
        assert _sign_in(browser, oidc).status_code == 401
    assert oidc.asked.count("/keys") == 1


def test_an_answer_to_another_browser_or_given_twice_is_not_taken(
    app: FastAPI, browser: Browser, oidc: OidcServer
) -> None:
    thief = Browser(TestClient(app, follow_redirects=False, base_url=HERE))
    back = _leave(browser, oidc)
    _stays_outside(thief, thief.get(back), "has not begun a sign-in")
    _leave(thief, oidc)  # with a sign-in of its own it is still another one's answer
    _stays_outside(thief, thief.get(back), "belongs to another sign-in")
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 401


def test_a_cookie_that_is_not_ours_and_a_sign_in_that_took_too_long_end_outside(
    browser: Browser, oidc: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ATTEMPT_SECONDS", -1)
    back = _leave(browser, oidc)
    _stays_outside(browser, browser.get(back), "took too long")
    browser.client.cookies.set(ATTEMPT, "x", path=DOOR)
    _stays_outside(browser, browser.get(back), "has not begun a sign-in")


def test_another_providers_name_in_the_answer_ends_outside(browser: Browser, oidc: OidcServer) -> None:
    back = _leave(browser, oidc).replace("iss=http", "iss=https")
    _stays_outside(browser, browser.get(back), "did not come to its end")


def test_a_person_who_says_no_at_the_provider_is_told_so(browser: Browser, oidc: OidcServer) -> None:
    oidc.refuses = "access_denied<b>"
    _stays_outside(browser, _sign_in(browser, oidc), "The provider said: access denied b .")


def test_a_client_without_a_secret_signs_in_by_pkce_alone(
    browser: Browser, oidc: OidcServer, settings: Settings
) -> None:
    settings.oidc_client_secret = oidc.secret = None
    assert _sign_in(browser, oidc).status_code == 303


def test_a_wrong_secret_ends_outside(browser: Browser, oidc: OidcServer) -> None:
    oidc.secret = "another"
    _stays_outside(browser, _sign_in(browser, oidc), "did not come to its end")


def test_a_provider_that_does_not_answer_is_said_so_and_left_alone_for_a_while(
    browser: Browser, oidc: OidcServer
) -> None:
    oidc.broken = True
    for _ in range(3):
        _stays_outside(browser, browser.get(DOOR), "does not answer", 503)
    assert len(oidc.asked) == 1


def test_the_next_page_is_one_of_ours(browser: Browser, oidc: OidcServer) -> None:
    for wanted in ("https://evil.example/", "//evil.example", "/portal/\\evil"):
        assert _sign_in(browser, oidc, f"{DOOR}?next={wanted}").headers["location"] == JOBS
        browser.post("/portal/sign-out")


def test_the_cookie_of_an_attempt_is_kept_from_scripts_and_ends(browser: Browser, oidc: OidcServer) -> None:
    cookie = browser.get(DOOR).headers["set-cookie"]
    assert f"{ATTEMPT}=" in cookie
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax", f"Path={DOOR}", "Max-Age=600"))
    ends = _sign_in(browser, oidc).headers.get_list("set-cookie")
    assert any(part.startswith(f'{ATTEMPT}=""') and "Max-Age=0" in part for part in ends)


def test_without_the_setting_there_is_no_such_door(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "other", database_url=sqlite_url, host="0.0.0.0")
    with TestClient(create_app(settings), follow_redirects=False, base_url=HERE) as client:
        assert "oidc" not in client.get("/portal/sign-in").text
        assert client.get(DOOR).status_code == 404
        assert client.get(f"{DOOR}/return?code=x&state=y").status_code == 404


def test_settings_that_cannot_work_are_refused_at_the_start(settings: Settings) -> None:
    with pytest.raises(ValueError, match="ESPALIER_OIDC_CLIENT_ID"):
        Settings(oidc_issuer="https://id.example")
    settings.oidc_grants = "jobs:read,everything"
    with pytest.raises(ValueError, match="unknown scopes: everything"):
        create_app(settings)
    production = Settings(mode="production", oidc_issuer="http://id.example", oidc_client_id=CLIENT)
    with pytest.raises(ValueError, match="ISSUER is not https; ESPALIER_OIDC_ISSUER takes ESPALIER_PUBLIC_URL"):
        refuse_unsafe_production(production)
