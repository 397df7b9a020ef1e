"""Try a stock decoder: the certificate of a tiny random model decides whether the table admits its type."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from espalier.errors import EngineError, SourceRefused
from espalier.evaluate import certificate
from espalier.families import FAMILIES, stock_decoders
from espalier.families.shared.stock_decoder import StockRow
from espalier.model.halves import find_halves
from espalier.model.stock import first_line
from espalier.model.streamed import BlockCall, StreamedModel
from espalier.model.weights import Weights
from espalier.probe import probe
from tests.families.fields import row_of
from tests.families.structure import RefusedError, structure_of
from tests.families.tiny import tiny_config
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model


def row_with_verdict(name: str) -> dict[str, Any]:
    """Return the row of a type: its fields, and its structure or why it is refused."""
    row = row_of(name)
    if name in FAMILIES:
        return row | {"refused": "declared"}
    if "refused" in row:
        return row
    try:
        tried = row | structure_of(name, row["fields"])
        return tried | {"halves": _tried(name, tried)}
    except RefusedError as refusal:
        return row | {"refused": str(refusal)}
    except Exception as error:  # noqa: BLE001 - whatever a stock class does with a model that it knows
        return row | {"refused": f"a tiny model of it does not run: {first_line(error)}"}


def _tried(name: str, row: dict[str, Any]) -> bool:
    """Run the certificate on a tiny model, and tell whether halves of its blocks add up; raises RefusedError."""
    with _admitted(name, StockRow.model_validate({**row, "halves": True})), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            model_dir = write_stock_model(folder / "model", name)
            probe(model_dir)
            certificate.run(local_job(folder, model_dir, write_texts(folder)).session())
            if not is_causal(model_dir):
                raise RefusedError("its tokens read those behind them")
            return splits_in_halves(model_dir)
        except (EngineError, SourceRefused) as refusal:
            raise RefusedError(refusal.message) from refusal


@contextmanager
def _admitted(name: str, row: StockRow) -> Iterator[None]:
    """Let a row stand in the table for a while."""
    rows = stock_decoders.rows()
    before = rows.get(name)
    rows[name] = row
    stock_decoders.undeclared.cache_clear()
    try:
        yield
    finally:
        stock_decoders.undeclared.cache_clear()
        rows.pop(name) if before is None else rows.update({name: before})


def write_stock_model(folder: Path, name: str) -> Path:
    """Write a tiny random model of a stock decoder and its tokenizer."""
    config = {key: value for key, value in tiny_config(name).items() if key != "model_type"}
    tied = bool(config.pop("tie_word_embeddings", False))
    for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        config.pop(key, None)
    return write_tiny_model(folder, name, tied=tied, dtype=torch.float32, **config)


@torch.no_grad()
def is_causal(model_dir: Path) -> bool:
    """Tell whether no logit depends on a later token."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokens_BT = torch.arange(5, 45).view(2, 20)
    other_BT = torch.cat((tokens_BT[:, :12], tokens_BT[:, 12:].flip(1)), dim=1)
    return torch.allclose(model(tokens_BT).logits[:, :12], model(other_BT).logits[:, :12], rtol=1e-4, atol=1e-5)


def splits_in_halves(model_dir: Path) -> bool:
    """Tell whether the halves of every block add up to it."""
    streamed = StreamedModel(model_dir, compute_dtype=torch.float32, device=torch.device("cpu"))
    weights, tokens_BT = Weights(model_dir), torch.arange(5, 45).view(2, 20)
    ((hidden_BTD, calls),) = streamed.prelude([tokens_BT], weights)
    try:
        for block, call in zip(streamed.layout.blocks, calls, strict=True):
            with streamed.block(block.index, weights) as module:
                run = partial(_run, streamed, module, call)
                find_halves(module, run, hidden_BTD)
                hidden_BTD = run(hidden_BTD).detach()
    except EngineError:
        return False
    return True


def _run(streamed: StreamedModel, block: nn.Module, call: BlockCall, hidden_BTD: torch.Tensor) -> torch.Tensor:
    return streamed.forward(block, hidden_BTD, call)
