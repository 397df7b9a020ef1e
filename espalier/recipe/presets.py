"""Presets: named partial specs, shipped with the service, over which explicit fields win."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import PydanticCustomError

from espalier.recipe.refusals.mistakes import suggestion

SHARED_PRUNE_FIELDS: Final = ("sparsity", "pattern", "budget", "optimizer", "update", "targets")
"""What a step keeps when another criterion is asked for; the rest are parameters of the criterion."""


@dataclass(frozen=True)
class PresetVersion:
    """One version of a preset."""

    name: str
    version: int
    description: str
    spec: Mapping[str, Any]

    @property
    def pinned(self) -> str:
        """The name that never changes its meaning."""
        return f"{self.name}@{self.version}"


_SCORE: Final = {"perplexity": [{"max_windows": 128}]}
_TWO_OF_FOUR_RETRAINED: Final[Mapping[str, Any]] = {
    "prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    "reconstruct": {"window": "submodule"},
    "output": {"dtype": "bfloat16"},
    "retrain": {"trainable": ["norms", "mask_lora"], "steps": 500},
}
SHIPPED: Final = (
    PresetVersion(
        "fast",
        1,
        "Half of the weights by Wanda on little text, no recovery: minutes, for a first look.",
        {"calibration": {"samples": 32}, "prune": {"method": "wanda", "sparsity": 0.5}, "evaluate": _SCORE},
    ),
    PresetVersion(
        "balanced",
        1,
        "Half of the weights by Wanda, every attention and MLP half refitted.",
        {"prune": {"method": "wanda", "sparsity": 0.5}, "reconstruct": {"window": "submodule"}},
    ),
    PresetVersion(
        "quality",
        1,
        "As balanced, and norms and MaskLoRA retrained: the best perplexity, the most seconds.",
        {
            "prune": {"method": "wanda", "sparsity": 0.5},
            "reconstruct": {"window": "submodule"},
            "retrain": {"trainable": ["norms", "mask_lora"], "steps": 500},
        },
    ),
    PresetVersion(
        "quality",
        2,
        "A solver, then every half refitted, then norms and MaskLoRA retrained beside the dense model.",
        {
            "prune": {"method": "wanda", "sparsity": 0.5, "update": {"kind": "auto"}},
            "reconstruct": {"window": "submodule"},
            "retrain": {"trainable": ["norms", "mask_lora"], "steps": 500, "loss": "kl"},
        },
    ),
    PresetVersion(
        "2of4",
        1,
        "Two of every four weights kept, refitted: the pattern that sparse tensor cores read.",
        {
            "prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
            "reconstruct": {"window": "submodule"},
        },
    ),
    PresetVersion(
        "2of4-retrained",
        1,
        "As 2of4, retrained, in bfloat16: zeros for sparse kernels, dense to serving engines.",
        _TWO_OF_FOUR_RETRAINED,
    ),
    PresetVersion(
        "vllm-2of4",
        1,
        "Deprecated, the same as 2of4-retrained: no speed-up in vLLM, which removed its 2:4 kernels. Use that name.",
        _TWO_OF_FOUR_RETRAINED,
    ),
)
"""All versions of all presets, older ones first: a pinned name never changes its meaning."""
BUILT_IN: Final = {preset.name: preset for preset in SHIPPED}
"""The newest version of each."""

NAME: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})(?:@([1-9][0-9]{0,5}))?")
"""name or name@version."""
Lookup = Callable[[str, int | None], PresetVersion | None]
LOOKUP: ContextVar[Lookup | None] = ContextVar("presets", default=None)
"""How this request finds its project's own presets; None outside of the service."""


def find(name: str) -> PresetVersion | None:
    """Return what `name` or `name@version` means here."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    base, number = match[1], int(match[2]) if match[2] else None
    lookup = LOOKUP.get()
    if lookup is not None and (own := lookup(base, number)) is not None:
        return own
    return shipped(base, number)


def shipped(name: str, version: int | None) -> PresetVersion | None:
    """Return what ships under a name: its newest version, or the one asked for."""
    versions = [each for each in SHIPPED if each.name == name and version in {None, each.version}]
    return versions[-1] if versions else None


def expanded(spec: object) -> object:
    """Fill a spec as sent with what its preset says, and pin the version; one that names no preset stays as it is.

    A spec that was expanded before, by a service whose presets are not at hand, names a version that is not found
    here: it is complete as it is.
    """
    name = spec.get("preset") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(name, str):
        return spec
    preset = find(name)
    if preset is None:
        if LOOKUP.get() is None and NAME.fullmatch(name) and "@" in name and "prune" in spec:
            return spec
        raise PydanticCustomError("no_such_preset", "{why}", {"why": _why_not(name), "at": "preset"})
    explicit = {key: value for key, value in spec.items() if key != "preset"}
    merged = _merge(preset.spec, explicit)
    return {**merged, "preset": preset.pinned}


def _why_not(name: str) -> str:
    """Return why no preset has this name."""
    base, at, version = name.partition("@")
    if at and not NAME.fullmatch(name):
        return f"the version of a preset is a whole number: write `{base}` or `{base}@1`, not `@{version}`"[:300]
    known = [each.version for each in SHIPPED if each.name == base]
    if known:
        return f"`{base}` ships in version {', '.join(map(str, known))}: write `{base}@{known[-1]}`, or `{base}`"
    return f"there is no preset of this name and version; these ship: {', '.join(BUILT_IN)}{suggestion(base, BUILT_IN)}"


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, list) and len(value) == 1 and isinstance(old, dict):
            value = value[0]  # noqa: PLW2901 - `prune` may be one step or a list of them
        merged[key] = _merged_object(key, old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _merged_object(name: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    if "kind" in new and new["kind"] != old.get("kind"):
        return new
    if name == "prune" and new.get("method", old.get("method")) != old.get("method"):
        old = {key: value for key, value in old.items() if key in SHARED_PRUNE_FIELDS}
    if name == "retrain" and new.get("method") == "full":
        old = {key: value for key, value in old.items() if key != "trainable"}
    return _merge(old, new)
