"""Configurations and headers made to harm: everyone is refused, in every family, and none is read any further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espalier.families import FAMILIES
from espalier.probe import probe
from espalier.probe.config import parse_config
from espalier.refusals import SourceRefused, UnsafeSource, UnsupportedArchitecture
from tests.espalier.probe.checkpoints import LLAMA, write_model
from tests.espalier.probe.published import PUBLISHED
from tests.espalier.probe.test_config import NAMES_CODE, WRONG
from tests.espalier.probe.test_headers import BAD

MODELS = {config["model_type"]: config for config, _ in PUBLISHED.values()}
"""One public configuration of every family."""

MORE_CODE: dict[str, dict[str, Any]] = {
    "trust as text": {"trust_remote_code": "true"},
    "trust as a number": {"trust_remote_code": 1},
    "auto_map as text": {"auto_map": "evil.Evil"},
    "auto_map as a list": {"auto_map": ["evil.Evil"]},
    "auto_map inside the rope": {"rope_parameters": {"auto_map": {"a": "evil.Evil"}}},
    "auto_map five levels down": {"a": {"b": [{"c": {"d": {"auto_map": {"AutoModel": "evil.Evil"}}}}]}},
    "attention of a repository with a function": {"_attn_implementation": "evil/kernels:flash_attn"},
    "attention by a local path": {"_attn_implementation": "./evil"},
    "attention by a Windows path": {"_attn_implementation": "evil\\kernels"},
    "attention by an address": {"attn_implementation": "https://evil.example/kernels"},
    "attention by an empty key": {"attn_implementation": {"": "evil/kernels"}},
    "attention in a list": {"attn_implementation": ["sdpa", "evil/kernels"]},
    "experts of a repository, internal": {"_experts_implementation_internal": "evil/kernels"},
    "kernels for one device": {"kernel_config": {"kernel_mapping": {"RMSNorm": {"cuda": "evil/kernels:RMSNorm"}}}},
    "use_kernels with a repository": {"use_kernels": {"RMSNorm": "evil/kernels"}},
    "hub_kernels": {"hub_kernels": "evil/kernels@v1"},
    "quantiser with a path": {"quantization_config": {"quant_method": "fp8", "modules": "../../evil"}},
    "nested quantiser": {"text_config": {"quantization_config": {"quant_method": "evil/quantizer"}}},
    "custom pipelines in a part": {"audio_config": {"custom_pipelines": {"x": {"impl": "evil.X", "pt": ["A"]}}}},
    "custom generation in a part": {"decoder": {"custom_generate": "evil/repo"}},
}
UNSUPPORTED: dict[str, dict[str, Any]] = {
    "GPTQ": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "FP8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "compressed tensors": {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
    "Gemma 3": {"model_type": "gemma3_text"},
    "Gemma 3 with pictures": {"model_type": "gemma3"},
    "Llama 4": {"model_type": "llama4"},
    "DeepSeek": {"model_type": "deepseek_v3"},
    "a state-space model": {"model_type": "mamba"},
    "an encoder": {"model_type": "bert"},
    "a translator": {"model_type": "t5"},
    "a classifier": {"architectures": ["LlamaForSequenceClassification"]},
    "an architecture of nobody": {"architectures": ["EvilForCausalLM"]},
}
WRONG_FOR: dict[str, list[dict[str, Any]]] = {
    "gemma2": [
        {"layer_types": ["full_attention"]}, {"layer_types": ["evil"] * 42}, {"query_pre_attn_scalar": 0},
        {"use_bidirectional_attention": True}, {"hidden_activation": "torch.load"}, {"num_attention_heads": 7},
    ],
    "phi3": [
        {"rope_scaling": {"type": "../x"}}, {"rope_scaling": {"type": "su"}}, {"resid_pdrop": 7.0},
        {"rope_scaling": {"type": "longrope", "long_factor": [1e300]}}, {"pad_token_id": 10**6},
    ],
    "olmo2": [{"num_key_value_heads": 7}, {"intermediate_size": -1}, {"attention_bias": "yes"}],
    "mixtral": [
        {"num_local_experts": 10**9}, {"num_local_experts": 0}, {"num_experts_per_tok": 9},
        {"num_experts": 4, "num_local_experts": 8}, {"router_jitter_noise": 3.0}, {"router_aux_loss_coef": 1e300},
    ],
    "qwen3_moe": [
        {"decoder_sparse_step": 0}, {"mlp_only_layers": [-1]}, {"mlp_only_layers": [0] * 5000},
        {"moe_intermediate_size": 2**40}, {"num_experts": 2**20}, {"num_experts": 4},
    ],
    "gpt2": [
        {"n_embd": "768"}, {"n_head": 7}, {"hidden_size": 1024}, {"n_positions": 2**60}, {"n_inner": 0},
        {"add_cross_attention": True}, {"n_layer": 10**6},
    ],
    "gpt_neox": [{"rotary_pct": 2.0}, {"rotary_emb_base": 0}, {"num_attention_heads": 13}, {"layer_norm_eps": 0}],
    "bloom": [{"n_embed": 1000}, {"n_layer": True}, {"num_attention_heads": None}, {"seq_length": 1}, {"n_head": 8}],
    "falcon": [
        {"parallel_attn": False, "new_decoder_architecture": True}, {"num_ln_in_parallel_attn": 3},
        {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2}, {"num_kv_heads": 7}, {"alibi": 1},
    ],
}  # fmt: skip


def refused(config: dict[str, Any]) -> SourceRefused | None:
    try:
        parse_config(config)
    except SourceRefused as refusal:
        return refusal
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_lets_code_through(family: str) -> None:
    for name, extra in (NAMES_CODE | MORE_CODE).items():
        refusal = refused(MODELS[family] | extra)
        assert isinstance(refusal, UnsafeSource), name
        assert "evil" not in f"{refusal} {refusal.hint}"


@pytest.mark.parametrize("changes", UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_what_cannot_be_compressed_is_refused_with_a_reason(changes: dict[str, Any]) -> None:
    refusal = refused(LLAMA | changes)
    assert isinstance(refusal, UnsupportedArchitecture)
    assert refusal.hint


@pytest.mark.parametrize("family", WRONG_FOR)
def test_a_wrong_value_of_a_family_is_refused(family: str) -> None:
    for changes in WRONG_FOR[family]:
        refusal = refused(MODELS[family] | changes)
        assert isinstance(refusal, UnsafeSource), changes
        assert f"this {family} model is not usable" in str(refusal)


def test_a_hostile_header_harms_no_family(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    for name, content in BAD.items():
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(SourceRefused):
            probe(folder)
        assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}, name


def test_the_batteries_are_as_large_as_promised() -> None:
    wrong = len(WRONG) + sum(len(cases) for cases in WRONG_FOR.values())
    assert len(NAMES_CODE) + len(MORE_CODE) + len(UNSUPPORTED) + wrong >= 60
    assert len(BAD) >= 40
