"""Facts of a model directory, and what is wrong with one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espalier.errors import SourceNotFound, SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.probe import probe
from espalier.probe.config import parse_config
from espalier.probe.tensors import Expected
from tests.espalier.probe.checkpoints import (
    LLAMA,
    MIXTRAL_NAMES,
    OPT,
    header_of,
    safetensors,
    tensors_of,
    write_model,
)
from tests.fixtures.library.demo_model import DEMO_MODEL


def test_facts_of_the_demo_model() -> None:
    facts = probe(DEMO_MODEL)
    assert (facts.model_type, facts.architecture, facts.dtype) == ("llama", "LlamaForCausalLM", "bfloat16")
    assert (facts.num_blocks, facts.hidden_size, facts.vocab_size, facts.max_positions) == (6, 160, 4096, 1024)
    assert facts.parameters == 2_562_080
    assert facts.bytes == 2 * facts.parameters
    assert facts.tied_embeddings
    assert facts.tokenizer_present
    assert not facts.has_biases
    assert len(facts.matrices) == 6 * 7
    shapes = {matrix.name: (matrix.block, matrix.num_outputs, matrix.num_inputs) for matrix in facts.matrices}
    assert shapes["model.layers.5.mlp.down_proj"] == (5, 160, 448)


@pytest.mark.reference
@pytest.mark.parametrize(("name", "parameters"), [("ref-llama", 8.00e6), ("ref-opt", 6.05e6), ("demo-llama", 2.56e6)])
def test_facts_of_the_reference_models(name: str, parameters: float, reference_dir: Path) -> None:
    facts = probe(reference_dir / name)
    assert facts.parameters == pytest.approx(parameters, rel=0.001)
    assert facts.has_biases == (name == "ref-opt")
    assert all(matrix.name.startswith(("model.layers.", "model.decoder.layers.")) for matrix in facts.matrices)


NEOX: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
FALCON: dict[str, Any] = {
    "model_type": "falcon",
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
QWEN3_MOE = LLAMA | {
    "model_type": "qwen3_moe",
    "architectures": None,
    "head_dim": 4,
    "moe_intermediate_size": 12,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}
FAMILY_CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama with wide heads": LLAMA | {"head_dim": 8},
    "mistral": LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "qwen2": LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 4},
    "opt": OPT,
    "opt with narrow embeddings": OPT | {"word_embed_proj_dim": 8},
    "opt without biases": OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False},
    "opt with norms behind": OPT | {"do_layer_norm_before": False},
    "gemma2": LLAMA | {"model_type": "gemma2", "architectures": None, "head_dim": 8, "tie_word_embeddings": True},
    "phi3": LLAMA | {"model_type": "phi3", "architectures": None, "pad_token_id": 0},
    "olmo2": LLAMA | {"model_type": "olmo2", "architectures": None},
    "mixtral": LLAMA | {"model_type": "mixtral", "architectures": None, "num_local_experts": 3},
    "qwen3 with experts": QWEN3_MOE,
    "qwen3 with experts here and there": QWEN3_MOE
    | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "gpt2": GPT2,
    "gpt2 with a narrow net": GPT2 | {"n_inner": 20},
    "gpt_neox": NEOX,
    "gpt_neox in sequence": NEOX | {"use_parallel_residual": False, "attention_bias": False},
    "bloom": {"model_type": "bloom", "vocab_size": 48, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "falcon 7b": FALCON,
    "falcon 40b": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon 11b": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "falcon rw": FALCON
    | {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True, "ffn_hidden_size": 24},
}

STOCK_SHAPES = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM
from accelerate import init_empty_weights
found = {}
for name, config in json.load(sys.stdin).items():
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    found[name] = {key: list(value.shape) for key, value in model.named_parameters()}
    if model.config.tie_word_embeddings:
        del found[name]["lm_head.weight"]
json.dump(found, sys.stdout)
"""


def test_expected_tensors_are_those_of_stock_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOCK_SHAPES], input=json.dumps(FAMILY_CASES), capture_output=True, text=True, check=True
    )
    stock = json.loads(done.stdout)
    for name, config in FAMILY_CASES.items():
        expected = Expected(parse_config(config))
        in_memory = {key: list(shape) for key, shape in expected.own.items()}
        for stack, (shape, parts) in expected.stacks.items():
            assert sum(math.prod(in_memory.pop(part)) for part in parts) == math.prod(shape)
            in_memory[stack] = list(shape)
        assert in_memory == stock[name], name


