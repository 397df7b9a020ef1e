"""Expert pruning: remove equally many experts of every mixture, and their rows of the router."""

from __future__ import annotations

import torch

from espalier.errors import TargetsError, UnsupportedArchitectureError
from espalier.methods.structured import Routing
from espalier.model.layout import Block
from espalier.recipe.steps.structure import ExpertStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.readout import to_host
from espalier.structure.expert_weights import Mixture, find_mixture, routing

FEW_TOKENS = 32
"""An expert that fewer calibration tokens reached is judged on chance."""


def choose(session: Session, step: ExpertStep, phase: PhaseRun) -> dict[int, tuple[Mixture, torch.Tensor]]:
    """Choose the experts of every block to keep, on the dense model's routing."""
    streamed, weights = session.streamed, session.weights
    stream = HiddenStates(streamed, session.calibration_windows(), weights, states_in=session.states_in)
    chosen: dict[int, tuple[Mixture, torch.Tensor]] = {}
    rare: list[str] = []
    for block in streamed.layout.blocks:
        with streamed.block(block.index, weights) as module:
            mixture = find_mixture(block, module, weights)
            if mixture is None:
                stream.advance(module)
                continue
            kept = _kept(session, step, mixture)
            with routing(module, mixture, next(stream.batches).hidden_BTD.shape[-1]) as routed:
                stream.advance(module)
        routed = Routing(*to_host([routed.tokens_E, routed.weighed_E, routed.sum_ED, routed.squares_E]))
        rare += _undersampled(block, routed)
        chosen[block.index] = (mixture, step.choose(routed, kept=kept))
        phase.progress(block.index + 1)
    if not chosen:
        raise UnsupportedArchitectureError("the model has no experts", hint="Prune blocks, neurons or single weights.")
    if rare:
        session.reporter.warn(
            "few_tokens_for_experts",
            f"Fewer than {FEW_TOKENS} calibration tokens reached {len(rare)} experts ({', '.join(rare[:4])} ...): "
            "their scores are chance. Calibrate on more text.",
        )
    return chosen


def _kept(session: Session, step: ExpertStep, mixture: Mixture) -> int:
    kept = step.pattern.kept(mixture.count, sparsity=step.sparsity)
    asked = session.streamed.family.min_count("experts")
    if kept < asked:
        raise TargetsError(
            f"{kept} of {mixture.count} experts would stay, and every token is sent to {asked}",
            hint=f"Keep at least {asked}: sparsity {1 - asked / mixture.count:.3g} or less.",
        )
    return kept


def _undersampled(block: Block, routed: Routing) -> list[str]:
    indices = (routed.tokens_E < FEW_TOKENS).nonzero().flatten().tolist()
    return [f"{block.name} expert {index}" for index in indices]
