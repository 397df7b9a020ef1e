"""JSON merge patches (RFC 7396): applied, and made of two documents."""

from __future__ import annotations

from typing import Any


def merge_patch(document: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a document with a patch applied."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patch_between(old: Any, new: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the merge patch from one document to another; it cannot express members that are null in the new one."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    patch = {name: None for name in old if name not in new}
    return patch | {
        name: patch_between(old.get(name), value)
        for name, value in new.items()
        if name not in old or old[name] != value
    }
