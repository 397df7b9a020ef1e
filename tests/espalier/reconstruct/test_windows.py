"""What windows read and should give, against the model's own parts called by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn

from espalier.model.masks import apply
from espalier.model.safetensors_writer import save_overlay
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.recipe.steps.reconstruct import Mode
from espalier.reconstruct.windows import Pair, Streams, WindowPart, halves_of, matrices_of, whole
from espalier.stream.hidden_states import HiddenStates
from tests.fixtures.library.tiny_models import write_tiny_model

MODES: tuple[Mode, ...] = get_args(Mode)
WINDOWS = torch.arange(6 * 16).view(6, 16) % 300


@dataclass
class Setting:
    """A Llama, the same with every other weight of its matrices gone, and the second block of both."""

    streamed: StreamedModel
    dense: Weights
    pruned: Weights
    walk: HiddenStates
    streams: Callable[[Mode], Streams]
    teacher: nn.Module
    student: nn.Module

    def pair(self) -> Pair:
        """The second block."""
        return Pair(self.walk, self.streamed.layout.blocks[1], self.teacher, self.student)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = write_tiny_model(tmp_path_factory.mktemp("llama"), dtype=torch.float32)
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
    dense = Weights(folder)
    tensors = {}
    for matrix in streamed.layout.matrices:
        weight_OI = dense.get(matrix.tensor)
        mask_OI = torch.rand(weight_OI.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        tensors[matrix.tensor] = apply(weight_OI, mask_OI)
    save_overlay(folder / "pruned.overlay", tensors, {})
    pruned = dense.with_overlay(folder / "pruned.overlay")
    walk = HiddenStates(streamed, WINDOWS, dense, batches=4)
    sparse = walk.fork()
    walk.advance_to(1, dense)
    sparse.advance_to(1, pruned)
    with ExitStack() as stack:
        teacher, student = (stack.enter_context(streamed.block(1, weights)) for weights in (dense, pruned))
        yield Setting(
            streamed,
            dense,
            pruned,
            walk,
            lambda mode: Streams(mode, student=sparse.states, teacher=walk.states),
            teacher,
            student,
        )


def _entering(setting: Setting, weights: Weights) -> torch.Tensor:
    """What enters the second block, by the whole model's own forward pass."""
    with setting.streamed.whole(weights) as model, torch.no_grad():
        states: torch.Tensor = model(input_ids=WINDOWS, use_cache=False, output_hidden_states=True).hidden_states[1]
    return states


@torch.no_grad()
def _attention(setting: Setting, block: nn.Module, states: torch.Tensor) -> torch.Tensor:
    call = setting.walk.calls_for(len(states))[1]
    kwargs = {name: value for name, value in call.kwargs.items() if name != "hidden_states"}
    output: torch.Tensor = block.self_attn(hidden_states=block.input_layernorm(states), **kwargs)[0]  # type: ignore[operator]
    return states + output


