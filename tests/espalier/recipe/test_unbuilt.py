"""Every field of the contract's second version is built, or declared and refused by name: none is forgotten."""

from __future__ import annotations

import copy
import json
from typing import Any, Final, get_args

import pytest
from pydantic import ValidationError

from app.bodies.job import JobRequest, PlanRequest
from espalier.errors import ErrorClass
from espalier.recipe.refusals.pointers import of_error
from espalier.recipe.refusals.unbuilt import MARK
from espalier.recipe.steps.evaluate import Evaluate
from espalier.recipe.steps.structure import Width

WANDA: Final = {"method": "wanda", "sparsity": 0.5}
FLAP: Final = {"method": "flap", "sparsity": 0.25}
BODY: Final[dict[str, Any]] = {
    "source": {"kind": "huggingface", "repo": "org/model"},
    "spec": {"prune": [FLAP, WANDA], "reconstruct": {}, "retrain": {"steps": 8}, "evaluate": {"perplexity": [{}]}},
}
STEP: Final = "/spec/prune/1"
NOTHING: Final = object()

FIELDS: list[tuple[str, Any, Any]] = [
    # (where in the body, a value of the contract, the default that this version takes)
    ("/spec/quantize", {"scheme": "int4", "method": "gptq"}, None),
    ("/spec/output/gguf_type", "Q4_0", None),
    ("/spec/output/layout", "custom", "stock"),
    ("/spec/evaluate/continuation", {"prompts": "builtin", "tokens": 64}, None),
    ("/spec/evaluate/embeddings", True, None),
    ("/spec/evaluate/groups", [{"name": "a", "dataset": {"kind": "builtin"}}], []),
    ("/spec/evaluate/runtimes", ["transformers", "vllm"], []),
    ("/spec/evaluate/intervals", True, False),
    ("/spec/evaluate/compare_to", {"kind": "huggingface", "repo": "org/small"}, None),
    ("/spec/gate/min_continuation_agreement", 0.9, None),
    ("/spec/gate/max_task_drop", {"piqa": 0.01}, None),
    ("/spec/gate/max_group_gap", 0.1, None),
    ("/spec/gate/max_length_ratio", 1.5, None),
    ("/spec/gate/min_cosine", 0.97, None),
    ("/spec/gate/min_overlap", 0.85, None),
    (f"{STEP}/targets/allow_leftovers", True, False),
    ("/forecast", True, False),
]
"""Fields that are declared and not built."""

VALUES: list[tuple[str, Any, str]] = [
    # (where in the body, a value of the contract, what the refusal points at)
    ("/spec/output/format", "compressed-tensors", "/spec/output/format"),
    ("/spec/output/format", "gguf", "/spec/output/format"),
    ("/spec/output/format", ["safetensors", "packed"], "/spec/output/format"),
    ("/spec/retrain/loss", "embedding", "/spec/retrain/loss"),
    (f"{STEP}/budget", {"kind": "dynamic_programming"}, f"{STEP}/budget/kind"),
    (f"{STEP}/budget", {"kind": "evolution", "generations": 4}, f"{STEP}/budget/kind"),
    (f"{STEP}/budget", {"kind": "sensitivity"}, f"{STEP}/budget/kind"),
    (f"{STEP}/pattern", {"kind": "half_blocks"}, f"{STEP}/pattern/kind"),
    ("/spec/prune/0/pattern", {"kind": "half_blocks"}, "/spec/prune/0/pattern/kind"),
    (
        "/spec/prune/0",
        {"method": "angular", "sparsity": 0.25, "pattern": {"kind": "half_blocks"}},
        "/spec/prune/0/pattern/kind",
    ),
    ("/spec/cycles", {"count": 2}, "/spec/cycles"),  # a step before removes whole parts
    *(
        entry
        for place in ("/spec/calibration/dataset", "/spec/retrain/dataset", "/spec/evaluate/perplexity/0/dataset")
        for entry in (
            (place, {"kind": "self_generated", "tokens": 512, "temperature": 1.0}, f"{place}/kind"),
            (place, [{"dataset": {"kind": "builtin"}, "weight": 1}], place),
            (place, "wikitext2", place),
        )
    ),
]
"""Values of fields that are built for others."""

SHORTHANDS: list[tuple[str, Any, str, str]] = [
    # (where in the body, how the contract shortens it, what the refusal points at, what it says to write)
    (f"{STEP}/pattern", "2:4", f"{STEP}/pattern", '{"kind": "nm", "n": 2, "m": 4}'),
    (f"{STEP}/update", "auto", f"{STEP}/update", '{"kind": "auto"}'),
    ("/spec/reconstruct", True, "/spec/reconstruct", "{}"),
    ("/spec/retrain", True, "/spec/retrain", "{}"),
    ("/spec/calibration/dataset", "c4", "/spec/calibration/dataset", '{"kind": "huggingface", "name": "wikitext2"}'),
    ("/source", "org/model", "/source", '{"kind": "huggingface", "repo": "owner/name"}'),
    ("/source", "./folder", "/source", '{"kind": "huggingface", "repo": "owner/name"}'),
    (f"{STEP}/sparsity", "50%", f"{STEP}/sparsity", "0.5 for 50 %"),
    ("/spec/prune/0/sparsity", "25 %", "/spec/prune/0/sparsity", "0.5 for 50 %"),
    (STEP, {"method": "alps", "sparsity": 0.5}, f"{STEP}/method", '`method: "wanda"`, and the solver as `update`'),
    (STEP, {"method": "admm", "sparsity": 0.5}, f"{STEP}/method", '`method: "wanda"`, and the solver as `update`'),
    (STEP, {"method": "awp", "sparsity": 0.5}, f"{STEP}/method", '`method: "wanda"`, and the solver as `update`'),
]


