"""What every phase works with: the request, the way to the supervisor, the weights as they stand, and what is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from espalier.messages import (
    Checkpoint,
    ComputeRequest,
    Layer,
    Message,
    Metric,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    StoredCheckpoint,
    Warned,
)
from espalier.model import numerics
from espalier.model.lm_eval_tasks import Tasks
from espalier.model.safetensors_writer import sha256_of
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights, output_cast, save_overlay
from espalier.recipe.base import fingerprint
from espalier.recipe.dataset import Dataset
from espalier.recipe.phases import Phase
from espalier.recipe.prune import PruneStep
from espalier.recipe.steps import Calibration, Perplexity, Retrain
from espalier.repetition import Turn
from espalier.text.corpus import CROPPED_FROM, Corpus, Text

PROGRESS_SECONDS = 0.4
"""Shortest time between two progress messages."""


@dataclass
class PhaseRun:
    """One phase while it runs."""

    name: Phase
    session: Session
    total: int
    unit: str
    began: float = field(default_factory=time.monotonic)
    reused_seconds: float = 0.0
    """What earlier attempts spent on work that this attempt did not repeat."""
    peak_memory_bytes: int = 0
    perplexity: dict[str, float] | None = None
    reused_from: str | None = None
    _said: float = 0.0

    @property
    def seconds(self) -> float:
        """Time spent so far, reused work included."""
        return self.reused_seconds + time.monotonic() - self.began

    def progress(self, current: int) -> None:
        """Tell how far the phase is; dropped when the last word was a moment ago, except for the end."""
        now = time.monotonic()
        if current < self.total and now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        self.session.send(Progress(phase=self.name, current=current, total=self.total, unit=self.unit))

    def metric(self, name: str, step: int, value: float) -> None:
        """Report one point of a series; every turn has its own."""
        series = f"{self.session.turn.name}.{name}" if self.session.turn.name else name
        self.session.send(Metric(phase=self.name, name=series, step=step, value=value))

    def reuse(self, stored: StoredCheckpoint) -> dict[str, Any]:
        """Count a finished piece of an earlier attempt as ours and return what was written with it."""
        self.reused_seconds += float(stored.data.get("seconds", 0.0))
        self.peak_memory_bytes = max(self.peak_memory_bytes, int(stored.data.get("peak_memory_bytes", 0)))
        self.reused_from = self.reused_from or stored.origin
        return stored.data

    def finished(self) -> dict[str, Any] | None:
        """What `finish` was given by an earlier attempt; None when the phase has yet to be done."""
        stored = self.session.stored(self.name).get("result")
        if stored is None:
            return None
        self.reused_seconds = 0.0  # the result's are the whole phase's: blocks before it must not count twice
        data = self.reuse(stored)
        self.perplexity = data.get("perplexity")
        return data

    def finish(self, data: dict[str, Any] | None = None) -> None:
        """Write the phase's result, so that no later attempt repeats it."""
        whole = {**(data or {}), **self.completed().model_dump(exclude={"kind", "phase", "reused_from"})}
        path = self.session.checkpoint_path(self.name, "result", suffix=".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, sort_keys=True))
        self.session.checkpoint(self.name, "result", path, whole)

    def completed(self) -> PhaseCompleted:
        """The phase's figures as they stand."""
        peak = max(self.peak_memory_bytes, numerics.peak_memory_bytes(self.session.device))
        return PhaseCompleted(
            phase=self.name, seconds=self.seconds, peak_memory_bytes=peak, perplexity=self.perplexity,
            reused_from=self.reused_from, turn=self.session.turn.name,
        )  # fmt: skip

    def finish_block(
        self, index: int, tensors: dict[str, torch.Tensor], masks: dict[str, torch.Tensor], *, seconds: float,
        data: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write a block's changed tensors and masks, lay them over the weights and tell the supervisor."""
        name = f"block-{index:05d}"
        path = self.session.checkpoint_path(self.name, name)
        save_overlay(path, tensors, masks)
        self.session.weights = self.session.weights.with_overlay(path)
        peak = numerics.peak_memory_bytes(self.session.device)
        self.session.checkpoint(self.name, name, path, {**(data or {}), "seconds": seconds, "peak_memory_bytes": peak})

    def stored_block(self, index: int) -> dict[str, Any] | None:
        """Lay a block that an earlier attempt finished over the weights; its data, or None when there is none."""
        stored = self.session.stored(self.name).get(f"block-{index:05d}")
        if stored is None:
            return None
        self.session.weights = self.session.weights.with_overlay(self.session.workspace / stored.path)
        return self.reuse(stored)


@dataclass
class Session:
    """The state of one attempt."""

    request: ComputeRequest
    send: Callable[[Message], None]
    phase_now: Phase | None = None
    phases: list[PhaseCompleted] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    """The newest row of every pruned matrix."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)  # phase -> parameters that it trained
    protocol: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    dense_perplexity: dict[str, float] = field(default_factory=dict)
    recovery: dict[str, Any] = field(default_factory=dict)
    """What the report says of cycles, soups and adapters, under their names."""
    adapter: Path | None = None
    """Trained values of an adapter that stays apart."""
    latency: dict[str, Any] = field(default_factory=dict)
    """`dense` and `compressed`: how fast they were here."""
    turn: Turn = field(default_factory=Turn)
    tasks: Tasks | None = None
    dense_tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """What of lm-eval is asked for, and task -> numbers of the dense model."""
    certificate: dict[str, Any] = field(default_factory=dict)
    """What the report says of the comparison with stock transformers."""
    compared: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """The artifact's `divergence` from the dense model by measurement, and its `tasks`."""
    spill: Path | None = None
    kept: tuple[int, ...] | None = None
    """The source's blocks that are left, in order; None before whole parts are removed."""
    by_blocks: bool = False
    """Where memory is short: hidden states go into files below `spill`, and perplexity takes one block at a time."""

    def __post_init__(self) -> None:
        self.workspace = Path(self.request.workspace)
        self.model_dir = Path(self.request.model_dir)
        self.artifact_dir = Path(self.request.artifact_dir)
        self.device = numerics.pick_device(self.request.device)
        self.compute_dtype = numerics.pick_compute_dtype(self.request.spec.compute_dtype, self.device)
        self.source_dir = self.model_dir
        self.source = self.dense = Weights(self.model_dir)
        """The source as it is; and what phases take for dense, which is smaller once whole parts are gone."""
        self.weights = Weights(self.model_dir, dtype=output_cast(self.dense, self.request.spec.output.dtype))
        """The result so far, in the dtype that the artifact will have."""
        self.before_pruning = self.weights
        """The weights as the newest prune step found them."""
        self.corpus = Corpus(self.model_dir)

    @property
    def step(self) -> PruneStep | None:
        """The prune step of this turn; None for a model that is already sparse."""
        if not self.request.spec.masking:
            return None
        (step,) = self.request.spec.masking
        return step if self.turn.sparsity is None else step.model_copy(update={"sparsity": self.turn.sparsity})

    @property
    def retrain(self) -> Retrain | None:
        """The retraining of this turn."""
        return self.turn.retrain or self.request.spec.retrain

    @property
    def interleaves(self) -> bool:
        """Whether every block is pruned just before it is fitted."""
        reconstruct = self.request.spec.reconstruct
        return reconstruct is not None and reconstruct.interleave

    def adopt(self, folder: Path, streamed: StreamedModel, *, kept: Sequence[int]) -> None:
        """Go on with a smaller model, made by removing parts; `kept` are the blocks that are left of the one so far."""
        self.kept = tuple(self.kept[index] if self.kept else index for index in kept)
        self.source_streamed  # noqa: B018 - opened while it still is the model at hand
        self.model_dir, self.streamed = folder, streamed
        self.dense, wish = Weights(folder), self.request.spec.output.dtype
        self.weights = self.before_pruning = Weights(folder, dtype=output_cast(self.dense, wish))

    @cached_property
    def source_streamed(self) -> StreamedModel:
        """The source as it was before any part of it was removed."""
        return self.streamed

    @cached_property
    def streamed(self) -> StreamedModel:
        """The model with its weights on disk."""
        return StreamedModel(self.model_dir, compute_dtype=self.compute_dtype, device=self.device)

    def text(self, dataset: Dataset, *, enough: int | None = None) -> Text:
        """The token stream of a data set's spec; of a long text, no more than holds `enough` tokens (None: all)."""
        spec = dataset.model_dump(mode="json")
        path = self.request.datasets.get(fingerprint(spec))
        return self.corpus.read(spec, path=Path(path) if path else None, enough=enough)

    @property
    def calibration_text(self) -> Text:
        """What the calibration's windows are taken from."""
        of = self.request.spec.calibration
        times = 1 if of.selection == "sequential" else CROPPED_FROM
        return self.text(of.dataset, enough=times * of.samples * self.length_of(of))

    def calibration_windows(self) -> torch.Tensor:
        """The calibration's windows of tokens (N, T)."""
        of, length = self.request.spec.calibration, self.length_of(self.request.spec.calibration)
        # The builtin text is what it is: the default request must work with any model.
        overlapping = of.dataset.kind == "builtin" and of.selection != "sequential"
        return self.calibration_text.windows(
            count=of.samples, length=length, seed=of.seed, selection=of.selection, overlapping=overlapping
        )

    def evaluation_text(self, item: Perplexity) -> Text:
        """What a measurement's windows are taken from."""
        enough = None if item.max_windows is None else item.max_windows * self.length_of(item)
        return self.text(item.dataset, enough=enough)

    def evaluation_windows(self, item: Perplexity) -> torch.Tensor:
        """The windows of tokens (N, T) of one measurement."""
        return self.evaluation_text(item).evaluation(length=self.length_of(item), max_windows=item.max_windows)

    def length_of(self, item: Calibration | Perplexity | Retrain) -> int:
        """A resolved sequence length; min(2048, the model's maximum) when a request by hand leaves it out."""
        return item.sequence_length or min(2048, getattr(self.streamed.config, "max_position_embeddings", 2048))

    def mask(self, name: str) -> torch.Tensor:
        """The mask (O, I) of a pruned matrix, True = keep."""
        return self.weights.mask(name, num_inputs=self.streamed.layout.by_name[name].shape[1])

    def stored(self, phase: Phase) -> dict[str, StoredCheckpoint]:
        """What earlier attempts finished of a phase in this turn, by name."""
        ours = [item for item in self.request.checkpoints if item.phase == phase]
        parts = [(item.name.rpartition("--"), item) for item in ours]
        return {name: item for (turn, _, name), item in parts if turn == self.turn.name}

    def _of_turn(self, name: str) -> str:
        return f"{self.turn.name}--{name}" if self.turn.name else name

    def checkpoint_path(self, phase: Phase, name: str, *, suffix: str = ".safetensors") -> Path:
        """Where a checkpoint file lies."""
        return self.workspace / "checkpoints" / phase / f"{self._of_turn(name)}{suffix}"

    def checkpoint(self, phase: Phase, name: str, path: Path, data: dict[str, Any] | None = None) -> None:
        """Tell the supervisor that a file of the workspace is finished; it must not change any more."""
        digest, size = sha256_of(path)
        names = {"name": self._of_turn(name), "path": str(path.relative_to(self.workspace))}
        self.send(Checkpoint(phase=phase, **names, sha256=digest, bytes=size, data=data or {}))

    def warn(self, code: str, text: str) -> None:
        """Tell the user something, once; it also stands in the report."""
        if {"code": code, "text": text} not in self.warnings:
            self.warnings.append({"code": code, "text": text})
            self.send(Warned(code=code, text=text))

    def layer(self, row: Layer, *, silent: bool = False) -> None:
        """Report a pruned matrix; `silent` when an earlier attempt has already sent the row."""
        self.layers[row.name] = row
        if not silent:
            self.send(row)

    @contextmanager
    def phase(self, name: Phase, *, total: int = 1, unit: str = "step") -> Iterator[PhaseRun]:
        """Run one phase: its start, its time, its memory and its end are reported."""
        self.phase_now = name
        numerics.reset_peak_memory(self.device)
        self.send(PhaseStarted(phase=name, total=total, unit=unit, turn=self.turn.name))
        run = PhaseRun(name, self, total, unit)
        yield run
        done = run.completed()
        self.phases.append(done)
        self.send(done)
