"""No Docker daemon is at hand, so the deployment files are held against the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli.main import app
from app.server import serve
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FILES = [
    "docker-compose.yml",
    ".env.example",
    "docker/api.Dockerfile",
    "docker/worker.Dockerfile",
    "docker/entrypoint.sh",
]
OURS = [name for name, service in COMPOSE["services"].items() if "build" in service and "entrypoint" not in service]


@pytest.mark.parametrize("file", FILES)
def test_every_variable_named_is_a_setting(file: str) -> None:
    named = set(re.findall(r"ESPALIER_([A-Z0-9_]+)", (ROOT / file).read_text()))
    assert named <= {field.upper() for field in Settings.model_fields}


def test_the_set_of_services_is_the_one_of_the_design() -> None:
    assert {"migrate", "api", "worker-cpu", "worker-gpu", "reconciler", "postgres", "redis", "s3"} <= set(
        COMPOSE["services"]
    )
    assert COMPOSE["services"]["worker-gpu"]["profiles"] == ["gpu"]


@pytest.mark.parametrize("service", OURS)
def test_every_command_is_a_verb(service: str) -> None:
    verbs = set(typer.main.get_command(app).commands) | {"api"}  # type: ignore[attr-defined]
    assert COMPOSE["services"][service]["command"][0] in verbs


def test_the_api_role_of_the_entrypoint_serves_as_the_command_line_does() -> None:
    assert "exec python -P -m app.server" in (ROOT / "docker/entrypoint.sh").read_text()
    assert callable(serve)


@pytest.mark.parametrize("file", ["docker/api.Dockerfile", "docker/worker.Dockerfile"])
def test_images_copy_only_what_exists(file: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / file).read_text(), re.MULTILINE)
    assert copied
    for line in copied:
        assert all((ROOT / source).exists() for source in line.split())


def test_the_api_image_is_without_torch() -> None:
    assert "worker]" not in (ROOT / "docker/api.Dockerfile").read_text()
    assert "'.[worker,otel]'" in (ROOT / "docker/worker.Dockerfile").read_text()


def test_no_secret_has_a_default() -> None:
    environment = COMPOSE["x-environment"]
    secrets = ["ESPALIER_API_KEY_PEPPER", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert all(environment[name].startswith("${" + name + ":?") for name in secrets)


def test_constraints_pin_every_dependency_and_torch_without_a_local_suffix() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[\[<>=]", line)[0] for line in project["dependencies"] + extras["worker"] + extras["test"]}
    assert {_normal(name) for name in wanted} <= {_normal(name) for name in pins}
    assert "+" not in pins["torch"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