def _with(pointer: str, value: object) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    place: Any = body
    *path, last = pointer.split("/")[1:]
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = value
    return body


def _refusal(pointer: str, value: object) -> tuple[str, str, str]:
    """Where, why and in which words a body is refused that is right in everything else."""
    body = _with(pointer, value)
    with pytest.raises(ValidationError) as caught:
        PlanRequest.model_validate(body)
    (error,) = caught.value.errors()
    return of_error(error, error["loc"], body), error["type"], error["msg"]


@pytest.mark.parametrize(("where", "value", "default"), FIELDS)
def test_a_field_to_come_is_refused_by_name_and_taken_at_its_default(where: str, value: Any, default: Any) -> None:
    pointer, kind, text = _refusal(where, value)
    assert (pointer, kind) == (where, "not_available")
    assert text.startswith(f"`{where.rsplit('/', 1)[1]}`")
    request = PlanRequest.model_validate(_with(where, default))
    name = where.rsplit("/", 1)[1]
    assert f'"{name}"' not in request.model_dump_json(), "at its default a field stays out of what is written"


def test_another_kind_of_nothing_is_refused_too() -> None:
    for where, value in (("/spec/evaluate/intervals", 0), ("/spec/quantize", False), ("/spec/evaluate/runtimes", {})):
        assert _refusal(where, value)[:2] == (where, "not_available")


@pytest.mark.parametrize(("where", "value", "pointer"), VALUES)
def test_a_value_to_come_is_refused_by_name(where: str, value: Any, pointer: str) -> None:
    assert _refusal(where, value)[:2] == (pointer, "not_available")


@pytest.mark.parametrize(("where", "value", "pointer", "instead"), SHORTHANDS)
def test_a_shorthand_is_refused_and_what_to_write_is_said(where: str, value: Any, pointer: str, instead: str) -> None:
    at, kind, text = _refusal(where, value)
    assert (at, kind) == (pointer, "not_available")
    assert text.endswith(f" is not available in this version: write {instead}")


def test_every_field_that_is_declared_and_not_built_is_tried() -> None:
    schema = PlanRequest.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    marked = {name for model in models for name, field in model.get("properties", {}).items() if MARK in field}
    assert marked == {where.rsplit("/", 1)[1] for where, *_ in FIELDS}
    assert all(
        "Not available in this version" in field["description"]
        for model in models
        for field in model.get("properties", {}).values()
        if MARK in field
    )


SECOND_VERSION: Final = (
    "quantize",
    "format",
    "gguf_type",
    "layout",
    "continuation",
    "embeddings",
    "groups",
    "runtimes",
    "intervals",
    "compare_to",
    "min_continuation_agreement",
    "max_task_drop",
    "max_group_gap",
    "max_length_ratio",
    "min_cosine",
    "min_overlap",
    "dataset",
    "loss",
    "allow_leftovers",
    "budget",
    "pattern",
    "cycles",
    "forecast",
    "update",
    "reconstruct",
    "retrain",
    "source",
    "sparsity",
)
"""What section 14 adds to a request, or to what one of its fields may say, and is not built."""
BUILT: Final[dict[str, Any]] = {
    "latency": Evaluate.model_fields,
    "multiple_of": Width.model_fields,
    "device_lost": get_args(ErrorClass),
    "source_unreachable": get_args(ErrorClass),
}
"""The rest of it -> where it stands."""


def test_every_name_of_the_second_version_is_built_or_refused_by_name() -> None:
    refused = {part for where, *_ in (*FIELDS, *VALUES, *SHORTHANDS) for part in where.split("/")}
    assert [name for name in SECOND_VERSION if name not in refused] == []
    assert [name for name, home in BUILT.items() if name not in home] == []


def test_a_job_declares_nothing_that_only_a_plan_takes() -> None:
    assert set(PlanRequest.model_fields) - set(JobRequest.model_fields) == {"forecast"}


def test_the_words_are_no_part_of_what_was_sent() -> None:
    """A refusal never repeats what came in, so that nothing is reflected into a page."""
    for where, value in ((f"{STEP}/pattern", "<script>"), ("/source", "<script>"), (f"{STEP}/sparsity", "<script>%")):
        assert "<script>" not in json.dumps(_refusal(where, value))
