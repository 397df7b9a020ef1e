"""Model families: one declaration for each `model_type`, found by discovery, torch-free.

A module of this folder declares a family: the keys of its config.json, the tensors that a model of it must have, what
of it can go as a whole, and what sets it apart. Nothing else of the house names a family.
"""

from __future__ import annotations

from espalier.discovery import discover
from espalier.families.shared.family import Family, Map, Maps, Shapes
from espalier.families.shared.mixture import STACKED
from espalier.families.stock_decoders import rows, undeclared
from espalier.methods.structured import PartKind

FAMILIES: dict[str, type[Family]] = discover("espalier.families", Family, tag="model_type")  # type: ignore[type-abstract]
"""The families with a declaration."""


def family_of(model_type: object) -> type[Family] | None:
    """Return the family of a model type, declared or of the table of stock decoders; None for what is not accepted."""
    if not isinstance(model_type, str):
        return None
    return FAMILIES.get(model_type) or undeclared(model_type)


def accepted() -> dict[str, type[Family]]:
    """Return every family that is accepted, by model type: the declared ones first."""
    others = {name: undeclared(name) for name in rows() if name not in FAMILIES}
    return FAMILIES | {name: family for name, family in others.items() if family is not None}


__all__ = ["FAMILIES", "STACKED", "Family", "Map", "Maps", "PartKind", "Shapes", "accepted", "family_of"]
