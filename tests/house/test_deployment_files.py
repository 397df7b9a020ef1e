"""No Docker daemon is at hand, so the deployment files are held against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli.main import app
from app.production import refuse_unsafe_production
from app.server import serve
from app.settings import Settings
from app.worker_classes import parse_classes
from espalier.version import VERSION
from tests.fixtures.suite.distributions import SERVICE, declared

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FILES = [
    "docker-compose.yml",
    ".env.example",
    "docker/secret.example.yaml",
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
    assert "'.[worker,otel,tasks]'" in (ROOT / "docker/worker.Dockerfile").read_text()


def test_no_secret_has_a_default() -> None:
    environment = COMPOSE["x-environment"]
    secrets = ["ESPALIER_API_KEY_PEPPER", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert all(environment[name].startswith("${" + name + ":?") for name in secrets)


def _filled(value: str, variables: dict[str, str]) -> str:
    """Replace ${NAME}, ${NAME:-other}, ${NAME-other} and ${NAME:?why}, innermost first, as compose does."""
    pattern = re.compile(r"\$\{(\w+)(?:(:?[-?])([^${}]*))?\}")

    def one(match: re.Match[str]) -> str:
        name, operator, other = match[1], match[2] or "", match[3] or ""
        there = variables.get(name) is not None if operator in {"-", "?"} else bool(variables.get(name))
        assert there or "?" not in operator, f"{name}: {other}"
        return variables.get(name, "") if there or not operator else other

    while pattern.search(value):
        value = pattern.sub(one, value)
    return value


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name: value or "f" * 64 for name, _, value in pairs}


def _environment(service: str, variables: dict[str, str]) -> dict[str, str]:
    """What a container sees: the file, then what compose says itself."""
    environment = {
        name: _filled(str(value), variables) for name, value in COMPOSE["services"][service]["environment"].items()
    }
    return variables | environment


@pytest.mark.parametrize("service", OURS)
def test_the_example_filled_in_starts_production_everywhere(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _environment(service, _example()).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    refuse_unsafe_production(settings)
    assert settings.s3_endpoint_url == "http://s3:9000"
    command = COMPOSE["services"][service]["command"]
    if command[0] == "worker" and "gpu" not in COMPOSE["services"][service].get("profiles", []):
        assert _class_of(service) in {each.name for each in settings.classes}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_of_the_file_reaches_every_container(service: str) -> None:
    assert COMPOSE["services"][service]["env_file"] == ".env"
    own = {"ESPALIER_MODE", "ESPALIER_HOST", "ESPALIER_PORT", "ESPALIER_HOME", "ESPALIER_DEVICE"}
    secret_of_workers = set() if service.startswith("worker") else {"ESPALIER_HF_TOKEN"}
    for field in Settings.model_fields:
        name = f"ESPALIER_{field.upper()}"
        seen = _environment(service, _example() | {name: "chosen"})[name]
        assert (seen == "chosen") == (name not in own | secret_of_workers) or name == "ESPALIER_DEVICE", name


def test_the_example_has_every_variable_that_compose_reads() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    variables = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", text)) <= variables
    gpu = re.search(r"^#ESPALIER_WORKER_CLASSES=(.+)$", example, re.MULTILINE)
    assert gpu
    workers = {_class_of(name) for name in OURS if name.startswith("worker")}
    assert workers == {each.name for each in parse_classes(gpu[1])}


def _class_of(service: str) -> str:
    command = COMPOSE["services"][service]["command"]
    return str(command[command.index("--worker-class") + 1])


def test_a_container_with_gpus_has_a_worker_for_each_and_what_they_take() -> None:
    service = COMPOSE["services"]["worker-gpu"]
    assert service["command"][1:3] == ["--gpus", "auto"]
    assert (service["shm_size"], service["ulimits"]["memlock"]) == ("8g", {"soft": -1, "hard": -1})
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], _filled(device["count"], {})) == ("nvidia", "all")
    assert service["healthcheck"]["test"][-2:] == ["worker", "--gpu"]
    verb = typer.main.get_command(app).commands["worker"]  # type: ignore[attr-defined]
    options = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in service["command"] if word.startswith("--")} <= options


def test_the_worker_image_names_its_cuda_and_takes_no_gpu_that_it_is_not_given() -> None:
    lines = (ROOT / "docker/worker.Dockerfile").read_text()
    assert 'ARG CUDA="13"' in lines
    assert "LABEL espalier.cuda=$CUDA" in lines
    assert "NVIDIA_VISIBLE_DEVICES=void NVIDIA_DRIVER_CAPABILITIES=compute,utility" in lines
    arguments = COMPOSE["services"]["worker-gpu"]["build"]["args"]
    assert {name: _filled(value, {}) for name, value in arguments.items()} == {"TORCH_INDEX_URL": "", "CUDA": "13"}
    assert "580" in lines
    assert "580" in (ROOT / "docs/operations.md").read_text(), "the driver that CUDA 13 takes"


def test_images_are_pinned_and_ours_have_the_version() -> None:
    images = {name: service["image"].partition(":")[2] for name, service in COMPOSE["services"].items()}
    assert all(tag and tag != "latest" for tag in images.values())
    assert {images[name] for name in OURS} == {VERSION}


def test_every_service_is_watched_and_what_ends_is_waited_for() -> None:
    services = COMPOSE["services"]
    ending = {name for name, service in services.items() if service.get("restart") in {"no", "on-failure"}}
    assert ending == {"migrate", "s3-bucket"}
    waited = {
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert waited == ending  # `up --wait` takes an end that nobody waits for as a failure
    assert services["migrate"]["depends_on"]["s3-bucket"]["required"] is False
    for name in OURS:
        assert "healthcheck" in services[name] or name in ending
    assert services["reconciler"]["healthcheck"]["test"][-1] == "reconciler"
    assert services["worker-cpu"]["healthcheck"]["test"][-1] == "worker"


def test_constraints_pin_every_dependency_and_torch_without_a_local_suffix() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    lines = declared(f"{SERVICE}[worker,test,tasks]")
    wanted = {re.split(r"[\[<>=]", line)[0] for line in lines}
    assert {_normal(name) for name in wanted} <= {_normal(name) for name in pins}
    assert "+" not in pins["torch"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
