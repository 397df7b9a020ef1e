"""The catalogue of methods with their parameters, and the schema of a job; both made from the discovered methods."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.views import View
from app.bodies.job import JobRequest
from app.bodies.schema import require_tags
from espalier.families import accepted
from espalier.methods.base import Method
from espalier.methods.statistic import need_of
from espalier.recipe.spec import ENGINE_VERSION, SCHEMA_VERSION
from espalier.recipe.steps.conflicts import conflicts
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, PATTERNS, SOLVERS
from espalier.recipe.steps.reconstruct import Reconstruct
from espalier.recipe.steps.retrain import Retrain
from espalier.recipe.steps.structure import BLOCK_CRITERIA, EXPERT_CRITERIA, UNIT_CRITERIA

router = APIRouter(prefix="/v1", tags=["methods"])


class MethodView(View):
    """One method."""

    name: str
    """Its name in a spec."""
    summary: str
    paper: str
    """The paper that describes it."""
    cost: Literal["free", "low", "medium", "high"]
    needs: Literal["none", "norms", "gram"]
    """The calibration statistic that it reads: none, norms of inputs, their Gram matrix."""
    constraints: list[str]
    """Requirements on the model."""
    parameters: dict[str, Any]
    """JSON Schema."""


class ConflictView(View):
    """Two choices of a prune step that do not go together, parameters at their defaults."""

    choices: dict[str, str]
    """Field of the prune step -> name of the method."""
    reason: str
    """Why, and the way out; `POST /v1/jobs` answers 422 with it."""


class FamilyView(View):
    """One family of models."""

    model_type: str
    """`model_type` of config.json."""
    architecture: str
    """The class of stock transformers."""
    summary: str
    notes: str | None
    """Peculiarities of its matrices or windows."""


class CatalogueView(View):
    """Everything that a spec can name."""

    engine_version: str
    criteria: list[MethodView]
    """`prune.method`: which weights go."""
    structured: list[MethodView]
    """`prune.method` where whole blocks, neurons, heads or experts go; the result is a smaller stock model."""
    patterns: list[MethodView]
    """`prune.pattern`: the shape of the mask."""
    budgets: list[MethodView]
    """`prune.budget`: how the sparsity is spread."""
    mask_optimizers: list[MethodView]
    """`prune.optimizer`: better masks, weights unchanged."""
    updates: list[MethodView]
    """`prune.update`: the kept weights of a matrix refitted."""
    conflicts: list[ConflictView]
    """Combinations that are refused."""
    recovery: list[MethodView]
    """`reconstruct` and `retrain.method`: how the loss is won back."""
    families: list[FamilyView]
    """Models that are accepted; every method works on each, unless its notes or its shapes say otherwise."""


@router.get("/methods")
def list_methods() -> CatalogueView:
    """List every method of this version."""
    return CatalogueView(
        engine_version=ENGINE_VERSION,
        criteria=_axis(CRITERIA, tag="method"),
        structured=_axis({**BLOCK_CRITERIA, **UNIT_CRITERIA, **EXPERT_CRITERIA}, tag="method"),
        patterns=_axis(PATTERNS),
        budgets=_axis(BUDGETS),
        mask_optimizers=_axis(OPTIMIZERS),
        updates=_axis(SOLVERS),
        conflicts=[ConflictView(choices=item.choices, reason=item.reason) for item in conflicts()],
        recovery=[
            MethodView(
                name="reconstruct",
                summary="Refits the kept weights window by window on the dense model's activations.",
                paper="arXiv 2510.14444",
                cost="medium",
                needs="none",
                constraints=["a tokenizer, for the calibration text"],
                parameters=_parameters(Reconstruct),
            ),
            MethodView(
                name="perp",
                summary="Retrains a small part of the parameters on text; every zero stays zero.",
                paper="arXiv 2312.15230",
                cost="high",
                needs="none",
                constraints=["a tokenizer, for the text", "biases in the model, where `biases` is all that trains"],
                parameters=_parameters(Retrain),
            ),
        ],
        families=[
            FamilyView(
                model_type=name,
                architecture=family.architecture,
                summary=inspect.cleandoc(family.__doc__ or ""),
                notes=family.notes or None,
            )
            for name, family in accepted().items()
        ],
    )


def _axis(methods: Mapping[str, type[Method]], *, tag: str = "kind") -> list[MethodView]:
    return [
        MethodView(
            name=name,
            summary=method.summary,
            paper=method.paper,
            cost=method.cost,
            needs=need_of(method.statistics),
            constraints=list(method.constraints),
            parameters=_parameters(method, without=tag),
        )
        for name, method in methods.items()
    ]


def _parameters(model: type[BaseModel], *, without: str = "") -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.get("properties", {}).pop(without, None)
    return schema


@router.get("/spec-schema")
def get_spec_schema() -> dict[str, Any]:
    """Show the JSON Schema of the body of `POST /v1/jobs`, with bounds and defaults."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "schema_version": SCHEMA_VERSION,
        **require_tags(JobRequest.model_json_schema()),
    }
