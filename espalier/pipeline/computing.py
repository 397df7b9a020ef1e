"""Run the phases of one job in order."""

from __future__ import annotations

import platform
import socket
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

from espalier.evaluate import baseline, benchmarks
from espalier.export import result
from espalier.messages import Done, MembersRequested
from espalier.model import numerics
from espalier.pipeline import recover
from espalier.prune import targets
from espalier.recipe.phases import PHASES
from espalier.recipe.spec import ENGINE_VERSION
from espalier.retrain import teacher
from espalier.session import Session, limits
from espalier.structure import removing

PACKAGES: Final = ("torch", "transformers", "tokenizers", "safetensors")
"""Packages whose versions stand in every report."""


def compute(session: Session) -> Done | MembersRequested:
    """Run all phases in order; each skips what an earlier attempt has finished."""
    session.results.environment |= environment(session)
    with limits.limiting(session):
        return _phases(session)


def _phases(session: Session) -> Done | MembersRequested:
    if not session.request.spec.structure:
        targets.check(session)
    limits.check(session)
    teacher.warn(session)
    benchmarks.check(session)
    baseline.run(session)
    if session.request.spec.structure:
        removing.run(session)
        targets.check(session)
    if spread := recover.run(session):
        return spread
    return session.group.led(lambda: _write(session))


def _write(session: Session) -> Done:
    """Run the phases that write the artifact and score it: of several ranks, the first does it alone."""
    spec = session.request.spec.model_dump(mode="json")
    for phase in PHASES:
        if phase.module is not None and phase.planned(spec):
            import_module(phase.module).run(session)
    return result.write(session)


def environment(session: Session) -> dict[str, Any]:
    """Return what the numbers depend on beside the request."""
    # The launcher puts the process into an empty network where the platform allows; an empty one has a loopback only.
    isolated = {name for _, name in socket.if_nameindex()} <= {"lo"}
    return {
        "engine": ENGINE_VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "device": f"{session.device.type} {numerics.device_name(session.device)}",
        "threads": session.request.threads,
        "compute_dtype": numerics.dtype_name(session.compute_dtype),
        "network_isolated": isolated,
    }
