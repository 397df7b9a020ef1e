"""A real MLflow registers a model, and its own webhook makes its compressed twin come back: once, whoever dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from espalier.recipe.base import fingerprint
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.processes import free_port
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.launch import Launch
from tests.fixtures.suite.pages import block
from tests.registry.server import HEADING, PAGE, RealMlflow

pytestmark = [pytest.mark.registry, pytest.mark.timeout(1800)]

SMALL = {
    "calibration": {"samples": 8, "sequence_length": 64},
    "evaluate": {"perplexity": [{"sequence_length": 64, "max_windows": 8}]},
}
"""What makes the rule of docs/registries.md quick."""
SECONDS = 400


@dataclass
class Bridge:
    """An installation and a registry that know each other."""

    deployment: Deployment
    mlflow: RealMlflow
    source: dict[str, Any]

    def rule(self, **fields: Any) -> dict[str, Any]:
        """Make the rule of docs/registries.md, or another one."""
        body = json.loads(block(PAGE, HEADING, "json", "source_id")) | {"source_id": self.source["id"]}
        body["template"]["spec"] |= SMALL
        for name, value in fields.items():
            body[name] = value if not isinstance(value, dict) else {**body[name], **value}
        answer = self.deployment.http.post("/v1/rules", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def jobs(self, model: str) -> list[dict[str, Any]]:
        """Every job over a model, newest first."""
        items: list[dict[str, Any]] = self.deployment.get("/v1/jobs?limit=200")["items"]
        return [job for job in items if job["source"]["name"] == model]

    def deliveries(self, event: str, model: str, version: str) -> list[dict[str, Any]]:
        """What was delivered or found about a version, by an event's name."""
        items = self.deployment.get("/v1/hook-deliveries?limit=200")["items"]
        wanted = {"event": event, "model": model, "version": version}
        return [row for row in items if wanted.items() <= row["event"].items()]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something holds, and return it."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if result := condition():
                return result
            time.sleep(0.5)
        raise AssertionError(f"{what}; {(self.deployment.home / 'serve.log').read_text()[-4000:]}")

    def job(self, model: str) -> dict[str, Any]:
        """Wait for the one job over a model, and for its success."""
        self.until(lambda: self.jobs(model), "no job was made")
        return self.deployment.succeed(self.jobs(model)[0]["id"], timeout=SECONDS)

    def starts_nothing(self, event: str, model: str, version: str) -> dict[str, Any]:
        """Wait until an event of our own making has come and no rule made anything of it; return the delivery."""

        def settled() -> dict[str, Any] | None:
            rows = [row for row in self.deliveries(event, model, version) if row["state"] == "evaluated"]
            return rows[0] if rows else None

        row: dict[str, Any] = self.until(settled, f"{event} of {model} {version} was not evaluated")
        assert {verdict["outcome"] for verdict in row["verdicts"]} <= {"ignored", "no_match"}, row
        return row

    def restart(self, *, sweep_seconds: str) -> None:
        """Start the service again, with looks at the registry."""
        self.deployment.environment["ESPALIER_REGISTRY_SWEEP_SECONDS"] = sweep_seconds
        self.deployment.start()


@pytest.fixture(scope="module")
def bridge(launch: Launch, mlflow: RealMlflow) -> Bridge:
    """Connect the two as docs/registries.md says; nobody looks at the registry until a test asks for it."""
    deployment = launch(
        ESPALIER_MLFLOW_TRACKING_URI=mlflow.url, ESPALIER_REGISTRY_SWEEP_SECONDS="0", ESPALIER_PORT=str(free_port())
    )
    source = deployment.http.post("/v1/hook-sources", json={"name": "models", "kind": "mlflow"}).json()
    espalier = str(deployment.http.base_url).rstrip("/")
    mlflow.run(f"source, espalier = {source!r}, {espalier!r}\n{block(PAGE, HEADING, 'python', 'create_webhook')}")
    return Bridge(deployment, mlflow, source)


