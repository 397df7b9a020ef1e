"""The certificate of a job: what is computed here is the model that stock transformers would load.

One batch of tokens goes through the stock class and, block by block, through the streamed model, before any number is
measured. Where the two differ, the job ends there. Each loads the files itself, or the comparison would tell nothing of
the reading; what the streamed model has read then stays for the measurements, where the whole model fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.evaluate.held_weights import FiniteCheck, HeldWeights
from espalier.model import numerics, stock
from espalier.model.numerics import free_bytes
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.session import Session
from espalier.stream.hidden_states import HiddenStates

WINDOWS: Final = 2
LENGTH: Final = 64
TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""Of the logits of one token, relative to their norm: maps are added up in another order where experts were stacked."""
MAX_LEFT_DENSE: Final = 0.2
"""Of the weights inside the blocks: above it, a sparsity of the pruned matrices says little of the model."""
HEADROOM: Final = 1.2
"""Of the whole model's bytes, what has to be free."""


@dataclass(frozen=True)
class Certified:
    """A dense model that is what stock transformers would load."""

    document: dict[str, Any]
    """What the report says of it."""
    weights: Weights
    """Its weights, where they are computed if the whole model fits there."""


def run(session: Session) -> Certified:
    """Compare the streamed forward pass with the stock one.

    Raises NumericalError for weights that are not finite, UnsupportedArchitectureError where the two differ.
    """
    streamed = session.source_streamed
    left_dense = _share_left_dense(streamed)
    if left_dense > MAX_LEFT_DENSE:
        raise UnsupportedArchitectureError(
            f"{left_dense:.0%} of the weights inside the blocks belong to no matrix that can be pruned, where "
            f"{MAX_LEFT_DENSE:.0%} is allowed",
            hint="Most of such a model would stay dense; nothing was compressed.",
        )
    session.source.require_whole()  # the stock loader names no file
    lacking = _lacking_memory(session, streamed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        expected_BTV = None if lacking else _of_stock(session, _tokens(streamed))
    weights = _checked(session, held=lacking is None)
    forward = _not_checked(lacking or "") if expected_BTV is None else _forward(streamed, weights, expected_BTV)
    document = {
        "verdict": forward["verdict"],
        "class": streamed.stock_class,
        "items": [{"name": "weights_finite", "verdict": "passed"}, forward, _head(streamed)],
        "keys_dropped": session.request.dropped_keys,
        "share_left_dense": left_dense,
    }
    return Certified(document, weights)


def warn(session: Session) -> None:
    """Say where the configuration and the files disagree about the head."""
    pair = session.source_streamed.separate_head
    if pair is not None:
        session.reporter.warn(
            "separate_head",
            f"config.json says tie_word_embeddings: true, and {pair[0]} differs from {pair[1]}: as in stock "
            "transformers, the two are not tied. The result's config.json says false.",
        )


def _checked(session: Session, *, held: bool) -> Weights:
    """Read every tensor once and refuse NaN and infinity by name, also those that a narrower dtype would make.

    Return the source's weights: `held` where they are computed, or as they are.
    """
    source, streamed = session.source, session.source_streamed
    check = FiniteCheck([session.compute_dtype, session.weights.cast])
    weights = HeldWeights(source, streamed.parameters, device=session.device, dtype=session.compute_dtype)
    read = list(dict.fromkeys(streamed.tensors.values())) if held else []
    weights.hold(read, check)
    known = {source.home(name) for name in read}
    for name in source.names:
        if name not in known:
            check.add(name, source.get(name))
    check.require([*source.names, *read])
    return weights if held else source


def _lacking_memory(session: Session, streamed: StreamedModel) -> str | None:
    """Say why the whole model is not loaded; None where it is."""
    needed = int(HEADROOM * sum(streamed.parameters.values()) * session.compute_dtype.itemsize)
    if session.by_blocks:
        return "there is no memory for the whole model, which is computed by blocks"
    if (free := free_bytes(session.device)) < needed:
        return f"the whole model takes about {needed} bytes, and {free} are free"
    return None


def _forward(streamed: StreamedModel, weights: Weights, expected_BTV: torch.Tensor) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), stock.refusals("the forward pass"):
        found_BTV = _streamed(streamed, weights, _tokens(streamed))
    if not bool(torch.isfinite(expected_BTV).all()):  # the walk names the matrix whose inputs are not
        return _not_checked("the dense model's own logits are not finite")
    return _compared(streamed, expected_BTV, found_BTV)


