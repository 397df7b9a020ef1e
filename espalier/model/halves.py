"""The two halves of a block, found by running it: mute the children of one half, and the other half is left.

A half keeps the block's own code: norms, residual stream and all. Nothing here knows the name of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.model.streamed import unwrap

Half = Literal["attention", "mlp"]
Run = Callable[[torch.Tensor], torch.Tensor]
"""A block (or a part of it) bound to its keyword arguments: hidden states in, hidden states out."""

AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest relative difference between a block and its two halves combined; rounding stays below."""


@dataclass(frozen=True)
class _Silence:
    """The output of a muted child: that of zero parameters, and None for further outputs."""

    width: int
    others: int | None
    """Number of further values in the tuple; None where the child returns a bare tensor."""
    carried: int | str | None
    """Its argument that the child adds to its own result (BLOOM's residual); None where it adds nothing."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        x = _states(args, kwargs)
        if self.carried is None:
            first: object = x.new_zeros((*x.shape[:-1], self.width))
        else:
            first = args[self.carried] if isinstance(self.carried, int) else kwargs[self.carried]
        return first if self.others is None else (first, *[None] * self.others)


@dataclass(frozen=True)
class _Call:
    """One call of a child of a block: its arguments and its output."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    output: object

    def silence(self, name: str, child: nn.Module) -> _Silence:
        """Find out what the child returns when its own parameters contribute nothing."""
        first = unwrap(self.output)
        if first.shape[:-1] != _states(self.args, self.kwargs).shape[:-1]:
            raise _refusal(f"{name} changes the shape of the hidden states")
        nothing = {key: value.new_zeros(()).expand_as(value) for key, value in child.named_parameters()}
        bare = unwrap(torch.func.functional_call(child, nothing, self.args, self.kwargs))
        others = len(self.output) - 1 if isinstance(self.output, tuple) else None
        if not bool(bare.any()):
            return _Silence(first.shape[-1], others, None)
        given: list[tuple[int | str, object]] = [*enumerate(self.args), *self.kwargs.items()]
        for key, value in given:
            if isinstance(value, torch.Tensor) and value.shape == bare.shape and torch.equal(value, bare):
                return _Silence(first.shape[-1], others, key)
        raise _refusal(f"{name} adds something of its own")


@dataclass(frozen=True)
class Halves:
    """The children that make the two halves of a block, how the halves combine, and which parameters each owns."""

    children: Mapping[Half, Mapping[str, _Silence]]
    parallel: bool
    """False: mlp(attention(h)). True: both read h, and attention(h) + mlp(h) - h is the block."""
    owned: Mapping[Half, frozenset[str]]
    """Parameter names; every parameter that the block's output depends on belongs to exactly one half."""

    @contextmanager
    def only(self, block: nn.Module, half: Half) -> Iterator[None]:
        """Mute the other half of a block for a while."""
        with _muted(block, self.children["mlp" if half == "attention" else "attention"]):
            yield


def find_halves(block: nn.Module, run: Run, probe: torch.Tensor) -> Halves:
    """Split a block by its behaviour on a probe batch; an error where halves do not add up to the block."""
    silences, whole = _observe(block, run, probe)
    if len(silences) < 2:
        raise _refusal("the block has no two halves")
    # The token mixer of every known decoder block runs first; the check below would not hold otherwise.
    first, *rest = silences
    children: dict[Half, dict[str, _Silence]] = {
        "attention": {first: silences[first]},
        "mlp": {name: silences[name] for name in rest},
    }
    with torch.no_grad():
        with _muted(block, children["mlp"]):
            mid = run(probe)
        with _muted(block, children["attention"]):
            in_sequence, beside = run(mid), run(probe)
    if _agree(in_sequence, whole):
        parallel = False
    elif _agree(mid + beside - probe, whole):
        parallel = True
    else:
        raise _refusal("attention and mlp of this block do not add up to the block")
    return Halves(children=children, parallel=parallel, owned=_owners(block, run, probe, children))


def _refusal(why: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(f"no submodule windows: {why}", hint="Use reconstruct.window `block`.")


def _states(args: tuple[object, ...], kwargs: Mapping[str, object]) -> torch.Tensor:
    """The hidden states among a child's arguments: its first floating-point tensor."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    raise _refusal("a child of the block is called without hidden states")


def _observe(block: nn.Module, run: Run, probe: torch.Tensor) -> tuple[dict[str, _Silence], torch.Tensor]:
    """Run the block once; return its matrix-bearing children in the order of their calls, and its output."""
    calls: dict[str, _Call] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            calls[name] = _Call(args, kwargs, output)

        return hook

    children = {
        name: child
        for name, child in block.named_children()
        if any(parameter.ndim >= 2 for parameter in child.parameters())
    }
    handles = [child.register_forward_hook(hook_for(name), with_kwargs=True) for name, child in children.items()]
    with torch.no_grad():
        try:
            output = run(probe)
        finally:
            for handle in handles:
                handle.remove()
        return {name: call.silence(name, children[name]) for name, call in calls.items()}, output


@contextmanager
def _muted(block: nn.Module, silences: Mapping[str, _Silence]) -> Iterator[None]:
    children = {name: block.get_submodule(name) for name in silences}
    try:
        for name, child in children.items():
            child.forward = silences[name]  # shadows the method of the class, on this instance only
        yield
    finally:
        for child in children.values():
            child.__dict__.pop("forward", None)


def _owners(
    block: nn.Module, run: Run, probe: torch.Tensor, children: Mapping[Half, Mapping[str, _Silence]]
) -> dict[Half, frozenset[str]]:
    # What lies inside a child goes with it, reached or not: the probe may be routed past an expert.
    inside: dict[Half, set[str]] = {half: set() for half in children}
    for half, names in children.items():
        for child in names:
            inside[half] |= {f"{child}.{name}" for name, _ in block.get_submodule(child).named_parameters()}
    by_attention = _reached(block, run, probe, muted=children["mlp"])
    by_mlp = _reached(block, run, probe, muted=children["attention"])
    # A norm behind a muted child is reached, but only with zeros: it belongs to the half that moves it. A norm that
    # both halves read (parallel blocks) belongs to the first.
    first = {name for name, moves in by_attention.items() if moves or not by_mlp.get(name, False)}
    attention = frozenset(inside["attention"] | first - inside["mlp"])
    return {"attention": attention, "mlp": frozenset(inside["mlp"] | by_mlp.keys()) - attention}


def _reached(block: nn.Module, run: Run, probe: torch.Tensor, *, muted: Mapping[str, _Silence]) -> dict[str, bool]:
    """Names of the parameters that lead to the output while some children are muted; True where they move it."""
    named = dict(block.named_parameters())
    frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad(), _muted(block, muted):
            gradients = torch.autograd.grad(run(probe).sum(), list(named.values()), allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {name: bool(gradient.any()) for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def _agree(got: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (got - expected).float().norm() / expected.float().norm()
    return bool(difference < AGREEMENT[expected.dtype])
