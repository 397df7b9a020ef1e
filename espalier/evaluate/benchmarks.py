"""`evaluate.tasks` through lm-eval: looked up before anything else, scored on the dense model and on the artifact."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from espalier.model.lm_eval_tasks import Tasks
from espalier.session import Session


def check(session: Session) -> None:
    """Load the tasks with their data; an error names what is missing."""
    names = session.request.spec.evaluate.tasks
    if names:
        folder = session.request.tasks_dir
        session.tasks = Tasks(names, folder=Path(folder) if folder else None, scratch=session.workspace)
        versions = session.tasks.versions()
        session.results.protocol["tasks"] = {"names": names, "few_shot": "as each task says", **versions}


def score(session: Session, model: nn.Module) -> dict[str, dict[str, float]]:
    """Score a model on the tasks asked for; return every task's numbers."""
    return session.tasks.score(model, session.corpus.tokenizer) if session.tasks else {}
