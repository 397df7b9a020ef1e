"""The jobs: small ones that together name every field and every word of a spec, and every method and family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch

from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import FAMILIES, write_tiny_model

Spec = dict[str, Any]
Body = dict[str, Any]

_BUILTIN: Final = {"kind": "builtin", "name": "python-docs"}
_WANDA: Final = {"method": "wanda", "sparsity": 0.5}
_TILES: Final = {"kind": "tiles", "dense": 0.2, "rows": 16, "columns": 16}
_DEPTH: Final = {"method": "block_influence", "sparsity": 0.5}
_NEURONS: Final = {"method": "flap", "sparsity": 0.5, "pattern": {"kind": "neurons"}}
_REFIT: Final = {"epochs": 1, "batch_size": 2}
_TRAIN: Final = {"steps": 4, "batch_size": 2, "rank": 2}


def _pruned(method: str = "wanda", sparsity: float | None = 0.5, **fields: Any) -> Spec:
    """A job that prunes, on one axis or another as is not usual."""
    return {"prune": {"method": method, **({} if sparsity is None else {"sparsity": sparsity}), **fields}}


def _removed(method: str, sparsity: float = 0.5, **fields: Any) -> Spec:
    return {"prune": [{"method": method, "sparsity": sparsity, **fields}]}


def _refitted(**fields: Any) -> Spec:
    return {"prune": _WANDA, "reconstruct": _REFIT | fields}


def _trained(**fields: Any) -> Spec:
    return {"prune": _WANDA, "retrain": _TRAIN | fields}


def _souped(vary: str, average: str, **fields: Any) -> Spec:
    return _trained(**fields) | {"soup": {"members": 2, "vary": vary, "average": average}}


def _cycled(schedule: str, **fields: Any) -> Spec:
    return _trained() | {"cycles": {"count": 2, "schedule": schedule}} | fields


_MODELS: Final[dict[str, dict[str, Any]]] = {
    **{name: {"family": name} for name in FAMILIES},
    "llama-float32": {"dtype": torch.float32},
    "llama-tied": {"tied": True},
    "llama-shards": {"max_shard_size": "30KB"},
}
_SPECS: Final[dict[str, Spec]] = {
    # every family, with all that a model goes through
    **{f"family-{name}": _trained() | {"reconstruct": _REFIT, "model": name} for name in FAMILIES},
    # criteria
    "usual": _pruned(
        pattern={"kind": "unstructured", "scope": "row"}, budget={"kind": "uniform"}, update={"kind": "none"}
    )
    | {"calibration": {"selection": "random"}, "compute_dtype": "auto", "propagation": "sequential"},
    "magnitude": _pruned("magnitude"),
    "random": _pruned("random"),
    "ria": _pruned("ria", exponent=0.7),
    "dass": _pruned("dass", exponent=0.7),
    "sparsegpt": _pruned("sparsegpt", damping=0.02),
    "lamp": _pruned("lamp", pattern={"kind": "unstructured", "scope": "global"}),
    "targets": _pruned(targets={"include": ["mlp"], "exclude": ["down_proj"]}),
    # patterns
    "unstructured-matrix": _pruned(pattern={"kind": "unstructured", "scope": "matrix"}),
    "nm": _pruned(sparsity=None, pattern={"kind": "nm", "n": 2, "m": 4}),
    "group-row": _pruned(pattern={"kind": "group", "g": 4, "scope": "row"}),
    "group-matrix": _pruned(pattern={"kind": "group", "g": 8, "scope": "matrix"}),
    "tiles": _pruned(pattern={**_TILES, "rest": "unstructured"}),
    "tiles-nm": _pruned(sparsity=None, pattern={**_TILES, "rest": "nm", "n": 2, "m": 4}),
    "cs256": _pruned(pattern={"kind": "cs256"}),
    # budgets
    "budget-owl": _pruned(budget={"kind": "owl", "threshold": 2.0, "bound": 0.1}),
    "budget-lamp": _pruned(budget={"kind": "lamp"}),
    "budget-erdos-renyi": _pruned(budget={"kind": "erdos_renyi"}),
    "budget-per-layer": _pruned(budget={"kind": "per_layer", "values": [0.4, 0.6]}),
    # mask optimizers
    "sparsefw": _pruned(optimizer={"kind": "sparsefw", "alpha": 0.5, "iterations": 4}),
    "sparsefw-grid": _pruned(optimizer={"kind": "sparsefw", "alpha": "grid", "iterations": "auto"}),
    "sparseswaps": _pruned(optimizer={"kind": "sparseswaps", "iterations": 8}),
    "sparseswaps-refitted": _pruned(optimizer={"kind": "sparseswaps"}, update={"kind": "least_squares"}),
    # updates
    "update-sparsegpt": _pruned(update={"kind": "sparsegpt", "block_size": 8, "damping": 0.02, "mask": "auto"}),
    "update-sparsegpt-given": _pruned(update={"kind": "sparsegpt", "mask": "given"}),
    "update-sparsegpt-own": _pruned(update={"kind": "sparsegpt", "mask": "own"}),
    "update-least-squares": _pruned(update={"kind": "least_squares", "damping": 0.02}),
    "update-admm": _pruned(update={"kind": "admm", "iterations": 6, "ramp": 3, "refit": True, "refit_damping": 0.02}),
    "update-admm-plain": _pruned(update={"kind": "admm", "iterations": 6, "refit": False}),
    "update-alps": _pruned(update={"kind": "alps", "iterations": 20, "rho": 0.2, "refine": 3}),
    "update-awp": _pruned(update={"kind": "awp", "iterations": 6, "step": "lipschitz"}),
    "update-awp-frobenius": _pruned(update={"kind": "awp", "iterations": 6, "step": "frobenius"}),
    "update-auto": _pruned(update={"kind": "auto"}),
    # whole parts
    "angular": {"prune": [{"method": "angular", "pattern": {"kind": "depth", "count": 1}}]},
    "block-influence": _removed("block_influence", replace="least_squares"),
    "block-perplexity": _removed("perplexity"),
    "flap": _removed("flap", pattern={"kind": "neurons", "multiple_of": 8}),
    "magnitude-sp": _removed("magnitude_sp", update="none", pattern={"kind": "kv_groups"}),
    "structured-obs": _removed("structured_obs", pattern={"kind": "kv_groups"}),
    "two-ssp": _removed("two_ssp", update="bias_mean", pattern={"kind": "neurons"}),
    "wanda-sp": _removed("wanda_sp", update="least_squares", pattern={"kind": "neurons"}) | {"model": "opt"},
    "frequency": _removed("frequency", pattern={"kind": "experts"}) | {"model": "mixtral"},
    "output-variance": _removed("output_variance", pattern={"kind": "experts"}) | {"model": "qwen3_moe"},
    "reap": _removed("reap") | {"reconstruct": _REFIT, "model": "qwen3_moe"},
    "parts-and-weights": {"prune": [_DEPTH, _NEURONS, _WANDA], "reconstruct": _REFIT, "retrain": _TRAIN},
    # reconstruction
    "window-submodule": _refitted(window="submodule", mode="dense_inputs", loss="mse", interleave=False),
    "window-matrix": _refitted(window="matrix", mode="sparse_inputs", trainable=["weights"]),
    "window-block": _refitted(window="block", mode="sparse_inputs_dense_targets", loss="cosine"),
    "window-blocks": _refitted(window={"blocks": 2}, validation_fraction=0.25),
    "window-all": _refitted(window="all", learning_rate=0.01),
    "window-auto": _refitted(window="auto", learning_rate="auto"),
    "fit-norms-biases": _refitted(trainable=["norms", "biases"]) | {"model": "opt"},
    "fit-mask-lora": _refitted(trainable=["mask_lora"], rank=2, alpha=4),
    "interleave": _refitted(interleave=True, mode="sparse_inputs"),
    "interleave-matrix": _refitted(interleave=True, window="matrix", mode="sparse_inputs_dense_targets"),
    # retraining
    "train-norms": _trained(method="perp", trainable=["norms"], schedule="linear", loss="cross_entropy"),
    "train-biases": _trained(trainable=["biases"], schedule="cosine") | {"model": "opt"},
    "train-head": _trained(trainable=["head"], schedule="constant", alpha=4, learning_rate=0.001),
    "train-embeddings": _trained(trainable=["embeddings"], schedule="slr", learning_rate="auto"),
    "train-mask-lora": _trained(trainable=["mask_lora"], schedule="clr", accumulate=2),
    "train-scale-lora": _trained(trainable=["scale_lora"], schedule="llr", gradient_checkpointing=True),
    "train-lora-prune": _trained(trainable=["lora_prune"], schedule="allr", gradient_checkpointing=False),
    "train-lora": _trained(trainable=["lora"], gradient_checkpointing="auto"),
    "train-spp": _trained(trainable=["spp"], weight_decay=0.1, patience=2),
    "train-full": _trained(method="full", rate_factor=0.5),
    "train-kl": _trained(loss="kl", seed=1, order_seed=2),
    "train-squarehead": _trained(loss="squarehead", sequence_length=16),
    "train-rate-search": _trained(steps=16),
    "train-other-text": _trained(dataset={**_BUILTIN, "split": "train"}, batch_size=1),
    "train-local-text": _trained(dataset={"kind": "local", "path": "more.jsonl", "column": "body"}),
    "nothing-pruned": {"prune": [], "retrain": _TRAIN},
    # cycles and soups
    "cycles-geometric": _cycled("geometric"),
    "cycles-linear": _cycled("linear", reconstruct=_REFIT),
    "cycles-cubic": _cycled("cubic", soup={"members": 2, "vary": "seed", "average": "uniform"}),
    "soup-seed": _souped("seed", "uniform"),
    "soup-order": _souped("order", "greedy"),
    "soup-weight-decay": _souped("weight_decay", "uniform", trainable=["mask_lora"]),
    "soup-steps": _souped("steps", "greedy"),
    "soup-schedule": _souped("schedule", "uniform", learning_rate=0.001),
    # goals
    "highest-sparsity": _pruned(sparsity=0.3)
    | {
        "objective": {
            "max_relative_perplexity_increase": 1.0,
            "max_trials": 2,
            "max_sparsity": 0.9,
            "tolerance": 0.1,
        }
    },
    "so-many-parameters": {"prune": [_DEPTH, _NEURONS], "objective": {"parameters": 41_000, "max_trials": 4}},
    "so-many-bytes": {"prune": [_DEPTH, _NEURONS], "objective": {"bytes": 80_000, "max_trials": 2}},
    "gate": _pruned()
    | {
        "gate": {
            "max_relative_perplexity_increase": 10.0,
            "max_perplexity": 5000.0,
            "min_sparsity": 0.4,
        }
    },
    # what is read, computed in, measured and written
    "sequential-text": _pruned() | {"calibration": {"selection": "sequential", "seed": 3}},
    "loss-gap": _refitted() | {"calibration": {"selection": "loss_gap", "candidates": 2}},
    "builtin-text": _pruned()
    | {
        "calibration": {"dataset": {**_BUILTIN, "split": "train"}},
        "evaluate": {
            "perplexity": [
                {"dataset": {**_BUILTIN, "split": "validation"}, "sequence_length": 32, "max_windows": 2},
            ]
        },
    },
    "propagation-dense": _refitted() | {"propagation": "dense"},
    "compute-float32": _trained() | {"compute_dtype": "float32", "model": "llama-float32"},
    "compute-bfloat16": _refitted() | {"compute_dtype": "bfloat16"},
    "preset": {"preset": "quality@2", "reconstruct": _REFIT, "retrain": _TRAIN},
    "divergence": _pruned() | {"evaluate": {"divergence": True, "after_each_phase": False}},
    "no-divergence": _trained() | {"evaluate": {"divergence": False, "after_each_phase": True}},
    "format-safetensors": _pruned() | {"output": {"format": "safetensors", "dtype": "float32"}},
    "format-packed": _pruned() | {"output": {"format": "packed", "dtype": "bfloat16"}},
    "format-both": _pruned() | {"output": {"format": "both", "dtype": "float16"}},
    "tied": _trained(trainable=["norms", "embeddings"]) | {"model": "llama-tied"},
    "shards": _refitted() | {"model": "llama-shards"},
}
"""Name -> spec, and the model where it is not the Llama; `_usual` adds text and measurements."""


def write_inputs(folder: Path) -> None:
    """Write every model and text that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder)
    (folder / "more.jsonl").write_text("".join(f'{{"body": "Line {n} of {n * n}."}}\n' for n in range(400)))
    for name, fields in _MODELS.items():
        if not (folder / name).exists():
            half = folder / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            write_tiny_model(half, **fields).rename(folder / name)


