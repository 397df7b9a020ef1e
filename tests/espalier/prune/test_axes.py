"""Every method of every axis once through the phases, in as few jobs as it takes; gated neurons by structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from espalier.errors import TargetsError
from espalier.methods.statistics.neuron_norms import NeuronNorms
from espalier.model.layout import Layout
from espalier.stream.capture import capturing
from tests.contracts.cells import AXES, USUAL, Cell, Refused, axes_of, name_of, prune_of, step_of
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model


def _covering() -> list[Cell]:
    """Cells that hold every choice of every axis at least once."""
    left = [(axis, choice) for axis, choices in AXES.items() for choice in choices if choice != USUAL[axis]]
    cells = []
    while left:
        cell = dict(USUAL)
        for axis, choice in list(left):
            tried = cell | {axis: choice}
            if cell[axis] == USUAL[axis] and not isinstance(step_of(tried), Refused):
                cell = tried
                left.remove((axis, choice))
        assert cell != USUAL, f"these go with nothing: {left}"
        cells.append(cell)
    return cells


def _fitting(cell: Cell) -> dict[str, Any]:
    """The step, with hand-written shares for the model's two blocks and tiles that it has more than one of."""
    prune = prune_of(cell)
    if "values" in prune["budget"]:
        prune["budget"] = {**prune["budget"], "values": prune["budget"]["values"] * 2}
    if "rows" in type(axes_of(cell).pattern).model_fields:
        prune["pattern"] = {**prune["pattern"], "rows": 8, "columns": 8}
    return prune


@pytest.mark.parametrize("cell", _covering(), ids=name_of)
def test_it_runs_through_the_phases(cell: Cell, tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path, llama, texts, prune=_fitting(cell))
    report = job.attempt().report
    (step,) = job.spec.masking
    assert len(job.layers) == 14
    for row in job.layers:
        half = step.pattern.step((row.shape[0], row.shape[1])) / 2 + 1e-9
        assert row.sparsity_achieved == pytest.approx(row.sparsity_requested, abs=half)
        assert row.error_after is not None
        assert row.error_before is not None
        assert row.error_after <= row.error_before + 1e-9
    assert report["sparsity"]["achieved"] == pytest.approx(step.target_sparsity, abs=0.02)


def test_hand_written_shares_that_do_not_fit_the_model_end_the_job_with_a_hint(
    tmp_path: Path, texts: Path, llama: Path
) -> None:
    prune = {"method": "wanda", "sparsity": 0.5, "budget": {"kind": "per_layer", "values": [0.5]}}
    with pytest.raises(TargetsError, match="1 shares for 2 blocks") as caught:
        local_job(tmp_path, llama, texts, prune=prune).attempt()
    assert caught.value.hint


@pytest.mark.parametrize(("family", "warned"), [("llama", False), ("opt", True)])
def test_a_criterion_that_finds_no_gated_neurons_says_so(
    family: str, warned: bool, tmp_path: Path, texts: Path
) -> None:
    model_dir = write_tiny_model(tmp_path / "model", family)
    job = local_job(tmp_path / "job", model_dir, texts, prune={"method": "dass", "sparsity": 0.5})
    codes = {warning["code"] for warning in job.attempt().report["warnings"]}
    assert ("no_gated_neurons" in codes) == warned


GATED = {"llama": 2, "gemma2": 2, "phi3": 1, "opt": 0, "gpt2": 0, "falcon": 0}
"""Family -> maps of a block that make gated neurons; phi3 fuses gate and up."""


@pytest.mark.parametrize("family", GATED)
def test_gated_neurons_are_found_by_structure_and_their_norm_is_what_the_down_projection_reads(
    family: str, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path, family), dtype=torch.float32).eval()
    block = Layout.of(model, {name: name for name in model.state_dict()}).blocks[0]
    module = model.get_submodule(block.name)
    readers = NeuronNorms.readers(module, block.matrices)
    assert len(readers) == GATED[family]
    if not readers:
        return
    makers = [matrix for matrix in block.matrices if matrix.name in readers]
    (reader,) = {matrix.name: matrix for matrix in readers.values()}.values()
    inputs: list[torch.Tensor] = []
    module.get_submodule(reader.local).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad(), capturing(module, makers, (NeuronNorms,), siblings=block.matrices) as capture:
        model(torch.arange(24)[None])
    assert capture.watched == [*makers, reader]
    norm_N = inputs[0].double().flatten(end_dim=-2).square().sum(dim=0).sqrt()
    for maker in makers:
        found_O = capture.statistics(maker.name)[NeuronNorms]
        torch.testing.assert_close(found_O, norm_N.repeat(maker.shape[0] // len(norm_N)))
