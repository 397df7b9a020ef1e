"""An adapter that stays apart from the pruned model: written beside it as PEFT reads it, and measured with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from espalier.model.numerics import generator
from espalier.recipe.steps.retrain import Retrain
from espalier.session import Session
from espalier.training.lora import LORA_A, LORA_B, Lora

FOLDER: Final = "adapter"
_PREFIX: Final = "base_model.model."
"""PEFT's names begin with its own two wrappers."""


def write(session: Session, trained: Path) -> None:
    """Write `adapter/` of the artifact: `PeftModel.from_pretrained(model, "adapter")` applies it."""
    spec = session.request.spec.retrain
    assert spec is not None
    folder = session.artifact_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    matrices = [m for m in session.streamed.layout.matrices if m.name in session.weights.mask_names]
    values = load_file(trained)
    tensors = {}
    for matrix in matrices:
        tensors[f"{_PREFIX}{matrix.name}.lora_A.weight"] = values[f"value:{matrix.name}.{LORA_A}"]
        tensors[f"{_PREFIX}{matrix.name}.lora_B.weight"] = values[f"value:{matrix.name}.{LORA_B}"]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    names, stored_transposed = [matrix.name for matrix in matrices], any(matrix.transposed for matrix in matrices)
    config = _config(spec, names, transposed=stored_transposed)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(spec: Retrain, names: list[str], *, transposed: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": names,
        "inference_mode": True,
    }


def apply(session: Session, model: nn.Module) -> nn.Module:
    """Lay the written adapter over a loaded model."""
    spec = session.request.spec.retrain
    assert spec is not None
    tensors = load_file(session.artifact_dir / FOLDER / "adapter_model.safetensors")
    for matrix in session.streamed.layout.matrices:
        a_name = f"{_PREFIX}{matrix.name}.lora_A.weight"
        if a_name not in tensors:
            continue
        adapter = Lora(
            model.get_submodule(matrix.name),
            torch.ones(matrix.shape, dtype=torch.bool),
            transposed=matrix.transposed,
            rank=spec.rank,
            alpha=spec.alpha,
            generator=generator(0),
        )
        adapter.a_RI.data.copy_(tensors[a_name])
        adapter.b_OR.data.copy_(tensors[f"{_PREFIX}{matrix.name}.lora_B.weight"])
        model.set_submodule(matrix.name, adapter)
    return model.requires_grad_(False)
