"""A push to the Hub through the whole service: by the document's settings, read again before work, never in circles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, HubRepo, hub
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.hooks import push
from tests.fixtures.service.launch import Launch
from tests.fixtures.suite.pages import block
from tests.fixtures.suite.patience import Patience

__all__ = ["hub"]

PAGE, HEADING = "docs/registries.md", "The Hugging Face Hub in five minutes"
TOKEN = "hf_TheTokenOfTheProject"
SPEC: dict[str, Any] = {
    "prune": {"method": "magnitude", "sparsity": 0.5},
    "evaluate": {"perplexity": [{"sequence_length": 64, "max_windows": 4}]},
}


@dataclass
class Registry:
    """The Hub as it calls, and the installation that it calls."""

    hub: Hub
    deployment: Deployment

    def deliver(self, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Deliver to the webhook as it was made at the Hub; return what each rule made of it, by the rule's id."""
        (webhook,) = self.hub.webhooks
        answer = httpx.post(webhook["url"], json=document, headers={"X-Webhook-Secret": webhook["secret"]})
        assert answer.status_code == 202, answer.text
        patience, path = Patience(60), f"/v1/hook-deliveries/{answer.json()['delivery_id']}"
        while (delivery := self.deployment.get(path))["state"] != "evaluated":
            patience.pause(0.2, delivery)
        return {verdict["rule_id"]: verdict for verdict in delivery["verdicts"]}

    def rule(self, body: dict[str, Any]) -> str:
        """Make a rule and return its id."""
        answer = self.deployment.http.post("/v1/rules", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def _connected(deployment: Deployment, hub: Hub) -> str:
    """Do what docs/registries.md says, with the Hub's own client, and return the id of the source."""
    stored = deployment.http.put("/v1/credentials/huggingface", json={"token": TOKEN})
    assert stored.status_code == 200, stored.text
    source = deployment.http.post("/v1/hook-sources", json={"name": "hub", "kind": "huggingface"}).json()
    espalier = str(deployment.http.base_url).rstrip("/")
    code = f"from huggingface_hub import create_webhook\nsource, espalier = {source!r}, {espalier!r}\n"
    subprocess.run(
        [sys.executable, "-c", code + block(PAGE, HEADING, "python", "create_webhook")],
        check=True,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"},  # an engine sets it here
    )
    assert hub.webhooks[0]["domains"] == ["repo"]
    return str(source["id"])


def test_a_push_comes_back_as_a_twin_and_nothing_runs_in_circles(launch: Launch, hub: Hub) -> None:
    hub.writer = TOKEN
    commit = hub.add_model("our-org/demo", DEMO_MODEL, token=TOKEN).commit
    deployment = launch(ESPALIER_HF_ENDPOINT=hub.url)
    source, registry = _connected(deployment, hub), Registry(hub, deployment)
    body = json.loads(block(PAGE, HEADING, "json", "source_id")) | {"source_id": source}
    body["template"] = {"spec": SPEC, "publish": body["template"]["publish"]}  # quick
    proposing = registry.rule(body)

    verdict = registry.deliver(push("our-org/demo", commit))[proposing]
    assert verdict["outcome"] == "proposal"
    assert deployment.get("/v1/jobs")["items"] == []
    asked = len(hub.asked)
    approved = deployment.http.post(f"/v1/hook-proposals/{verdict['proposal_id']}/approve").json()
    job = deployment.succeed(approved["job_id"])
    assert job["source"]["resolved_revision"] == commit
    read = [path for _, path, bearer in hub.asked[asked:] if bearer == TOKEN]
    assert f"/api/models/our-org/demo/revision/{commit}" in read
    twin = hub.models["our-org/demo-sparse"]
    assert "model.safetensors" in twin.files
    assert [(repo, message) for repo, message, _ in hub.commits] == [
        ("our-org/demo-sparse", f"[espalier] Publish {job['id']}")
    ]

    running = registry.rule({**body, "name": "all", "mode": "run", "match": {}, "template": {"spec": SPEC}})
    # The Hub tells of our own commit.
    own = registry.deliver(push("our-org/demo-sparse", twin.commit))
    assert (own[proposing]["outcome"], own[running]["reason"]) == ("no_match", "own-publication")
    # A delivery that names a commit which the Hub does not have.
    body_of = deployment.http.patch(f"/v1/rules/{running}", json={"limits": {}})
    assert body_of.status_code == 200, body_of.text
    sent = hub.downloads()
    forged = registry.deliver(push("our-org/demo", "f" * 40))
    assert (forged[proposing]["outcome"], forged[proposing]["reason"]) == ("limited", "cooldown")
    failed = deployment.finish(forged[running]["job_id"])
    assert (failed["error"]["class"], failed["error"]["phase"]) == ("source_not_found", "resolving")
    assert hub.downloads() == sent
    # A copy of the twin that somebody made; nothing but its card says what it is.
    hub.models["our-org/copy"] = HubRepo(dict(twin.files))
    copied = registry.deliver(push("our-org/copy", hub.models["our-org/copy"].commit))
    failed = deployment.finish(copied[running]["job_id"])
    assert failed["state"] == "failed"
    assert "output of Espalier" in failed["error"]["message"]
    assert len(deployment.get("/v1/jobs")["items"]) == 3
    assert TOKEN not in (deployment.home / "serve.log").read_text()
