"""Every entry point that queues a job or publishes a result, and the scopes that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi.testclient import TestClient
from httpx2 import Response

from app.services.resources import Resources
from tests.app.api.tenants import bearer
from tests.fixtures.service import rows
from tests.fixtures.service.hooks import Registry, evaluate
from tests.fixtures.service.requests import REMOTE

TARGET: Final = {"kind": "s3", "uri": "s3://models/out/"}
PUBLISHING: Final[dict[str, Any]] = {**REMOTE["spec"], "output": {"publish": [TARGET]}}
WRITES, PUBLISHES = frozenset({"jobs:write"}), frozenset({"jobs:write", "models:write"})


@dataclass
class Caller:
    """A project with a resource behind each entry point, and the key of a caller."""

    client: TestClient
    resources: Resources
    key: str = ""

    def call(self, verb: str, path: str, body: Any = None) -> Response:
        """Call as the holder of the key."""
        return self.client.request(verb, path, json=body, headers=bearer(self.key))

    def own(self, verb: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call as the project's own admin."""
        answer = self.client.request(verb, path, json=body)
        assert answer.is_success, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def job(self, spec: dict[str, Any]) -> str:
        """Queue a job."""
        return str(self.own("POST", "/v1/jobs", {**REMOTE, "spec": spec})["id"])

    def failed(self, spec: dict[str, Any]) -> str:
        """A job that may be tried again."""
        job = self.job(spec)
        self.own("POST", f"/v1/jobs/{job}/cancel")
        return job

    def done(self) -> str:
        """A job with a result."""
        job = self.job(REMOTE["spec"])
        rows.start(self.resources.database, job)
        rows.publish(self.resources.database, self.resources.store, job, {"config.json": b"{}"})
        return job

    def rule(self, mode: str, template: dict[str, Any], **fields: Any) -> tuple[Registry, str]:
        """A rule over a source of its own."""
        registry = Registry.new(self.client)
        return registry, registry.rule(mode, template=template, **fields)

    def proposal(self, spec: dict[str, Any]) -> str:
        """A job that waits for a person."""
        registry, _ = self.rule("propose", {"spec": spec})
        delivery = registry.deliver()
        evaluate(self.resources)
        return str(registry.verdicts(delivery)[0]["proposal_id"])

    def preset(self, spec: dict[str, Any]) -> str:
        """A preset of the project."""
        self.own("PUT", "/v1/presets/house", {"description": "ours", "spec": spec})
        return "house"


@dataclass(frozen=True)
class EntryPoint:
    """An entry point: the scopes that it takes together, and a call of it."""

    what: str
    takes: frozenset[str]
    attempt: Callable[[Caller], Response]


def _rule(caller: Caller, mode: str, template: dict[str, Any], **fields: Any) -> Response:
    source = Registry.new(caller.client).id
    return caller.call(
        "POST", "/v1/rules", {"name": "r", "source_id": source, "mode": mode, "template": template, **fields}
    )


def _sweep(caller: Caller, base: dict[str, Any], axes: dict[str, Any]) -> Response:
    return caller.call("POST", "/v1/sweeps", {"base": {**REMOTE, "spec": base}, "axes": axes})


