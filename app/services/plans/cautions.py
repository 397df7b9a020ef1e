"""Cautions about requests that are allowed and most likely a mistake: in the plan and in the answer to the POST."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from app.db.queries.tenancy import credentials
from app.db.session import once
from app.integrations.systems import LOGINS
from app.services.plans import estimates
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.dataset import HuggingFaceDataset

WIDE_GATE: Final = 1.0
"""Of an increase over dense: more than twice its perplexity is hardly what a gate is for, and 10 was meant as 10 %."""
LITTLE_LEFT: Final = 0.9
"""Share pruned above which hardly any model is left of any model."""
LONG: Final = timedelta(days=30)
"""No job may run for longer than `limits.max_run_seconds` allows."""
_SHORT_NAMES: Final = frozenset({"wikitext2", "c4"})

Caution = dict[str, str]


def of(
    session: Session,
    project_id: str,
    worker_class: str,
    spec: CompressionSpec,
    works: Mapping[str, float],
    *,
    assumed: Callable[[], Mapping[str, float]],
) -> list[Caution]:
    """Return what to say of a spec as sent; `works`: of its phases, where the model is known.

    `assumed`: gives their seconds on a GPU of the class; asked for where a CPU would take too long.
    """
    cautions = [*_unpublished(session, project_id, spec), *_of_spec(spec)]
    # At the slowest speed first: the rates of finished jobs are many rows, and a POST waits for them.
    if estimates.UNKNOWN.total_seconds(works) > LONG.total_seconds():
        rates = estimates.rates(session, project_id, worker_class, assumed=assumed())
        cautions += lasting(rates.total_seconds(works))
    return cautions


def lasting(seconds: float) -> Iterator[Caution]:
    """Yield a caution where the estimate is longer than any job runs."""
    if seconds > LONG.total_seconds():
        days = seconds / timedelta(days=1).total_seconds()
        duration = f"{days / 365:.1f} years" if days > 365 else f"{days:.0f} days"
        text = f"This job is estimated to run for {duration}: see `steps`, `samples`, `epochs` and `count`."
        yield {"code": "runs_long", "text": text}


def _unpublished(session: Session, project_id: str, spec: CompressionSpec) -> Iterator[Caution]:
    for index, target in enumerate(spec.output.publish):
        ask = partial(credentials.find, session, project_id, target.kind)
        if _takes_its_own(target.kind) and once(session, ("login", project_id, target.kind), ask) is None:
            text = (
                f"output.publish[{index}] needs the project's {LOGINS[target.kind].title}, and none is stored: "
                f"PUT /v1/credentials/{target.kind} before the job ends."
            )
            yield {"code": "no_credential", "text": text}


def _takes_its_own(kind: str) -> bool:
    """Tell whether a project needs a login of its own to publish to a system."""
    return kind in LOGINS and "publish" not in LOGINS[kind].lent


def _of_spec(spec: CompressionSpec) -> Iterator[Caution]:
    gate = spec.gate.max_relative_perplexity_increase if spec.gate else None
    if gate is not None and gate > WIDE_GATE:
        text = f"The gate accepts {1 + gate:.4g} times the dense model's perplexity; 0.1 means 10 % more."
        yield {"code": "wide_gate", "text": text}
    for index, step in enumerate(spec.prune):
        sparsity = step.sparsity
        if sparsity is not None and sparsity > LITTLE_LEFT:
            text = f"prune[{index}] takes {sparsity:.1%} away; what is left is rarely better than guessing."
            yield {"code": "little_is_left", "text": text}
    texts = [spec.calibration.dataset, *(item.dataset for item in spec.evaluate.perplexity)]
    for name in {text.name for text in texts if isinstance(text, HuggingFaceDataset)} - _SHORT_NAMES:
        if "/" not in name:
            text = f"The data set {name} has no owner; short names are {', '.join(sorted(_SHORT_NAMES))}."
            yield {"code": "dataset_without_owner", "text": text}
