"""Steps that remove whole parts: each makes a smaller model directory, and the phases after it work on that one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.errors import UnsupportedArchitectureError
from espalier.families import Family, PartKind
from espalier.families.sizes import PLURAL
from espalier.model.layout import Block
from espalier.model.safetensors_writer import save_overlay
from espalier.recipe.steps.structure import DepthFields, DepthStep, ExpertStep, WidthFields, WidthStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.structure import depth, experts
from espalier.structure.expert_weights import cuts, find_mixture, renamed
from espalier.structure.reshape import Shape, open_reshaped, write_reshaped
from espalier.structure.units import Units
from espalier.structure.width import Narrowing


def run(session: Session) -> None:
    """Carry out the steps in order."""
    for number, step in enumerate(session.request.spec.structure):
        total = len(session.streamed.layout.blocks)
        with session.reporter.phase("pruning", total=total, unit="block") as phase:
            _require_that_it_can_go(session.streamed.family, step.pattern.kind)
            if isinstance(step, DepthFields):
                _Depth(session, phase, step, number).run()
            elif isinstance(step, WidthFields):
                _Width(session, phase, step, number).run()
            else:
                _Experts(session, phase, step, number).run()


def _require_that_it_can_go(family: Family, part: PartKind) -> None:
    """Refuse a part that stays whole in every stock configuration of a family."""
    if why := family.why_not(part):
        raise UnsupportedArchitectureError(
            f"a stock {family.model_type} cannot have fewer {PLURAL[part]}: {why}",
            hint="Remove other parts, or prune single weights.",
        )


class _Reshaping:
    """Base class of the steps: numbered checkpoints, and the switch to the smaller model."""

    def __init__(self, session: Session, phase: PhaseRun, number: int) -> None:
        self.session, self.phase, self.number = session, phase, number
        self.blocks = range(len(session.streamed.layout.blocks))

    def stored(self, name: CheckpointName) -> dict[str, Any] | None:
        """Lay what an earlier attempt finished over the weights; its data."""
        stored = self.session.reporter.stored(self.phase.name, name)
        if stored is None:
            return None
        self.session.weights = self.session.weights.with_overlay(self.session.workspace / stored.path)
        return self.phase.reuse(stored)

    def finish(self, name: CheckpointName, tensors: dict[str, torch.Tensor], data: dict[str, Any]) -> None:
        """Write changed tensors, lay them over the weights and tell the supervisor."""
        path = self.session.reporter.checkpoint_path(self.phase.name, name)
        digest = self.session.group.led(lambda: save_overlay(path, tensors, {}))
        self.session.weights = self.session.weights.with_overlay(path)
        self.session.reporter.checkpoint(self.phase.name, name, path, data, sha256=digest)

    def adopt(self, shape: Shape, protocol: dict[str, Any]) -> None:
        """Write the smaller model and go on with it."""
        session = self.session
        folder = session.workspace / "structure" / str(self.number)
        session.group.led(lambda: self._write(folder, shape))
        smaller = open_reshaped(folder, compute_dtype=session.compute_dtype, device=session.device)
        session.results.protocol.setdefault("structure", []).append(protocol)
        session.adopt(folder, smaller, kept=shape.blocks)

    def _write(self, folder: Path, shape: Shape) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_reshaped(folder, self.session.streamed, self.session.weights, shape)


class _Depth(_Reshaping):
    def __init__(self, session: Session, phase: PhaseRun, step: DepthStep, number: int) -> None:
        super().__init__(session, phase, number)
        self.step = step

    def run(self) -> None:
        """Choose the blocks, fit what stands in for them, and drop them."""
        name = CheckpointName(Kind.REMOVED_BLOCKS, step=self.number)
        data = self.stored(name)
        if data is None:
            began = time.monotonic()
            gone = depth.chosen(self.session, self.phase, self.step)
            tensors = depth.Replacement(self.session, gone).tensors() if self.step.replace and gone else {}
            data = {"gone": gone, "seconds": time.monotonic() - began}
            self.finish(name, tensors, data)
        self.phase.progress(len(self.blocks))
        kept = tuple(index for index in self.blocks if index not in set(data["gone"]))
        protocol = {"kind": "depth", "method": self.step.method, "removed_blocks": data["gone"], "blocks": len(kept)}
        self.adopt(Shape(kept), protocol | {"replace": self.step.replace})


class _Width(_Reshaping):
    def __init__(self, session: Session, phase: PhaseRun, step: WidthStep, number: int) -> None:
        super().__init__(session, phase, number)
        self.step = step
        family = session.streamed.family
        setting = family.bias_fields.get(step.pattern.kind)
        self.setting = setting if setting is not None and not getattr(family, setting) else None
        """The field that would give biases to maps that have none."""

    def run(self) -> None:
        """Narrow every block, then write them all narrower at once."""
        narrowing = Narrowing(self.session, self.phase, self.step, added_biases=self.setting is not None)
        cuts: dict[str, tuple[int, torch.Tensor]] = {}
        biases: dict[str, torch.Tensor] = {}
        protocol: dict[str, Any] = {"kind": self.step.pattern.kind, "method": self.step.method}
        for block in self.session.streamed.layout.blocks:
            units = narrowing.units(block)
            choice, data = self._narrow(narrowing, block, units)
            kept, bias_O = choice["kept"], choice.get("bias")
            protocol |= {"kept": len(kept), "of": units.count, "update": data["update"]}
            if len(kept) < units.count:
                cuts |= units.cuts(block, kept)
            if bias_O is not None:
                biases |= self._biases(units, kept, bias_O)
            narrowing.advance(block, units, bias_O)
            self.phase.progress(block.index + 1)
        self.adopt(self._shape(cuts, biases, kept=protocol["kept"]), protocol)

    def _narrow(
        self, narrowing: Narrowing, block: Block, units: Units
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Choose the units of a block to keep and the bias of the others, or restore them from an earlier attempt."""
        reporter = self.session.reporter
        name = CheckpointName(Kind.NARROWED_BLOCK, step=self.number, block=block.index)
        kept_units = CheckpointName(Kind.KEPT_UNITS, step=self.number, block=block.index)
        data = self.stored(name)
        if data is not None:
            choice = reporter.stored(self.phase.name, kept_units)
            assert choice is not None
            return load_file(self.session.workspace / choice.path), data
        done = narrowing.narrow(block, units)
        path = reporter.checkpoint_path(self.phase.name, kept_units)
        if reporter.writes:
            save_file(done.choice, path)
        reporter.checkpoint(self.phase.name, kept_units, path)
        self.finish(name, done.tensors, done.data)
        return done.choice, done.data

    def _biases(self, units: Units, kept: torch.Tensor, bias_O: torch.Tensor) -> dict[str, torch.Tensor]:
        """The bias that carries the mean, and zeros for the other maps that the setting gives one to."""
        dtype = self.session.weights.dtype(units.consumer.tensor)
        biases = {units.consumer.tensor: bias_O.to(dtype)}
        for rows in units.producers:
            biases[rows.matrix.tensor] = torch.zeros(len(kept) * rows.size, dtype=dtype)
        return {f"{name.removesuffix('weight')}bias": tensor for name, tensor in biases.items()}

    def _shape(self, cuts: dict[str, tuple[int, torch.Tensor]], biases: dict[str, torch.Tensor], *, kept: int) -> Shape:
        changed: dict[str, Any] = {}
        if cuts:
            changed |= self.session.streamed.family.narrowed(self.step.pattern.kind, kept)
        if biases:
            assert self.setting is not None
            changed[self.setting] = True
        return Shape(tuple(self.blocks), changed, cuts, added=biases)


