"""Every pair of choices that does not go together is a 422 that points at one of them and says why."""

from __future__ import annotations

import copy

from fastapi.testclient import TestClient

from tests.contracts.cells import AXES, USUAL, Refused, prune_of, refused_pairs, step_of
from tests.fixtures.service.requests import REMOTE


def test_choices_that_do_not_go_together_are_refused_at_one_of_them(client: TestClient) -> None:
    pairs = refused_pairs()
    assert len(pairs) > 20
    for cell, refused in pairs:
        body = copy.deepcopy(REMOTE)
        body["spec"]["prune"] = prune_of(cell)
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == 422, cell
        (item,) = answer.json()["errors"]
        assert item["code"] == "does-not-combine"
        assert item["pointer"] == f"/spec/prune/{refused.at}"
        assert len(item["detail"]) > 20
    assert client.get("/v1/jobs").json()["items"] == []


def test_the_catalogue_shows_all_five_axes(client: TestClient) -> None:
    catalogue = client.get("/v1/methods").json()
    schema = client.get("/v1/spec-schema").text
    lists = {
        "method": "criteria",
        "pattern": "patterns",
        "budget": "budgets",
        "optimizer": "mask_optimizers",
        "update": "updates",
    }
    for axis, name in lists.items():
        for choice in AXES[axis]:
            if choice is None or choice == {"kind": "none"}:
                continue
            kind = choice["method" if axis == "method" else "kind"]
            (view,) = [view for view in catalogue[name] if view["name"] == kind]
            assert view["summary"]
            assert view["paper"]
            assert view["cost"] in {"free", "low", "medium", "high"}
            assert view["needs"] in {"none", "norms", "gram"}
            assert f'"{kind}"' in schema


def test_the_catalogue_lists_exactly_the_pairs_that_are_refused(client: TestClient) -> None:
    listed = client.get("/v1/methods").json()["conflicts"]
    assert {"pattern": "nm", "budget": "lamp"} in [item["choices"] for item in listed]
    assert {"pattern": "group", "optimizer": "sparseswaps"} in [item["choices"] for item in listed]
    for item in listed:
        cell = dict(USUAL)
        for axis, name in item["choices"].items():
            cell[axis] = next(c for c in AXES[axis] if c and name == c["method" if axis == "method" else "kind"])
        assert isinstance(step_of(cell), Refused), item
        assert item["reason"]
