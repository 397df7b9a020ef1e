"""Experts one by one: their statistics, those that no token reaches, and kinds that cannot be taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GptOssConfig

from espalier.errors import UnsupportedArchitectureError
from espalier.methods.statistic import InputStatistic
from espalier.methods.statistics.gram import Gram
from espalier.methods.statistics.input_norms import InputNorms
from espalier.model.fused_experts import SeparateExperts, split_experts
from espalier.model.layout import Layout
from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.capture import Capture, capturing
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.statistics import InputAccumulator
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

CPU = torch.device("cpu")


def _captured(
    folder: Path, kind: type[InputStatistic]
) -> tuple[Capture, StreamedModel, list[torch.Tensor], list[torch.Tensor]]:
    streamed, weights = StreamedModel(folder, compute_dtype=torch.float32, device=CPU), Weights(folder)
    tokens_NT = torch.randint(VOCABULARY, (4, 24), generator=generator(0))
    stream = HiddenStates(streamed, tokens_NT, weights, batches=[2, 2])
    entered, chosen = list[torch.Tensor](), list[torch.Tensor]()
    matrices = streamed.layout.blocks[0].matrices
    with streamed.block(0, weights) as block, capturing(block, matrices, (kind,), sample_tokens=1000) as capture:

        def look(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            entered.append(args[0].clone())
            chosen.append(args[1].clone())

        experts = next(module for module in block.modules() if isinstance(module, SeparateExperts))
        experts.register_forward_pre_hook(look)
        for _ in stream.outputs(block):
            pass
    return capture, streamed, entered, chosen


def test_an_expert_counts_the_tokens_that_are_routed_to_it_and_no_others(tmp_path: Path) -> None:
    capture, _, entered, chosen = _captured(write_tiny_model(tmp_path, "mixtral", dtype=torch.float32), Gram)
    x_TI, chosen_TK = torch.cat(entered).double(), torch.cat(chosen)
    total = 0
    for index in range(4):
        mine_TI = x_TI[(chosen_TK == index).any(dim=1)]
        seen = capture.of(f"model.layers.0.mlp.experts.{index}.gate_proj")
        assert seen is capture.of(f"model.layers.0.mlp.experts.{index}.up_proj")
        assert seen.tokens == len(mine_TI) == capture.of(f"model.layers.0.mlp.experts.{index}.down_proj").tokens
        gram_II = seen.statistics("expert")[Gram]
        torch.testing.assert_close(gram_II.double(), mine_TI.T @ mine_TI, rtol=1e-4, atol=1e-4)
        total += seen.tokens
    assert total == 2 * len(x_TI)
    assert capture.idle_experts == []


@pytest.mark.parametrize("kind", [InputNorms, Gram])
def test_an_expert_without_tokens_is_named_and_judged_by_magnitude(kind: type[InputStatistic], tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "qwen3_moe", dtype=torch.float32, num_experts=64)
    capture, streamed, _, chosen = _captured(folder, kind)
    idle = sorted(set(range(64)) - set(torch.cat(chosen).flatten().tolist()))
    assert idle
    assert capture.idle_experts == [f"model.layers.0.mlp.experts.{index}" for index in idle]
    for role, inputs in (("gate_proj", 32), ("down_proj", 16)):
        name = f"model.layers.0.mlp.experts.{idle[0]}.{role}"
        assert capture.of(name).tokens == 0
        statistic = capture.of(name).statistics(name)[kind]
        assert torch.equal(
            statistic.double(), (torch.ones(inputs) if kind is InputNorms else torch.eye(inputs)).double()
        )
        assert capture.of(name).sample().shape == (0, inputs)
    assert not any(matrix.routed for matrix in streamed.layout.matrices if "self_attn" in matrix.name)


@pytest.mark.parametrize("routed", [True, False])
def test_inputs_that_an_expert_never_saw_weigh_as_much_as_the_others(routed: bool) -> None:
    x_TI = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 5.0]])
    for kind in (InputNorms, Gram):
        accumulator = InputAccumulator((kind,), sample_tokens=0, routed=routed)
        accumulator.add(x_TI)
        seen = accumulator.statistics("expert")
        squares_I = seen[Gram].diagonal() if kind is Gram else seen[InputNorms].square()
        torch.testing.assert_close(squares_I.double(), torch.tensor([9.0, 25.0 if routed else 0.0, 41.0]).double())


def test_a_gate_of_one_output_stays_dense() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = nn.Linear(4, 1), nn.Linear(4, 4)

    model = nn.ModuleDict({"blocks": nn.ModuleList([Block()])})
    tensors = {name: name for name, _ in model.named_parameters()}
    assert [matrix.name for matrix in Layout.of(model, tensors).matrices] == ["blocks.0.up"]


def test_experts_of_another_kind_are_refused_by_name() -> None:
    config = GptOssConfig(
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        vocab_size=64,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.0\.mlp\.experts"):
        split_experts(model)
