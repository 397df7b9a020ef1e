"""No request holds the process up: every route, with the largest legal bodies, queries and headers of hostile kinds."""

from __future__ import annotations

import gc
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services.hooks.receivers import RECEIVERS
from app.settings import Settings
from tests.app.api import stalls
from tests.app.api.stalls import CPU_SECONDS, RUNS_AWAY, STALL_SECONDS, Headers, Watch
from tests.app.api.tenants import one_of_each
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service import rows
from tests.fixtures.service.hooks import Registry

ROUTES = stalls.served()
TAKING = [route for route in ROUTES if route[0] in {"POST", "PUT", "PATCH"}]
JSON: Headers = [(b"content-type", b"application/json")]


@dataclass
class Yard:
    """A running service with one thing of each kind, and who watches it."""

    watch: Watch
    known: dict[str, str]
    form: Headers
    client: TestClient
    model: Path
    registries: dict[str, Registry]

    def assert_it_goes_on(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: bytes = b"",
        headers: Headers | None = None,
        body: bytes = b"",
        cpu: float = CPU_SECONDS,
    ) -> int:
        """Make a request; it neither stalls nor burns, nor fails."""
        seen = stalls.worst(lambda: self.watch.call(method, path, query, headers or [], body), cpu=cpu)
        assert seen.status, what
        assert seen.status < 500, (what, seen)
        assert seen.stall <= STALL_SECONDS, (what, seen)
        assert seen.cpu <= cpu, (what, seen)
        return seen.status


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Yard]:
    home = tmp_path_factory.mktemp("yard")
    shutil.copy(_sqlite_template, home / "espalier.db")
    model = shutil.copytree(DEMO_MODEL, home / "roots/model")
    settings = Settings(
        home=home,
        database_url=f"sqlite:///{home / 'espalier.db'}",
        hf_endpoint="http://127.0.0.1:9",
        local_roots=str(home / "roots"),
    )
    app = create_app(settings)
    with TestClient(app, follow_redirects=False) as client:
        known = one_of_each(client, app.state.resources)
        page = client.get("/portal/jobs").text
        token = re.search(r'X-CSRF-Token": "([^"]+)"', page)
        assert token
        cookie = f"espalier_session={client.cookies['espalier_session']}".encode()
        form = [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"cookie", cookie),
            (b"x-csrf-token", token[1].encode()),
        ]
        gc.collect()
        gc.freeze()  # as a server does when it starts: tests have loaded more than it has
        rows.meet(app.state.resources.database, MET, _spec(), at=model)
        registries = {kind: Registry.new(client, kind) for kind in RECEIVERS}
        yield Yard(Watch(client), known, form, client, model, registries)
        gc.unfreeze()


@pytest.mark.deep
@pytest.mark.parametrize(("method", "path"), TAKING, ids=lambda part: part)
def test_no_body_holds_a_route_up(yard: Yard, method: str, path: str) -> None:
    portal = path.startswith("/portal")
    for name, body in (stalls.forms() if portal else stalls.bodies()).items():
        where = stalls.address(path, yard.known)
        status = yard.assert_it_goes_on(
            f"{method} {path}: {name}", method, where, body=body, headers=yard.form if portal else JSON
        )
        assert status < 300 or 400 <= status < 500 or portal, (name, status)


@pytest.mark.deep
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part)
def test_no_query_and_no_header_holds_a_route_up(yard: Yard, method: str, path: str) -> None:
    known = yard.known if method != "DELETE" else {}
    where = stalls.address(path, known)
    for name, query in stalls.queries().items():
        yard.assert_it_goes_on(f"{method} {path}: {name}", method, where, query=query)
    for name, headers in stalls.headers().items():
        yard.assert_it_goes_on(f"{method} {path}: {name}", method, where, headers=headers)


@pytest.mark.parametrize("path", ["/healthz", "/v1/hooks/src_1"])
@pytest.mark.parametrize("name", stalls.bodies())
def test_no_body_holds_up_what_takes_no_key(yard: Yard, path: str, name: str) -> None:
    body = stalls.bodies()[name]
    status = yard.assert_it_goes_on(name, "POST", path, headers=JSON, body=body)
    assert 400 <= status < 500


@pytest.mark.deep
@pytest.mark.parametrize("name", stalls.headers())
def test_no_header_holds_up_what_takes_no_key(yard: Yard, name: str) -> None:
    for path in ("/healthz", "/portal/sign-in", "/nowhere"):
        yard.assert_it_goes_on(name, "GET", path, headers=stalls.headers()[name])


def _push(**fields: Any) -> bytes:
    return json.dumps({**RECEIVERS["huggingface"].EXAMPLE, **fields}).encode()


