"""Every verb against a running API: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.app.cli.command import Espalier


@pytest.fixture
def spec(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"name: mine\nsource: {{kind: local, path: {model}}}\n"
        "spec:\n  prune: {method: magnitude, sparsity: 0.5}\n  reconstruct: {learning_rate: 1e-3}\n"
    )
    return path


@pytest.mark.usefixtures("service")
def test_a_job_is_submitted_listed_and_cancelled(espalier: Espalier, spec: Path) -> None:
    submitted = espalier("submit", str(spec), "--name", "renamed")
    job = submitted.out.strip()
    assert (submitted.status, job[:4]) == (0, "job_")

    listed = espalier("ps")
    assert listed.status == 0
    (row,) = [line for line in listed.out.splitlines() if job in line]
    assert "renamed" in row
    assert "queued" in row
    assert [item["id"] for item in json.loads(espalier("ps", "--json", "--state", "queued").out)] == [job]
    assert json.loads(espalier("ps", "--json", "--state", "failed").out) == []

    cancelled = espalier("cancel", job)
    assert (cancelled.status, cancelled.out) == (0, f"{job} is cancelled\n")
    assert espalier("cancel", job).status == 0
    assert espalier("logs", job).status == 0


@pytest.mark.usefixtures("service")
def test_a_job_is_paused_resumed_cloned_and_tried_again(espalier: Espalier, spec: Path) -> None:
    job = espalier("submit", str(spec)).out.strip()
    assert espalier("pause", job).out == f"{job} is paused\n"
    again = espalier("pause", job)
    assert again.status == 1
    assert "allowed now" in again.err
    assert espalier("resume", job).out == f"{job} is queued\n"
    clone = espalier("clone", job, "--set", "spec.prune.sparsity=0.25", "--set", "name=other").out.strip()
    (copied,) = [item for item in json.loads(espalier("ps", "--json").out) if item["id"] == clone]
    assert (copied["name"], copied["spec"]["prune"]["sparsity"]) == ("other", 0.25)
    espalier("cancel", job)
    retried = espalier("retry", job, "--from-start", "--priority", "high", "--max-run-seconds", "60", "--json")
    assert json.loads(retried.out)["state"] == "queued"
    espalier("cancel", job)
    assert espalier("delete", job).out == f"{job} is deleted\n"
    assert espalier("logs", job).status == 1
    assert "default" in espalier("queues").out
    assert espalier("workers").status == 0
    assert espalier("drain", "wrk_x").status == 1


@pytest.mark.usefixtures("service")
def test_watching_a_cancelled_job_ends_with_a_failure(espalier: Espalier, spec: Path) -> None:
    job = espalier("submit", str(spec)).out.strip()
    espalier("cancel", job)
    plain = espalier("watch", job)
    assert plain.status == 1
    assert "cancelled" in plain.out
    events = [json.loads(line) for line in espalier("watch", job, "--json").out.splitlines()]
    assert events[0]["type"] == "job.created"
    assert events[-1]["type"] == "job.cancelled"


@pytest.mark.usefixtures("service")
def test_a_refused_spec_is_shown_with_its_pointer(espalier: Espalier, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "bad.json"
    body = {
        "source": {"kind": "local", "path": str(model)},
        "spec": {"prune": {"method": "magnitude", "sparsity": 1.5}},
    }
    path.write_text(json.dumps(body))
    refused = espalier("submit", str(path))
    assert refused.status == 1
    assert "/spec/prune/sparsity" in refused.err
    assert "422" in refused.err
    assert refused.out == ""


@pytest.mark.usefixtures("service")
def test_what_the_model_cannot_carry_is_refused_at_once(espalier: Espalier, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "bad.json"
    nm = {"method": "magnitude", "pattern": {"kind": "nm", "n": 2, "m": 6}}
    path.write_text(json.dumps({"source": {"kind": "local", "path": str(model)}, "spec": {"prune": nm}}))
    refused = espalier("submit", str(path))
    assert refused.status == 1
    assert "/spec/prune/pattern" in refused.err
    assert "inputs" in refused.err


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    "verb", ["watch", "logs", "cancel", "report", "download", "pause", "resume", "retry", "clone", "delete"]
)
def test_an_unknown_job_is_a_failure_in_words(verb: str, espalier: Espalier) -> None:
    outcome = espalier(verb, "job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert outcome.status == 1
    assert "404" in outcome.err
    assert "espalier ps" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.usefixtures("service")
def test_a_report_before_success_is_not_finished(espalier: Espalier, spec: Path) -> None:
    job = espalier("submit", str(spec)).out.strip()
    outcome = espalier("report", job)
    assert outcome.status == 1
    assert "not-finished" in outcome.err
    assert espalier("download", job).status != 0


@pytest.mark.usefixtures("service")
def test_a_plan_is_shown_by_phase_and_makes_no_job(espalier: Espalier, spec: Path) -> None:
    outcome = espalier("plan", str(spec))
    assert outcome.status == 0, outcome.err
    assert "pln_" in outcome.out
    assert "evaluating" in outcome.out
    assert "no speed-up" in outcome.out
    assert espalier("ps", "--json").out.strip() in {"", "[]"}


def test_no_service_is_told_with_a_hint(espalier: Espalier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPALIER_URL", raising=False)
    monkeypatch.setenv("ESPALIER_PORT", "1")  # where `espalier serve` of the same environment would be
    monkeypatch.setattr("espalier.client.transport.FIRST_DELAY_SECONDS", 0.001)
    outcome = espalier("ps")
    assert outcome.status == 1
    assert "http://127.0.0.1:1:" in outcome.err
    assert "espalier serve" in outcome.err


def test_a_wrong_setting_is_told_by_its_name(espalier: Espalier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_LEASE_SECONDS", "soon")
    outcome = espalier("ps")
    assert outcome.status == 2
    assert outcome.err.startswith("setting ESPALIER_LEASE_SECONDS=soon: Input should be a valid number")


def test_every_verb_of_the_contract_is_there(espalier: Espalier) -> None:
    built = {
        "demo",
        "serve",
        "worker",
        "reconciler",
        "migrate",
        "settings",
        "submit",
        "ps",
        "watch",
        "logs",
        "cancel",
        "report",
        "download",
        "run",
    }
    text = espalier("--help").out
    assert all(verb in text for verb in built)
