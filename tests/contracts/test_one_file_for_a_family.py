"""A declaration is one file: with it, parts of a stock decoder can go that stay whole without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espalier.probe.config import parse_config

ROOT = Path(__file__).parents[2]
FAMILY = '''"""Seed-OSS: Llama with biases on queries, keys and values, another switch for the one behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from espalier.families.shared.family import Maps
from espalier.families.shared.fields import Count, HeadSize, Ratio
from espalier.families.shared.llama_like import LlamaLike


class SeedOss(LlamaLike):
    """Seed-OSS: Llama with biases on queries, keys and values."""

    architecture: ClassVar[str] = "SeedOssForCausalLM"
    bias_fields: ClassVar[Mapping[str, str]] = {"neurons": "mlp_bias"}

    model_type: Literal["seed_oss"] = "seed_oss"
    num_key_value_heads: Count | None = 8
    head_dim: HeadSize | None = 128
    attention_bias: bool = True
    attention_out_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: Ratio = 0.1
    residual_dropout: Ratio = 0.1
    pretraining_tp: Count = 1

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        return (self.attention_bias, self.attention_out_bias)

    def maps(self, block: int) -> Maps:
        del block
        return self.attention() | self.gated("mlp", self.intermediate_size, biased=self.mlp_bias)
'''
SEED_OSS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}

USE_FAMILY = """
import json, sys
from pathlib import Path

from fastapi.testclient import TestClient

import espalier
from app.db.migrate import run_migrations
from app.main import create_app
from app.settings import Settings

root, config = Path(sys.argv[1]), json.loads(sys.argv[2])
assert Path(espalier.__file__).is_relative_to(root), "the tree of the scratch copy"
(root / "roots").mkdir()
settings = Settings(
    home=root / "home", database_url=f"sqlite:///{root}/rows.db", local_roots=str(root / "roots"),
    hf_endpoint="http://127.0.0.1:9",
)
run_migrations(settings.database)
with TestClient(create_app(settings)) as client:
    assert "torch" not in sys.modules
    families = {row["model_type"]: row for row in client.get("/v1/methods").json()["families"]}
    assert families["seed_oss"]["architecture"] == "SeedOssForCausalLM"

    from tests.fixtures.library.jobs import local_job, write_texts
    from tests.fixtures.library.tiny_models import write_tiny_model

    model, texts = write_tiny_model(root / "roots/model", "seed_oss", **config), write_texts(root)
    source = {"kind": "local", "path": str(model)}
    seen = client.post("/v1/models/resolve", json={"source": source})
    assert seen.status_code == 200, seen.text
    assert (seen.json()["supported"], seen.json()["architecture"]) == (True, "SeedOssForCausalLM")
    prune = [
        {"method": "flap", "sparsity": 0.5, "pattern": {"kind": "neurons"}},
        {"method": "structured_obs", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}},
        {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    ]
    planned = client.post("/v1/plans", json={"source": source, "spec": {"prune": prune, "reconstruct": {}}})
    assert planned.status_code == 201, planned.text
    taken = client.post("/v1/jobs", json={"source": source, "spec": {"prune": prune, "reconstruct": {}}})
    assert taken.status_code == 202, taken.text

(root / "job").mkdir()
job = local_job(root / "job", model, texts, prune=prune, reconstruct={"window": "submodule", "epochs": 1})
report = job.attempt().report
assert {row["kind"]: row["kept"] for row in report["protocol"]["structure"]} == {"neurons": 32, "kv_groups": 1}
assert report["sparsity"]["achieved"] == 0.5

import torch
from transformers import AutoModelForCausalLM

stock, info = AutoModelForCausalLM.from_pretrained(job.artifact, output_loading_info=True)
assert type(stock).__name__ == "SeedOssForCausalLM"
assert not any(info.values()), info
assert stock.config.mlp_bias and stock.model.layers[0].mlp.down_proj.bias is not None
weight_OI = stock.model.layers[1].mlp.up_proj.weight
assert weight_OI.shape == (32, 32)
assert bool(((weight_OI.view(32, -1, 4) == 0).sum(dim=2) == 2).all())
assert torch.isfinite(stock(torch.arange(12)[None]).logits).all()
"""


@pytest.mark.deep
@pytest.mark.slow
def test_a_dropped_declaration_lets_parts_of_a_stock_decoder_go_in_a_copy_of_the_tree(tmp_path: Path) -> None:
    undeclared = parse_config(SEED_OSS | {"model_type": "seed_oss"})
    assert undeclared.why_not("neurons")
    assert undeclared.why_not("kv_groups")
    for package in ("app", "espalier", "workers", "migrations", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "espalier/families/seed_oss.py").write_text(FAMILY)
    done = subprocess.run(
        [sys.executable, "-c", USE_FAMILY, str(tmp_path), json.dumps(SEED_OSS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
