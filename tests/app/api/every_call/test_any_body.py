"""Whatever comes, the answer is a job or a problem whose pointers lead into the request: never a failure of ours."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.api.mutations import FULL, mutated

NUM_BODIES = 400


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
