"""The dense model, measured in the same job by the same protocol."""

from __future__ import annotations

from espalier.evaluate import benchmarks, certificate
from espalier.evaluate.scoring import DIVERGENCE, count_windows, describe, score_weights
from espalier.session import Session


def run(session: Session) -> None:
    """Score the source as it is."""
    session.results.protocol["perplexity"] = describe(session)
    if session.request.spec.evaluate.divergence:
        session.results.protocol["divergence"] = DIVERGENCE
    certificate.warn(session)
    with session.reporter.phase("baseline", total=count_windows(session), unit="window") as phase:
        done = phase.finished()
        if done is None:
            session.results.certificate = certificate.run(session)
            phase.perplexity = score_weights(session, session.dense, phase=phase, dense=True)
            if session.tasks:
                with session.streamed.whole(session.dense) as model:
                    session.results.dense_tasks = benchmarks.score(session, model)
            phase.finish({"tasks": session.results.dense_tasks, "certificate": session.results.certificate})
        else:
            session.results.dense_tasks = done.get("tasks", {})
            session.results.certificate = done["certificate"]
        session.results.dense_perplexity = phase.perplexity or {}
