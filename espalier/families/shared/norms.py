"""Shapes of norms by their kind."""

from __future__ import annotations

from espalier.families.shared.family import Shapes


def layer_norm(*names: str, width: int) -> Shapes:
    """Return shapes of norms with weight and bias."""
    return {f"{name}.{part}": (width,) for name in names for part in ("weight", "bias")}


def rms_norm(*names: str, width: int) -> Shapes:
    """Return shapes of norms with a weight alone."""
    return {f"{name}.weight": (width,) for name in names}
