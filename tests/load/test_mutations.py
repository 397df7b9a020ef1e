"""Ten thousand bodies that were good once, on each database: changed at random, none is answered with a 5xx."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.api import stalls
from tests.app.api.mutations import FULL, mutated
from tests.app.api.tenants import one_of_each
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.services import name_of
from tests.fixtures.suite.figures import load, record

NUM_CASES = int(os.environ.get("ESPALIER_FUZZ_CASES", "10000"))
SEED = 20261130
SHA = "0" * 64


def _good(known: dict[str, str], source: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """A body of every route that takes one, from which the bad ones are made."""
    spec = FULL["spec"]
    job = {**FULL, "source": source}
    rule = {
        "name": "r",
        "source_id": known["hook-sources"],
        "mode": "propose",
        "enabled": True,
        "match": {"events": ["repo.content"], "repo_glob": "org/*", "tags": {"stage": "r*"}},
        "template": {"preset": None, "spec": spec, "publish": []},
        "limits": {"max_per_day": 5, "cooldown_seconds": 1},
    }
    quotas = {"max_queued_jobs": 10**6, "max_running_jobs": 10, "max_stored_bytes": 2**50, "max_gpu_seconds": 10**9}
    return {
        ("POST", "/v1/jobs"): job,
        ("POST", "/v1/plans"): job,
        ("POST", "/v1/jobs/{job_id}/clone"): job,
        ("POST", "/v1/sweeps"): {"base": job, "axes": {"/spec/prune/0/sparsity": [0.3, 0.5]}, "max_children": 4},
        ("POST", "/v1/models/resolve"): {"source": source},
        ("POST", "/v1/jobs/{job_id}/retry"): {"from": "start", "limits": FULL["limits"], "priority": "low"},
        ("PATCH", "/v1/jobs/{job_id}"): {"name": "n", "labels": {"a": "b", "c": None}, "priority": "low"},
        ("POST", "/v1/jobs/{job_id}/publications"): {"kind": "huggingface", "repo": "a/b", "private": True},
        ("PUT", "/v1/presets/{name}"): {"description": "d", "spec": spec},
        ("POST", "/v1/rules"): rule,
        ("PATCH", "/v1/rules/{rule_id}"): {name: rule[name] for name in ("name", "match", "limits")},
        ("POST", "/v1/rules/{rule_id}/test"): {"payload": {"event": {"action": "update", "scope": "repo.content"}}},
        ("POST", "/v1/hook-sources"): {"name": "n", "kind": "generic", "secret": None},
        ("PATCH", "/v1/hook-sources/{source_id}"): {"name": "n"},
        ("POST", "/v1/hook-sources/{source_id}/rotate-secret"): {"secret": None, "overlap_seconds": 60},
        ("POST", "/v1/uploads"): {"kind": "dataset", "files": [{"name": "a.txt", "bytes": 10, "sha256": SHA}]},
        ("POST", "/v1/uploads/{upload_id}/parts"): {"file": "a.txt", "number": 1, "sha256": SHA},
        ("POST", "/v1/webhook-endpoints"): {"url": "https://example.com", "events": ["job.succeeded"]},
        ("PATCH", "/v1/webhook-endpoints/{endpoint_id}"): {"events": ["job.failed"]},
        ("POST", "/v1/projects"): {"name": "n", "quotas": quotas},
        ("POST", "/v1/api-keys"): {"name": "n", "scopes": ["jobs:read"], "expires_at": "2030-01-01T00:00:00Z"},
        ("PUT", "/v1/credentials/huggingface"): {"token": "hf_" + "a" * 20},
        ("PUT", "/v1/credentials/s3"): {"access_key_id": "a" * 20, "secret_access_key": "b" * 40},
        ("PUT", "/v1/credentials/mlflow"): {"token": "t" * 20},
    }


def _calls(known: dict[str, str], model: Path) -> Iterator[tuple[str, str, str]]:
    rng = random.Random(SEED)
    sources: list[dict[str, Any]] = [
        {"kind": "local", "path": str(model)},
        {"kind": "huggingface", "repo": "org/model", "revision": "main"},
        {"kind": "s3", "uri": "s3://bucket/prefix"},
        {"kind": "upload", "upload_id": known["uploads"]},
    ]
    while True:
        for (method, path), body in _good(known, rng.choice(sources)).items():
            for _ in range(4 if path in {"/v1/jobs", "/v1/plans", "/v1/sweeps"} else 1):
                yield method, stalls.address(path, known), json.dumps(mutated(copy.deepcopy(body), rng))


@pytest.mark.load
@pytest.mark.timeout(3600)
def test_no_mutated_body_is_a_failure_of_ours(database_url: str, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        database_url=database_url,
        hf_endpoint="http://127.0.0.1:9",
        local_roots=str(DEMO_MODEL),
    )
    app, began = create_app(settings), time.monotonic()
    seen: Counter[int] = Counter()
    failed: list[tuple[str, str, str]] = []
    with TestClient(app) as client:
        known = one_of_each(client, app.state.resources)
        for method, path, body in _calls(known, DEMO_MODEL):
            answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
            seen[answer.status_code] += 1
            if answer.status_code >= 500:
                failed.append((method, path, body))
            if seen.total() >= NUM_CASES:
                break
    record(
        "bad input",
        f"bodies of every route, changed at random, {name_of(database_url)}",
        ">= 10,000 cases, 0 x 5xx",
        f"{seen.total():,} cases in {time.monotonic() - began:.0f} s, {len(failed)} x 5xx; "
        f"{sum(count for status, count in seen.items() if status < 300):,} were done; {load()}",
    )
    assert not failed, failed[:3]
    assert {202, 422} <= set(seen), "some are taken and some are not"
