"""The certificate of a job: what is computed here is the model that stock transformers would load.

One batch of tokens goes through the stock class and, block by block, through the streamed model, before any number is
measured. Where the two differ, the job ends there.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from espalier.errors import NumericalError, UnsupportedArchitectureError
from espalier.model import numerics, stock
from espalier.model.numerics import free_bytes
from espalier.model.streamed import StreamedModel
from espalier.session import Session
from espalier.stream.hidden_states import HiddenStates

WINDOWS: Final = 2
LENGTH: Final = 64
TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""Of the logits of one token, relative to their norm: maps are added up in another order where experts were stacked."""
HEADROOM: Final = 1.2
"""Of the whole model's bytes, what has to be free."""


def run(session: Session) -> dict[str, Any]:
    """Compare the streamed forward pass with the stock one, and return what the report says of it.

    Raises NumericalError for weights that are not finite, UnsupportedArchitectureError where the two differ.
    """
    streamed = session.source_streamed
    _check_values(session)
    forward = _forward(session, streamed)
    return {
        "verdict": forward["verdict"],
        "class": streamed.stock_class,
        "items": [{"name": "weights_finite", "verdict": "passed"}, forward, _head(streamed)],
        "keys_dropped": session.request.dropped_keys,
        "share_left_dense": _share_left_dense(streamed),
    }


def warn(session: Session) -> None:
    """Say where the configuration and the files disagree about the head."""
    pair = session.source_streamed.separate_head
    if pair is not None:
        session.reporter.warn(
            "separate_head",
            f"config.json says tie_word_embeddings: true, and {pair[0]} differs from {pair[1]}: as in stock "
            "transformers, the two are not tied. The result's config.json says false.",
        )


def _check_values(session: Session) -> None:
    """Read every tensor once and refuse NaN and infinity by name, also those that a narrower dtype would make."""
    dense = session.source
    narrow = [dtype for dtype in (session.compute_dtype, session.weights.cast) if dtype is not None]
    for name in dense.names:
        tensor = dense.get(name)
        if tensor.is_floating_point():
            _require_finite(tensor, name, "the values")
            for dtype in narrow:
                if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
                    _require_finite(tensor.to(dtype), name, f"in {numerics.dtype_name(dtype)} the values")


def _require_finite(tensor: torch.Tensor, name: str, what: str) -> None:
    if not bool(numerics.all_finite(tensor)):
        raise NumericalError(
            f"{what} of {name} are not finite",
            hint="Mend the source's weights, or ask for a wider dtype.",
            module=name.removesuffix(".weight"),
        )


def _forward(session: Session, streamed: StreamedModel) -> dict[str, Any]:
    needed = int(HEADROOM * sum(streamed.parameters.values()) * session.compute_dtype.itemsize)
    if session.by_blocks:
        return _not_checked("there is no memory for the whole model, which is computed by blocks")
    if (free := free_bytes(session.device)) < needed:
        return _not_checked(f"the whole model takes about {needed} bytes, and {free} are free")
    tokens_BT = _tokens(streamed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        expected_BTV = _of_stock(session, tokens_BT)
        with stock.refusals("the forward pass"):
            found_BTV = _streamed(session, streamed, tokens_BT)
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


def _streamed(session: Session, streamed: StreamedModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    stream = HiddenStates(streamed, tokens_BT, session.source, batches=[len(tokens_BT)])
    for block in streamed.layout.blocks:
        with streamed.block(block.index, session.source) as module:
            stream.advance(module)
    (batch,) = stream.batches
    (logits,) = streamed.logits([(tokens_BT, batch.hidden_BTD)], session.source)
    return logits.cpu().float()


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
