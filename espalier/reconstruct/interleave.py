"""Prune each block just before it is fitted, on statistics of the fitted prefix, as the papers' code does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.model.layout import Block
from espalier.model.safetensors_writer import save_overlay
from espalier.prune.calibrating import SparsityPlan
from espalier.prune.pruning import BlockPruner, Pruned
from espalier.session import Session
from espalier.session.reporter import PhaseRun


class Interleaved:
    """Prunes span by span, with the fitting in between."""

    def __init__(self, session: Session, phase: PhaseRun, plan: SparsityPlan | None) -> None:
        self.session = session
        self._pruner = BlockPruner(session, phase, plan)

    def passed(self, span: Sequence[Block]) -> None:
        """Let the stream go through a span as it is now, when it is next asked for."""
        self._pruner.passed += span

    @contextmanager
    def pruned(self, span: Sequence[Block]) -> Iterator[Pruned]:
        """Prune a span; its weights lie over the model's while the context holds, and no checkpoint knows of them."""
        session, pruner = self.session, self._pruner
        before, entrance = session.weights, pruner.stream_to(span[0]).fork()
        whole = Pruned([], {}, {}, {})
        for block in span:
            done = pruner.prune(block)
            for row in done.rows:
                session.reporter.layer(row)
            path = session.workspace / "interleaved" / f"{CheckpointName(Kind.BLOCK, block=block.index)}.safetensors"
            session.group.led(partial(save_overlay, path, done.tensors, done.masks))
            session.weights = session.weights.with_overlay(path)
            session.group.barrier()
            if session.group.leads:
                path.unlink()  # the open handles are enough
            for name, tensor in done.made.items():
                pruner.kept.keep(session.weights, name, tensor)
            done.made.clear()
            whole = Pruned(whole.rows + done.rows, whole.tensors | done.tensors, whole.masks | done.masks, {})
            pruner.passed.append(block)
        pruner.kept.forget()  # the fit takes its memory
        try:
            yield whole
        finally:
            session.weights, pruner.stream, pruner.passed = before, entrance, []