@torch.no_grad()
def _mlp(block: nn.Module, states: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = block.mlp(block.post_attention_layernorm(states))  # type: ignore[operator]
    return states + output


def _expected(
    mode: Mode,
    student: Callable[[torch.Tensor], torch.Tensor],
    teacher: Callable[[torch.Tensor], torch.Tensor],
    dense: torch.Tensor,
    sparse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs and target by the table of the three modes, and both streams behind the window."""
    if mode == "dense_inputs":
        return dense, teacher(dense), teacher(dense), teacher(dense)
    if mode == "sparse_inputs":
        return sparse, teacher(sparse), student(sparse), student(sparse)
    return sparse, teacher(dense), teacher(dense), student(sparse)


def _check(part: WindowPart, inputs: torch.Tensor, targets: torch.Tensor, taught: torch.Tensor | None) -> None:
    torch.testing.assert_close(part.inputs, inputs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.targets, targets, rtol=1e-4, atol=1e-5)
    added = targets if taught is None else targets - taught
    assert part.power == pytest.approx(float(added.square().mean()), rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_halves_read_and_give_what_the_mode_says(setting: Setting, mode: Mode) -> None:
    dense, sparse = _entering(setting, setting.dense), _entering(setting, setting.pruned)
    parts = halves_of(setting.pair(), setting.streams(mode))
    halves: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
        "attention": partial(_attention, setting),
        "mlp": _mlp,
    }
    for name, half in halves.items():
        part = next(parts)
        assert part.name == name
        student, teacher = partial(half, setting.student), partial(half, setting.teacher)
        inputs, targets, after_dense, after_sparse = _expected(mode, student, teacher, dense, sparse)
        _check(part, inputs, targets, sparse if mode == "sparse_inputs" else dense)
        with torch.no_grad():
            torch.testing.assert_close(part.run(inputs[:4]), student(inputs[:4]), rtol=1e-4, atol=1e-5)
        dense, sparse = after_dense, after_sparse
    assert next(parts, None) is None


@pytest.mark.parametrize("mode", MODES)
def test_blocks_read_and_give_what_the_mode_says(setting: Setting, mode: Mode) -> None:
    dense, sparse = _entering(setting, setting.dense), _entering(setting, setting.pruned)
    streams = setting.streams(mode)
    inputs, targets, _, _ = _expected(
        mode,
        lambda x: _mlp(setting.student, _attention(setting, setting.student, x)),
        lambda x: _mlp(setting.teacher, _attention(setting, setting.teacher, x)),
        dense,
        sparse,
    )
    given = setting.walk.forward_through(streams.teacher, setting.dense, first=1, last=1)
    part = whole([setting.student], frozenset(), setting.walk, streams=streams, targets=given)
    _check(part, inputs, targets, sparse if mode == "sparse_inputs" else dense)


@pytest.mark.parametrize("mode", MODES)
def test_a_matrix_should_give_the_dense_matrix_s_own_output(setting: Setting, mode: Mode) -> None:
    seen: dict[bool, dict[str, torch.Tensor]] = {}
    for weights in (setting.dense, setting.pruned):
        with setting.streamed.whole(weights) as model, torch.no_grad():
            by_name = seen[weights is setting.dense] = {}
            for name, module in model.named_modules():
                if name.startswith("model.layers.1.") and isinstance(module, nn.Linear):
                    local = name.removeprefix("model.layers.1.")
                    module.register_forward_pre_hook(lambda _, args, at=local, into=by_name: into.update({at: args[0]}))
            model(input_ids=WINDOWS, use_cache=False)
    every = {f"{matrix.local}.weight" for matrix in setting.pair().layout.matrices}
    parts = list(matrices_of(setting.pair(), setting.streams(mode), among=every))
    assert [part.name for part in parts] == list(seen[True])
    for part in parts:
        matrix = setting.teacher.get_submodule(part.name)
        inputs = seen[mode == "dense_inputs"][part.name]
        taught = seen[mode != "sparse_inputs"][part.name]
        _check(part, inputs, matrix(taught), None)
        assert part.owned == {f"{part.name}.weight"}


@pytest.mark.parametrize(("mode", "taught", "fitted"), [(MODES[0], 1, 0), (MODES[1], 0, 1), (MODES[2], 1, 1)])
def test_a_matrix_costs_the_passes_that_its_mode_reads(setting: Setting, mode: Mode, taught: int, fitted: int) -> None:
    seen = {False: 0, True: 0}

    def count(block: nn.Module, _args: object) -> None:
        seen[block is setting.student] += 1

    handles = [block.register_forward_pre_hook(count) for block in (setting.teacher, setting.student)]
    names = {"mlp.up_proj.weight", "self_attn.q_proj.weight"}
    parts = list(matrices_of(setting.pair(), setting.streams(mode), among=names))
    for handle in handles:
        handle.remove()
    assert [part.name for part in parts] == ["self_attn.q_proj", "mlp.up_proj"]
    batches = len(parts) * 2  # six windows are two batches of four
    assert seen == {False: taught * batches, True: fitted * batches}


def test_windows_of_several_blocks_end_at_the_last_one_and_recompute_what_lies_between(setting: Setting) -> None:
    walk = HiddenStates(setting.streamed, WINDOWS, setting.dense, batches=4)
    streams = Streams("dense_inputs", student=walk.states, teacher=walk.states)
    targets = walk.forward_through(walk.states, setting.dense, first=0, last=1)
    with ExitStack() as stack:
        blocks = [stack.enter_context(setting.streamed.block(index, setting.dense)) for index in (0, 1)]
        names = frozenset(f"{index}.{name}" for index in (0, 1) for name, _ in blocks[index].named_parameters())
        part = whole(blocks, names, walk, streams=streams, targets=targets)
        weight = blocks[0].get_parameter("mlp.up_proj.weight").requires_grad_(True)
        output = part.run(part.inputs[:4])
        (gradient,) = torch.autograd.grad(output.square().sum(), weight)
        states = walk.run(blocks[1], 1)(walk.run(blocks[0], 0)(walk.states[:4]))
        (expected,) = torch.autograd.grad(states.square().sum(), weight)
    assert part.name == "blocks"
    torch.testing.assert_close(output, states, rtol=0, atol=0)
    torch.testing.assert_close(output, targets[:4], rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected)
