"""AdamW as training takes it: fused into one kernel on an accelerator, torch's plain form on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from espalier.model.numerics import is_accelerator


def is_fused(device: torch.device) -> bool:
    """Tell whether torch has a fused kernel for an accelerator: deterministic, and without a copy of what moves."""
    return is_accelerator(device) and device.type in _get_fused_kernels_supported_devices()


def adamw(groups: Iterable[dict[str, Any]], device: torch.device, *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """Create AdamW (arXiv 1711.05101) over groups of float32 parameters that lie on one device."""
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=is_fused(device) or None)
