"""Split fused experts: every slice of a stacked tensor becomes a linear layer of its own.

transformers keeps the experts of a block in two tensors, `gate_up_proj` (E, 2H, I) and `down_proj` (E, I, H). Here an
expert is three plain linear maps instead, so that statistics, masks, windows and adapters need to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.families import STACKED
from espalier.methods.unique_results import unique_result

_SUPPORTED_FLAGS: Final = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
"""Attributes of a transformers module whose experts can be split; modules of one family may differ in them."""


class Expert(nn.Module):
    """A gated feed-forward net."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.gate_proj = _linear(gate_up.shape[0] // 2, gate_up)
        self.up_proj = _linear(gate_up.shape[0] // 2, gate_up)
        self.down_proj = _linear(down.shape[0], down)
        self.act = act

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Apply the net to the tokens that were routed here."""
        hidden: torch.Tensor = self.down_proj(self.act(self.gate_proj(x_TI)) * self.up_proj(x_TI))
        return hidden


class SeparateExperts(nn.ModuleList):
    """Replacement of a module of stacked experts; same arguments, same result."""

    def forward(self, x_TI: torch.Tensor, chosen_TK: torch.Tensor, share_TK: torch.Tensor) -> torch.Tensor:
        """Send every token to its chosen experts and add up their outputs, each by its routing weight."""
        total_TI = torch.zeros_like(x_TI)
        # One sort for all experts, and one number of each that the host waits for; of equal experts the order stays.
        ordered = sent_order(chosen_TK)
        counts = chosen_TK.reshape(-1).bincount(minlength=len(self)).tolist()
        for index, chosen in enumerate(torch.split(ordered, counts)):
            if len(chosen):
                place, token = chosen // len(x_TI), chosen % len(x_TI)
                made = self[index](x_TI[token]) * share_TK[token, place, None]
                with unique_result(total_TI.device):  # a token comes to an expert once
                    total_TI.index_add_(0, token, made.to(total_TI.dtype))
        return total_TI


def sent_order(chosen_TK: torch.Tensor) -> torch.Tensor:
    """Return the places in `chosen_TK.T.reshape(-1)` in the order in which they are sent, expert by expert."""
    return chosen_TK.T.reshape(-1).sort(stable=True).indices


def split_experts(model: nn.Module) -> None:
    """Replace every module of stacked experts of a model; the new maps are not filled.

    Raises UnsupportedArchitectureError for experts that are stored or run in another way.
    """
    for name, module in list(model.named_modules()):
        own = dict(module.named_parameters(recurse=False))
        if not any(parameter.ndim > 2 for parameter in own.values()):
            continue
        if not _is_known(module, own):
            raise UnsupportedArchitectureError(
                f"{name} holds fused experts of an unsupported layout",
                hint="Use a mixture of experts built like Mixtral or Qwen3-MoE, or a dense model.",
                module=name,
            )
        gate_up, down, act = own["gate_up_proj"], own["down_proj"], module.act_fn
        assert isinstance(act, nn.Module)
        experts = SeparateExperts(Expert(gate_up[0], down[0], act) for _ in range(gate_up.shape[0]))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, experts)


def _is_known(module: nn.Module, own: Mapping[str, nn.Parameter]) -> bool:
    """Tell whether a module holds experts of the supported layout."""
    gate = getattr(type(module), "_apply_gate", None)
    return (
        set(own) == set(STACKED)
        and all(parameter.ndim == 3 for parameter in own.values())
        and all(getattr(module, name, None) is value for name, value in _SUPPORTED_FLAGS.items())
        and not getattr(module, "has_post_expert_norm", False)
        and getattr(gate, "__name__", "") == "_default_apply_gate"
        and isinstance(getattr(module, "act_fn", None), nn.Module)
    )


def _linear(rows: int, like: torch.Tensor) -> nn.Linear:
    return nn.Linear(like.shape[1], rows, bias=False, device=like.device, dtype=like.dtype)
