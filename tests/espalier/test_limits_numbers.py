"""A model eight times larger than the memory limit, pruned by a child whose resident memory is watched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fixtures.library import alone
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

LIMIT = 768 * 2**20
WIDTH, FEED_FORWARD = 1024, 2816


def _write_large_model(folder: Path, total_bytes: int) -> Path:
    """A Llama of equal random blocks in one file per block, and a tiny model's tokenizer."""
    write_tiny_model(folder)
    (folder / "model.safetensors").unlink()
    shape = {
        "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_attention_heads": 16, "num_key_value_heads": 4,
    }  # fmt: skip
    one = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=1, vocab_size=VOCABULARY)).to(torch.bfloat16)
    state = {name: tensor.contiguous() for name, tensor in one.state_dict().items()}
    block = {name: tensor for name, tensor in state.items() if ".layers.0." in name}
    count = -(-total_bytes // sum(tensor.numel() * 2 for tensor in block.values()))
    weight_map: dict[str, str] = {}
    parts = [{name: tensor for name, tensor in state.items() if name not in block}]
    for index in range(count + 1):
        tensors = parts.pop() if parts else {
            name.replace(".0.", f".{index - 1}.", 1): tensor for name, tensor in block.items()
        }  # fmt: skip
        file = f"model-{index:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    LlamaConfig(
        **shape, num_hidden_layers=count, vocab_size=VOCABULARY, dtype="bfloat16", tie_word_embeddings=False
    ).save_pretrained(folder)
    return folder


@pytest.mark.numbers
@pytest.mark.timeout(7200)
def test_a_model_of_eight_times_the_limit_is_pruned_within_it(tmp_path: Path, texts: Path) -> None:
    model = _write_large_model(tmp_path / "model", 8 * LIMIT)
    calibration = {
        "dataset": {"kind": "local", "path": str(texts / "train.txt")}, "samples": 4, "sequence_length": 64,
    }  # fmt: skip
    job = local_job(tmp_path / "job", model, texts, calibration=calibration, compute_dtype="bfloat16")
    job.artifact.mkdir(parents=True)
    request = job.request().model_copy(update={"max_host_memory_bytes": LIMIT})
    peak = alone.run(request).peak_bytes
    written = sum(path.stat().st_size for path in job.artifact.glob("model*.safetensors"))
    print(f"model {written / 2**20:.0f} MiB, limit {LIMIT / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB")  # noqa: T201
    assert written >= 8 * LIMIT
    assert peak <= LIMIT
