"""The dense model, measured in the same job by the same protocol."""

from __future__ import annotations

from typing import Any

from espalier.evaluate import benchmarks, certificate
from espalier.evaluate.scoring import DIVERGENCE, count_windows, describe, score_weights
from espalier.session import Session
from espalier.session.reporter import PhaseRun

Tasks = dict[str, dict[str, float]]
"""Task of lm-eval -> its numbers."""


def run(session: Session) -> None:
    """Score the source as it is."""
    session.results.protocol["perplexity"] = describe(session)
    if session.request.spec.evaluate.divergence:
        session.results.protocol["divergence"] = DIVERGENCE
    certificate.warn(session)
    with session.reporter.phase("baseline", total=count_windows(session), unit="window") as phase:
        done = phase.finished()
        if done is None:
            session.results.certificate, session.results.dense_tasks, phase.perplexity = session.group.led(
                lambda: _measured(session, phase)
            )
            phase.finish({"tasks": session.results.dense_tasks, "certificate": session.results.certificate})
        else:
            session.results.dense_tasks = done.get("tasks", {})
            session.results.certificate = done["certificate"]
        session.results.dense_perplexity = phase.perplexity or {}


def _measured(
    session: Session, phase: PhaseRun
) -> tuple[dict[str, Any], dict[str, dict[str, float]], dict[str, float]]:
    """Return the certificate, the numbers of the tasks and the perplexities."""
    certified, tasks = certificate.run(session), {}
    perplexity = score_weights(session, certified.weights, phase=phase, dense=True)
    if session.tasks:
        with session.streamed.whole(certified.weights) as model:
            tasks = benchmarks.score(session, model)
    return certified.document, tasks, perplexity