def _loads(bridge: Bridge, name: str, alias: str, folder: Path) -> None:
    """What came back is a model for stock transformers, and for MLflow's own loader."""
    bridge.mlflow.run(f"mlflow.artifacts.download_artifacts('models:/{name}@{alias}', dst_path={str(folder)!r})")
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow, and only here

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "components/tokenizer")
    tokens = tokenizer("The import statement", return_tensors="pt")
    assert model.generate(**tokens, max_new_tokens=4, do_sample=False).shape[1] > tokens["input_ids"].shape[1]
    zeros = float((model.model.layers[0].mlp.up_proj.weight == 0).float().mean())
    assert zeros == pytest.approx(0.5, abs=0.01)
    predictions = bridge.mlflow.run(f"""
pipeline = mlflow.transformers.load_model("models:/{name}@{alias}")
print(json.dumps(pipeline("The import statement", max_new_tokens=4, do_sample=False)))
""")
    assert predictions[0]["generated_text"].startswith("The import statement")


def test_a_new_version_comes_back_compressed_and_starts_nothing_more(bridge: Bridge, tmp_path: Path) -> None:
    rule = bridge.rule()
    assert bridge.mlflow.register("chat-a", DEMO_MODEL) == "1"
    job = bridge.job("chat-a")
    assert job["initiator"]["type"] == "hook"
    assert job["source"]["resolved_revision"].startswith("1-")
    (delivery,) = bridge.deliveries("model_version.created", "chat-a", "1")
    assert delivery["via"] == "webhook"
    made = {verdict["rule_id"]: (verdict["outcome"], verdict["job_id"]) for verdict in delivery["verdicts"]}
    assert made[rule["id"]] == ("job", job["id"])

    twin = bridge.mlflow.version("chat-a", "2")
    assert twin["aliases"] == ["small"]
    tags = twin["tags"]
    assert (tags["espalier.job"], tags["espalier.work_hash"]) == (job["id"], job["work_hash"])
    assert (tags["espalier.source"], tags["espalier.source_version"]) == ("mlflow:chat-a", "1")
    assert tags["espalier.spec_hash"] == fingerprint(job["resolved_spec"])
    report = bridge.deployment.get(f"/v1/jobs/{job['id']}/report")
    numbers = twin["metrics"]
    assert numbers["sparsity"] == pytest.approx(report["sparsity"]["achieved"])
    for side in ("dense", "compressed"):
        assert numbers[f"{side}/perplexity/python-docs"] == pytest.approx(report[side]["perplexity"]["python-docs"])
        assert numbers[f"{side}/bytes"] == report[side]["bytes"]
    assert "report.json" in twin["files"]
    assert "compressed/perplexity/python-docs" in twin["model_metrics"]
    _loads(bridge, "chat-a", "small", tmp_path / "twin")

    bridge.starts_nothing("model_version.created", "chat-a", "2")
    bridge.starts_nothing("model_version_alias.created", "chat-a", "2")
    assert [one["id"] for one in bridge.jobs("chat-a")] == [job["id"]]
    bridge.mlflow.run("client.copy_model_version('models:/chat-a/2', 'chat-copy')")
    copied = bridge.starts_nothing("model_version.created", "chat-copy", "1")
    assert "own-output" in {verdict["reason"] for verdict in copied["verdicts"]}
    assert bridge.jobs("chat-copy") == []
    publications = bridge.deployment.get(f"/v1/jobs/{job['id']}/publications")["items"]
    assert [row["reference"] for row in publications] == ["models:/chat-a/2"]


