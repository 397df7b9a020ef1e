"""Fit the windows of one span of blocks in order; none ends worse than before, and pruned weights stay zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from espalier.model import masks
from espalier.model.layout import Block
from espalier.model.numerics import derived_seed
from espalier.recipe.steps.reconstruct import BlockWindow, Reconstruct
from espalier.reconstruct.adapters import AdapterSize, adapted
from espalier.reconstruct.fit import Fit, FitPlan, Window, fit
from espalier.reconstruct.pieces import Pieces
from espalier.reconstruct.teacher_states import TeacherStates
from espalier.reconstruct.windows import Streams, WindowPart, halves_of, matrices_of, whole
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.hidden_states import HiddenStates
from espalier.training.trainables import Trainable, count_trained, freeze, window_trainables


class WindowFit:
    """The student's blocks of one span, real and in float32 while `stack` is open."""

    def __init__(
        self,
        session: Session,
        phase: PhaseRun,
        spec: Reconstruct,
        kind: str | BlockWindow,
        span: Sequence[Block],
        stream: HiddenStates,
        streams: Streams,
        dense: TeacherStates,
        stack: ExitStack,
    ) -> None:
        self.session, self.phase, self.spec, self.kind = session, phase, spec, kind
        self.span, self.stream, self.streams, self.dense, self.stack = span, stream, streams, dense, stack
        modules = [
            stack.enter_context(session.streamed.block(block.index, session.weights, dtype=torch.float32))
            for block in span
        ]
        self.module: nn.Module = modules[0] if len(span) == 1 else nn.ModuleList(modules)
        prefixes = [""] if len(span) == 1 else [f"{number}." for number in range(len(span))]
        known = set(session.weights.mask_names)
        self.tensors: dict[str, str] = {}
        """Parameter name within the span -> name in the files."""
        self.names: dict[str, str] = {}
        """Parameter name of a pruned matrix -> module name."""
        self.masks: dict[str, torch.Tensor] = {}
        """By parameter name, in the parameter's own shape."""
        for prefix, block in zip(prefixes, span, strict=True):
            self.tensors |= {prefix + name: tensor for name, tensor in block.tensors.items()}
            for matrix in block.matrices:
                if matrix.name in known:
                    name = f"{prefix}{matrix.local}.weight"
                    self.names[name] = matrix.name
                    self.masks[name] = matrix.view(session.mask(matrix.name)).to(session.device)
        self.errors_before: list[float] = []
        """Of the windows that were measured: those that hold something to train."""
        self.stored = {name: session.weights.dtype(self.tensors[name]) for name, _ in self.module.named_parameters()}

    def finish(self) -> tuple[dict[str, torch.Tensor], int]:
        """Fit the windows; return what changed by tensor name, and how many numbers could move."""
        tensors: dict[str, torch.Tensor] = {}
        trained = 0
        for part in self._parts():
            items = self._fit(part)
            trained += count_trained([item for item in items if item.parameter.requires_grad])
            freeze(self.module)
            tensors |= {self.tensors[item.name]: self._settled(item) for item in items if item.name in self.tensors}
        return tensors, trained

    def _parts(self) -> Iterator[WindowPart]:
        if self.kind in {"submodule", "matrix"}:
            (block,) = self.span
            with self.dense.pair(self.stream, block, self.module) as pair:
                if self.kind == "submodule":
                    yield from halves_of(pair, self.streams)
                else:
                    yield from matrices_of(pair, self.streams, among=self.masks)
            return
        first, last = self.span[0].index, self.span[-1].index
        targets = self.dense.forward_through(self.streams.teacher, first=first, last=last)
        blocks = list(self.module) if isinstance(self.module, nn.ModuleList) else [self.module]
        yield whole(blocks, frozenset(self.stored), self.stream, streams=self.streams, targets=targets)

    def _fit(self, part: WindowPart) -> list[Trainable]:
        """Fit one window; nothing to do where nothing was pruned."""
        pruned = {name: mask for name, mask in self.masks.items() if name in part.owned}
        if not pruned:
            return []
        items = window_trainables(
            self.module, kinds=self.spec.trainable, masks=self.masks, stored=self.stored, among=part.owned
        )
        seed = derived_seed(self.session.request.spec.calibration.seed, "reconstructing", self.span[0].index, part.name)
        with ExitStack() as stack:
            merge = Window.merge
            if "mask_lora" in self.spec.trainable:
                like = AdapterSize(self.spec.rank, self.spec.alpha, seed)
                adapters = stack.enter_context(adapted(self.module, pruned, stored=self.stored, like=like))
                items += adapters.trainables
                merge = adapters.merge
            if not items:
                return []
            window = Window(
                run=part.run, trainables=items, inputs=part.inputs, targets=part.targets, power=part.power, merge=merge
            )
            self._report(part, fit(window, self._plan(seed)))
        return items

    def _plan(self, seed: int) -> FitPlan:
        spec = self.spec
        return FitPlan(
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            micro_batch=self.session.smaller_batch("reconstructing", spec.batch_size),
            validation_fraction=spec.validation_fraction,
            learning_rate=None if spec.learning_rate == "auto" else spec.learning_rate,
            seed=seed,
            loss=spec.loss,
            pieces=Pieces(self.session.group) if self.session.in_pieces else None,
        )

    def _report(self, part: WindowPart, result: Fit) -> None:
        self.errors_before.append(result.error_before)
        for name, value in (
            ("error_before", result.error_before),
            ("error_after", result.error_after),
            ("learning_rate", result.learning_rate),
        ):
            self.phase.metric(f"{part.name}.{name}", self.span[0].index, value)

    def _settled(self, item: Trainable) -> torch.Tensor:
        tensor = item.parameter.detach().to(item.stored)
        if item.pruned is not None:
            masks.prove(tensor, ~item.pruned, module=self.names[item.name])
        return tensor
