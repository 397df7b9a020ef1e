"""Reconstruct: refit the kept weights window by window, masks fixed (Free Lunch, arXiv 2510.14444)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

from espalier.evaluate import loss_gap
from espalier.evaluate.scoring import score_weights
from espalier.model.layout import Block
from espalier.prune.calibrating import SparsityPlan
from espalier.prune.pruning import Pruned
from espalier.recipe.steps.reconstruct import Reconstruct
from espalier.reconstruct import window_choice
from espalier.reconstruct.interleave import Interleaved
from espalier.reconstruct.layer_errors import remeasured_rows
from espalier.reconstruct.teacher_states import TeacherStates
from espalier.reconstruct.window_fit import WindowFit
from espalier.reconstruct.windows import Streams
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.session.resume import finish_block, restore_block
from espalier.stream.hidden_states import HiddenStates


def run(session: Session, plan: SparsityPlan | None = None) -> None:
    """Fit every window of the model; `plan` is for the blocks that are pruned on the way."""
    spec = session.request.spec.reconstruct
    assert spec is not None
    blocks = session.streamed.layout.blocks
    with session.reporter.phase("reconstructing", total=len(blocks), unit="block") as phase:
        fits = _Reconstruction(session, phase, spec, plan)
        for span in fits.spans:
            fits.fit_span(span)
            phase.progress(span[-1].index + 1)
        session.results.trained_parameters[phase.name] = fits.trained
        _warn(session, spec, fits.errors_before)
        if phase.finished() is None:
            if session.request.spec.evaluate.after_each_phase:
                phase.perplexity = session.group.led(lambda: score_weights(session, session.weights))
            phase.finish()


def _warn(session: Session, spec: Reconstruct, errors_before: Sequence[float]) -> None:
    """Say why nothing was fitted, where nothing was; `errors_before` are those of the windows that were measured."""
    if not errors_before:
        session.reporter.warn(
            "nothing_to_train",
            f"Nothing was fitted: no window with pruned matrices holds any {' or '.join(spec.trainable)}. "
            "Train `weights`, or take larger windows.",
        )
    elif max(errors_before) == 0:
        session.reporter.warn(
            "nothing_to_reconstruct",
            "Every window already gives what the source gives, and nothing was fitted. A model that came sparse is "
            "its own target: `retrain` recovers it.",
        )


class _Reconstruction:
    def __init__(self, session: Session, phase: PhaseRun, spec: Reconstruct, plan: SparsityPlan | None) -> None:
        self.session, self.phase, self.spec = session, phase, spec
        self.windows_NT = loss_gap.reconstruction_windows(session, phase)
        self.kind = window_choice.choose(session, phase, spec, self.windows_NT)
        self.spans = window_choice.spans(self.kind, session.streamed.layout.blocks)
        self.trained = 0
        """Numbers that could move."""
        self.errors_before: list[float] = []
        """The largest of every span's windows; of spans where none was measured, nothing."""
        self._interleaved = Interleaved(session, phase, plan) if spec.interleave else None
        self._dense: TeacherStates | None = None
        self._sparse: HiddenStates | None = None

    def fit_span(self, span: Sequence[Block]) -> None:
        """Fit one span or restore it from an earlier attempt; its checkpoint bears the number of its first block."""
        data = restore_block(self.session, self.phase, span[0].index) or self._fit(span)
        if self._interleaved:
            self._interleaved.passed(span)
        self.trained += int(data["trained"])
        if data["error_before"] is not None:
            self.errors_before.append(float(data["error_before"]))

    def _fit(self, span: Sequence[Block]) -> dict[str, Any]:
        began, warned = time.monotonic(), len(self.session.results.warnings)
        with self._interleaved.pruned(span) if self._interleaved else nullcontext(Pruned([], {}, {}, {})) as pruned:
            stream, streams = self._at(span[0].index)
            with ExitStack() as stack:
                assert self._dense is not None
                fit = WindowFit(
                    self.session, self.phase, self.spec, self.kind, span, stream, streams, self._dense, stack
                )
                tensors, trained = fit.finish()
            rows = remeasured_rows(self.session, stream, streams.student, span, tensors)
        for row in rows:
            self.session.reporter.layer(row)
        layers = [row.model_dump() for row in rows]
        data = {"trained": trained, "layers": layers, "error_before": max(fit.errors_before, default=None)}
        data["warnings"] = self.session.results.warnings[warned:]
        seconds = time.monotonic() - began
        changed = pruned.tensors | tensors
        finish_block(self.session, self.phase, span[0].index, changed, pruned.masks, seconds=seconds, data=data)
        return data

    def _at(self, index: int) -> tuple[HiddenStates, Streams]:
        """Return the hidden states at the entrance of a block; the first call runs the prefix."""
        if self._dense is None:
            session, batch_size = self.session, self.spec.batch_size
            halves = self.kind in {"submodule", "matrix"}
            self._dense = TeacherStates(session, self.windows_NT, batch_size=batch_size, halves=halves)
            self._sparse = (
                HiddenStates(
                    session.streamed,
                    self.windows_NT,
                    session.dense,
                    batches=batch_size,
                    states_in=session.states_in,
                    group=session.group,
                )
                if self._dense.removed
                else self._dense.stream.fork()
            )
        assert self._sparse is not None
        mode = self.spec.mode
        if mode != "sparse_inputs":
            self._dense.advance_to(index)
        if mode != "dense_inputs":
            self._sparse.advance_to(index, self.session.weights)
        taught = self._dense.stream.states
        stream = self._sparse.at_block(index, taught) if mode == "dense_inputs" else self._sparse
        return stream, Streams(mode, student=self._sparse.states, teacher=taught)
