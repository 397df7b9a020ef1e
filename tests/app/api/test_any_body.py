"""Whatever comes, the answer is a job or a problem whose pointers lead into the request: never a failure of ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

NUM_BODIES = 400
FULL: dict[str, Any] = {
    "name": "a", "plan_id": None, "priority": "normal", "reuse": "auto", "labels": {"team": "nlp"},
    "limits": {"max_run_seconds": 14400, "max_pending_seconds": 60, "max_host_memory_bytes": None},
    "spec": {
        "calibration": {"dataset": {"kind": "builtin"}, "samples": 4, "sequence_length": 64, "selection": "random"},
        "prune": [{
            "method": "wanda", "sparsity": 0.5, "pattern": {"kind": "nm", "n": 2, "m": 4},
            "budget": {"kind": "uniform"}, "optimizer": None, "update": {"kind": "none"},
            "targets": {"include": ["proj"], "exclude": []},
        }],
        "reconstruct": {"window": "submodule", "trainable": ["weights"], "learning_rate": 0.1, "interleave": False},
        "retrain": {"method": "perp", "trainable": ["norms", "biases"], "dataset": {"kind": "builtin"}},
        "evaluate": {"perplexity": [{"name": "docs", "dataset": {"kind": "builtin", "split": "validation"}}]},
        "gate": {"max_relative_perplexity_increase": 0.1}, "output": {"format": "safetensors", "publish": []},
    },
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63, 2**64, 10**400,
    -(10**30), -(10**900), 4.0, "", "x", "0", "\u202e", "a\nb",
    "é" * 300, "x" * 5000, "/" * 4000, "../..", "(", "(a+)+$", [], {}, [[]], [{}], [None], {"kind": []}, {"kind": None},
    {"": ""}, {"a/b~": {}}, {"kind": "local", "path": "/"}, {"kind": "huggingface", "repo": "x"}, "wanda", "auto",
    {"method": "wanda", "sparsity": 0}, {"kind": "upload"}, ["norms"] * 70, {"blocks": 1}, list(range(300)), "nm",
]  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and list of a document, as (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change a document here and there."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not (places := list(_places(body))):  # nothing is left
            break
        container, key = rng.choice(places)
        other, source = rng.choice(list(_places(body)))
        match rng.randrange(5):
            case 0:
                container[key] = copy.deepcopy(other[source])
            case 1 if isinstance(container, dict):
                container[rng.choice(["0", "kind", "wanda", "local", "é/~", "prune", "spec"])] = copy.deepcopy(
                    rng.choice(ODD)
                )
            case 2:
                del container[key]
            case _:
                container[key] = copy.deepcopy(rng.choice(ODD))
    return body


def _leads_into(pointer: str, document: Any) -> bool:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            if not (name.isdecimal() and int(name) < len(document)):
                return False
            document = document[int(name)]
        elif isinstance(document, dict) and name in document:
            document = document[name]
        else:
            return False
    return True


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.deep)])
def test_any_body_is_a_job_or_a_problem_that_points_into_it(client: TestClient, model: Path, seed: int) -> None:
    rng = random.Random(seed)
    full = {**FULL, "source": {"kind": "local", "path": str(model)}}
    for _ in range(NUM_BODIES):
        body = mutated(copy.deepcopy(full), rng)
        answer = client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in {202, 400, 413, 422}, (answer.text, body)
        if answer.status_code == 202:
            continue
        assert answer.headers["content-type"] == "application/problem+json"
        for item in answer.json()["errors"]:
            pointer = item["pointer"]
            missing = item["code"] in {"missing", "missing-sparsity", "union-tag-not-found"}
            parent = pointer.rpartition("/")[0] if missing else pointer
            assert _leads_into(parent, body), (item, body)
