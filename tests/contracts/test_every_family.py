"""Every family of models: known before work, pruned, refitted, retrained, written and loaded again."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from espalier.evaluate.perplexity import perplexity
from espalier.families import FAMILIES
from espalier.messages import Checkpoint, Done
from espalier.model.masks import unpack
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.probe import ModelFacts, probe, sanitised_config
from espalier.training.trainables import norms_and_biases
from tests.fixtures.library import tiny_models
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model

INERT = (
    "chunk_size_feed_forward",
    "id2label",
    "label2id",
    "is_encoder_decoder",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "summary_",
)
"""What stock configurations have and causal language models of these families never read."""
FULL: dict[str, Any] = {
    "calibration": {"samples": 16, "sequence_length": 32},
    "prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    "reconstruct": {"window": "submodule", "epochs": 2, "batch_size": 4},
    "retrain": {"trainable": ["norms", "mask_lora"], "rank": 4, "steps": 4, "batch_size": 4, "sequence_length": 32},
}


@dataclass
class Case:
    """One family, a tiny model of it, and the job that does everything."""

    family: str
    folder: Path
    texts: Path

    @cached_property
    def model_dir(self) -> Path:
        return write_tiny_model(self.folder / "model", self.family, dtype=torch.float32)

    @cached_property
    def facts(self) -> ModelFacts:
        return probe(self.model_dir)

    @cached_property
    def streamed(self) -> StreamedModel:
        return StreamedModel(self.model_dir, compute_dtype=torch.float32, device=torch.device("cpu"))

    @cached_property
    def job(self) -> LocalJob:
        train = {"kind": "local", "path": str(self.texts / "train.txt")}
        calibration = FULL["calibration"] | {"dataset": train}
        return local_job(self.folder / "job", self.model_dir, self.texts, **FULL | {"calibration": calibration})

    @cached_property
    def done(self) -> Done:
        return self.job.attempt()

    def written(self, phase: str) -> dict[str, torch.Tensor]:
        """The tensors of all blocks as a phase left them."""
        files = [item.path for (of, name), item in self.job.stored.items() if of == phase and name.startswith("block-")]
        return {name: tensor for path in files for name, tensor in load_file(self.job.folder / path).items()}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    return Case(request.param, folder, write_texts(folder))


def test_every_family_has_a_recipe_of_a_tiny_model() -> None:
    assert tiny_models.FAMILIES.keys() == FAMILIES.keys(), f"give each a recipe in {tiny_models.__file__}"


def test_the_probe_and_the_engine_see_one_model(case: Case) -> None:
    facts, layout = case.facts, case.streamed.layout
    seen = {(matrix.name, matrix.block, *matrix.shape) for matrix in layout.matrices}
    assert {(each.name, each.block, each.num_outputs, each.num_inputs) for each in facts.matrices} == seen
    assert facts.parameters == sum(case.streamed.parameters.values())
    assert facts.architecture == type(case.streamed.model).__name__
    kinds = {kind for _, kind, _ in norms_and_biases(case.streamed.model, ("norms", "biases"))}
    assert (facts.has_norms, facts.has_biases) == ("norms" in kinds, "biases" in kinds)
    assert facts.num_blocks == len(layout.blocks)
    assert facts.splits_in_halves


def test_nothing_that_stock_reads_is_dropped_from_the_configuration(case: Case) -> None:
    config = json.loads((case.model_dir / "config.json").read_text())
    stock = AutoConfig.for_model(**config).to_dict()
    assert AutoConfig.for_model(**sanitised_config(config)).to_dict() == stock
    family, kind = FAMILIES[case.family], type(AutoConfig.for_model(case.family))
    ours = {field.alias or name: field for name, field in family.model_fields.items()}
    theirs = {each.name: each.default for each in fields(kind)} | {"output_hidden_states": None}
    assert {name for name in theirs if name not in ours and not name.startswith(INERT)} == set()
    differ = {name for name in ours.keys() & theirs.keys() if ours[name].default != theirs[name]}
    assert {name for name in differ if not ours[name].is_required()} <= {"bos_token_id", "eos_token_id"}


def test_a_whole_job_ends_in_a_model_that_stock_transformers_scores_as_reported(case: Case) -> None:
    report = case.done.report
    model, info = AutoModelForCausalLM.from_pretrained(case.job.artifact, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    windows_NT = case.job.session().evaluation_windows(case.job.spec.evaluate.perplexity[0])
    scored = perplexity(model.eval(), windows_NT, device=torch.device("cpu"), tick=lambda _: None)
    assert report["compressed"]["perplexity"]["text"] == pytest.approx(scored, rel=1e-9)
    names = {phase["name"] for phase in report["phases"]}
    assert {"pruning", "reconstructing", "retraining", "merging"} <= names
    assert report["sparsity"]["achieved"] == 0.5
    assert report["dense"]["parameters"] == case.facts.parameters


def test_every_zero_of_the_mask_is_in_the_artifact_and_every_mask_is_two_of_four(case: Case) -> None:
    assert case.done
    weights = Weights(case.job.artifact)
    packed = load_file(case.job.artifact / "masks.safetensors")
    matrices = case.streamed.layout.by_name
    assert packed.keys() == matrices.keys()
    for name, bits in packed.items():
        mask_OI = unpack(bits, num_inputs=matrices[name].shape[1])
        assert (mask_OI.view(len(mask_OI), -1, 4).sum(dim=2) == 2).all()
        assert not matrices[name].view(weights.get(matrices[name].tensor))[~mask_OI].any()


@pytest.mark.parametrize(("phase", "before"), [("reconstructing", "pruning"), ("merging", "reconstructing")])
def test_each_step_of_recovery_changes_every_matrix(case: Case, phase: str, before: str) -> None:
    assert case.done
    old, new = case.written(before), case.written(phase)
    tensors = [matrix.tensor for matrix in case.streamed.layout.matrices]
    assert [name for name in tensors if torch.equal(old[name], new[name])] == []


SOLVED: dict[str, dict[str, Any]] = {
    "sparsegpt": {"method": "sparsegpt", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    "least_squares": {"method": "wanda", "sparsity": 0.5, "update": {"kind": "least_squares"}},
}


@pytest.mark.deep
@pytest.mark.parametrize("solver", SOLVED)
def test_refitting_the_kept_weights_lowers_the_error_of_every_matrix(case: Case, solver: str) -> None:
    session = case.job.spec.calibration.model_dump(mode="json")
    job = local_job(case.folder / solver, case.model_dir, case.texts, prune=SOLVED[solver], calibration=session)
    assert job.attempt().report["sparsity"]["achieved"] == 0.5
    assert {row.name for row in job.layers} == case.streamed.layout.by_name.keys()
    for row in job.layers:
        assert row.error_before is not None
        assert row.error_after is not None
        assert 0 < row.error_after <= row.error_before * 1.001, row.name


def test_a_killed_job_keeps_the_warnings_of_the_blocks_that_it_had_finished(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", "qwen3_moe", num_experts=64)
    job = local_job(
        tmp_path / "job", model_dir, write_texts(tmp_path), calibration={"samples": 1, "sequence_length": 8}
    )
    with pytest.raises(KilledError):
        job.attempt(kill_at=lambda message: isinstance(message, Checkpoint) and message.name == "block-00000")
    texts = [item["text"] for item in job.attempt().report["warnings"] if item["code"] == "idle_experts"]
    assert [f"model.layers.{index}.mlp.experts." in text for index, text in enumerate(texts)] == [True, True]
