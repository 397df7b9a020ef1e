"""Model families: one declaration for each `model_type`, found by discovery, torch-free.

A module of this folder declares a family: the keys of its config.json, the tensors that a model of it must have, what
of it can go as a whole, and what sets it apart. Nothing else of the house names a family.
"""

from __future__ import annotations

from espalier.discovery import discover
from espalier.families.shared.family import Family, Map, Maps, Shapes
from espalier.families.shared.mixture import STACKED
from espalier.methods.structured import PartKind

FAMILIES: dict[str, type[Family]] = discover("espalier.families", Family, tag="model_type")  # type: ignore[type-abstract]
"""The model types that are accepted."""

__all__ = ["FAMILIES", "STACKED", "Family", "Map", "Maps", "PartKind", "Shapes"]
