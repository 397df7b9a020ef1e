"""A transformers model on the meta device, its weights on disk; blocks are materialised one at a time."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.families import Family
from espalier.memory.shapes import BlockShape, MapShape, ModelShape
from espalier.model import numerics, positions
from espalier.model.fused_experts import split_experts
from espalier.model.layout import Layout, find_stack
from espalier.model.numerics import release_free_memory
from espalier.model.stock import skeleton
from espalier.model.tensor_file import DTYPES
from espalier.model.weights import Weights
from espalier.probe.config import read_config
from espalier.progress import count_step, counted
from espalier.recipe.resolution import LONGEST_DEFAULT_TOKENS

ReadTensor = Callable[[str], torch.Tensor]
"""Name in the files -> tensor."""


@dataclass(frozen=True)
class BlockCall:
    """The arguments that the model passes to one block besides the hidden states."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


class _LastBlockReached(Exception):
    """Ends the model's own forward once every block's arguments are known."""


class StreamedModel:
    """A causal language model whose parameters are on the meta device until a part of it is asked for."""

    def __init__(self, model_dir: Path, *, compute_dtype: torch.dtype, device: torch.device) -> None:
        self.model_dir = model_dir
        self.compute_dtype = compute_dtype
        self.device = device
        source = Weights(model_dir)
        stock = skeleton(model_dir, source, dtype=compute_dtype)
        self.config, self.separate_head, self.twins = stock.config, stock.separate_head, stock.twins
        self.stock_class = type(stock.model).__name__
        split_experts(stock.model)
        self.model: nn.Module = positions.in_integers(stock.model).eval()
        for buffers in self.model.modules():
            for name, buffer in buffers._buffers.items():
                buffers._buffers[name] = None if buffer is None else buffer.to(device)
        self.tensors: dict[str, str] = _tensor_names(self.model, stock.names, source)
        """Parameter name -> name in the files; the second name of a tied parameter maps to the first one's tensor."""
        self.parameters: Counter[str] = Counter()
        """Name in the files -> number of elements, tied parameters once; buffers are not counted."""
        for name, parameter in self.model.named_parameters():
            self.parameters[source.home(self.tensors[name])] += parameter.numel()
        self.layout = Layout.of(self.model, self.tensors)
        self._stack = find_stack(self.model)[1]
        self._returns_tuple: bool | None = None
        self.lean = False
        """Whether the memory of a block returns to the system before the next one is read."""

    @cached_property
    def family(self) -> Family:
        """The family that the configuration declares; positions of blocks and layers are read off the model itself."""
        return read_config(self.model_dir)

    @property
    def returns_tuple(self) -> bool:
        """Whether blocks return their hidden states in a tuple; known once a prelude has run."""
        assert self._returns_tuple is not None
        return self._returns_tuple

    @property
    def head_width(self) -> int:
        """Number of logits per token."""
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        return int(head.weight.shape[0])

    @cached_property
    def shape(self) -> ModelShape:
        """The shapes that decide memory and work; the probe derives the same from headers."""
        blocks = (
            BlockShape(
                tuple(MapShape(matrix.local, *matrix.shape) for matrix in block.matrices),
                sum(parameter.numel() for parameter in module.parameters()),
            )
            for block, module in zip(self.layout.blocks, self._stack, strict=True)
        )
        family = self.family
        return ModelShape.of(
            blocks,
            parameters=sum(self.parameters.values()),
            vocabulary=family.vocab_size,
            width=family.hidden_size,
            default_length=min(LONGEST_DEFAULT_TOKENS, family.max_position_embeddings),
        )

    @contextmanager
    def block(
        self, index: int, weights: Weights, *, dtype: torch.dtype | None = None, read: ReadTensor | None = None
    ) -> Iterator[nn.Module]:
        """Yield a real copy of one block in `dtype` (default: the compute dtype), in eval mode, without gradients.

        `read`: brings a tensor of `weights` to the device, where somebody keeps it; then nothing may be trained.
        """
        if self.lean:
            release_free_memory()
        empty = self._stack[index]
        block = copy.deepcopy(empty, memo={id(self.config): self.config})
        reading, dtype = read or self._reading(weights), dtype or self.compute_dtype
        fill(block, self.layout.blocks[index].tensors, reading, dtype=dtype)
        yield block.eval()

    def _reading(self, weights: Weights) -> ReadTensor:
        """Return a function that brings a tensor to the device, in the dtype of the file: it is cast there."""
        return lambda name: weights.get(name).to(self.device)

    @contextmanager
    def whole(self, weights: Weights, *, dtype: torch.dtype | None = None) -> Iterator[nn.Module]:
        """Yield a real copy of the whole model in `dtype` (default: the compute dtype), in eval mode."""
        model = copy.deepcopy(self.model, memo={id(self.config): self.config})
        fill(model, self.tensors, self._reading(weights), dtype=dtype or self.compute_dtype)
        yield model.eval()

    @torch.no_grad()
    def prelude(self, batches: list[torch.Tensor], weights: Weights) -> Iterator[tuple[torch.Tensor, list[BlockCall]]]:
        """Yield, for every batch of tokens (B, T), what enters block 0 and the arguments of every block.

        The model's own forward runs with blocks that only record their arguments: masks and position embeddings of
        every family come out right, also where they differ from block to block.
        """
        # The blocks are never run: their insides need no copies.
        hollow = {id(child): child for block in self._stack for child in block.children()}
        model = copy.deepcopy(self.model, memo={id(self.config): self.config, **hollow})
        blocks = find_stack(model)[1]
        inside = {id(parameter) for parameter in blocks.parameters()}
        outer = {
            name: self.tensors[name]
            for name, parameter in _base_of(model).named_parameters(prefix=_prefix_of(model), remove_duplicate=False)
            if id(parameter) not in inside
        }
        fill(model, outer, self._reading(weights), dtype=self.compute_dtype)
        for tokens in counted(batches):
            yield self._record_calls(model.eval(), blocks, tokens.to(self.device))

    @torch.no_grad()
    def logits(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], weights: Weights) -> Iterator[torch.Tensor]:
        """Yield the logits of (tokens, hidden states behind the last block), batch by batch.

        The model's own forward runs with blocks that hand the hidden states through: norms and heads of every family
        come out right.
        """
        hollow = {id(child): child for block in self._stack for child in block.children()}
        model = copy.deepcopy(self.model, memo={id(self.config): self.config, **hollow})
        prefix, blocks = find_stack(model)
        outer = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{prefix}.")}
        fill(model, outer, self._reading(weights), dtype=self.compute_dtype)
        for tokens_BT, hidden_BTD in counted(batches):
            hand = _returning(hidden_BTD.to(self.device), returns_tuple=bool(self._returns_tuple))
            for block in blocks:
                block.forward = hand
            yield model.eval()(input_ids=tokens_BT.to(self.device), use_cache=False).logits

    def _record_calls(
        self, model: nn.Module, blocks: nn.ModuleList, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, list[BlockCall]]:
        for returns_tuple in (False, True) if self._returns_tuple is None else (self._returns_tuple,):
            calls: list[tuple[torch.Tensor, BlockCall]] = []
            for block in blocks:
                # An instance attribute: the block keeps its other attributes, which some families read.
                block.forward = _recorder(calls, len(blocks), returns_tuple=returns_tuple)
            try:
                _base_of(model)(input_ids=tokens, use_cache=False)
            except _LastBlockReached:
                pass
            except (IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                if returns_tuple or numerics.fault_of(error):
                    raise
            if len(calls) == len(blocks) and all(hidden is calls[0][0] for hidden, _ in calls):
                self._returns_tuple = returns_tuple
                return calls[0][0], [call for _, call in calls]
        raise UnsupportedArchitectureError(
            "hidden states do not pass from block to block unchanged",
            hint="Use a decoder-only transformer such as Llama, Qwen or OPT.",
        )

    def forward(self, block: nn.Module, hidden_BTD: torch.Tensor, call: BlockCall) -> torch.Tensor:
        """Run one block and return its hidden states."""
        count_step()
        output = block(hidden_BTD, *call.args, **call.kwargs)
        # `output[0]` of a tensor would be its first sample, broadcast over the batch without a word.
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        assert isinstance(hidden, torch.Tensor)
        assert hidden.shape == hidden_BTD.shape
        return hidden


def fill(module: nn.Module, tensors: Mapping[str, str], read: ReadTensor, *, dtype: torch.dtype) -> None:
    """Load parameters and stored buffers of `module`; tied parameters stay one object.

    `tensors`: names inside the module -> names in the files; `read`: gives what one stands for, where it is to lie.
    """
    real: dict[str, nn.Parameter] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = read(tensor)
            continue
        if tensor not in real:
            real[tensor] = nn.Parameter(read(tensor).to(dtype), requires_grad=False)
        owner._parameters[leaf] = real[tensor]


def unwrap(output: object) -> torch.Tensor:
    """Return the hidden states in a module's output."""
    first = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(first, torch.Tensor)
    return first


def _recorder(calls: list[tuple[torch.Tensor, BlockCall]], total: int, *, returns_tuple: bool) -> Callable[..., object]:
    def record(hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        calls.append((hidden_states, BlockCall(args, kwargs)))
        if len(calls) == total:
            raise _LastBlockReached
        return (hidden_states, None) if returns_tuple else hidden_states

    return record


def _returning(hidden_BTD: torch.Tensor, *, returns_tuple: bool) -> Callable[..., object]:
    def hand(*_args: object, **_kwargs: object) -> object:
        return (hidden_BTD, None) if returns_tuple else hidden_BTD

    return hand


def _base_of(model: nn.Module) -> nn.Module:
    base = model.base_model
    assert isinstance(base, nn.Module)
    return base


def _prefix_of(model: nn.Module) -> str:
    base = _base_of(model)
    return "" if base is model else next(name for name, module in model.named_modules() if module is base)


def _tensor_names(model: nn.Module, names: Mapping[str, str], weights: Weights) -> dict[str, str]:
    """Map every parameter, and every buffer that the files hold, to its tensor; tied parameters to the first one's."""
    by_parameter: dict[str, str] = {}
    by_identity: dict[int, str] = {}
    missing = deque[tuple[str, nn.Parameter]]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in names or id(parameter) in by_identity:
            missing.append((name, parameter))
            continue
        _check(name, parameter, names[name], weights)
        by_parameter[name] = by_identity[id(parameter)] = names[name]
    for name, parameter in missing:
        if id(parameter) not in by_identity:
            raise UnsupportedArchitectureError(
                f"the files hold no tensor for {name}",
                hint="Use an unquantised model of a supported family. A head that is the embeddings needs "
                "`tie_word_embeddings: true` in config.json.",
                module=name,
            )
        by_parameter[name] = by_identity[id(parameter)]
    stored = model.state_dict()
    return by_parameter | {name: names[name] for name, _ in model.named_buffers() if name in names and name in stored}


def _check(name: str, parameter: nn.Parameter, tensor: str, weights: Weights) -> None:
    if weights.shape(tensor) != tuple(parameter.shape):
        raise UnsupportedArchitectureError(
            f"{tensor} has shape {weights.shape(tensor)}, the configuration asks for {tuple(parameter.shape)}",
            hint="The files and config.json do not belong together.",
            module=name,
        )
    stored = weights.stored_dtype(tensor)
    if stored not in DTYPES or not DTYPES[stored].is_floating_point:
        raise UnsupportedArchitectureError(
            f"{tensor} is stored as {stored}", hint="Quantised models are not available in this version.", module=name
        )
