"""No cluster is at hand, so the manifests and the dashboard are held against the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.cli.main import app
from app.db.session import Database
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker/kubernetes.yaml").read_text()
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docker/grafana.json").read_text())


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from value.get("containers", [])
        for item in value.values():
            yield from _containers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _containers(item)


def test_every_variable_is_a_setting_and_every_command_a_verb() -> None:
    named = set(re.findall(r"ESPALIER_([A-Z0-9_]+)", TEXT))
    assert named <= {field.upper() for field in Settings.model_fields}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    containers = list(_containers(DOCUMENTS))
    assert len(containers) == 5
    for container in containers:
        verb, *options = container["args"]
        assert verb == "api" or verb in commands
        for option in options:
            assert any(option in parameter.opts for parameter in commands[verb].params)


def test_large_jobs_get_a_pod_each_by_a_query_that_the_schema_knows(sqlite_url: str) -> None:
    scaled = next(document for document in DOCUMENTS if document["kind"] == "ScaledJob")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"].replace("now()", "CURRENT_TIMESTAMP")
    database = Database(sqlite_url)
    with database.reading() as session:
        assert session.scalar(text(query)) == 0
    database.dispose()


def test_the_dashboard_asks_for_numbers_that_are_told(sqlite_url: str, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path, database_url=sqlite_url))) as client:
        client.get("/healthz")
        told = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    asked = {name for panel in DASHBOARD["panels"] for name in re.findall(r"espalier_\w+", panel["targets"][0]["expr"])}
    assert len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]}) == 8
    assert {re.sub(r"_(bucket|count)$", "", name) for name in asked} <= told
