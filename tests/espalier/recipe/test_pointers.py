"""Pointers lead into what was sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.bodies.schema import require_tags
from app.main import create_app
from app.settings import Settings
from espalier.messages import ErrorInfo
from espalier.recipe.refusals import pointers
from workers.lease.retries import as_sent


def test_a_pointer_drops_the_index_that_the_body_does_not_have() -> None:
    assert pointers.into({"spec": {"prune": {"pattern": {}}}}, "/spec/prune/0/pattern") == "/spec/prune/pattern"
    assert pointers.into({"spec": {"prune": [{"pattern": {}}]}}, "/spec/prune/0/pattern") == "/spec/prune/0/pattern"


def test_an_error_of_a_run_points_into_the_body_as_it_came() -> None:
    error = ErrorInfo(
        class_="invalid_spec",
        retryable=False,
        module="/spec/prune/0/pattern",
        message="m",
        hint="Change /spec/prune/0/pattern.",
    )
    shown = as_sent(error, {"spec": {"prune": {"pattern": {}}}})
    assert (shown.module, shown.hint) == ("/spec/prune/pattern", "Change /spec/prune/pattern.")
    assert as_sent(error.model_copy(update={"module": "layers.0"}), {}).module == "layers.0"


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/spec-schema"])
def test_the_tag_of_a_union_is_required_in_every_schema(path: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path}/x.db")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        document = client.get(path).json()
    schemas = document["components"]["schemas"] if "components" in document else document["$defs"]
    assert "kind" in schemas["LocalSource"]["required"]
    assert "method" in schemas["WandaPrune"]["required"]
    assert document == require_tags(json.loads(json.dumps(document)))
