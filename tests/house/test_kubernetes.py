"""No cluster is at hand, so the manifests and the dashboard are held against the code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.cli.main import app
from app.db.queries.tenancy import quotas
from app.db.session import clock
from app.db.tenancy import Project
from app.main import create_app
from app.production import refuse_unsafe_production
from app.settings import Settings
from app.worker_classes import parse_classes
from espalier.version import VERSION
from tests.fixtures.workers.runs import Bench
from workers.main import DRAIN_SECONDS
from workers.processes.process import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker/kubernetes.yaml").read_text()
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
RULES: dict[str, Any] = yaml.safe_load((ROOT / "docker/prometheus-rules.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docker/grafana.json").read_text())


def _pods(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for item in value.values():
            yield from _pods(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pods(item)


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    for pod in _pods(value):
        yield from pod["containers"]


def _of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


def _option(container: dict[str, Any], name: str) -> str:
    return str(container["args"][container["args"].index(name) + 1])


CONFIG: dict[str, str] = _of_kind("ConfigMap")[0]["data"]
SCALED = {
    _option(container, "--worker-class"): document
    for document in _of_kind("ScaledJob")
    for container in _containers(document)
}


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


def _pods_to_make(spec: dict[str, Any], *, queued: int, running: int, pending: int = 0) -> int:
    """What KEDA makes of a ScaledJob at a look: `queued` is the trigger's number, `running` all its unfinished jobs."""
    max_pods, target = int(spec["maxReplicaCount"]), int(spec["triggers"][0]["metadata"]["targetQueryValue"])
    wanted = min(max_pods, -(-queued // target))
    strategy = spec.get("scalingStrategy", {}).get("strategy", "default")
    if strategy == "accurate":
        made = max_pods - running if wanted + running > max_pods else wanted - pending
    else:
        assert strategy == "default"
        made = wanted - running
    return max(made, 0)


@pytest.mark.parametrize("worker_class", sorted(SCALED))
def test_each_claimable_job_gets_a_pod_however_many_run(worker_class: str) -> None:
    spec = SCALED[worker_class]["spec"]
    max_pods = spec["maxReplicaCount"]
    assert max_pods >= 8
    for running in range(max_pods + 1):
        for queued in range(max_pods + 5):
            made = _pods_to_make(spec, queued=queued, running=running)
            assert made == min(queued, max_pods - running)
        if running + 4 <= max_pods:  # two of them wait for a node, are counted by the trigger still, and not made again
            assert _pods_to_make(spec, queued=2, running=running + 2, pending=2) == 0


def test_a_pod_is_made_for_what_may_be_claimed_and_for_nothing_else(postgres_url: str, tmp_path: Path) -> None:
    bench = Bench(postgres_url, tmp_path)
    classes = [each.name for each in Settings(worker_classes=CONFIG["ESPALIER_WORKER_CLASSES"]).classes]
    assert set(classes) == set(SCALED)
    with bench.database.unit_of_work() as session:
        session.add_all(
            [
                Project(id="prj_full", name="full", created_at=clock(session), max_running_jobs=1),
                Project(id="prj_none", name="none", created_at=clock(session), max_running_jobs=0),
                Project(id="prj_spent", name="spent", created_at=clock(session), max_gpu_seconds=60),
                Project(id="prj_room", name="room", created_at=clock(session), max_running_jobs=2),
            ]
        )
        quotas.charge(session, "prj_spent", seconds=61, gpu=True, now=clock(session))
    bench.add(worker_class=classes[0], project_id="prj_full", state="running", wait_reason=None)
    for number, name in enumerate(classes, 1):
        for _ in range(number):
            bench.add(worker_class=name)
        bench.add(worker_class=name, wait_reason="dependency", waits_for="job_other")
        bench.add(worker_class=name, not_before=datetime(2999, 1, 1, tzinfo=UTC))
        bench.add(worker_class=name, state="paused", wait_reason=None)
        for project in ("prj_full", "prj_none", "prj_spent"):
            for _ in range(3):  # marked as waiting for their quota, or not looked at yet
                bench.add(worker_class=name, project_id=project)
    for _ in range(5):
        bench.add(worker_class=classes[0], project_id="prj_room")
    asked = {}
    for name, document in SCALED.items():
        with bench.database.reading() as session:
            asked[name] = session.scalar(text(document["spec"]["triggers"][0]["metadata"]["query"]))
    bench.database.dispose()
    assert asked == {classes[0]: 1 + 2, classes[1]: 2}


def test_what_runs_goes_on_when_the_manifest_is_applied_again() -> None:
    for document in SCALED.values():
        assert document["spec"]["rollout"]["strategy"] == "gradual"
        assert document["spec"]["jobTargetRef"]["ttlSecondsAfterFinished"] > 0
    (migrate,) = _of_kind("Job")
    assert migrate["metadata"]["name"].endswith(VERSION.replace(".", "-"))  # a Job cannot be changed: a new one
    assert migrate["spec"]["ttlSecondsAfterFinished"] > 0
    assert {container["image"].partition(":")[2] for container in _containers(DOCUMENTS)} == {VERSION}


def test_every_pod_is_bounded_and_no_root() -> None:
    pods = list(_pods(DOCUMENTS))
    assert len(pods) == 6
    for pod in pods:
        assert pod["enableServiceLinks"] is False  # ESPALIER_PORT=tcp://... would be read as a setting
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys()
        assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        assert all(volume["emptyDir"].get("sizeLimit") for volume in volumes.values() if "emptyDir" in volume)
        if container["args"][0] == "worker":
            claim = volumes["home"]["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
            caps = int(CONFIG["ESPALIER_CACHE_MAX_BYTES"]) + int(CONFIG["ESPALIER_SCRATCH_MAX_BYTES"])
            assert caps < int(claim.removesuffix("Gi")) * 2**30
    warm = [next(_containers(document)) for document in _of_kind("Deployment")]
    assert all("livenessProbe" in container for container in warm)
    policies = [document["spec"]["podSelector"] for document in _of_kind("NetworkPolicy")]
    named = {value for policy in policies for item in policy.get("matchExpressions", []) for value in item["values"]}
    named |= {policy["matchLabels"]["app"] for policy in policies if "matchLabels" in policy}
    assert named == {document["metadata"]["labels"]["app"] for document in _templates(DOCUMENTS)}


def _templates(value: Any) -> Iterator[dict[str, Any]]:
    for document in value:
        spec = document.get("spec", {})
        template = spec.get("jobTargetRef", spec).get("template")
        if template:
            yield template


def test_the_probe_of_each_role_is_for_that_role() -> None:
    for container in _containers(_of_kind("Deployment")):
        if "exec" in container["livenessProbe"]:
            command = container["livenessProbe"]["exec"]["command"]
            gpu = ["--gpu"] if "nvidia.com/gpu" in container["resources"]["limits"] else []
            assert command[3:] == ["app.services.liveness", container["args"][0], *gpu]


def test_pods_with_a_gpu_have_its_runtime_and_shared_memory() -> None:
    pods = [pod for pod in _pods(DOCUMENTS) if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["containers"]
        assert pod["runtimeClassName"] == "nvidia"
        assert container["args"][container["args"].index("--gpus") + 1] in {"auto", "1"}
        shm = next(volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
        assert shm == {"medium": "Memory", "sizeLimit": "8Gi"}
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def _secret() -> dict[str, str]:
    document = yaml.safe_load((ROOT / "docker/secret.example.yaml").read_text())
    assert (document["kind"], document["metadata"]["name"]) == ("Secret", "espalier")
    return {name: str(value) for name, value in document["stringData"].items()}


def _settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name in [name for name in os.environ if name.startswith("ESPALIER_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_config_and_example_secret_start_production(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, needed = _secret(), {"API_KEY_PEPPER", "CREDENTIALS_KEY", "DATABASE_URL", "BROKER_URL"}
    filled = {name: value or "f" * 64 for name, value in secret.items() if name != "ESPALIER_S3_ENDPOINT_URL"}
    refuse_unsafe_production(_settings(monkeypatch, **CONFIG, **filled))
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"} <= secret.keys()
    for name in needed:
        less = {key: value for key, value in filled.items() if key != f"ESPALIER_{name}"}
        with pytest.raises(ValueError, match=f"ESPALIER_{name} is"):
            refuse_unsafe_production(_settings(monkeypatch, **CONFIG, **less))
    with pytest.raises(ValueError, match="PEPPER is the default; ESPALIER_CREDENTIALS_KEY is the default"):
        refuse_unsafe_production(_settings(monkeypatch, **CONFIG, **secret))  # as it is, unfilled
    unknown = {name for name in (*CONFIG, *secret) if name.startswith("ESPALIER_")}
    assert {name.removeprefix("ESPALIER_").lower() for name in unknown} <= set(Settings.model_fields)


def test_the_example_secret_has_every_key_that_the_manifest_reads() -> None:
    secret = _secret()
    for document in _of_kind("TriggerAuthentication"):
        for item in document["spec"]["secretTargetRef"]:
            assert item["name"] == "espalier"
            assert secret[item["key"]].startswith("postgresql://")
    names = {item["secretRef"]["name"] for c in _containers(DOCUMENTS) for item in c["envFrom"] if "secretRef" in item}
    assert names == {"espalier"}
    secrets = {
        f"ESPALIER_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    assert secrets - secret.keys() == {"ESPALIER_API_KEY", "ESPALIER_MLFLOW_PASSWORD"}  # the client's; or a token


def test_a_warm_worker_has_time_to_drain() -> None:
    warm = [document for document in DOCUMENTS if document["metadata"]["name"] == "espalier-worker-gpu"]
    assert {document["kind"] for document in warm} == {"Deployment", "ScaledJob"}
    pod = next(document["spec"]["template"]["spec"] for document in warm if document["kind"] == "Deployment")
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS + GRACE_SECONDS


def test_the_dashboard_and_the_alerts_ask_for_numbers_that_are_told(sqlite_url: str, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path, database_url=sqlite_url))) as client:
        client.get("/healthz")
        exposed = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    alerts = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 0
    assert all({"expr", "for", "labels", "annotations"} == rule.keys() - {"alert"} for rule in alerts)
    watched = {name for rule in alerts for name in re.findall(r"espalier_\w+", rule["expr"])}
    assert {re.sub(r"_(bucket|count)$", "", name) for name in watched} <= exposed
    asked = {name for panel in DASHBOARD["panels"] for name in re.findall(r"espalier_\w+", panel["targets"][0]["expr"])}
    assert len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]}) == 12
    assert {re.sub(r"_(bucket|count)$", "", name) for name in asked} <= exposed


def test_a_job_of_eight_cards_has_a_pod_with_eight() -> None:
    text = (ROOT / "docker/kubernetes-gpu8.yaml").read_text()
    (job,) = yaml.safe_load_all(text)
    pod = job["spec"]["jobTargetRef"]["template"]["spec"]
    (container,) = pod["containers"]
    named = dict(pairwise(container["args"]))
    assert named["--gpus"] == str(container["resources"]["limits"]["nvidia.com/gpu"]) == "8"
    assert f"= '{named['--worker-class']}'" in job["spec"]["triggers"][0]["metadata"]["query"]
    (described,) = re.findall(r"names the class: (\S+)", text)
    assert {each.name: each.cards for each in parse_classes(described)}[named["--worker-class"]] == 8
    assert any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod["volumes"])
