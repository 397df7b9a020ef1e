"""Every family with whole parts removed: what the probe says can go goes, stock loads it, and the rest is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from espalier.errors import EngineError
from espalier.evaluate.perplexity import perplexity
from espalier.families import FAMILIES
from espalier.families.sizes import Part
from espalier.messages import Done
from espalier.probe import ModelFacts, check, probe
from espalier.probe.config import parse_config
from espalier.recipe.spec import CompressionSpec
from tests.espalier.probe.generated import tiny
from tests.fixtures.library.jobs import LocalJob, local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model


def step(part: Part, sparsity: float = 0.5) -> dict[str, Any]:
    """Remove a share of the units of a part."""
    if part.kind == "depth":
        return {"method": "block_influence", "sparsity": sparsity}
    method = "reap" if part.kind == "experts" else "structured_obs" if part.kind == "kv_groups" else "flap"
    return {"method": method, "sparsity": sparsity, "pattern": {"kind": part.kind}}


@dataclass
class Case:
    """One family, and a job that removes half of everything that can go; embeddings are tied."""

    family: str
    folder: Path

    @cached_property
    def model_dir(self) -> Path:
        return write_tiny_model(self.folder / "model", self.family, tied=True, dtype=torch.float32)

    @cached_property
    def texts(self) -> Path:
        return write_texts(self.folder)

    @cached_property
    def facts(self) -> ModelFacts:
        return probe(self.model_dir)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        assert self.facts.sizes is not None
        return self.facts.sizes.parts

    @cached_property
    def free(self) -> list[Part]:
        """What can go."""
        return [part for part in self.parts if part.refusal is None]

    @cached_property
    def job(self) -> LocalJob:
        return self.of("job", [step(part) for part in self.free])

    def of(self, name: str, steps: list[dict[str, Any]]) -> LocalJob:
        """Another job on the same model."""
        return local_job(self.folder / name, self.model_dir, self.texts, prune=steps)

    @cached_property
    def done(self) -> Done:
        return self.job.attempt()


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def test_the_smaller_model_is_a_stock_model_that_scores_and_weighs_what_the_report_says(case: Case) -> None:
    report = case.done.report
    model, info = AutoModelForCausalLM.from_pretrained(case.job.artifact, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    windows_NT = case.job.session().evaluation_windows(case.job.spec.evaluate.perplexity[0])
    scored = perplexity(model.eval(), windows_NT, device=torch.device("cpu"), tick=lambda _: None)
    assert report["compressed"]["perplexity"]["text"] == pytest.approx(scored, rel=1e-9)
    written = model.generate(windows_NT[:1, :8], max_new_tokens=4, do_sample=False)
    assert written.shape[1] > 8
    assert report["compressed"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    reported = {row["kind"]: row for row in report["protocol"]["structure"]}
    assert set(reported) == {part.kind for part in case.free}
    for part in case.free:
        if part.kind != "depth":
            assert reported[part.kind]["of"] == part.count
            assert reported[part.kind]["kept"] == max(part.least, part.count // 2)


NARROWABLE = [name for name in FAMILIES if parse_config(tiny(name)).why_not("neurons") is None]


@pytest.mark.parametrize("family", NARROWABLE)
def test_neurons_go_where_there_are_as_many_as_channels(family: str, tmp_path: Path) -> None:
    """A map that widens has then the shape of one that writes to the hidden states."""
    case = Case(family, tmp_path)
    as_many: dict[str, Any] = {str(FAMILIES[family].width_field): 32}
    case.model_dir = write_tiny_model(tmp_path / "model", family, **as_many)
    (neurons,) = (part for part in case.parts if part.kind == "neurons")
    assert (neurons.count, neurons.refusal) == (32, None)
    (row,) = case.of("job", [step(neurons)]).attempt().report["protocol"]["structure"]
    assert row["kept"] == 16


def test_the_smaller_model_is_one_that_can_be_posted_again(case: Case) -> None:
    assert case.done
    smaller = probe(case.job.artifact)
    assert smaller.num_blocks == case.facts.num_blocks // 2
    assert smaller.parameters == case.done.report["compressed"]["parameters"]
    assert smaller.tied_embeddings


def test_the_probe_foretells_what_is_left(case: Case) -> None:
    """But for the biases that a setting adds."""
    assert case.facts.sizes is not None
    left = case.facts.sizes.after(case.job.spec.structure).parameters
    report = case.done.report["compressed"]
    added = 2 * 32 + 32 if "neurons" in FAMILIES[case.family].bias_fields else 0
    assert report["parameters"] - added == left


def test_what_no_stock_configuration_can_carry_is_refused_by_post_and_by_the_worker(case: Case) -> None:
    for number, part in enumerate(part for part in case.parts if part.refusal is not None):
        spec = CompressionSpec.model_validate({"prune": [step(part)]})
        assert [problem.code for problem in check(spec, case.facts)] == ["part-stays-whole"]
        with pytest.raises(EngineError):
            case.of(f"refused-{number}", [step(part)]).attempt()


def test_a_family_without_experts_has_none_to_remove(case: Case) -> None:
    spec = CompressionSpec.model_validate({"prune": [{"method": "reap", "sparsity": 0.25}]})
    has = any(part.kind == "experts" for part in case.parts)
    assert [problem.code for problem in check(spec, case.facts)] == ([] if has else ["no-such-part"])


@pytest.mark.deep
def test_a_job_that_keeps_everything_is_bit_identical(case: Case) -> None:
    job = case.of("whole", [step(part, 0.0) for part in case.free])
    job.attempt()
    before, after = (load_file(folder / "model.safetensors") for folder in (case.model_dir, job.artifact))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.deep
def test_the_least_that_can_stay_is_a_stock_model(case: Case) -> None:
    """One block, one neuron, one group of heads, as many experts as a token is sent to: never none."""
    steps = [step(part, 1 - part.least / part.count) for part in case.free]
    job = case.of("least", steps)
    left = {row["kind"]: row for row in job.attempt().report["protocol"]["structure"]}
    assert left["depth"]["blocks"] == 1
    assert all(left[part.kind]["kept"] == part.least for part in case.free if part.kind != "depth")
    assert torch.isfinite(logits(job.artifact, torch.arange(60, 72).view(1, -1))).all()


@pytest.mark.deep
def test_the_last_block_and_the_last_expert_stay(case: Case) -> None:
    """Refused by POST, and by the worker for sources that POST has not seen."""
    too_much: dict[str, dict[str, Any]] = {
        "depth": {"method": "angular", "pattern": {"kind": "depth", "count": case.facts.num_blocks}}
    }
    too_much["experts"] = {"method": "reap", "sparsity": 0.99}
    for part in case.free:
        asked = too_much.get(part.kind)
        if asked is None:
            continue
        codes = [problem.code for problem in check(CompressionSpec.model_validate({"prune": [asked]}), case.facts)]
        assert codes == ["no-block-left" if part.kind == "depth" else "too-few-left"]
        with pytest.raises(EngineError):
            case.of(f"none-{part.kind}", [asked]).attempt()


@pytest.mark.deep
def test_a_matrix_stands_in_for_a_block_or_is_refused_by_post_and_by_the_worker(case: Case) -> None:
    plain = {"method": "angular", "sparsity": 0.5}
    replaced = plain | {"replace": "least_squares"}
    (depth,) = (part for part in case.parts if part.kind == "depth")
    codes = [problem.code for problem in check(CompressionSpec.model_validate({"prune": [replaced]}), case.facts)]
    assert codes == (["nothing-stands-in"] if depth.no_stand_in else [])
    jobs = case.of("cut", [plain]), case.of("replaced", [replaced])
    if depth.no_stand_in:
        with pytest.raises(EngineError, match="adds to the hidden states"):
            jobs[1].attempt()
        return
    windows_NT = jobs[0].session().calibration_windows()
    wanted = logits(case.model_dir, windows_NT)
    errors = []
    for job in jobs:
        job.attempt()
        errors.append(float((logits(job.artifact, windows_NT) - wanted).square().mean()))
    assert errors[1] < 0.9 * errors[0]


@torch.no_grad()
def logits(folder: Path, windows_NT: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(windows_NT).logits
    return values
