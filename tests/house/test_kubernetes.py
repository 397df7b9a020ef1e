"""No cluster is at hand, so the manifests and the dashboard are held against the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer.main
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.cli.main import app
from app.main import create_app
from app.settings import Settings
from tests.fixtures.runs import Bench
from workers.main import DRAIN_SECONDS
from workers.runs.process import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker/kubernetes.yaml").read_text()
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
RULES: dict[str, Any] = yaml.safe_load((ROOT / "docker/prometheus-rules.yaml").read_text())
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
    assert len(containers) == 6
    for container in containers:
        verb, *options = container["args"]
        assert verb == "api" or verb in commands
        for option in (option for option in options if option.startswith("--")):
            assert any(option in parameter.opts for parameter in commands[verb].params)


def test_every_worker_class_gets_a_pod_per_job_that_may_be_claimed(postgres_url: str, tmp_path: Path) -> None:
    bench = Bench(postgres_url, tmp_path)
    config = next(document["data"] for document in DOCUMENTS if document["kind"] == "ConfigMap")
    classes = [name for name, _ in Settings(worker_classes=config["ESPALIER_WORKER_CLASSES"]).classes]
    for number, name in enumerate(classes, 1):
        for _ in range(number):
            bench.add(worker_class=name)
        bench.add(worker_class=name, wait_reason="dependency", waits_for="job_other")
        bench.add(worker_class=name, not_before=datetime(2999, 1, 1, tzinfo=UTC))
        bench.add(worker_class=name, state="paused", wait_reason=None)
    scaled = [document for document in DOCUMENTS if document["kind"] == "ScaledJob"]
    asked = {}
    for document in scaled:
        query = document["spec"]["triggers"][0]["metadata"]["query"]
        (container,) = _containers(document)
        serves = container["args"][container["args"].index("--worker-class") + 1]
        with bench.database.reading() as session:
            asked[serves] = session.scalar(text(query))
    assert asked == {name: number for number, name in enumerate(classes, 1)}
    bench.database.dispose()


def test_a_warm_worker_has_time_to_drain() -> None:
    warm = [document for document in DOCUMENTS if document["metadata"]["name"] == "espalier-worker-gpu"]
    assert {document["kind"] for document in warm} == {"Deployment", "ScaledJob"}
    pod = next(document["spec"]["template"]["spec"] for document in warm if document["kind"] == "Deployment")
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS + GRACE_SECONDS


def test_the_dashboard_and_the_alerts_ask_for_numbers_that_are_told(sqlite_url: str, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path, database_url=sqlite_url))) as client:
        client.get("/healthz")
        told = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    alerts = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 0
    assert all({"expr", "for", "labels", "annotations"} == rule.keys() - {"alert"} for rule in alerts)
    watched = {name for rule in alerts for name in re.findall(r"espalier_\w+", rule["expr"])}
    assert {re.sub(r"_(bucket|count)$", "", name) for name in watched} <= told
    asked = {name for panel in DASHBOARD["panels"] for name in re.findall(r"espalier_\w+", panel["targets"][0]["expr"])}
    assert len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]}) == 12
    assert {re.sub(r"_(bucket|count)$", "", name) for name in asked} <= told
