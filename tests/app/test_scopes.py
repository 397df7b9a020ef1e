"""Each scope at each route: what it opens is what docs/scopes.md says, and a new route says what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.bodies.access import SCOPES, KeyRequest
from app.db.session import Database
from app.main import create_app
from app.platform.actor import DEFAULT_PROJECT, Actor
from app.portal.guard import COOKIE
from app.services.tenancy import keys
from app.services.tenancy.sessions import Sessions
from app.settings import Settings
from tests.app import scopes
from tests.app.api.entry_points import ENTRY_POINTS
from tests.app.api.tenants import bearer
from tests.app.scopes import NOBODY, Opening
from tests.fixtures.suite.figures import record

ROUTES = [*scopes.api(create_app(Settings())), *scopes.portal(create_app(Settings()))]
UNKNOWN = "x_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_the_page_says_what_the_routes_take() -> None:
    assert scopes.PAGE.read_text(encoding="utf-8") == scopes.page(create_app(Settings())), (
        "run `python -m tests.app.scopes`, and read what changed"
    )


def test_a_route_that_nobody_has_said_a_word_about_is_found_out() -> None:
    app = create_app(Settings())

    @app.get("/v1/novelties")
    def novelties() -> None:
        """Nothing yet."""

    with pytest.raises(KeyError, match="/v1/novelties is new"):
        scopes.page(app)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> FastAPI:
    home = tmp_path_factory.mktemp("scopes")
    (home / "espalier.db").write_bytes(_sqlite_template.read_bytes())
    return create_app(Settings(home=home, host="0.0.0.0", hf_endpoint="http://127.0.0.1:9"))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def holders(app: FastAPI, client: TestClient) -> Holders:
    """Scope -> the headers of one who has it, and of one who has all others."""
    database: Database = app.state.resources.database
    settings, headers_of = Settings(), {}
    for scope in SCOPES:
        others = [other for other in SCOPES if other not in {scope, "admin"}]
        for name, held in ((scope, [scope]), (f"not {scope}", others)):
            row, token = keys.create(database, settings, KeyRequest(name="k", scopes=held), DEFAULT_PROJECT)  # type: ignore[arg-type]
            sessions = Sessions(database, settings)
            cookie = sessions.open(Actor("api_key", row.id, DEFAULT_PROJECT, frozenset(held)))
            headers = {**bearer(token), "Cookie": f"{COOKIE}={cookie}", "X-CSRF-Token": sessions.csrf(cookie)}
            headers_of[name] = headers
    return headers_of


Holders = dict[str, dict[str, str]]


@pytest.mark.deep
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.verb} {route.path}".replace("/", " "))
def test_a_route_opens_to_its_scopes_and_to_no_other(client: TestClient, holders: Holders, route: Opening) -> None:
    _hold(client, holders, route)


@pytest.mark.load
def test_every_route_opens_to_its_scopes_and_to_no_other(client: TestClient, holders: Holders) -> None:
    calls = sum(_hold(client, holders, route) for route in ROUTES)
    record(
        "tenants",
        "a key, and a sign-in, of each scope at every route of the API and the portal",
        "opens what [scopes.md](../docs/scopes.md) says and nothing else",
        f"{len(ROUTES)} routes, {len(ENTRY_POINTS)} side entry points, {calls:,} calls: as it says",
    )


def _hold(client: TestClient, holders: Holders, route: Opening) -> int:
    """Hold a route against what it should take; return in how many calls."""
    path, calls = re.sub(r"\{[\w:]+\}", UNKNOWN, route.path), 0
    if "stream" in path and UNKNOWN not in path:
        path += "?after=nonsense"  # a stream that opens has no end

    def refused(headers: dict[str, str]) -> bool:
        nonlocal calls
        calls += 1
        body: dict[str, str] | None = None if route.path.startswith("/portal") or route.verb in {"GET", "HEAD"} else {}
        answer = client.request(route.verb, path, json=body, headers=headers)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        return answer.status_code in {401, 403} and "scope" in answer.text + str(answer.headers)

    nobody = client.request(route.verb, path, headers={})
    if NOBODY in route.scopes:
        asks_for_more = route.verb == "POST"  # the secret of a hook, the token of a form
        assert nobody.status_code not in {401, 403} or asks_for_more, nobody.text
        return 1
    led_away = nobody.headers.get("location", "").startswith("/portal/sign-in")
    assert nobody.status_code == 401 or led_away or (route.path.startswith("/portal") and nobody.status_code == 403)
    if route.verb == "HEAD":  # has no body that says why
        return 1
    if route.scopes != ("admin",):
        assert not refused(holders["admin"])
    for scope in route.scopes:
        assert refused(holders[f"not {scope}"]), scope
    for scope in SCOPES if len(route.scopes) == 1 else ():
        assert refused(holders[scope]) == (scope not in {*route.scopes, "admin"}), scope
    return calls + 1
