"""Content hashes that deduplicate jobs and share phase results: canonical, over all that decides the bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from espalier.checkpoint_names import CheckpointName, Kind, RepetitionName
from espalier.recipe.base import fingerprint

_STEPS: Final = frozenset({"calibration", "propagation", "prune", "reconstruct", "retrain", "cycles", "soup"})
"""Fields that say what is done to the model."""
_AFTERWARDS: Final = frozenset({"gate", "objective", "output", "preset"})
"""Fields that decide nothing of any checkpoint; of the output, the dtype counts by itself."""


@dataclass(frozen=True)
class Declared:
    """What of a spec decides nothing of a checkpoint. All other fields do: one that is new costs reuse, never bytes."""

    ignores: frozenset[str] = frozenset()
    ignores_reconstruct: bool = False
    """Whether reconstruction decides nothing of it, unless it interleaves with pruning."""
    steps_so_far: bool = False
    """Whether the steps of pruning after its own decide nothing of it."""
    any_sparsity: bool = False
    """Whether the sparsity of a single step decides nothing of it."""
    any_scores_between: bool = False
    """Whether it decides nothing of it that the model is scored after each phase."""
    of_dense_inputs: bool = False
    """Whether `_of_dense_inputs` declares it, field by field."""


_BLOCKS: Final = Declared(ignores=frozenset({"retrain", "soup", "evaluate"}))
_PRUNED: Final = replace(_BLOCKS, ignores_reconstruct=True)
_PARTS: Final = Declared(ignores=_BLOCKS.ignores | {"reconstruct"}, steps_so_far=True)
_SCORED: Final = Declared(ignores=frozenset({"retrain", "soup"}))
DECLARED: Final[Mapping[str, Mapping[Kind, Declared]]] = {
    "baseline": {Kind.RESULT: Declared(ignores=_STEPS | {"dtype"}, any_scores_between=True)},
    "calibrating": {
        Kind.RESULT: _PRUNED,
        Kind.NORMS: replace(_PRUNED, any_sparsity=True),
        Kind.INPUTS: Declared(of_dense_inputs=True),
    },
    "pruning": {
        Kind.RESULT: replace(_SCORED, ignores_reconstruct=True),
        Kind.BLOCK: _PRUNED,
        Kind.REMOVED_BLOCKS: _PARTS,
        Kind.NARROWED_BLOCK: _PARTS,
        Kind.KEPT_UNITS: _PARTS,
        Kind.KEPT_EXPERTS: _PARTS,
    },
    "reconstructing": {
        Kind.RESULT: _SCORED,
        Kind.BLOCK: _BLOCKS,
        Kind.WINDOW: _BLOCKS,
        Kind.PICKED: _BLOCKS,
    },
}
"""Phases whose results other jobs may start from, in order, and what does not decide each kind of checkpoint."""
SHARED_PHASES: Final = tuple(DECLARED)


def work_hash(
    revision: str, data: Mapping[str, str], spec: Mapping[str, Any], engine: str, *, gpus: int | None = None
) -> str:
    """Hash what decides the result: model, text (fingerprint -> sha256), resolved spec less what is done with it.

    `gpus`: cards that the job names; they decide bytes where weights are fitted or trained.
    """
    whole = {"revision": revision, "data": dict(data), "spec": _published_nowhere(spec), "engine": engine}
    return fingerprint(whole | fitted_as(spec, gpus))


def fitted_as(spec: Mapping[str, Any], gpus: int | None) -> dict[str, Any]:
    """Return what of the number of cards decides the bytes of a result: nothing of one that is pruned alone.

    Any number that is named reconstructs alike, and as no job does that names none; training in shards rounds
    differently for each number.
    """
    decides: dict[str, Any] = {}
    if gpus is not None and spec.get("reconstruct"):
        decides["reconstructed"] = "in pieces"
    if gpus is not None and gpus > 1 and spec.get("retrain"):
        decides["retrained_on"] = gpus
    return decides


def datasets_in(spec: object) -> Iterator[dict[str, Any]]:
    """Yield every data set of a dumped spec."""
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
    `made_by` is what else decides bits: engine, libraries, device, threads.
    """
    kept = _deciding(phase, name, spec)
    if kept is None:
        return None
    texts = {fingerprint(dataset) for dataset in datasets_in(kept)}
    known = {key: sha256 for key, sha256 in data.items() if key in texts}
    return fingerprint({"phase": phase, "revision": revision, "data": known, "spec": kept, "made_by": dict(made_by)})


def _published_nowhere(spec: Mapping[str, Any]) -> dict[str, Any]:
    output = {name: value for name, value in (spec.get("output") or {}).items() if name != "publish"}
    return {**spec, "output": output, "preset": None}


def _deciding(phase: str, name: CheckpointName, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the part of a spec that decides a checkpoint; None for one that is not shared."""
    declared = DECLARED.get(phase, {}).get(name.kind)
    if declared is None or name.repetition != RepetitionName():
        return None
    fields = {key: value for key, value in spec.items() if key not in _AFTERWARDS}
    fields["dtype"] = (spec.get("output") or {}).get("dtype")  # the weights are cast to it before anything else
    if phase != "baseline" and _looks_back(spec):
        return fields
    if declared.of_dense_inputs:
        return {"read": f"{name.statistics}-inputs", **_of_dense_inputs(fields)}
    return _declared(declared, name, fields)


def _looks_back(spec: Mapping[str, Any]) -> bool:
    """Return whether every step may depend on every earlier one."""
    return bool(spec.get("cycles")) or (spec.get("calibration") or {}).get("selection") == "loss_gap"


def _declared(declared: Declared, name: CheckpointName, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec less those that are declared to decide nothing."""
    reconstruct, steps = fields.get("reconstruct") or {}, fields.get("prune") or []
    kept = {key: value for key, value in fields.items() if key not in declared.ignores}
    if declared.ignores_reconstruct and not reconstruct.get("interleave"):
        kept.pop("reconstruct", None)
    if declared.steps_so_far:
        assert name.step is not None
        kept["prune"] = steps[: name.step + 1]
    if declared.any_sparsity and len(steps) == 1:
        kept["prune"] = [{key: value for key, value in steps[0].items() if key != "sparsity"}]
    if declared.any_scores_between:
        scores = fields.get("evaluate") or {}
        kept["evaluate"] = {key: value for key, value in scores.items() if key != "after_each_phase"}
    return kept


def _of_dense_inputs(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the inputs of the dense model's matrices: no method, only the parts removed before.

    This alone is declared by what counts: a new field that decides what the dense model computes has to be named here.
    """
    *before, last = spec.get("prune") or [{}]
    kept = {name: spec.get(name) for name in ("calibration", "compute_dtype")}
    if before:  # what was fitted in place of removed parts was cast
        kept |= {"before": before, "dtype": spec["dtype"]}
    return kept | {"targets": last.get("targets")}
