"""What makes two jobs the same work, and two phases the same phase: canonical hashes of all that decides the bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from espalier.checkpoint_names import CheckpointName, Kind, TurnName
from espalier.recipe.base import fingerprint

SHARED_PHASES: Final = ("baseline", "calibrating", "pruning", "reconstructing")
"""Phases whose results other jobs may start from, in the order in which a job goes through them."""
_LATER: Final = frozenset({"retrain", "soup", "evaluate"})
"""Fields that decide nothing of a block that was pruned or reconstructed."""
_NOT_OF_BASELINE: Final = frozenset({"calibration", "propagation", "prune", "reconstruct", "retrain", "cycles", "soup"})


def work_hash(revision: str, data: Mapping[str, str], spec: Mapping[str, Any], engine: str) -> str:
    """Hash what decides the result: model, text (fingerprint -> sha256), resolved spec less what is done with it."""
    return fingerprint({"revision": revision, "data": dict(data), "spec": _published_nowhere(spec), "engine": engine})


def datasets_in(spec: object) -> Iterator[dict[str, Any]]:
    """Every data set that a dumped spec names."""
    if isinstance(spec, Mapping):
        for name, value in spec.items():
            if name == "dataset" and isinstance(value, dict):
                yield value
            else:
                yield from datasets_in(value)
    elif isinstance(spec, list):
        for item in spec:
            yield from datasets_in(item)


def phase_key(
    phase: str,
    name: CheckpointName,
    *,
    revision: str,
    data: Mapping[str, str],
    spec: Mapping[str, Any],
    made_by: Mapping[str, Any],
) -> str | None:
    """Hash what decides one checkpoint of a phase; None for one that is not shared.

    Blocks differ by their names, not by what decides them; so do pieces of one step that removes whole parts.

    `made_by` is what else decides bits: engine, libraries, device, threads. Fields are dropped by name where they
    surely decide nothing, so that a field which is new here costs reuse and never correctness.
    """
    if phase not in SHARED_PHASES or name.turn != TurnName():
        return None
    kept = _deciding(phase, name, _published_nowhere(spec))
    texts = {fingerprint(dataset) for dataset in datasets_in(kept)}
    known = {key: sha256 for key, sha256 in data.items() if key in texts}
    return fingerprint(
        {"phase": phase, "revision": revision, "data": known, "spec": kept, "made_by": dict(made_by)}
    )  # fmt: skip


def _published_nowhere(spec: Mapping[str, Any]) -> dict[str, Any]:
    output = {name: value for name, value in (spec.get("output") or {}).items() if name != "publish"}
    return {**spec, "output": output, "preset": None}


def _deciding(phase: str, name: CheckpointName, spec: dict[str, Any]) -> dict[str, Any]:
    dtype = (spec.get("output") or {}).get("dtype")
    spec = _without(spec, "gate", "objective", "output", "preset")
    if phase == "baseline":
        spec = _without(spec, *_NOT_OF_BASELINE)
        return {**spec, "evaluate": _without(spec.get("evaluate") or {}, "after_each_phase")}
    spec["dtype"] = dtype  # the weights are cast to it before anything else
    chosen_by_loss = (spec.get("calibration") or {}).get("selection") == "loss_gap"
    if spec.get("cycles") or chosen_by_loss:
        return spec  # every step may look back on every other
    interleaved = bool((spec.get("reconstruct") or {}).get("interleave"))
    if name.step is not None:  # steps after it, single weights and recovery decide nothing of it
        return {**_without(spec, *_LATER, "reconstruct"), "prune": (spec.get("prune") or [])[: name.step + 1]}
    if name.kind is Kind.INPUTS:
        return {"read": f"{name.statistics}-inputs", **_of_dense_inputs(spec)}
    recovers = {"reconstruct": bool(spec.get("reconstruct")), "retrain": bool(spec.get("retrain"))}
    if name.kind is Kind.RESULT and phase != "calibrating":
        # It holds the perplexity of the model as it stood then, if that was asked for.
        spec["recovers"], spec = recovers, _without(spec, "retrain", "soup")
        return spec if phase == "reconstructing" or interleaved else _without(spec, "reconstruct")
    spec = _without(spec, *_LATER)
    if phase != "reconstructing" and not interleaved:
        spec = _without(spec, "reconstruct")
    steps = spec.get("prune") or []
    if phase == "calibrating" and name.kind is not Kind.RESULT and len(steps) == 1:
        # Statistics of the dense model serve every sparsity.
        spec["prune"] = [_without(steps[0], "sparsity")]
    return spec


def _of_dense_inputs(spec: dict[str, Any]) -> dict[str, Any]:
    """What the matrices of the dense model read: no method decides it, but for the parts that steps before removed."""
    *before, last = spec.get("prune") or [{}]
    kept = {name: spec.get(name) for name in ("calibration", "compute_dtype")}
    if before:  # what was fitted in place of removed parts was cast
        kept |= {"before": before, "dtype": spec["dtype"]}
    return kept | {"targets": last.get("targets")}


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