def test_an_alias_makes_a_twin_in_another_model_and_starts_nothing_more(bridge: Bridge) -> None:
    bridge.rule(
        match={"events": [], "repo_glob": "alias-*", "alias": "champion"},
        template={"publish": {"kind": "mlflow", "name": "{name}-small", "alias": "champion"}},
    )
    bridge.mlflow.register_folder("alias-a", DEMO_MODEL)
    bridge.mlflow.run("client.set_registered_model_alias('alias-a', 'champion', '1')")
    job = bridge.job("alias-a")
    (delivery,) = bridge.deliveries("model_version_alias.created", "alias-a", "1")
    assert delivery["via"] == "webhook"
    twin = bridge.mlflow.version("alias-a-small", "1")
    assert (twin["aliases"], twin["tags"]["espalier.job"]) == (["champion"], job["id"])
    own = bridge.starts_nothing("model_version_alias.created", "alias-a-small", "1")
    assert "ignored" in {verdict["outcome"] for verdict in own["verdicts"]}
    assert (len(bridge.jobs("alias-a")), bridge.jobs("alias-a-small")) == (1, [])


def test_what_was_registered_while_nobody_listened_is_found(bridge: Bridge) -> None:
    bridge.rule(match={"repo_glob": "lost-*"})
    bridge.deployment.stop()
    looks = bridge.mlflow.count_logged("registered-models/search")
    bridge.restart(sweep_seconds="1")  # a look at what is there, before anything is lost
    # The second look begins when what the first one saw is written down.
    bridge.until(
        lambda: bridge.mlflow.count_logged("registered-models/search") > looks + 1, "nobody looked at the registry"
    )
    bridge.deployment.stop()
    given_up = bridge.mlflow.count_logged("Failed to send webhook")
    assert bridge.mlflow.register_folder("lost-a", DEMO_MODEL) == "1"
    bridge.mlflow.run("client.set_registered_model_alias('lost-a', 'champion', '1')")
    bridge.until(
        lambda: bridge.mlflow.count_logged("Failed to send webhook") >= given_up + 2, "MLflow has not given up"
    )
    bridge.restart(sweep_seconds="1")
    job = bridge.job("lost-a")
    (delivery,) = bridge.deliveries("model_version.created", "lost-a", "1")
    assert delivery["via"] == "reconciliation"
    (alias,) = bridge.deliveries("model_version_alias.created", "lost-a", "1")
    assert alias["via"] == "reconciliation"
    assert bridge.mlflow.version("lost-a", "2")["tags"]["espalier.job"] == job["id"]
    bridge.starts_nothing("model_version.created", "lost-a", "2")
    assert len(bridge.jobs("lost-a")) == 1


def test_a_registry_that_is_restarted_while_the_job_runs_gets_one_twin(bridge: Bridge) -> None:
    # Work of its own: what an equal job has done already would be taken over, and nothing would run meanwhile.
    windows = {"perplexity": [{"sequence_length": 64, "max_windows": 9}]}
    spec = {**SMALL, "prune": {"method": "wanda", "sparsity": 0.4}, "evaluate": windows}
    bridge.rule(match={"repo_glob": "torn-*"}, template={"spec": spec})
    bridge.mlflow.register_folder("torn-a", DEMO_MODEL)
    bridge.until(lambda: bridge.jobs("torn-a"), "no job was made")
    job_id = bridge.jobs("torn-a")[0]["id"]
    bridge.deployment.wait_for(
        job_id, lambda events: any(event["phase"] == "baseline" for event in events), timeout=SECONDS
    )
    bridge.mlflow.kill()
    failed = {"job.attempt_failed", "job.retry_scheduled"}
    bridge.deployment.wait_for(job_id, lambda events: any(event["type"] in failed for event in events), timeout=SECONDS)
    bridge.mlflow.start()
    job = bridge.deployment.succeed(job_id, timeout=SECONDS)
    assert job["attempt"] > 1
    twin = bridge.mlflow.version("torn-a", "2")
    assert (twin["aliases"], twin["tags"]["espalier.job"]) == (["small"], job_id)
    search = "client.search_model_versions(\"name='torn-a'\")"
    versions = bridge.mlflow.run(f"print(json.dumps([v.version for v in {search}]))")
    assert sorted(map(str, versions)) == ["1", "2"]
    bridge.starts_nothing("model_version.created", "torn-a", "2")
    assert len(bridge.jobs("torn-a")) == 1
