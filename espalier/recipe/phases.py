"""The phases of a job, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Phase = Literal[
    "resolving",
    "fetching",
    "baseline",
    "calibrating",
    "pruning",
    "reconstructing",
    "retraining",
    "merging",
    "exporting",
    "evaluating",
    "uploading",
    "publishing",
]


@dataclass(frozen=True)
class PhaseInfo:
    """What the house has to know of a phase; a new one is a row here, its module, and its field of the spec."""

    name: Phase
    weight: float
    """Its fraction of a job's time, on a CPU with the default spec; only the order of magnitude matters."""
    field: str | None = None
    """The field of the spec that asks for it; None: every job goes through it."""
    repeats: bool = False
    """Whether every cycle goes through it again."""
    stage: str | None = None
    """What tables of a report call the model as it stands after the phase; None: the phase changes no weights."""
    module: str | None = None
    """Of a phase after recovery: the module of the library whose `run(session)` does it."""

    def planned(self, spec: Mapping[str, Any]) -> bool:
        """Tell whether a job with this spec, as a document, goes through the phase."""
        return self.field is None or bool(spec.get(self.field))


PHASES: Final = (
    PhaseInfo("resolving", 1),
    PhaseInfo("fetching", 3),
    PhaseInfo("baseline", 8),
    PhaseInfo("calibrating", 2, repeats=True),
    PhaseInfo("pruning", 20, repeats=True, stage="pruned"),
    PhaseInfo("reconstructing", 30, field="reconstruct", repeats=True, stage="reconstructed"),
    PhaseInfo("retraining", 30, field="retrain", repeats=True, stage="retrained"),
    PhaseInfo("merging", 1, field="retrain", repeats=True),
    PhaseInfo("exporting", 2, module="espalier.export.exporting"),
    PhaseInfo("evaluating", 8, module="espalier.export.evaluating"),
    PhaseInfo("uploading", 3),
    PhaseInfo("publishing", 0),
)
"""In the order in which a job goes through them."""
STAGES: Final = {str(phase.name): phase.stage for phase in PHASES if phase.stage}
"""Phase -> what the model is called after it."""
PHASE_NAMES: Final[tuple[Phase, ...]] = tuple(phase.name for phase in PHASES)

if get_args(Phase) != PHASE_NAMES:
    raise TypeError("the names of phases and their rows differ")