def bodies(folder: Path) -> dict[str, Body]:
    """Return every job by its name, as it is posted, on the inputs in a folder."""
    return {
        name: {
            "name": name,
            "reuse": "never",
            "source": {"kind": "local", "path": str(folder / spec.get("model", "llama"))},
            "spec": _placed(_usual(spec), folder),
        }
        for name, spec in _SPECS.items()
    }


def _usual(spec: Spec) -> Spec:
    """Put what every job has below what this one says."""
    train, valid = ({"kind": "local", "path": path, "column": "text"} for path in ("train.txt", "valid.txt"))
    text = {"name": "text", "dataset": valid, "sequence_length": 32, "max_windows": 2}
    whole = {
        **spec,
        "calibration": {"dataset": train, "samples": 4, "sequence_length": 32} | spec.get("calibration", {}),
        "evaluate": {"latency": False, "perplexity": [text]} | spec.get("evaluate", {}),
    }
    return {key: value for key, value in whole.items() if key != "model"}


def _placed(value: Any, folder: Path) -> Any:
    """Let paths of texts lead into the folder."""
    if isinstance(value, dict):
        return {key: str(folder / item) if key == "path" else _placed(item, folder) for key, item in value.items()}
    return [_placed(item, folder) for item in value] if isinstance(value, list) else value