PLAIN: Final = REMOTE["spec"]
PLACES: Final = {"/spec/output/publish/0/uri": ["s3://models/a/", "s3://models/b/"]}
AXIS: Final = {"/spec/prune/sparsity": [0.3, 0.5]}
RUN, READ = frozenset({"hooks:manage"}), frozenset({"jobs:read"})
ENTRY_POINTS: Final = (
    EntryPoint("`POST /v1/jobs`", WRITES, lambda h: h.call("POST", "/v1/jobs", REMOTE)),
    EntryPoint(
        "`POST /v1/jobs` that publishes",
        PUBLISHES,
        lambda h: h.call("POST", "/v1/jobs", {**REMOTE, "spec": PUBLISHING}),
    ),
    EntryPoint(
        "`POST /v1/jobs` by a preset that publishes",
        PUBLISHES,
        lambda h: h.call("POST", "/v1/jobs", {**REMOTE, "spec": {"preset": h.preset(PUBLISHING)}}),
    ),
    EntryPoint("`POST /v1/sweeps` whose base publishes", PUBLISHES, lambda h: _sweep(h, PUBLISHING, PLACES)),
    EntryPoint(
        "`POST /v1/sweeps` with an axis that publishes",
        PUBLISHES,
        lambda h: _sweep(h, {**PLAIN, "output": {"publish": []}}, {"/spec/output/publish": [[], [TARGET]]}),
    ),
    EntryPoint("`POST /v1/jobs/{id}/clone`", WRITES | READ, lambda h: h.call("POST", f"/v1/jobs/{h.job(PLAIN)}/clone")),
    EntryPoint(
        "`POST /v1/jobs/{id}/clone` of one that publishes",
        PUBLISHES | READ,
        lambda h: h.call("POST", f"/v1/jobs/{h.job(PUBLISHING)}/clone"),
    ),
    EntryPoint(
        "`POST /v1/jobs/{id}/clone` with a change that publishes",
        PUBLISHES | READ,
        lambda h: h.call("POST", f"/v1/jobs/{h.job(PLAIN)}/clone", {"spec": {"output": {"publish": [TARGET]}}}),
    ),
    EntryPoint(
        "`POST /v1/jobs/{id}/retry` of one that publishes",
        PUBLISHES,
        lambda h: h.call("POST", f"/v1/jobs/{h.failed(PUBLISHING)}/retry"),
    ),
    EntryPoint(
        "`POST /v1/jobs/{id}/publications`",
        frozenset({"models:write"}),
        lambda h: h.call("POST", f"/v1/jobs/{h.done()}/publications", TARGET),
    ),
    EntryPoint(
        "`PUT /v1/presets/{name}` that publishes",
        PUBLISHES,
        lambda h: h.call("PUT", "/v1/presets/mine", {"description": "", "spec": PUBLISHING}),
    ),
    EntryPoint(
        "`POST /v1/rules` in mode `propose` that publishes",
        RUN,
        lambda h: _rule(h, "propose", {"spec": PLAIN, "publish": TARGET}),
    ),
    EntryPoint("`POST /v1/rules` in mode `run`", RUN | WRITES, lambda h: _rule(h, "run", {"spec": PLAIN})),
    EntryPoint(
        "`POST /v1/rules` in mode `run` that publishes",
        RUN | PUBLISHES,
        lambda h: _rule(h, "run", {"spec": PLAIN, "publish": TARGET}),
    ),
    EntryPoint(
        "`POST /v1/rules` in mode `run` whose spec publishes",
        RUN | PUBLISHES,
        lambda h: _rule(h, "run", {"spec": PUBLISHING}),
    ),
    EntryPoint(
        "`POST /v1/rules` in mode `run` by a preset that publishes",
        RUN | PUBLISHES,
        lambda h: _rule(h, "run", {"preset": h.preset(PUBLISHING)}),
    ),
    EntryPoint(
        "`PATCH /v1/rules/{id}` to mode `run`",
        RUN | WRITES,
        lambda h: h.call("PATCH", f"/v1/rules/{h.rule('propose', {'spec': PLAIN})[1]}", {"mode": "run"}),
    ),
    EntryPoint(
        "`PATCH /v1/rules/{id}` of what a rule in mode `run` is about",
        RUN | WRITES,
        lambda h: h.call("PATCH", f"/v1/rules/{h.rule('run', {'spec': PLAIN})[1]}", {"match": {"repo_glob": "a/*"}}),
    ),
    EntryPoint(
        "`PATCH /v1/rules/{id}` that lets one in mode `run` publish",
        RUN | PUBLISHES,
        lambda h: h.call(
            "PATCH", f"/v1/rules/{h.rule('run', {'spec': PLAIN})[1]}", {"template": {"spec": PLAIN, "publish": TARGET}}
        ),
    ),
    EntryPoint(
        "`PATCH /v1/rules/{id}` that switches one in mode `run` on again",
        RUN | PUBLISHES,
        lambda h: h.call(
            "PATCH", f"/v1/rules/{h.rule('run', {'spec': PUBLISHING}, enabled=False)[1]}", {"enabled": True}
        ),
    ),
    EntryPoint(
        "`PATCH /v1/rules/{id}` that switches one in mode `run` off",
        RUN,
        lambda h: h.call("PATCH", f"/v1/rules/{h.rule('run', {'spec': PUBLISHING})[1]}", {"enabled": False}),
    ),
    EntryPoint(
        "`POST /v1/hook-proposals/{id}/approve`",
        RUN | WRITES,
        lambda h: h.call("POST", f"/v1/hook-proposals/{h.proposal(PLAIN)}/approve"),
    ),
    EntryPoint(
        "`POST /v1/hook-proposals/{id}/approve` of one that publishes",
        RUN | PUBLISHES,
        lambda h: h.call("POST", f"/v1/hook-proposals/{h.proposal(PUBLISHING)}/approve"),
    ),
    EntryPoint(
        "`POST /v1/hook-proposals/{id}/reject`",
        RUN,
        lambda h: h.call("POST", f"/v1/hook-proposals/{h.proposal(PUBLISHING)}/reject"),
    ),
)
