"""Latency is measured and products are counted as the shapes say."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from espalier.evaluate.latency import macs_per_token, measure
from espalier.model.streamed import StreamedModel
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

CPU = torch.device("cpu")


def test_a_model_is_timed_reading_and_writing(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path)).eval()
    first, again = measure(model, model, device=CPU, longest=32)
    assert first.keys() == again.keys()
    assert first["prompt_tokens"] == 24
    assert first["repeats"] == 5
    for name in ("prefill_seconds_per_token", "decode_seconds_per_token"):
        assert 0 < first[name]["least"] <= first[name]["median"] <= first[name]["most"]


def test_products_are_those_of_the_maps_and_the_head(tmp_path: Path) -> None:
    llama = StreamedModel(write_tiny_model(tmp_path / "a"), compute_dtype=torch.float32, device=CPU)
    attention, mlp = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 64
    assert macs_per_token(llama) == 2 * (attention + mlp) + 32 * VOCABULARY
    moe = StreamedModel(write_tiny_model(tmp_path / "b", "mixtral"), compute_dtype=torch.float32, device=CPU)
    # two of four experts see a token; the router is no pruned matrix and is not counted
    assert macs_per_token(moe) == 2 * (attention + 2 * mlp) + 32 * VOCABULARY
