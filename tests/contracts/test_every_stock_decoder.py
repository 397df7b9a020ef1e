"""Every stock decoder that is accepted without a declaration: what the declared families promise, by the same job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from espalier.errors import EngineError
from espalier.evaluate.perplexity import perplexity
from espalier.families import FAMILIES, accepted
from espalier.messages import Checkpoint
from espalier.model.masks import unpack
from espalier.model.streamed import StreamedModel
from espalier.packing.pack import packed_path
from espalier.packing.unpacking import unpack_file
from espalier.probe import check, probe
from espalier.recipe.spec import CompressionSpec
from tests.families.trial import write_stock_model
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job, write_texts

NAMES = sorted(accepted().keys() - FAMILIES.keys())
pytestmark = pytest.mark.deep
CPU = torch.device("cpu")
ALMOST: dict[str, torch.dtype] = {"xglm": torch.float32}
"""Of stock classes that cannot be run in float64, the dtype in which they can."""
NM = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}
RETRAIN = {"trainable": ["norms", "mask_lora"], "rank": 4, "steps": 2, "batch_size": 4, "sequence_length": 32}


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_is_pruned_refitted_retrained_packed_and_loads_as_reported(name: str, tmp_path: Path) -> None:
    model_dir = write_stock_model(tmp_path / "model", name)
    facts, streamed = probe(model_dir), StreamedModel(model_dir, compute_dtype=torch.float32, device=CPU)
    window = "submodule" if facts.splits_in_halves else "block"
    job = local_job(
        tmp_path / "job",
        model_dir,
        write_texts(tmp_path),
        prune=NM,
        reconstruct={"window": window, "epochs": 1, "batch_size": 4},
        retrain=RETRAIN,
        output={"format": "both"},
    )
    report = _killed_and_resumed(job).attempt().report
    seen = {(matrix.name, matrix.block, *matrix.shape) for matrix in streamed.layout.matrices}
    assert {(each.name, each.block, each.num_outputs, each.num_inputs) for each in facts.matrices} == seen
    assert facts.parameters == sum(streamed.parameters.values()) == report["dense"]["parameters"]
    assert facts.shape == streamed.shape
    model, info = AutoModelForCausalLM.from_pretrained(job.artifact, dtype=torch.float32, output_loading_info=True)
    assert type(model).__name__ == facts.architecture
    assert not any(info.values()), info
    windows_NT = job.session().evaluation_windows(job.spec.evaluate.perplexity[0])
    scored = perplexity(model.eval(), windows_NT, device=CPU, tick=lambda _: None)
    assert report["compressed"]["perplexity"]["text"] == pytest.approx(scored, rel=1e-9)
    written = load_file(job.artifact / "model.safetensors")
    for matrix, mask_OI in _masks(job, streamed).items():
        assert (mask_OI.view(len(mask_OI), -1, 4).sum(dim=2) == 2).all()
        assert not streamed.layout.by_name[matrix].view(written[streamed.layout.by_name[matrix].tensor])[~mask_OI].any()
    unpack_file(packed_path(job.artifact / "model.safetensors"), tmp_path / "unpacked.safetensors")
    unpacked = load_file(tmp_path / "unpacked.safetensors")
    assert all(torch.equal(unpacked[each], written[each]) for each in written)


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_float64_and_what_prunes_nothing_changes_nothing(name: str, tmp_path: Path) -> None:
    model_dir, texts = write_stock_model(tmp_path / "model", name), write_texts(tmp_path)
    streamed = StreamedModel(model_dir, compute_dtype=torch.float32, device=CPU)
    job = local_job(tmp_path / "job", model_dir, texts, prune=NM)
    job.attempt()
    expected = _reference(streamed, model_dir, ALMOST.get(name, torch.float64), job.session().calibration_windows())
    found = _masks(job, streamed)
    assert [each for each in expected if not torch.equal(expected[each], found[each])] == []
    same = local_job(tmp_path / "same", model_dir, texts, prune={"method": "wanda", "sparsity": 0.0})
    same.attempt()
    before, after = (load_file(folder / "model.safetensors") for folder in (model_dir, same.artifact))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[each], after[each]) for each in before)


@pytest.mark.parametrize("name", NAMES)
def test_no_part_of_a_decoder_without_a_declaration_is_removed(name: str, tmp_path: Path) -> None:
    model_dir = write_stock_model(tmp_path / "model", name)
    for step in ({"method": "block_influence"}, {"method": "flap", "pattern": {"kind": "neurons"}}):
        spec = CompressionSpec.model_validate({"prune": [step | {"sparsity": 0.5}]})
        assert [problem.code for problem in check(spec, probe(model_dir))] == ["part-stays-whole"]
    job = local_job(tmp_path / "job", model_dir, write_texts(tmp_path), prune=[step | {"sparsity": 0.5}])
    with pytest.raises(EngineError):
        job.attempt()


def _killed_and_resumed(job: LocalJob) -> LocalJob:
    with pytest.raises(KilledError):
        job.attempt(kill_at=lambda message: isinstance(message, Checkpoint) and message.phase == "reconstructing")
    return job


def _masks(job: LocalJob, streamed: StreamedModel) -> dict[str, torch.Tensor]:
    packed = load_file(job.artifact / "masks.safetensors")
    matrices = streamed.layout.by_name
    return {name: unpack(bits, num_inputs=matrices[name].shape[1]) for name, bits in packed.items()}


@torch.no_grad()
def _reference(
    streamed: StreamedModel, model_dir: Path, dtype: torch.dtype, windows_NT: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Masks of 2:4 by |W| * ||X||_2 in stock transformers, float64, block by block on what is pruned before it."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    masks = {}
    for block in streamed.layout.blocks:
        squares = dict[str, torch.Tensor]()
        handles = [
            model.get_submodule(matrix.name).register_forward_pre_hook(_adding(squares, matrix.name))
            for matrix in block.matrices
        ]
        model(windows_NT)
        for handle in handles:
            handle.remove()
        for matrix in block.matrices:
            weight_OI = matrix.view(model.get_submodule(matrix.name).weight.data)
            score = (weight_OI.abs().double() * squares[matrix.name].sqrt()).view(len(weight_OI), -1, 4)
            kept = torch.zeros_like(score, dtype=torch.bool)
            kept.scatter_(2, score.argsort(dim=2, descending=True, stable=True)[:, :, :2], value=True)
            masks[matrix.name] = kept.view_as(weight_OI)
            weight_OI.mul_(masks[matrix.name])
    return masks


def _adding(squares: dict[str, torch.Tensor], name: str) -> Callable[[object, tuple[torch.Tensor, ...]], None]:
    def add(_: object, args: tuple[torch.Tensor, ...]) -> None:
        squares[name] = args[0].flatten(0, -2).double().square().sum(dim=0)

    return add
