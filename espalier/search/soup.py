"""The members of a soup as specs of their own."""

from __future__ import annotations

from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.recovery import vary


def member_specs(spec: CompressionSpec, factor: float | None = None) -> list[CompressionSpec]:
    """Return what every member of a spec's soup is to do; each is a job of its own from the same pruned weights.

    Members prune and reconstruct as their parent does, so that equal phase results can be shared, and leave dense
    files, which are averaged. `factor`: the rate factor that was found for all of them.
    """
    assert spec.soup is not None
    assert spec.retrain is not None
    output = spec.output.model_copy(update={"publish": [], "format": "safetensors"})
    quiet = {"soup": None, "gate": None, "objective": None, "output": output}
    retrains = vary(spec.retrain, spec.soup, factor)
    return [spec.model_copy(update={**quiet, "retrain": retrain}) for retrain in retrains]
