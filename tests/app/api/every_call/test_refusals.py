"""What the contract names and this version lacks is refused by name, and every mistake is pointed at exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.platform.actor import DEFAULT_PROJECT
from tests.app.api.tenants import bearer, new_key
from tests.espalier.probe.checkpoints import LLAMA, OPT, write_model
from tests.fixtures.service.requests import REMOTE

WANDA = {"method": "wanda", "sparsity": 0.5}
BEHIND = OPT | {"do_layer_norm_before": False}

NOT_BUILT: list[tuple[str, Any, str]] = [
    # (where in the body, what is put there, what the refusal points at)
    (
        "/spec",
        {
            "prune": [{"method": "flap", "pattern": {"kind": "neurons"}, "sparsity": 0.25}, WANDA],
            "retrain": {"steps": 8},
            "cycles": {"count": 2},
        },
        "/spec/cycles",
    ),
    ("/spec/quantize", {"scheme": "int4"}, "/spec/quantize"),
    ("/spec/output/format", "gguf", "/spec/output/format"),
    ("/spec/evaluate/intervals", True, "/spec/evaluate/intervals"),
    ("/spec/prune", {**WANDA, "budget": {"kind": "evolution"}}, "/spec/prune/budget/kind"),
    ("/spec/prune", [{**WANDA, "targets": {"allow_leftovers": True}}], "/spec/prune/0/targets/allow_leftovers"),
    ("/spec/prune", {"method": "awp", "sparsity": 0.5}, "/spec/prune/method"),
    ("/spec/prune/sparsity", "50%", "/spec/prune/sparsity"),
    ("/spec/calibration/dataset", {"kind": "self_generated"}, "/spec/calibration/dataset/kind"),
    ("/source", "org/model", "/source"),
]

WRONG: list[tuple[str, Any, str, str]] = [
    # (where in the body, what is put there, what the refusal points at, its code)
    ("/colour", "red", "/colour", "extra-forbidden"),
    ("/spec/prune/sparsity", 1.0, "/spec/prune/sparsity", "less-than"),
    ("/spec/prune/sparsity", False, "/spec/prune/sparsity", "float-type"),
    ("/spec/prune", [{**WANDA, "sparsity": 1}], "/spec/prune/0/sparsity", "less-than"),
    ("/spec/prune/method", "<script>", "/spec/prune/method", "union-tag-invalid"),
    ("/spec/prune", {"sparsity": 0.5}, "/spec/prune/method", "union-tag-not-found"),
    ("/spec", {}, "/spec/prune", "missing"),
    ("/source", {"kind": "huggingface"}, "/source/repo", "missing"),
    ("/source", {"kind": "s3", "uri": "https://bucket/model"}, "/source/uri", "string-pattern-mismatch"),
    ("/source", {"kind": "s3", "uri": "s3://bucket/../x"}, "/source/uri", "string-pattern-mismatch"),
    ("/source", {"kind": "mlflow", "name": "m"}, "/source", "version-or-alias"),
    ("/source", {"kind": "mlflow", "name": "m", "version": "1", "alias": "a"}, "/source/version", "version-or-alias"),
    ("/source", {"kind": "mlflow", "name": "a/../b", "version": "1"}, "/source/name", "string-pattern-mismatch"),
    ("/source", {"kind": "mlflow", "name": "m", "version": "1"}, "/source/kind", "no-mlflow-server"),
    ("/spec/output/publish", [{"kind": "mlflow", "name": "m"}], "/spec/output/publish/0/kind", "no-mlflow-server"),
    ("/spec/output/publish", [{"kind": "mlflow"}], "/spec/output/publish/0", "no-name"),
    ("/labels", {"a/~b!": "x"}, "/labels/a~1~0b!", "string-pattern-mismatch"),
    ("/limits/max_run_seconds", 0, "/limits/max_run_seconds", "greater-than"),
    ("/limits/gpus", 3, "/limits/gpus", "literal-error"),
    ("/limits/gpus", True, "/limits/gpus", "int-type"),
    ("/limits/gpus", 2, "/limits/gpus", "no-worker-class"),
    # a name that is no name: lists and objects are not even hashable
    ("/source", {"kind": []}, "/source/kind", "union-tag-invalid"),
    ("/spec/prune", {"method": {}}, "/spec/prune/method", "union-tag-invalid"),
    ("/spec/prune", [{**WANDA, "pattern": {"kind": []}}], "/spec/prune/0/pattern/kind", "union-tag-invalid"),
    ("/spec/calibration/dataset", {"kind": {}}, "/spec/calibration/dataset/kind", "union-tag-invalid"),
    ("/spec/reconstruct/window", [], "/spec/reconstruct/window", "literal-error"),
    ("/spec/reconstruct/window", {"a": []}, "/spec/reconstruct/window/blocks", "missing"),
    ("/spec/reconstruct/window", {"blocks": 0}, "/spec/reconstruct/window/blocks", "greater-than-equal"),
    ("/spec/reconstruct/window", {"blocks": True}, "/spec/reconstruct/window/blocks", "int-type"),
    ("/spec/reconstruct/trainable", [], "/spec/reconstruct/trainable", "too-short"),
    (
        "/spec/reconstruct/trainable",
        ["weights", "mask_lora"],
        "/spec/reconstruct/trainable/1",
        "contradictory-trainable",
    ),
    ("/spec/reconstruct/interleave", 1, "/spec/reconstruct/interleave", "bool-type"),
    # 1 equals True for Python, and is another mistake
    ("/spec/evaluate/divergence", 1, "/spec/evaluate/divergence", "bool-type"),
    ("/spec/calibration/selection", "loss_gap", "/spec/calibration/selection", "no-loss-gap"),
    ("/spec/calibration/selection", "gap", "/spec/calibration/selection", "literal-error"),
    ("/spec/calibration/candidates", 1, "/spec/calibration/candidates", "greater-than-equal"),
    ("/spec/evaluate/tasks", "arc_easy", "/spec/evaluate/tasks", "list-type"),
    ("/spec/evaluate/tasks", ["../arc"], "/spec/evaluate/tasks/0", "string-pattern-mismatch"),
    ("/spec/evaluate/tasks", ["piqa", "piqa"], "/spec/evaluate/tasks/1", "duplicate-name"),
    ("/spec/evaluate", {"divergence": True, "perplexity": []}, "/spec/evaluate/divergence", "nothing-to-measure"),
    ("/spec/output/publish", 5, "/spec/output/publish", "list-type"),
    # rules over several fields
    ("/spec/prune", {**WANDA, "pattern": {"kind": "neurons"}}, "/spec/prune/pattern/kind", "does-not-combine"),
    ("/spec/prune", [WANDA, WANDA], "/spec/prune/0", "weights-before-parts"),
    ("/spec/prune", [WANDA, {"method": "angular", "sparsity": 0.5}], "/spec/prune/0", "weights-before-parts"),
    ("/spec/prune", [{**WANDA, "pattern": {"kind": "experts"}}], "/spec/prune/0/pattern/kind", "does-not-combine"),
    # a half of a block cannot go: whoever asks learns why
    ("/spec/prune", {**WANDA, "pattern": {"kind": "mlp"}}, "/spec/prune/pattern/kind", "no-stock-configuration"),
    (
        "/spec/prune",
        {"method": "perplexity", "sparsity": 0.25, "pattern": {"kind": "attention"}},
        "/spec/prune/pattern/kind",
        "no-stock-configuration",
    ),
    ("/spec/prune", {"method": "angular"}, "/spec/prune/sparsity", "missing-sparsity"),
    ("/spec/prune", {"method": "flap", "sparsity": 1.0}, "/spec/prune/sparsity", "less-than"),
    ("/spec/retrain", {"trainable": []}, "/spec/retrain/trainable", "nothing-to-train"),
    ("/spec/retrain", {"method": "full", "trainable": ["norms"]}, "/spec/retrain/trainable", "contradictory-trainable"),
    ("/spec/retrain/trainable", ["mask_lora", "norms", "spp"], "/spec/retrain/trainable/2", "several-adapters"),
    ("/spec/retrain/trainable", ["norms", "norms"], "/spec/retrain/trainable/1", "duplicate-name"),
    ("/spec/soup", {"members": 3}, "/spec/soup", "nothing-to-average"),
    (
        "/spec",
        {"prune": WANDA, "retrain": {"trainable": ["norms", "lora"]}, "soup": {}},
        "/spec/soup",
        "nothing-to-average",
    ),
    ("/spec/soup", {"members": 8, "vary": "schedule"}, "/spec/soup/members", "too-many-members"),
    ("/spec/cycles", {"count": 2}, "/spec/cycles", "nothing-to-repeat"),
    (
        "/spec",
        {"prune": WANDA, "retrain": {"trainable": ["norms", "lora"]}, "cycles": {}},
        "/spec/cycles",
        "adapter-between-cycles",
    ),
    (
        "/spec",
        {"prune": WANDA, "retrain": {"steps": 3}, "cycles": {"count": 4}},
        "/spec/retrain/steps",
        "too-few-steps",
    ),
    (
        "/spec",
        {"prune": {"method": "wanda", "pattern": {"kind": "nm"}}, "retrain": {}, "cycles": {}},
        "/spec/prune/pattern",
        "one-sparsity",
    ),
    (
        "/spec",
        {"prune": {"method": "sparsegpt", "sparsity": 0.5}, "retrain": {"steps": 8}, "cycles": {"count": 2}},
        "/spec/prune",
        "pruned-comes-back",
    ),
    ("/spec/prune", {"method": "wanda"}, "/spec/prune/sparsity", "missing-sparsity"),
    # a target is split over whole parts, and there is one of it
    ("/spec/objective", {"parameters": 10}, "/spec/objective", "nothing-to-search"),
    ("/spec/objective", {"parameters": 10, "bytes": 10}, "/spec/objective", "one-target"),
    ("/spec/objective", {"seconds_per_token": 0.0}, "/spec/objective/seconds_per_token", "greater-than"),
    ("/spec/objective", {}, "/spec/objective/max_relative_perplexity_increase", "missing"),
    ("/spec/prune", {**WANDA, "pattern": {"kind": "nm", "n": 1}}, "/spec/prune/sparsity", "contradictory-sparsity"),
    ("/spec/evaluate/perplexity", [{}, {"name": "python-docs"}], "/spec/evaluate/perplexity/1/name", "duplicate-name"),
    ("/spec/evaluate/perplexity", [{}, {}], "/spec/evaluate/perplexity/1", "duplicate-name"),
    (
        "/spec",
        {"prune": [], "reconstruct": {"interleave": True}},
        "/spec/reconstruct/interleave",
        "nothing-to-interleave",
    ),
    ("/spec", {"prune": [], "reconstruct": {}}, "/spec/reconstruct", "nothing-to-fit-to"),
    ("/spec", {"prune": [], "retrain": {"schedule": "allr"}}, "/spec/retrain/schedule", "no-distance"),
    (
        "/spec",
        {"prune": {"method": "flap", "sparsity": 0.25}, "retrain": {"schedule": "allr"}},
        "/spec/retrain/schedule",
        "no-distance",
    ),
    (
        "/spec",
        {"prune": [], "retrain": {}, "soup": {"members": 7, "vary": "schedule"}},  # the seventh is allr
        "/spec/soup/members",
        "no-distance",
    ),
    ("/spec", {"prune": [], "retrain": {"loss": "kl"}}, "/spec/retrain/loss", "no-teacher"),
    ("/spec", {"prune": [], "retrain": {"loss": "squarehead"}}, "/spec/retrain/loss", "no-teacher"),
    (
        "/spec/evaluate/perplexity",
        [{"dataset": {"kind": "builtin"}}],
        "/spec/evaluate/perplexity/0/dataset",
        "training-text-is-evaluation-text",
    ),
]


def _with(pointer: str, value: object) -> dict[str, Any]:
    body = copy.deepcopy(REMOTE)
    place = body
    *path, last = pointer.split("/")[1:]
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    return body


@pytest.mark.parametrize(("where", "value", "pointer"), NOT_BUILT)
def test_what_is_not_built_is_refused_by_name(client: TestClient, where: str, value: object, pointer: str) -> None:
    answer = client.post("/v1/jobs", json=_with(where, value))
    assert answer.status_code == 422
    first = answer.json()["errors"][0]
    assert (first["pointer"], first["code"]) == (pointer, "not-available")
    assert "this field" not in first["detail"]


def test_a_plan_foretells_no_result(client: TestClient) -> None:
    answer = client.post("/v1/plans", json={**REMOTE, "forecast": True})
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [("/forecast", "not-available")]
    answer = client.post("/v1/jobs", json={**REMOTE, "forecast": False})
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [("/forecast", "extra-forbidden")]


def test_levels_are_not_available_to_who_may_ask(client: TestClient) -> None:
    reads, writes = (bearer(new_key(client, DEFAULT_PROJECT, scope)["key"]) for scope in ("jobs:read", "jobs:write"))
    for verb, path, ours in (
        ("POST", "/v1/levels", writes),
        ("GET", "/v1/levels/lvl_1", reads),
        ("POST", "/v1/levels/lvl_1/solve", writes),
    ):
        answer = client.request(verb, path, headers=ours, json={"source": {}} if verb == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (422, "not-available")
        theirs = reads if ours is writes else writes
        assert client.request(verb, path, headers=theirs).status_code == 403


@pytest.mark.parametrize(("where", "value", "pointer", "code"), WRONG)
def test_a_mistake_is_pointed_at(client: TestClient, where: str, value: object, pointer: str, code: str) -> None:
    answer = client.post("/v1/jobs", json=_with(where, value))
    assert answer.status_code == 422
    assert (answer.json()["errors"][0]["pointer"], answer.json()["errors"][0]["code"]) == (pointer, code)
    assert "<script>" not in answer.text
    assert client.get("/v1/jobs").json()["items"] == []


SAID: list[tuple[str, Any, str]] = [
    ("/spec/prune/sparsity", "50%", "write 0.5 for 50 %"),
    ("/spec/objective", {"max_relative_perplexity_increase": "5%"}, "this is a text: 50 % is written 0.5"),
    ("/spec/prune/sparsity", "0.5", "this is a text"),
    ("/spec/prune/sparsity", 62.5, "62.5 % is written 0.625"),
    ("/spec/calibration/samples", "1e3", "this is a text"),
    ("/spec/prune/sparsty", 0.5, "no such field"),
    ("/spec/prune", {**WANDA, "pattern": "2:4"}, 'write {"kind": "nm", "n": 2, "m": 4}'),
    ("/spec/calibration", 128, "should be an object"),
]


def test_a_refusal_speaks_of_the_request(client: TestClient) -> None:
    answers = [client.post("/v1/plans", json=_with(where, value)).json() for where, value, _ in SAID]
    assert [
        (where, words)
        for answer, (where, _, words) in zip(answers, SAID, strict=True)
        if words not in answer["errors"][0]["detail"]
    ] == []


MISFITS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    # (configuration of the model, what is done to it, what the refusal points at, its code)
    (
        LLAMA | {"tie_word_embeddings": True},
        {"retrain": {"trainable": ["norms", "head"], "rank": 16}},
        "/spec/retrain/trainable/1",
        "tied-head",
    ),
    (LLAMA, {"retrain": {"trainable": ["norms", "head"], "rank": 17}}, "/spec/retrain/rank", "rank-too-large"),
    (BEHIND, {"reconstruct": {"window": "submodule"}}, "/spec/reconstruct/window", "no-submodules"),
    (BEHIND, {"reconstruct": {}}, "/spec/reconstruct", "no-submodules"),  # the default window
]


@pytest.mark.parametrize(("config", "steps", "pointer", "code"), MISFITS)
def test_what_a_model_has_no_room_for_is_pointed_at(
    client: TestClient, tmp_path: Path, config: dict[str, Any], steps: dict[str, Any], pointer: str, code: str
) -> None:
    source = {"kind": "local", "path": str(write_model(tmp_path / "roots/model", config))}
    answer = client.post("/v1/jobs", json={"source": source, "spec": {"prune": WANDA} | steps})
    assert answer.status_code == 422
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [(pointer, code)]
    assert client.get("/v1/jobs").json()["items"] == []


def test_a_target_that_cannot_be_reached_is_told_the_range(client: TestClient, model: Path) -> None:
    prune = [{"method": "angular", "sparsity": 0.5}, {"method": "structured_obs", "sparsity": 0.5}]
    body = {"source": {"kind": "local", "path": str(model)}, "spec": {"prune": prune, "objective": {"bytes": 1000}}}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/spec/objective/bytes", "out-of-reach")
    assert "these steps reach " in error["detail"]