class _Experts(_Reshaping):
    def __init__(self, session: Session, phase: PhaseRun, step: ExpertStep, number: int) -> None:
        super().__init__(session, phase, number)
        self.step = step

    def run(self) -> None:
        """Choose the experts that stay and write the model with them alone."""
        kept = self._kept()
        session, narrow = self.session, dict[str, tuple[int, torch.Tensor]]()
        names: dict[str, str | None] = {}
        count = of = 0
        for block in session.streamed.layout.blocks:
            if block.index not in kept:
                continue
            with session.streamed.block(block.index, session.weights) as module:
                mixture = find_mixture(block, module, session.weights)
            assert mixture is not None
            stay = kept[block.index]
            count, of = len(stay), mixture.count
            if count < of:
                narrow |= cuts(block, mixture, session.weights, stay)
                names |= renamed(block, mixture, session.weights, stay.tolist())
        settings = session.streamed.family.narrowed("experts", count) if count < of else {}
        protocol = {"kind": "experts", "method": self.step.method, "kept": count, "of": of}
        self.adopt(Shape(tuple(self.blocks), settings, narrow, names), protocol)

    def _kept(self) -> dict[int, torch.Tensor]:
        """Choose the experts of every block to keep, or restore the choice of an earlier attempt."""
        name = CheckpointName(Kind.KEPT_EXPERTS, step=self.number)
        stored = self.session.reporter.stored(self.phase.name, name)
        if stored is not None:
            self.phase.reuse(stored)
            return {int(key): value for key, value in load_file(self.session.workspace / stored.path).items()}
        began = time.monotonic()
        kept = {index: stay for index, (_, stay) in experts.choose(self.session, self.step, self.phase).items()}
        path = self.session.reporter.checkpoint_path(self.phase.name, name)
        if self.session.group.leads:
            save_file({str(index): stay for index, stay in kept.items()}, path)
        self.session.reporter.checkpoint(self.phase.name, name, path, {"seconds": time.monotonic() - began})
        return kept
