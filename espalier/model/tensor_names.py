"""Map parameters of the model to tensors of the files: transformers' own rules of loading, without loading.

Published files spell names in their own ways: without the base model's prefix, `block_sparse_moe` for `mlp`, one tensor
per expert or one for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from espalier.errors import UnsupportedArchitectureError
from espalier.families import STACKED
from espalier.model.weights import Weights

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


def names_in_files(model: PreTrainedModel, weights: Weights) -> dict[str, str]:
    """Return tensor names by the names that parameters and buffers have once experts are taken apart.

    `model` is the stock one, its experts still fused. Tensors that it would not load are left out.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    known = model.state_dict()
    tensor_names: dict[str, str] = {}
    for tensor in weights.names:
        name, pattern = rename_source_key(tensor, renamings, converters, model.base_model_prefix, known)
        if name not in known:
            continue
        if pattern is not None:
            tensor_names[_of_expert(name, tensor, pattern, converters)] = tensor
        elif name.rpartition(".")[2] in STACKED and known[name].ndim == 3:
            tensor_names |= _of_stack(name, tensor, weights)
        else:
            tensor_names.setdefault(name, tensor)
    return tensor_names


def _of_expert(name: str, tensor: str, pattern: str, converters: list[WeightConverter]) -> str:
    """The name of the map that a file keeps apart and transformers would stack into `name`."""
    parent, _, leaf = name.rpartition(".")
    sources = next(item.source_patterns for item in converters if pattern in item.source_patterns)
    expert = _EXPERT.search(tensor)
    if expert is None or leaf not in STACKED or len(sources) != len(STACKED[leaf]):
        raise UnsupportedArchitectureError(
            f"{tensor} is converted when it is loaded, in a way that cannot be followed",
            hint="Save the model again with save_pretrained.",
            module=name,
        )
    return f"{parent}.{expert[1]}.{STACKED[leaf][sources.index(pattern)]}.weight"


def _of_stack(name: str, tensor: str, weights: Weights) -> Mapping[str, str]:
    """The maps that a file keeps in one tensor."""
    ours, theirs = name.rpartition(".")[0], tensor.rpartition(".")[0]
    parts = [part for part, place in weights.slices.items() if place.home == tensor]
    return {f"{ours}{part.removeprefix(theirs)}": part for part in parts}
