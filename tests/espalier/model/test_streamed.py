"""The streamed model does what the stock one does, family by family, without a list of families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from espalier.errors import UnsupportedArchitectureError
from espalier.evaluate.perplexity import perplexity, perplexity_by_blocks
from espalier.model.layout import find_stack
from espalier.model.numerics import CPU, generator
from espalier.model.streamed import StreamedModel, unwrap
from espalier.model.weights import Weights
from espalier.stream.hidden_states import HiddenStates
from tests.fixtures.library.tiny_models import FAMILIES, VOCABULARY, write_tiny_model

MODELS = [(family, tied) for family in FAMILIES for tied in (False, True)]


def _streamed(folder: Path) -> StreamedModel:
    return StreamedModel(folder, compute_dtype=torch.float32, device=CPU)


def _last_hidden(model: nn.Module, tokens_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What leaves the last block, and the logits."""
    last: list[torch.Tensor] = []
    hook = find_stack(model)[1][-1].register_forward_hook(lambda _, _args, output: last.append(unwrap(output)))
    logits = torch.cat([model(part).logits for part in torch.split(tokens_NT, 2)])
    hook.remove()
    return torch.cat(last), logits


@pytest.mark.parametrize(("family", "tied"), MODELS)
@torch.no_grad()
def test_walking_the_blocks_equals_the_stock_forward(family: str, tied: bool, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, family, tied=tied)
    tokens_NT = torch.randint(VOCABULARY, (5, 40), generator=generator(0))
    streamed, weights = _streamed(folder), Weights(folder)
    place = tmp_path / "states" if tied else CPU
    stream = HiddenStates(streamed, tokens_NT, weights, batches=[2, 2, 1], states_in=place)
    for block in streamed.layout.blocks:
        with streamed.block(block.index, weights) as module:
            stream.advance(module)

    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with streamed.whole(weights) as model:
        ours = _last_hidden(model, tokens_NT)
        whole = perplexity(model, tokens_NT, device=CPU)
    assert perplexity_by_blocks(streamed, tokens_NT, weights, states_in=place) == whole
    assert torch.equal(torch.cat([batch.hidden_BTD for batch in stream.batches]), ours[0])
    # Stock models multiply all experts at once, which rounds otherwise in the last bit.
    routed = any(matrix.routed for matrix in streamed.layout.matrices)
    for mine, theirs in zip(ours, _last_hidden(stock, tokens_NT), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5 if routed else 0, atol=1e-4 if routed else 0)
    assert sum(streamed.parameters.values()) == sum(parameter.numel() for parameter in stock.parameters())


@pytest.mark.parametrize(
    ("family", "locals_"),
    [
        (
            "llama",
            {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
            | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        ),
        ("opt", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"}),
        ("gpt2", {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ],
)
def test_the_layout_lists_every_linear_map_inside_the_blocks(family: str, locals_: set[str], tmp_path: Path) -> None:
    layout = _streamed(write_tiny_model(tmp_path, family)).layout
    assert [block.index for block in layout.blocks] == [0, 1]
    assert all({matrix.local for matrix in block.matrices} == locals_ for block in layout.blocks)


def test_conv1d_is_seen_as_outputs_by_inputs(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gpt2")
    matrix = _streamed(folder).layout.blocks[0].matrices[0]
    assert matrix.shape == (96, 32)
    assert tuple(matrix.view(Weights(folder).get(matrix.tensor)).shape) == (96, 32)


def test_files_without_the_base_models_prefix_are_read(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gpt2", tied=True)
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    streamed = _streamed(folder)
    assert streamed.layout.blocks[0].matrices[0].tensor == "h.0.attn.c_attn.weight"


def test_a_block_is_a_copy_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "opt")
    streamed, weights = _streamed(folder), Weights(folder)
    with streamed.block(0, weights) as first, streamed.block(0, weights, dtype=torch.bfloat16) as second:
        assert not first.training
        assert not any(parameter.requires_grad for parameter in first.parameters())
        assert next(first.parameters()).dtype == torch.float32
        assert next(second.parameters()).dtype == torch.bfloat16
        assert first is not second
    assert next(streamed.model.parameters()).is_meta


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.1\.mlp\.up_proj"):
        _streamed(folder)