REF = {"ref": "refs/heads/" + "a" * 20, "newSha": "575db8b7a51b6f85eb06eee540738584589f131c"}
DELIVERIES = stalls.bodies(2**20 - 64) | {
    "many references": _push(updatedRefs=[REF] * 9000),
    "bad references": _push(updatedRefs=[{}] * 20_000),
    "many files": _push(updatedFiles=[{"path": f"part-{number}", "size": number} for number in range(16_000)]),
    "many texts": _push(more=["a"] * 49_000),
    "many names": _push(more={f"m{number}": number for number in range(45_000)}),
    "many tags": json.dumps({"tags": {f"m{number}": number for number in range(45_000)}}).encode(),
}


@pytest.mark.parametrize("kind", ["huggingface", "mlflow", "generic"])
def test_no_delivery_of_a_registry_holds_the_service_up(yard: Yard, kind: str) -> None:
    registry = yard.registries[kind]
    for name, body in DELIVERIES.items():
        signed = RECEIVERS[kind].headers(registry.secret, body, now=time.time())
        headers = [(key.lower().encode(), value.encode()) for key, value in signed.items()]
        status = yard.assert_it_goes_on(name, "POST", f"/v1/hooks/{registry.id}", headers=headers, body=body)
        assert status in {200, 202, 400, 422}, name


def _spec(**fields: Any) -> dict[str, Any]:
    return {"prune": {"method": "wanda", "sparsity": 0.5, **fields}}


REMOTE = {"kind": "huggingface", "repo": "org/model"}
MET = {**REMOTE, "revision": "0" * 40}
GRID_SECONDS = 0.75
"""Of a plain grid of 256 points: two to three times what it takes on a machine of its own."""
SEEDS = {"/spec/calibration/seed": [0, 1, 2, 3]}
SHARES = {"kind": "per_layer", "values": {f"layers.{number}.q_proj": 0.5 for number in range(3900)}}
LEGAL: dict[str, tuple[str, dict[str, Any]]] = {
    "labels": ("/v1/jobs", {"spec": _spec(), "labels": {f"k{n:062d}": "v" * 255 for n in range(64)}}),
    "shares": ("/v1/jobs", {"spec": _spec(budget=SHARES)}),
    "patterns": ("/v1/jobs", {"spec": _spec(targets={"include": RUNS_AWAY, "exclude": RUNS_AWAY})}),
    "plan": ("/v1/plans", {"spec": _spec(targets={"include": RUNS_AWAY, "exclude": RUNS_AWAY})}),
    "grid": (
        "/v1/sweeps",
        {
            "base": {"spec": _spec()},
            "max_children": 256,
            "axes": {"/spec/prune/sparsity": [share / 100 for share in range(1, 65)], **SEEDS},
        },
    ),
    "grid of patterns": (
        "/v1/sweeps",
        {
            "base": {"spec": _spec()},
            "max_children": 256,
            "axes": {
                "/spec/prune/targets": [{"include": [f"{RUNS_AWAY[0]}.{{{number}}}"]} for number in range(64)],
                **SEEDS,
            },
        },
    ),
    "grid of shares": (
        "/v1/sweeps",
        {
            "base": {"spec": _spec(budget=SHARES)},
            "max_children": 256,
            "axes": {"/spec/calibration/samples": list(range(1, 65)), **SEEDS},
        },
    ),
    "grid of bad points": (
        "/v1/sweeps",
        {
            "base": {"spec": _spec()},
            "max_children": 256,
            "axes": {"/spec/prune": [{f"m{number}": number for number in range(60)}] * 64, **SEEDS},
        },
    ),
}


@pytest.mark.deep
@pytest.mark.parametrize("source", ["local", "remote", "met"])
@pytest.mark.parametrize("name", LEGAL)
def test_no_large_job_plan_or_sweep_holds_the_service_up(yard: Yard, name: str, source: str) -> None:
    path, body = LEGAL[name]
    model = {"source": {"local": {"kind": "local", "path": str(yard.model)}, "remote": REMOTE, "met": MET}[source]}
    whole = {**body, "base": {**model, **body["base"]}} if "base" in body else {**model, **body}
    cpu = GRID_SECONDS if name == "grid" else CPU_SECONDS
    yard.assert_it_goes_on(name, "POST", path, headers=JSON, body=json.dumps(whole).encode(), cpu=cpu)


def test_lists_of_large_rows_come_in_shorter_pages(yard: Yard) -> None:
    values = {f"{'x' * 190}{number}": 0.5 for number in range(300)}
    body = json.dumps({"source": REMOTE, "spec": _spec(budget={"kind": "per_layer", "values": values})}).encode()
    for _ in range(60):
        assert yard.watch.call("POST", "/v1/jobs", b"", JSON, body).status == 202
    yard.assert_it_goes_on("jobs", "GET", "/v1/jobs", query=b"limit=200")
    seen, pages = 0, 0
    params: dict[str, Any] = {"limit": 200}
    while params.get("cursor", "") is not None:
        answer = yard.client.get("/v1/jobs", params=params)
        assert len(answer.content) < 3 * 2**20
        seen, pages = seen + len(answer.json()["items"]), pages + 1
        params = {"limit": 200, "cursor": answer.json()["next_cursor"]}
    assert seen >= 60
    assert pages > 1
