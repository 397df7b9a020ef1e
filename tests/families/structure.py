"""Read a stock decoder off its model on the meta device: blocks, linear layers, what settings add."""

from __future__ import annotations

from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from espalier.model.layout import find_stack
from tests.families.tiny import tiny_config


class RefusedError(Exception):
    """Says why a type cannot be admitted without a declaration."""


def structure_of(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what the table says of a type's parameters; raises RefusedError."""
    model = _build(tiny_config(name))
    if model is None:
        raise RefusedError("no tiny model of it can be built")
    prefix, stack = find_stack(model)
    linear = [_linear(block) for block in stack]
    inside, outside = _parameters(model)
    if any(each != inside[0] for each in inside) or any(each != linear[0] for each in linear):
        raise RefusedError("its blocks are not all alike")
    if any(count > 2 for count in inside[0].values()):
        raise RefusedError("its blocks hold tensors of more than two dimensions, such as convolutions")
    if any("encoder_attn" in name or "crossattention" in name for name in inside[0]):
        raise RefusedError("its blocks read an encoder's output")
    if len(set(linear[0].values())) != 1:
        raise RefusedError("its linear layers are stored in two ways")
    every, optional, around = dict(inside[0]), set[str](), set(outside)
    for key, (kinds, default) in fields.items():
        if "bool" in kinds and key != "tie_word_embeddings":
            changed = _build(tiny_config(name) | {key: not default})
            if changed is None:
                continue
            other = _parameters(changed)
            optional |= (other[0][0].keys() ^ inside[0].keys()) | (set(other[1]) ^ set(outside))
            every |= {name_: count for name_, count in other[0][0].items() if count <= 2}
            around |= set(other[1])
    embeddings, head = _name(model, model.get_input_embeddings()), _name(model, model.get_output_embeddings())
    base = next((f"{name}." for name, module in model.named_modules() if module is model.base_model and name), "")
    return {
        "base": base,
        "blocks": prefix,
        "transposed": next(iter(linear[0].values())),
        "maps": list(linear[0]),
        "parameters": dict(sorted(every.items())),
        "optional": sorted(optional),
        "outer": [embeddings, *sorted(around - {embeddings, head})],
        "head": head,
    }


def _build(config: dict[str, Any]) -> PreTrainedModel | None:
    with init_empty_weights(include_buffers=False):
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        except Exception:  # noqa: BLE001 - a setting that the stock class refuses
            return None
    model.tie_weights()
    return model


def _linear(block: nn.Module) -> dict[str, bool]:
    """Linear layers by name -> whether they are stored as (inputs, outputs)."""
    found = block.named_modules()
    return {name: isinstance(each, Conv1D) for name, each in found if isinstance(each, nn.Linear | Conv1D)}


def _parameters(model: PreTrainedModel) -> tuple[list[dict[str, int]], list[str]]:
    """Parameters of every block with their dimensions, and the names of all others."""
    prefix, stack = find_stack(model)
    inside = [{name: parameter.ndim for name, parameter in block.named_parameters()} for block in stack]
    names = [name for name, _ in model.named_parameters()]
    return inside, [name for name in names if not name.startswith(f"{prefix}.")]


def _name(model: nn.Module, module: nn.Module | None) -> str:
    if module is None:
        raise RefusedError("it has no head over its vocabulary")
    return next(f"{name}.weight" for name, each in model.named_modules() if each is module)
