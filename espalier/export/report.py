"""Before and after: the report of a job, and the gate's verdict on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.evaluate.latency import macs_per_token
from espalier.evaluate.latency_comparison import compare_latency, regressions
from espalier.export.runtime_notes import runtime_notes
from espalier.memory.pruning import ERROR_TOKENS
from espalier.messages import PhaseCompleted
from espalier.model import masks
from espalier.model.weights import source_files
from espalier.recipe.steps.evaluate import Gate
from espalier.session import Session

_PACKED = (
    "an estimate: the computed size of kept values plus one bit per weight of pruned matrices",
    "measured: the packed files of the artifact",
)


def build(session: Session) -> dict[str, Any]:
    """Build the report as the contract shows it."""
    perplexity = session.results.perplexity
    parameters = sum(session.streamed.parameters.values())
    sizes = _mask_sizes(session)
    kept, total = sum(kept for kept, _ in sizes.values()), sum(total for _, total in sizes.values())
    achieved = 1 - kept / total if total else 0.0
    step = session.step
    report = {
        "dense": {
            "perplexity": session.results.dense_perplexity,
            "tasks": session.results.dense_tasks,
            "parameters": sum(session.source_streamed.parameters.values()),
            "bytes": _file_bytes(session.source_dir),
            "macs_per_token": macs_per_token(session.source_streamed),
            "latency": session.results.latency.get("dense"),
        },
        "compressed": {
            "perplexity": perplexity,
            **session.results.comparison,
            "parameters": parameters,
            "nonzero_parameters": session.results.written.nonzero_parameters,
            "bytes": _file_bytes(session.artifact_dir),
            "packed_bytes": _packed_bytes(session, sizes),
            "macs_per_token": macs_per_token(session.streamed),
            "latency": session.results.latency.get("compressed"),
        },
        "advice": runtime_notes(session, achieved=achieved),
        "phases": [_phase_row(session, done, perplexity) for done in session.results.phases],
        "sparsity": {
            "requested": None if step is None else step.target_sparsity,
            "achieved": achieved,
            "scope": "pruned matrices",
        },
        "trained_parameters": _trained(session, parameters),
        **session.results.recovery,
        "protocol": {
            **session.results.protocol,
            "layer_errors": {"tokens": ERROR_TOKENS, "of": "the first calibration windows"},
            "packed_bytes": _PACKED[bool(session.results.written.packs)],
        },
        "gate": judge(session.request.spec.gate, session.results.dense_perplexity, perplexity, achieved),
        "certificate": session.results.certificate,
        "environment": session.results.environment,
        "warnings": session.results.warnings,
    }
    return {**report, "regressions": regressions(compare_latency(report))}


def judge(
    gate: Gate | None, dense: dict[str, float], compressed: dict[str, float], sparsity: float
) -> dict[str, Any] | None:
    """Check a result against the gate; a limit on a number that was not measured is not kept."""
    if gate is None:
        return None
    increase = max((compressed[name] / dense[name] - 1 for name in compressed), default=None)
    worst = max(compressed.values(), default=None)
    checks: list[dict[str, Any]] = []
    for name, limit, value, sign in (
        ("max_relative_perplexity_increase", gate.max_relative_perplexity_increase, increase, 1),
        ("max_perplexity", gate.max_perplexity, worst, 1),
        ("min_sparsity", gate.min_sparsity, sparsity, -1),
    ):
        if limit is not None:
            passed = value is not None and sign * value <= sign * limit
            checks.append({"name": name, "limit": limit, "value": value, "passed": passed})
    verdict = "accepted" if all(check["passed"] for check in checks) else "rejected"
    return {"verdict": verdict, "checks": checks}


def _phase_row(session: Session, done: PhaseCompleted, final: dict[str, float]) -> dict[str, Any]:
    spec = session.request.spec
    numbers = done.perplexity
    if done.phase == "pruning" and spec.reconstruct is None and spec.retrain is None:
        numbers = final  # nothing changed the weights after this phase
    repetition = {"turn": done.turn} if done.turn else {}
    return {
        "name": done.phase,
        **repetition,
        "seconds": done.seconds,
        "peak_memory_bytes": done.peak_memory_bytes,
        "reused_from": done.reused_from,
        "perplexity": numbers or None,
    }


def _trained(session: Session, parameters: int) -> dict[str, Any]:
    count = list(session.results.trained_parameters.values())[-1] if session.results.trained_parameters else 0
    return {"count": count, "fraction": count / parameters, "by_phase": session.results.trained_parameters}


def _mask_sizes(session: Session) -> dict[str, tuple[int, int]]:
    """Tensor of the files -> (kept, total) over the masked matrices in it."""
    weights, sizes = session.weights, dict[str, tuple[int, int]]()
    by_name = session.streamed.layout.by_name
    for name in weights.mask_names:
        matrix = by_name[name]
        home = weights.home(matrix.tensor)
        kept, total = sizes.get(home, (0, 0))
        size = matrix.shape[0] * matrix.shape[1]
        sizes[home] = (kept + masks.kept(weights.packed_mask(name)), total + size)
    return sizes


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in source_files(folder))


def _packed_bytes(session: Session, sizes: dict[str, tuple[int, int]]) -> int:
    if packs := session.results.written.packs:
        return sum(path.stat().st_size for path in packs)
    weights = session.weights
    total = 0
    for name in weights.names:
        width = weights.dtype(name).itemsize
        kept, count = sizes.get(name, (0, 0))
        if count:
            total += kept * width + -(-count // 8)
        else:
            numel = 1
            for size in weights.shape(name):
                numel *= size
            total += numel * width
    return total
