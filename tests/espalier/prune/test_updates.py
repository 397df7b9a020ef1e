"""Updates and propagation inside the pruning walk: rows, forwards, resumption, and numbers that go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from espalier.diagnosis import classify
from espalier.errors import CollapsedError, NumericalError
from espalier.memory.pruning import NUM_SHARDS
from espalier.messages import Checkpoint, Warned
from espalier.prune import collapse
from espalier.recipe.spec import CompressionSpec
from espalier.session import Session
from tests.espalier.prune.forwards import count_forwards
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job

UPDATES: dict[str, dict[str, Any]] = {
    "sparsegpt": {"update": {"kind": "sparsegpt"}},
    "admm on n:m": {"sparsity": None, "pattern": {"kind": "nm"}, "update": {"kind": "admm"}},
    "auto": {"sparsity": 0.7, "update": {"kind": "auto"}},
    "global": {"pattern": {"kind": "unstructured", "scope": "global"}, "update": {"kind": "least_squares"}},
}


def _prune(**fields: Any) -> dict[str, Any]:
    step = {"method": "wanda", "sparsity": 0.5} | fields
    return {name: value for name, value in step.items() if value is not None}


@pytest.mark.deep
@pytest.mark.parametrize("case", UPDATES)
def test_an_update_lowers_the_error_and_survives_a_kill(case: str, tmp_path: Path, texts: Path, llama: Path) -> None:
    whole = local_job(tmp_path / "whole", llama, texts, prune=_prune(**UPDATES[case]))
    report = whole.attempt().report
    assert all(row.error_after < row.error_before for row in whole.layers)  # type: ignore[operator]
    picks = report["protocol"]["update"].get("took", {})
    assert (sum(map(len, picks.values())) == len(whole.layers)) is (case == "auto")
    tensors = load_file(whole.artifact / "model.safetensors")
    for row in whole.layers:
        assert float((tensors[f"{row.name}.weight"] == 0).double().mean()) == pytest.approx(row.sparsity_achieved)

    killed = local_job(tmp_path / "killed", llama, texts, prune=_prune(**UPDATES[case]))
    with pytest.raises(KilledError):
        killed.attempt(kill_at=lambda message: isinstance(message, Checkpoint) and message.name == "block-00000")
    killed.attempt()
    for name in ("model.safetensors", "masks.safetensors"):
        assert (killed.artifact / name).read_bytes() == (whole.artifact / name).read_bytes()


@pytest.mark.parametrize(
    ("propagation", "method", "forwards"),
    [("sequential", "wanda", 3), ("dense", "wanda", 4), ("dense", "sparsegpt", 2)],
)
def test_no_forward_is_run_that_nobody_reads(
    propagation: str,
    method: str,
    forwards: int,
    tmp_path: Path,
    texts: Path,
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = count_forwards(monkeypatch)
    prune = {"method": method, "sparsity": 0.5}
    local_job(tmp_path, llama, texts, propagation=propagation, prune=prune).attempt()
    assert len(seen) == 2 + NUM_SHARDS * forwards  # two blocks, a batch for each shard; the certificate takes one


def test_dense_propagation_sees_the_dense_model(tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path / "dense", llama, texts, propagation="dense")
    job.attempt()
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    inputs: list[torch.Tensor] = []
    name = "model.layers.1.mlp.down_proj"
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(Session(job.request(), lambda _: None).calibration_windows())
    weight_OI = model.get_submodule(name).weight.detach().double()
    score_OI = weight_OI.abs() * inputs[0].double().flatten(end_dim=1).square().sum(dim=0).sqrt()
    gone_OI = torch.zeros_like(score_OI).scatter(1, score_OI.sort(dim=1, stable=True).indices[:, :32], 1).bool()
    assert torch.equal(load_file(job.artifact / "model.safetensors")[f"{name}.weight"] == 0, gone_OI)


def test_dense_propagation_survives_a_kill(tmp_path: Path, texts: Path, llama: Path) -> None:
    whole = local_job(tmp_path / "whole", llama, texts, propagation="dense")
    whole.attempt()
    killed = local_job(tmp_path / "killed", llama, texts, propagation="dense")
    with pytest.raises(KilledError):
        killed.attempt(kill_at=lambda message: isinstance(message, Checkpoint) and message.name == "block-00000")
    killed.attempt()
    assert (killed.artifact / "model.safetensors").read_bytes() == (whole.artifact / "model.safetensors").read_bytes()


def test_interleaving_contradicts_dense_propagation() -> None:
    with pytest.raises(ValueError, match="leave `propagation` sequential"):
        CompressionSpec.model_validate({"prune": _prune(), "propagation": "dense", "reconstruct": {"interleave": True}})


def test_the_same_mask_with_and_without_an_update(tmp_path: Path, texts: Path, llama: Path) -> None:
    plain = local_job(tmp_path / "plain", llama, texts, propagation="dense")
    refit = local_job(tmp_path / "refit", llama, texts, propagation="dense", prune=_prune(update={"kind": "sparsegpt"}))
    plain.attempt(), refit.attempt()
    assert (plain.artifact / "masks.safetensors").read_bytes() == (refit.artifact / "masks.safetensors").read_bytes()


def _broken(llama: Path, folder: Path, name: str, value: float) -> Path:
    folder.mkdir()
    for path in llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors[name][:] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prune", [_prune(), _prune(method="magnitude"), _prune(update={"kind": "admm"})], ids=str)
def test_activations_that_are_not_finite_are_named(
    prune: dict[str, Any], tmp_path: Path, texts: Path, llama: Path
) -> None:
    # The first block's gates overflow: its last matrix reads what is not finite.
    model = _broken(llama, tmp_path / "model", "model.layers.0.post_attention_layernorm.weight", 3e38)
    job = local_job(tmp_path / "job", model, texts, prune=prune, evaluate={"perplexity": []})
    with pytest.raises(NumericalError) as caught:
        job.attempt()
    error = classify(caught.value, phase="pruning")
    assert error.class_ == "numerical"
    assert error.module is not None
    assert error.module.startswith("model.layers.0.mlp.")
    assert error.hint


def test_a_silent_model_is_pruned_all_the_same(tmp_path: Path, texts: Path, llama: Path) -> None:
    model = _broken(llama, tmp_path / "model", "model.layers.0.input_layernorm.weight", 0.0)
    job = local_job(tmp_path / "job", model, texts, prune=_prune(update={"kind": "least_squares"}))
    job.attempt()
    query = next(row for row in job.layers if row.name.endswith("0.self_attn.q_proj"))
    assert (query.error_before, query.error_after, query.sparsity_achieved) == (0.0, 0.0, 0.5)


def test_fewer_tokens_than_inputs_are_warned_of(tmp_path: Path, texts: Path, llama: Path) -> None:
    calibration = {
        "dataset": {"kind": "local", "path": str(texts / "train.txt")},
        "samples": 2,
        "sequence_length": 16,
    }

    def warnings(job: LocalJob) -> list[str]:
        return [message.code for message in job.messages if isinstance(message, Warned)]

    job = local_job(tmp_path / "gram", llama, texts, calibration=calibration, prune=_prune(update={"kind": "alps"}))
    job.attempt()
    assert "fewer_tokens_than_inputs" in warnings(job)
    job = local_job(tmp_path / "norms", llama, texts, calibration=calibration)
    job.attempt()
    assert "fewer_tokens_than_inputs" not in warnings(job)


def test_a_collapsed_model_ends_the_job_with_a_milder_setting(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "RATIO", 0.0)  # a random model guesses worse than uniformly from the start
    with pytest.raises(CollapsedError) as caught:
        local_job(tmp_path, llama, texts).attempt()
    error = classify(caught.value, phase="evaluating")
    assert (error.class_, error.retryable) == ("collapsed", False)
    assert '{"kind": "admm"}' in error.hint
    assert "a uniform guess over the vocabulary (384), and above 0 times the dense model's (0)" in error.message


def test_a_result_that_is_worse_than_guessing_says_so_in_events_report_and_card(
    tmp_path: Path, texts: Path, llama: Path
) -> None:
    job = local_job(tmp_path, llama, texts)  # a random model is, and so is what is left of it
    report = job.attempt().report
    assert report["compressed"]["perplexity"]["text"] > 384
    assert "worse_than_guessing" in [message.code for message in job.messages if isinstance(message, Warned)]
    assert "worse_than_guessing" in [warning["code"] for warning in report["warnings"]]
    assert "worse than a uniform guess over the vocabulary (384)" in (job.artifact / "README.md").read_text()


@pytest.mark.parametrize(
    ("prune", "hint"),
    [
        (_prune(), '"admm"'),
        (_prune(sparsity=0.7, update={"kind": "admm"}), "prune.sparsity 0.6"),
        (_prune(sparsity=None, pattern={"kind": "nm", "n": 1}, update={"kind": "admm"}), "keeps more"),
    ],
)
def test_the_next_milder_setting(prune: dict[str, Any], hint: str) -> None:
    assert hint in collapse.next_gentler_setting(CompressionSpec.model_validate({"prune": prune}).masking[0])
