"""What calibration counts, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espalier.errors import NumericalError, UnsupportedArchitectureError
from espalier.methods.statistic import Declared, Statistic
from espalier.methods.statistics.gram import Gram
from espalier.methods.statistics.input_norms import InputNorms
from espalier.methods.statistics.neuron_norms import NeuronNorms
from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.capture import capturing
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.statistics import InputAccumulator, OutputErrors
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model


def test_inputs_of_all_batches_are_counted_once_and_shared(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
    weights = Weights(folder)
    matrices = streamed.layout.blocks[0].matrices
    stream = HiddenStates(
        streamed, torch.randint(VOCABULARY, (5, 16), generator=generator(0)), weights, batches=[2, 2, 1]
    )
    inputs: list[torch.Tensor] = []
    with streamed.block(0, weights) as block:
        block.get_submodule("mlp.down_proj").register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        with capturing(block, matrices, (InputNorms,), sample_tokens=40) as capture:
            for _ in stream.outputs(block):
                pass
        hooked = [module for module in block.modules() if module._forward_pre_hooks]
    q, k, v, o, gate, up, down = (capture.of(matrix.name) for matrix in matrices)
    assert q is k is v
    assert gate is up
    assert len({id(item) for item in (q, o, gate, down)}) == 4
    assert {item.tokens for item in (q, o, gate, down)} == {80}
    seen_TI = torch.cat([batch.flatten(end_dim=1) for batch in inputs])
    norm_I = down.statistics("down")[InputNorms]
    torch.testing.assert_close(norm_I, seen_TI.double().square().sum(dim=0).sqrt(), rtol=1e-14, atol=0)
    assert torch.equal(down.sample(), seen_TI[:40])
    assert len(hooked) == 1  # ours above; the capture's own are gone


def test_a_matrix_that_is_never_reached_is_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
    matrices = streamed.layout.blocks[0].matrices
    with (
        streamed.block(0, Weights(folder)) as block,
        capturing(block, matrices, sample_tokens=1) as capture,
        pytest.raises(UnsupportedArchitectureError, match="q_proj"),
    ):
        capture.of(matrices[0].name)


def test_only_what_is_needed_is_computed() -> None:
    known: dict[Declared, set[type[Statistic]]] = {
        (): set(),
        (InputNorms,): {InputNorms},
        (NeuronNorms,): {InputNorms},  # of the matrix that reads
        (Gram,): {Gram, InputNorms},  # the norms are its diagonal
        (InputNorms, Gram): {Gram, InputNorms},
    }
    for declared, expected in known.items():
        accumulator = InputAccumulator(declared, sample_tokens=0)
        accumulator.add(torch.eye(3))
        assert set(accumulator.statistics("m")) == expected


def test_inputs_that_are_not_finite_name_the_module() -> None:
    accumulator = InputAccumulator((InputNorms,), sample_tokens=0)
    accumulator.add(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(NumericalError) as caught:
        accumulator.statistics("model.layers.3.fc1")
    assert caught.value.module == "model.layers.3.fc1"


@pytest.mark.parametrize("gram", [False, True])
def test_the_relative_error_is_the_ratio_of_squared_norms(gram: bool) -> None:
    input_TI, dense_OI = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    gram_II = input_TI.T @ input_TI if gram else None
    errors = OutputErrors(dense_OI, input_TI, gram_II)
    assert errors.relative(torch.tensor([[3.0, 0.0]])) == pytest.approx((8**2 + 4**2) / (11**2 + 4**2))
    assert OutputErrors(torch.zeros(1, 2), input_TI, gram_II).relative(torch.ones(1, 2)) == 0.0
