"""A model and a text from the Hub through the whole service: pinned to a commit, or refused with class and hint."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, HubRepo, hub
from tests.fixtures.service.launch import Launch

__all__ = ["hub"]

TOKEN = "hf_secret_canary"
SPEC: dict[str, Any] = {
    "calibration": {"samples": 4, "sequence_length": 64},
    "prune": {"method": "wanda", "sparsity": 0.5},
    "evaluate": {
        "perplexity": [
            {"dataset": {"kind": "huggingface", "name": "wikitext2"}, "sequence_length": 64, "max_windows": 4}
        ]
    },
}


def _wikitext() -> HubRepo:
    rows = [f"Row {index} of a text about grafting apple trees against a wall.\n" for index in range(200)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": rows}), buffer)
    return HubRepo({"wikitext-2-raw-v1/test-00000-of-00001.parquet": buffer.getvalue()})


def _source(repo: str) -> dict[str, str]:
    return {"kind": "huggingface", "repo": repo}


@pytest.mark.deep
def test_hub_models_are_pinned_and_what_cannot_be_had_is_told(launch: Launch, hub: Hub) -> None:
    opened = hub.add_model("org/demo", DEMO_MODEL, token=TOKEN)
    hub.add_model("org/gated", DEMO_MODEL, gated=True)
    hub.models["org/pickles"] = HubRepo({"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    hub.datasets["Salesforce/wikitext"] = _wikitext()
    deployment = launch(ESPALIER_HF_ENDPOINT=hub.url, ESPALIER_HF_TOKEN=TOKEN)

    jobs = {}
    for repo in ("org/demo", "org/gated", "org/missing", "org/pickles"):
        answer = deployment.http.post("/v1/jobs", json={"source": _source(repo), "spec": SPEC})
        assert answer.status_code == 202, answer.text
        assert answer.json()["source"]["resolved_revision"] is None
        assert answer.json()["work_hash"] is None
        jobs[repo] = answer.json()["id"]

    document = deployment.succeed(jobs["org/demo"])
    assert document["source"]["resolved_revision"] == opened.commit
    assert document["resolved_spec"]["calibration"]["sequence_length"] == 64
    assert document["work_hash"]
    report = deployment.get(f"/v1/jobs/{jobs['org/demo']}/report")
    assert report["dense"]["perplexity"]["wikitext2"] > 1

    for repo, class_ in (
        ("org/gated", "source_gated"),
        ("org/missing", "source_not_found"),
        ("org/pickles", "source_unsafe"),
    ):
        failed = deployment.finish(jobs[repo])
        assert failed["state"] == "failed"
        assert failed["error"]["class"] == class_, failed["error"]
        assert failed["error"]["hint"]
        assert deployment.artifacts(jobs[repo]) == {}

    output = (deployment.home / "serve.log").read_text() + str(deployment.get(f"/v1/jobs/{jobs['org/demo']}/logs"))
    assert TOKEN not in output
