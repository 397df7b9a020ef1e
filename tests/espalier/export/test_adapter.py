"""`lora` keeps its adapter beside the model, as PEFT reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from espalier.evaluate.perplexity import perplexity
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_loads_the_adapter_and_measures_what_the_report_says(tmp_path: Path, family: str) -> None:
    model_dir, texts = write_tiny_model(tmp_path / "model", family), write_texts(tmp_path)
    retrain = {"trainable": ["lora"], "steps": 8, "batch_size": 4, "rank": 4, "alpha": 8, "learning_rate": 0.02}
    job = local_job(tmp_path / "job", model_dir, texts, retrain=retrain)
    alone = local_job(tmp_path / "alone", model_dir, texts).attempt()
    done = job.attempt()
    assert done.report["compressed"] == alone.report["compressed"], "the model itself is the pruned one"
    files = {file.path: file.kind for file in done.files}
    assert files["adapter/adapter_model.safetensors"] == files["adapter/adapter_config.json"] == "model"

    base = AutoModelForCausalLM.from_pretrained(job.artifact, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, job.artifact / "adapter").eval()
    session = job.session()
    (item,) = job.spec.evaluate.perplexity
    measured = perplexity(model, session.evaluation_windows(item), device=torch.device("cpu"))
    reported = done.report["adapter"]["perplexity"]["text"]
    assert measured == pytest.approx(reported, rel=1e-5)
    assert reported < done.report["compressed"]["perplexity"]["text"] - 0.1
    again = job.attempt()  # from its checkpoints
    assert again.report["adapter"] == done.report["adapter"]
    assert [file.sha256 for file in again.files if "adapter" in file.path] == [
        file.sha256 for file in done.files if "adapter" in file.path
    ]