@pytest.mark.parametrize("config", FAMILY_CASES.values(), ids=FAMILY_CASES.keys())
def test_every_family_is_probed(config: dict[str, Any], tmp_path: Path) -> None:
    facts = probe(write_model(tmp_path, config))
    assert facts.has_biases == any(name.endswith(".bias") for name in tensors_of(config))
    assert {matrix.block for matrix in facts.matrices} == set(range(facts.num_blocks))
    stored = Expected(parse_config(config)).own
    for matrix in facts.matrices:
        shape = (matrix.num_outputs, matrix.num_inputs)
        assert stored[f"{matrix.name}.weight"] == (shape[::-1] if config["model_type"] == "gpt2" else shape)


def changed(**changes: tuple[str, list[int]] | None) -> dict[str, tuple[str, list[int]]]:
    tensors = tensors_of(LLAMA) | {name.replace("__", "."): value for name, value in changes.items() if value}
    dropped = {name.replace("__", ".") for name, value in changes.items() if value is None}
    return {name: value for name, value in tensors.items() if name not in dropped}


MISMATCHES = {
    "missing head": (changed(lm_head__weight=None), "tensor lm_head.weight is missing"),
    "missing matrix": (changed(model__layers__1__mlp__up_proj__weight=None), "layers.1.mlp.up_proj.weight is"),
    "one block more": (changed(model__layers__2__mlp__up_proj__weight=("BF16", [24, 16])), "3 blocks where"),
    "other vocabulary": (changed(model__embed_tokens__weight=("BF16", [47, 16])), "config.json tells [48, 16]"),
    "other hidden size": (changed(model__norm__weight=("BF16", [15])), "shape [15]"),
    "matrix turned": (changed(model__layers__0__mlp__up_proj__weight=("BF16", [16, 24])), "shape [16, 24]"),
    "one dimension more": (changed(model__norm__weight=("BF16", [16, 1])), "shape [16, 1]"),
    "bias that is not told": (changed(model__layers__0__self_attn__q_proj__bias=("BF16", [16])), "does not belong"),
    "another tensor": (changed(score__weight=("BF16", [2, 16])), "does not belong"),
    "weights of integers": (changed(model__norm__weight=("I8", [16])), "weights are F32, F16, BF16"),
}


