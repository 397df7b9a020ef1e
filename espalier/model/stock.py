"""Load models with stock transformers, and translate its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from espalier.errors import BrokenResultError, EngineError, UnsupportedArchitectureError
from espalier.families import family_of
from espalier.model import numerics, positions
from espalier.model.tensor_names import names_in_files
from espalier.model.weights import Weights
from espalier.progress import count_step

LONGEST: Final = 300
"""Characters of a foreign message that are passed on."""


@dataclass(frozen=True)
class Skeleton:
    """The stock model of a directory, its parameters on the meta device."""

    config: Any
    model: PreTrainedModel
    names: dict[str, str]
    """Parameter name, once experts are taken apart -> name in the files."""
    separate_head: tuple[str, str] | None
    """Of a model whose configuration ties the two: its head and its embeddings in the files, where they differ."""
    twins: dict[str, str]
    """Name in the files of a tied tensor that is stored twice -> the name that is read."""


def skeleton(model_dir: Path, source: Weights, *, dtype: torch.dtype) -> Skeleton:
    """Build the stock class of a directory; tie what its files leave tied, by the rule of `from_pretrained`.

    Tensors that the configuration ties and the files hold twice are one where they are equal, two where they differ.
    """
    with refusals("config.json"):
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
        family = family_of(config.model_type)
        assert family is not None
        for switch in family.training_only:
            setattr(config, switch, False)  # blocks that stand in for others have no router, for one
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        names = names_in_files(model, source)
        pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
        twice = {names[one]: names[other] for one, other in pairs.items() if one in names and other in names}
        separate = next((pair for pair in twice.items() if not source.same(*pair)), None)
        if separate is not None:
            config.tie_word_embeddings = model.config.tie_word_embeddings = False
        model.tie_weights()  # leaving the meta context untied what the constructor had tied
    model.register_forward_pre_hook(_counted)
    return Skeleton(config, model, names, separate, {} if separate else twice)


def load(folder: Path, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Load a directory with stock `from_pretrained`, in eval mode; raises BrokenResultError for missing tensors.

    To a GPU tensor by tensor: the host need not hold the whole model.
    """
    placement = {"device_map": {"": device}} if numerics.is_accelerator(device) else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        **placement,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise BrokenResultError("the written model lacks tensors", hint="Report this.")
    model = positions.in_integers(model.to(device).eval())
    model.register_forward_pre_hook(_counted)
    assert isinstance(model, nn.Module)
    return model


def _counted(_: nn.Module, __: object) -> None:
    """Count a step at every forward pass, whoever's code asks for it: lm-eval's, say."""
    count_step()


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn exceptions of the stock classes into UnsupportedArchitectureError.

    Errors of ours, of memory and of the device pass. `what` names the part of the model for people.
    """
    try:
        yield
    except (EngineError, MemoryError):
        raise
    except Exception as error:
        if "memory" in str(error) or numerics.fault_of(error):
            raise
        raise UnsupportedArchitectureError(
            f"stock transformers refuses {what}: {first_line(error)}",
            hint="Mend it until AutoModelForCausalLM.from_pretrained loads and runs the model.",
            module=what,
        ) from error


def first_line(error: BaseException) -> str:
    """Return the class of an exception and its first words, without paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = " ".join(lines[:2])  # of a configuration class, the first line names its own check alone
    shown = " ".join("..." if word.count("/") > 1 else word for word in words.split())[:LONGEST]
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
