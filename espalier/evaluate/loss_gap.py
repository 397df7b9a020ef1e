"""Recovery text by loss gap: the windows whose loss pruning raised most (a simple form of PASER, arXiv 2502.12594)."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from espalier.checkpoint_names import PICKED
from espalier.errors import DatasetError
from espalier.evaluate.perplexity import window_losses, window_losses_by_blocks
from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.session import Session
from espalier.session.limits import states_of
from espalier.session.reporter import PhaseRun
from espalier.text.overlap import overlapping


def reconstruction_windows(session: Session, phase: PhaseRun) -> torch.Tensor:
    """Return the windows of reconstruction (N, T): the calibration's, or as many with the largest loss gaps."""
    calibration = session.request.spec.calibration
    if calibration.selection != "loss_gap":
        return session.calibration_windows()
    text = session.text(calibration.dataset)
    # Without overlap: neighbours would all be picked together.
    windows_NT = text.evaluation(length=session.length_of(calibration), max_windows=None)
    windows_NT = windows_NT[~_evaluated(session, windows_NT)]
    if len(windows_NT) == 0:
        raise DatasetError(f"all of {text.name} is read by evaluation too", hint="Give other text.")
    order = torch.randperm(len(windows_NT), generator=generator(calibration.seed, "loss_gap"))
    candidates = order[: calibration.candidates * calibration.samples].sort().values
    return largest_gaps(session, phase, windows_NT[candidates], count=min(calibration.samples, len(candidates)))


def training_windows(session: Session, phase: PhaseRun, windows_NT: torch.Tensor) -> torch.Tensor:
    """Select the windows to train on: all of them, or one in `candidates` with the largest loss gaps."""
    calibration = session.request.spec.calibration
    if calibration.selection != "loss_gap":
        return windows_NT
    return largest_gaps(session, phase, windows_NT, count=max(1, len(windows_NT) // calibration.candidates))


def largest_gaps(session: Session, phase: PhaseRun, windows_NT: torch.Tensor, *, count: int) -> torch.Tensor:
    """Select the `count` windows, in order, whose loss rose most over the dense model's; stored for resumed runs."""
    stored = session.reporter.stored(phase.name, PICKED)
    if stored is None:
        picked, gaps_N = session.group.led(lambda: _picked(session, phase, windows_NT, count))
    else:
        kept = load_file(session.workspace / stored.path)
        picked, gaps_N = kept["picked"], kept["gaps"]
    session.results.protocol.setdefault(phase.name, {})["loss_gap"] = {
        "candidates": len(windows_NT),
        "picked": count,
        "mean_gap_of_candidates": float(gaps_N.mean()),
        "mean_gap_of_picked": float(gaps_N[picked].mean()),
    }
    return windows_NT[picked]


def _picked(
    session: Session, phase: PhaseRun, windows_NT: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the windows that are picked, and the gaps of all; written for resumed runs."""
    # The source itself: where whole parts were removed, `session.dense` is smaller.
    dense_N = _losses(session, session.source_streamed, session.source, windows_NT)
    gaps_N = _losses(session, session.streamed, session.weights, windows_NT) - dense_N
    picked = gaps_N.argsort(descending=True, stable=True)[:count].sort().values
    path = session.reporter.checkpoint_path(phase.name, PICKED)
    save_file({"picked": picked, "gaps": gaps_N}, path)
    session.reporter.checkpoint(phase.name, PICKED, path)
    return picked, gaps_N


def _losses(session: Session, streamed: StreamedModel, weights: Weights, windows_NT: torch.Tensor) -> torch.Tensor:
    """The loss of every window; the model is gone when the next one is loaded."""
    if session.by_blocks:
        return window_losses_by_blocks(streamed, windows_NT, weights, states_in=states_of(session, windows_NT))
    with streamed.whole(weights) as model:
        return window_losses(model, windows_NT, device=streamed.device)


def _evaluated(session: Session, windows_NT: torch.Tensor) -> torch.Tensor:
    """Tell for every window whether it shares text with evaluation."""
    shared_N = torch.zeros(len(windows_NT), dtype=torch.bool)
    for item in session.request.spec.evaluate.perplexity:
        shared_N |= overlapping(windows_NT, session.evaluation_windows(item))
    return shared_N
