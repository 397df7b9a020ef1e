"""The text that a retraining reads: the whole stream in windows, without what evaluation reads, a few held out."""

from __future__ import annotations

from typing import Final

import torch

from espalier.errors import DatasetError
from espalier.model.numerics import generator
from espalier.recipe.steps.retrain import Retrain
from espalier.session import Session
from espalier.text.overlap import overlapping

HELD_OUT: Final = 16
"""Windows that only judge, at most one in ten."""


def training_windows(session: Session, spec: Retrain) -> torch.Tensor:
    """Cut the training text into windows (N, T), without those that evaluation reads."""
    text = session.text(spec.dataset or session.request.spec.calibration.dataset)
    windows_NT = text.evaluation(length=session.length_of(spec), max_windows=None)
    clean_N = torch.ones(len(windows_NT), dtype=torch.bool)
    for item in session.request.spec.evaluate.perplexity:
        clean_N &= ~overlapping(windows_NT, session.evaluation_windows(item))
    left_out = len(clean_N) - int(clean_N.sum())
    if left_out:
        session.reporter.warn(
            "evaluation_windows_excluded",
            f"{left_out} of {len(clean_N)} training windows share text with evaluation and are left out.",
        )
    windows_NT = windows_NT[clean_N]
    if len(windows_NT) < 2:
        raise DatasetError(
            f"{text.name} leaves {len(windows_NT)} windows to train on", hint="Give more text or shorter windows."
        )
    session.results.protocol["retraining"] = session.results.protocol.get("retraining", {}) | {
        "dataset": (spec.dataset or session.request.spec.calibration.dataset).model_dump(mode="json"),
        **text.protocol(),
        "windows": len(windows_NT),
        "sequence_length": windows_NT.shape[1],
    }
    return windows_NT


def split(session: Session, windows_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut windows into training and held-out ones; all repetitions of a job share the held-out ones."""
    held_out = max(1, min(HELD_OUT, len(windows_NT) // 10))
    order = torch.randperm(len(windows_NT), generator=generator(session.request.spec.calibration.seed, "held-out"))
    return windows_NT[order[held_out:]], windows_NT[order[:held_out]]
