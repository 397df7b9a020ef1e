"""What a stranger is answered on every route that takes an id: about what another has, and about what nobody has."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient

from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project, one_of_each

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
WITHOUT_TENANTS = {
    "/v1/methods/{name}": "the catalogue is the same for everybody",
    "/v1/hooks/{source_id}": "deliveries bring credentials of their own, and belong to no caller",
    "/v1/levels/{levels_id}": "not built: nobody has any",
    "/v1/levels/{levels_id}/solve": "not built: nobody has any",
    "/v1/workers/{worker_id}/drain": "machines belong to the operator: no project has any",
}
"""Routes that take a name and hide nothing of a project; every other route is tried, those to come too."""
CREATING = {("PUT", "/v1/presets/{name}")}
"""What makes a thing of the caller's own under a name."""
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/jobs/{job_id}/publications"): {"kind": "huggingface", "repo": "a/b"},
    ("PATCH", "/v1/hook-sources/{source_id}"): {"name": "n"},
    ("POST", "/v1/rules/{rule_id}/test"): {"delivery_id": f"hkd_{UNKNOWN}"},
    ("POST", "/v1/uploads/{upload_id}/parts"): {"file": "a.txt", "number": 1, "sha256": "0" * 64},
}
"""Where an empty object is no valid body: validation must not answer in the place of the 404."""


def _routes() -> list[tuple[str, str]]:
    document = create_app(Settings()).openapi()
    return [
        (verb.upper(), path)
        for path, operations in document["paths"].items()
        if path.startswith("/v1/") and "{" in path and path not in WITHOUT_TENANTS
        for verb in operations
        if (verb.upper(), path) not in CREATING
    ]


def unknown(mine: str) -> str:
    """What nobody has, and looks like what is somebody's."""
    names = {"house": "shed", "huggingface": "s3"}
    return names.get(mine) or f"{mine.partition('_')[0]}_{UNKNOWN}"


Answers = dict[tuple[str, str], list[tuple[int, str, str | None]]]


def ask_of_both(client: TestClient, resources: Resources) -> tuple[dict[str, str], Answers]:
    """Ask every route, as a stranger, about what the default project has and about what nobody has."""
    own = one_of_each(client, resources)
    stranger = bearer(new_key(client, new_project(client))["key"]) | {"X-Request-ID": "same"}
    answers: Answers = {}
    for verb, path in _routes():
        kind = path.split("/")[2]
        assert kind in own, f"{path} is new: say in one_of_each what the default project has of it, or why it has none"
        for id_ in (own[kind], unknown(own[kind])):
            address = re.sub(r"\{\w+\}", id_, path, count=1)
            address = address.replace("{file}", "a.txt").replace("{number}", "1")
            address = re.sub(r"\{\w+\}", f"x_{UNKNOWN}", address)
            body = BODIES.get((verb, path), {}) if verb in {"POST", "PATCH", "PUT"} else None
            answer = client.request(verb, address, json=body, headers=stranger | {"X-Content-SHA256": "0" * 64})
            response = (answer.status_code, answer.text.replace(id_, "ID"), answer.headers.get("content-type"))
            answers.setdefault((verb, path), []).append(response)
    return own, answers
