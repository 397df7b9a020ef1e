"""`calibration.selection: loss_gap`: pruning reads what it always reads, recovery the windows that lost most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.integrations.local.text import LocalText
from app.integrations.shared.sources import Access
from espalier.evaluate.perplexity import perplexity
from espalier.messages import Checkpoint
from espalier.recipe.base import fingerprint
from espalier.session import Session
from espalier.text.overlap import overlapping
from tests.fixtures.library.jobs import KilledError
from tests.fixtures.library.recovery import Recovery, is_first_block, recovery

SAMPLES, LENGTH, CANDIDATES = 6, 32, 3


def _job(folder: Path, llama: Path, texts: Path, selection: str = "loss_gap", **spec: Any) -> Recovery:
    calibration = {
        "dataset": {"kind": "local", "path": str(texts / "train.txt")},
        "samples": SAMPLES,
        "sequence_length": LENGTH,
        "selection": selection,
        "candidates": CANDIDATES,
    }
    fields: dict[str, Any] = {"calibration": calibration, "reconstruct": {"epochs": 1, "batch_size": 4}}
    return recovery(folder, llama, texts / "train.txt", **fields | spec)


def _gaps(session: Session, windows_NT: torch.Tensor) -> list[float]:
    """How much the pruned-only model's loss is above the dense one's on every window, by two perplexities."""
    pruned = type(session.weights)(
        session.model_dir, [path for path in session.weights.overlays if "pruning" in str(path)]
    )
    losses = []
    for weights in (pruned, session.dense):
        with session.streamed.whole(weights) as model:
            scores = [perplexity(model, window[None], device=session.device) for window in windows_NT]
        losses.append(torch.tensor(scores, dtype=torch.float64).log())
    gaps: list[float] = (losses[0] - losses[1]).tolist()
    return gaps


def test_reconstruction_reads_the_windows_with_the_largest_gaps(tmp_path: Path, llama: Path, texts: Path) -> None:
    job = _job(tmp_path, llama, texts)
    session = job.recover()
    stored = load_file(tmp_path / job.stored["reconstructing", "picked"].path)
    gaps, picked = stored["gaps"], stored["picked"]
    assert (len(gaps), len(picked)) == (CANDIDATES * SAMPLES, SAMPLES)
    left = [index for index in range(len(gaps)) if index not in picked.tolist()]
    assert gaps[picked].min() >= gaps[left].max()
    protocol = session.results.protocol["reconstructing"]
    assert protocol["tokens"] == SAMPLES * LENGTH
    assert protocol["loss_gap"]["picked"] == SAMPLES
    assert protocol["loss_gap"]["mean_gap_of_picked"] > protocol["loss_gap"]["mean_gap_of_candidates"]
    grid = session.text(session.request.spec.calibration.dataset).evaluation(length=LENGTH, max_windows=None)
    assert min(abs(float(gaps.max()) - gap) for gap in _gaps(session, grid)) < 1e-9


def test_pruning_reads_a_random_draw(tmp_path: Path, llama: Path, texts: Path) -> None:
    jobs = [_job(tmp_path / name, llama, texts, name) for name in ("loss_gap", "random")]
    sessions = [job.recover() for job in jobs]
    masks = [job.files("pruning") for job in jobs]
    assert all(
        torch.equal(masks[0][block][name], masks[1][block][name]) for block in masks[0] for name in masks[0][block]
    )
    fitted = [job.stored["reconstructing", "block-00000"].sha256 for job in jobs]
    assert fitted[0] != fitted[1]
    assert sessions[0].results.protocol["calibration"] == sessions[1].results.protocol["calibration"]


def test_a_killed_run_reads_the_same_windows_again(tmp_path: Path, llama: Path, texts: Path) -> None:
    whole, killed = _job(tmp_path / "whole", llama, texts), _job(tmp_path / "killed", llama, texts)
    whole.recover()

    with pytest.raises(KilledError):
        killed.recover(kill_at=is_first_block)
    session = killed.recover()
    assert not any(isinstance(item, Checkpoint) and item.name == "picked" for item in killed.messages)
    last = ("reconstructing", "block-00001")
    assert killed.stored[last].sha256 == whole.stored[last].sha256
    assert session.results.protocol["reconstructing"] == whole.recover().results.protocol["reconstructing"]


def test_windows_of_evaluation_are_never_picked(tmp_path: Path, llama: Path, texts: Path) -> None:
    lines = (texts / "train.txt").read_text()
    (tmp_path / "valid.txt").write_text(lines[: len(lines) // 2])
    measured = {"dataset": {"kind": "local", "path": str(tmp_path / "valid.txt")}, "sequence_length": LENGTH}
    job = _job(tmp_path, llama, texts, evaluate={"perplexity": [measured]})
    calibration = job.spec.calibration.model_copy(update={"candidates": 64})  # more than there are
    job.spec = job.spec.model_copy(update={"calibration": calibration})
    session = job.recover()
    every = session.text(calibration.dataset).evaluation(length=LENGTH, max_windows=None)
    (item,) = session.request.spec.evaluate.perplexity
    shared = overlapping(every, session.evaluation_windows(item))
    assert 0 < int(shared.sum()) < len(every)
    stored = load_file(tmp_path / "checkpoints/reconstructing/picked.safetensors")
    assert len(stored["gaps"]) == len(every) - int(shared.sum())


def test_retraining_reads_one_in_so_many_of_a_domain_s_windows(tmp_path: Path, llama: Path, texts: Path) -> None:
    rows = [{"body": part} for part in (texts / "valid.txt").read_text().split("\n\n") if part]
    (tmp_path / "domain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    domain = {"kind": "local", "path": str(tmp_path / "domain.jsonl"), "column": "body"}
    kept = LocalText(path=domain["path"], column="body").fetch(Access(tmp_path / "cache", roots=(tmp_path,)), "train")
    retrain = {"trainable": ["norms"], "steps": 2, "batch_size": 2, "dataset": domain}
    job = _job(tmp_path / "job", llama, texts, reconstruct=None, retrain=retrain)
    job.texts[fingerprint(domain)] = str(kept.path)
    protocol = job.recover().results.protocol["retraining"]
    assert protocol["dataset"] == domain
    assert protocol["text_sha256"] == kept.sha256
    assert protocol["tokens_read"] == 2 * 2 * protocol["sequence_length"]
    assert protocol["loss_gap"]["picked"] == protocol["loss_gap"]["candidates"] // CANDIDATES
    assert protocol["loss_gap"]["mean_gap_of_picked"] > protocol["loss_gap"]["mean_gap_of_candidates"]