def _tokens(streamed: StreamedModel) -> torch.Tensor:
    """Tokens from all over the vocabulary: no text and no tokenizer is needed, and every row of a head may show."""
    family = streamed.family
    length = min(LENGTH, family.max_position_embeddings)
    draw = numerics.generator(0, "certificate")
    return torch.randint(family.vocab_size, (WINDOWS, length), generator=draw)


def _of_stock(session: Session, tokens_BT: torch.Tensor) -> torch.Tensor:
    with stock.refusals("the model"):
        model = stock.load(session.source_dir, dtype=session.compute_dtype, device=session.device)
        logits: torch.Tensor = model(input_ids=tokens_BT.to(session.device), use_cache=False).logits
    return logits.cpu().float()


def _streamed(streamed: StreamedModel, weights: Weights, tokens_BT: torch.Tensor) -> torch.Tensor:
    stream = HiddenStates(streamed, tokens_BT, weights, batches=[len(tokens_BT)], states_in=streamed.device)
    for block in streamed.layout.blocks:
        with streamed.block(block.index, weights) as module, _reached(streamed, block.index, module):
            stream.advance(module)
    (batch,) = stream.batches
    (logits,) = streamed.logits([(tokens_BT, batch.hidden_BTD)], weights)
    return logits.cpu().float()


@contextmanager
def _reached(streamed: StreamedModel, index: int, module: nn.Module) -> Iterator[None]:
    """Require that every matrix of a block is called; of an expert, tokens may reach none."""
    reached, matrices = set[str](), streamed.layout.blocks[index].matrices
    hooks = [
        module.get_submodule(matrix.local).register_forward_pre_hook(partial(_note, reached, matrix.name))
        for matrix in matrices
    ]
    yield
    for hook in hooks:
        hook.remove()
    silent = next((each.name for each in matrices if not each.routed and each.name not in reached), None)
    if silent is not None:
        raise UnsupportedArchitectureError(
            f"{silent} takes no part in the forward pass as a module: its inputs cannot be measured",
            hint="Stock transformers reads this weight without calling its module; nothing was compressed.",
            module=silent,
        )


def _note(reached: set[str], name: str, _module: nn.Module, _args: object) -> None:
    reached.add(name)


def _compared(streamed: StreamedModel, expected_BTV: torch.Tensor, found_BTV: torch.Tensor) -> dict[str, Any]:
    if expected_BTV.shape == found_BTV.shape:
        apart_BT = (found_BTV - expected_BTV).norm(dim=-1) / expected_BTV.norm(dim=-1).clamp_min(1e-30)
        # A router that is all but undecided may send single tokens elsewhere.
        routed = any(matrix.routed for matrix in streamed.layout.matrices)
        difference = float(apart_BT.median() if routed else apart_BT.max())
    else:
        difference = float("inf")
    tolerance = TOLERANCE[streamed.compute_dtype]
    if not difference <= tolerance:
        raise UnsupportedArchitectureError(
            f"the forward pass differs from that of stock {streamed.stock_class}: by {difference:.2g} of the logits, "
            f"where {tolerance:g} is allowed",
            hint="This model is built in a way that cannot be computed block by block; nothing was compressed.",
        )
    return {"name": "forward", "verdict": "passed", "difference": difference, "tolerance": tolerance}


def _head(streamed: StreamedModel) -> dict[str, Any]:
    """Compare head and embeddings: whether they are tied, as stock transformers has it."""
    embeddings, head = streamed.model.get_input_embeddings(), streamed.model.get_output_embeddings()  # type: ignore[operator]
    tied = embeddings.weight is head.weight
    return {"name": "head", "verdict": "passed", "tied": tied, "config_overruled": streamed.separate_head is not None}


def _share_left_dense(streamed: StreamedModel) -> float:
    """Return the fraction of the blocks' weights that no step can prune: norms, biases, routers."""
    inside = {streamed.tensors[name] for name in streamed.tensors if name.startswith(_blocks(streamed))}
    sizes = streamed.parameters
    total = sum(sizes[home] for home in {name for name in inside if name in sizes})
    pruned = sum(matrix.shape[0] * matrix.shape[1] for matrix in streamed.layout.matrices)
    return max(0.0, 1 - pruned / total) if total else 0.0


def _blocks(streamed: StreamedModel) -> str:
    return streamed.layout.blocks[0].name.rpartition(".")[0] + "."


def _not_checked(reason: str) -> dict[str, Any]:
    return {"name": "forward", "verdict": "not_checked", "reason": reason}
