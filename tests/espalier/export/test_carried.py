"""Templates, processors and notices of a source lie in its artifact, byte for byte, and go on to a registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.integrations.mlflow.mlmodel import layout
from tests.fixtures.library.carried import CARRIED, TEMPLATES, files_below, model_with
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model

CUT: dict[str, Any] = {"prune": [{"method": "angular", "pattern": {"kind": "depth", "count": 1}}]}
# The tiny tokenizer is a fast one: files of other tokenizers beside it would be read instead.
FILES = {name: data for name, data in CARRIED.items() if not name.startswith(("tokenizer.model", "tekken", "spiece"))}


@pytest.mark.parametrize("spec", [{}, CUT], ids=["weights", "depth"])
def test_the_artifact_has_all_of_it(spec: dict[str, Any], tmp_path: Path, texts: Path, llama: Path) -> None:
    source = model_with(tmp_path / "model", llama, FILES)
    job = local_job(tmp_path / "job", source, texts, **spec)
    done = job.attempt()
    written = files_below(job.artifact)
    assert {name: written.get(name) for name in FILES} == FILES
    assert FILES.keys() <= {file.path for file in done.files}
    tokenizer = AutoTokenizer.from_pretrained(job.artifact)
    names = {"chat_template.jinja": "default", "additional_chat_templates/tool_use.jinja": "tool_use"}
    assert {n: tokenizer.chat_template[n] for n in names.values()} == {n: FILES[f].decode() for f, n in names.items()}
    at_mlflow = layout(job.artifact, tmp_path / "scratch")
    for name in (*TEMPLATES, "processor_config.json"):
        assert at_mlflow[f"components/tokenizer/{name}"].read_bytes() == at_mlflow[f"model/{name}"].read_bytes()


def test_stop_tokens_that_are_as_many_as_blocks_survive_a_cut_in_depth(tmp_path: Path, texts: Path) -> None:
    source = write_tiny_model(tmp_path / "model", num_hidden_layers=3, eos_token_id=[0, 1, 2])
    job = local_job(tmp_path / "job", source, texts, **CUT)
    job.attempt()
    config = json.loads((job.artifact / "config.json").read_text())
    assert (config["num_hidden_layers"], config["eos_token_id"]) == (2, [0, 1, 2])
