"""Positions counted in integers, for models that count them in float32: CUDA has no deterministic kernel for that."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from espalier.families import family_of


def in_integers(model: PreTrainedModel) -> PreTrainedModel:
    """Give the module that its family declares the positions that it would count itself; return the model.

    Sums of ones are exact in either type: the numbers are the same. A hook, because transformers' own code calls the
    model too (lm-eval, generation), and because copies of the model keep it.
    """
    family = family_of(model.config.model_type)
    assert family is not None
    counting = family.positions_in_floats
    if counting is not None:
        model.get_submodule(counting).register_forward_pre_hook(_counted, with_kwargs=True)
    return model


def _counted(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs.get("position_ids") is not None:
        return args, kwargs
    tokens = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
    batch, length = tokens.shape[:2]
    past, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    past_length = 0 if past is None else int(past.get_seq_length())
    if mask is None:
        positions_BT = torch.arange(past_length, past_length + length, device=tokens.device).expand(batch, -1)
    else:
        mask_BT = mask.long()
        positions_BT = (mask_BT.cumsum(dim=1) * mask_BT - 1)[:, past_length:]
    return args, {**kwargs, "position_ids": positions_BT}
