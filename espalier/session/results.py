"""Results of a job's phases, from which its report is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.messages import Layer, PhaseCompleted


@dataclass
class Written:
    """The model files of the artifact."""

    sha256: dict[str, str]
    """Hash of each file of dense tensors, and of their index, by name."""
    nonzero_parameters: int
    others: dict[str, str] = field(default_factory=dict)
    """Hash of each other file that was hashed while it was written, by its path in the artifact."""
    packs: list[Path] = field(default_factory=list)
    """Files of the artifact's format that stand beside or in the place of the dense ones."""
    unpacked: list[dict[str, Any]] = field(default_factory=list)
    """The dense files that the packs unpack to, as the manifest describes them."""


@dataclass
class Results:
    """Everything that the report is built from, in the order in which the phases find it out."""

    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device and threads: what the numbers depend on beside the request."""
    certificate: dict[str, Any] = field(default_factory=dict)
    """The comparison of the dense model here with stock transformers."""
    dense_perplexity: dict[str, float] = field(default_factory=dict)
    """Perplexity of the dense model, by measurement."""
    dense_tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Numbers of the dense model, by task of lm-eval."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """The protocol of each phase, by subject: all that is needed to repeat the numbers."""
    layers: dict[str, Layer] = field(default_factory=dict)
    """The newest row of every pruned matrix, by its name."""
    trained_parameters: dict[str, int] = field(default_factory=dict)
    """Number of trained parameters, by phase."""
    recovery: dict[str, Any] = field(default_factory=dict)
    """The report's entries of cycles, soups and adapters, under their names."""
    adapter: Path | None = None
    """Trained values of an adapter that stays apart from the weights."""
    comparison: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """The artifact's `divergence` from the dense model by measurement, and its `tasks`."""
    written: Written = field(default_factory=lambda: Written({}, 0))
    """The artifact's model files, from `exporting` on."""
    perplexity: dict[str, float] = field(default_factory=dict)
    """Perplexity of the artifact, by measurement."""
    latency: dict[str, Any] = field(default_factory=dict)
    """`dense` and `compressed`: how fast they were on this machine."""
    phases: list[PhaseCompleted] = field(default_factory=list)
    """Every phase that has ended, in order; one row per repetition where phases repeat."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """Warnings to the user, as `code` and `text`."""

    def add_warnings(self, warnings: Iterable[dict[str, str]]) -> None:
        """Append the warnings that do not stand here yet."""
        self.warnings += [warning for warning in warnings if warning not in self.warnings]
