"""`evaluate.tasks` through lm-eval: looked up before anything else, scored on the dense model and on the artifact."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from espalier.model.lm_eval_tasks import Tasks
from espalier.session import Context


def check(context: Context) -> None:
    """Load the tasks with their data; an error names what is missing."""
    names = context.request.spec.evaluate.tasks
    if names:
        folder = context.request.tasks_dir
        context.tasks = Tasks(names, folder=Path(folder) if folder else None, scratch=context.workspace)
        context.protocol["tasks"] = {"names": names, "few_shot": "as each task says", **context.tasks.versions()}


def score(context: Context, model: nn.Module) -> dict[str, dict[str, float]]:
    """Every task's numbers; nothing where none are asked for."""
    return context.tasks.score(model, context.corpus.tokenizer) if context.tasks else {}