@pytest.mark.parametrize(("tensors", "message"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_tensors_that_are_not_those_of_the_configuration_are_refused(
    tensors: dict[str, tuple[str, list[int]]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsafeSource) as caught:
        probe(write_model(tmp_path, tensors=tensors))
    assert message.lower() in str(caught.value).lower()


MIXTRAL = LLAMA | {"model_type": "mixtral", "architectures": None, "num_local_experts": 2}


def _in_memory(tensors: dict[str, Any]) -> dict[str, Any]:
    for new, old in MIXTRAL_NAMES.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def _stack(*, experts: int = 2) -> dict[str, Any]:
    return {"model.layers.0.mlp.experts.down_proj": ("BF16", [experts, 16, 24])}


EXPERTS: dict[str, tuple[dict[str, Any], str]] = {
    "names that stock transformers does not load": (_in_memory(tensors_of(MIXTRAL)), "is missing"),
    "whole and in parts": (tensors_of(MIXTRAL) | _stack(), "whole and in parts"),
    "one expert too many": (tensors_of(MIXTRAL | {"num_local_experts": 3}), "[3, 16]"),
    "stack of another number of experts": (
        {
            name: value
            for name, value in tensors_of(MIXTRAL).items()
            if "0.block_sparse_moe" not in name or "w2" not in name
        }
        | _stack(experts=3),
        "has shape [3, 16, 24]",
    ),
    "one map twice, by two names": (
        tensors_of(MIXTRAL) | {"model.layers.0.mlp.experts.0.w1.weight": ("BF16", [24, 16])},
        "are the same",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), EXPERTS.values(), ids=list(EXPERTS))
def test_experts_are_there_once(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert probe(write_model(tmp_path / "good", MIXTRAL, tensors_of(MIXTRAL))).num_blocks == 2
    with pytest.raises(UnsafeSource) as caught:
        probe(write_model(tmp_path / "bad", MIXTRAL, tensors))
    assert message in str(caught.value)


def test_buffers_of_old_checkpoints_are_let_through(tmp_path: Path) -> None:
    tensors = changed(
        model__layers__0__self_attn__rotary_emb__inv_freq=("F32", [2]), model__position_ids=("I64", [1, 64])
    )
    assert probe(write_model(tmp_path, tensors=tensors)).dtype == "bfloat16"


def test_a_stored_copy_of_a_tied_head_is_counted_once(tmp_path: Path) -> None:
    tied = LLAMA | {"tie_word_embeddings": True}
    without = probe(write_model(tmp_path / "a", tied)).parameters
    assert probe(write_model(tmp_path / "b", tied, tensors_of(LLAMA)), whole=True).parameters == without


def test_the_dtype_is_the_one_of_most_weights(tmp_path: Path) -> None:
    tensors = tensors_of(LLAMA, "F16") | {"model.norm.weight": ("F32", [16])}
    assert probe(write_model(tmp_path, tensors=tensors)).dtype == "float16"


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"])
def test_weights_that_can_run_code_are_refused_with_a_hint(suffix: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / f"pytorch_model{suffix}")
    with pytest.raises(UnsafeSource, match=r"can run code\. Convert the weights to safetensors"):
        probe(tmp_path)


def test_a_pickle_beside_safetensors_is_not_read(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04evil")
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit")
    assert probe(tmp_path).num_blocks == 2


def test_a_checkpoint_of_something_else_is_told_so(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors(header_of({"h.0.attn.weight": ("F32", [2, 2])})))
    with pytest.raises(UnsupportedArchitecture, match=r"no model\.layers"):
        probe(tmp_path)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_not_found(gone: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(SourceNotFound):
        probe(tmp_path)


def test_no_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no such folder"):
        probe(tmp_path / "nothing")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    write_model(tmp_path)
    os.mkfifo(tmp_path / "generation_config.json")
    with pytest.raises(UnsafeSource, match="not a regular file"):
        probe(tmp_path)


def test_links_stay_below_the_roots(tmp_path: Path) -> None:
    outside = write_model(tmp_path / "outside")
    inside = tmp_path / "roots" / "model"
    inside.mkdir(parents=True)
    for file in outside.iterdir():
        (inside / file.name).symlink_to(file)
    assert probe(inside).num_blocks == 2
    assert probe(inside, [tmp_path]).num_blocks == 2
    with pytest.raises(UnsafeSource, match="leaves the allowed folders"):
        probe(inside, [tmp_path / "roots"])


@pytest.mark.parametrize("link", ["additional_chat_templates", "additional_chat_templates/tools.jinja"])
def test_links_of_carried_templates_stay_below_the_roots(link: str, tmp_path: Path) -> None:
    """They go into the artifact, so a request is refused that would carry somebody else's file out."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/tools.jinja").write_text("secret")
    model = write_model(tmp_path / "roots" / "model")
    (model / link).parent.mkdir(exist_ok=True)
    (model / link).symlink_to(tmp_path / "secrets" / ("tools.jinja" if "/" in link else ""))
    assert probe(model, [tmp_path]).num_blocks == 2
    with pytest.raises(UnsafeSource, match="leaves the allowed folders"):
        probe(model, [tmp_path / "roots"])


CARDS = {
    "---\nlicense: apache-2.0\n---\n# Model": "apache-2.0",
    "---\ntags: [a]\nlicense: 'MIT'\n---\n": "MIT",
    "# Model\nlicense: apache-2.0\n": None,
    "---\nlicense: <script>alert(1)</script>\n---\n": None,
    "---\n---\nlicense: mit\n": None,
    "\xff\xfe": None,
}


@pytest.mark.parametrize(("card", "licence"), CARDS.items())
def test_the_licence_is_read_from_the_front_matter(card: str, licence: str | None, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    assert probe(tmp_path).licence == licence


def test_a_tokenizer_is_looked_for(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert not probe(tmp_path).tokenizer_present
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    assert probe(tmp_path).tokenizer_present


def test_a_refusal_names_no_path_of_the_machine(tmp_path: Path) -> None:
    write_model(tmp_path, tensors=changed(score__weight=("BF16", [2, 16])))
    with pytest.raises(SourceRefused) as caught:
        probe(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_probing_leaves_torch_unloaded() -> None:
    code = "import sys, espalier.probe; sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
