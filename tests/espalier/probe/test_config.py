"""A configuration is one that we fully know, or a refusal in words."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from espalier.errors import SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.families import FAMILIES
from espalier.families import stock_types as stock
from espalier.probe import probe
from espalier.probe.config import parse_config, read_config, sanitised_config
from espalier.probe.headers import INDEX
from espalier.probe.unread_keys import refuse_unread
from espalier.probe.vocabulary import PAIR
from tests.espalier.probe import stock_types
from tests.espalier.probe.checkpoints import FUZZ, JSON, LLAMA, OPT, write_model
from tests.espalier.probe.generated import tiny
from tests.espalier.probe.hostile_configs import NAMES_CODE, WRONG


@pytest.mark.parametrize("config", [LLAMA, OPT], ids=["llama", "opt"])
def test_a_good_configuration_passes(config: dict[str, Any]) -> None:
    assert parse_config(config).num_hidden_layers == 2


@pytest.mark.parametrize("extra", NAMES_CODE.values(), ids=NAMES_CODE.keys())
def test_a_configuration_that_names_code_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(UnsafeSource, match=r"code|kernels") as caught:
        parse_config(LLAMA | extra)
    assert "evil" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_refused_by_the_name_of_its_field(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsafeSource, match=r"config\.json of this llama model is not usable"):
        parse_config(LLAMA | changes)


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_a_missing_value_is_named(name: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != name}
    with pytest.raises(UnsafeSource, match=f"{name}: Field required"):
        parse_config(config)


@pytest.mark.parametrize("name", ["gpt3", "Llama", "bert", "", None, 3, ["llama"], {"a": 1}, "x" * 10_000, "auto"])
def test_other_model_types_are_told_what_is_supported(name: object) -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        parse_config(LLAMA | {"model_type": name})
    assert all(family in caught.value.hint for family in FAMILIES)


def test_a_near_miss_is_answered_with_a_guess() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"Did you mean mistral\?"):
        parse_config(LLAMA | {"model_type": "mistrall"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Llama", "llama"),
        ("lama", "llama"),
        ("qwen2moe", None),
        ("gpt3", None),
        ("llama5", None),
        ("phi", None),
        ("ministral", None),
        ("mistral_", "mistral"),
        ("gptj", None),
        ("opts", "opt"),
        ("gpt-2", "gpt2"),
        ("mixtrall", "mixtral"),
        ("x" * 9999, None),
        ("opt2", None),
        ("gpt", None),
        ("apt2", None),
        ("git2", None),
        ("phi3v", None),
        ("gemma2b", None),
        ("ollama", None),
        ("bloom2", None),
        ("phi-3", "phi3"),
        ("GPT-NeoX", "gpt_neox"),
        ("olmo 2", "olmo2"),
        ("Qwen2.5", None),
        ("quen2", "qwen2"),
        ("qwen3moe", "qwen3_moe"),
        ("falcn", "falcon"),
    ],
)
def test_only_a_typo_is_answered_with_a_guess(name: str, meant: str | None) -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        parse_config(LLAMA | {"model_type": name})
    assert ("Did you mean" in caught.value.hint) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mamba", "a decoder"),
        ("granitemoe", "a decoder"),
        ("bert", "an encoder"),
        ("t5", "an encoder-decoder"),
        ("vit", "a model of pictures"),
        ("whisper", "a model of speech"),
        ("llava", "a model of text and other media"),
    ],
)
def test_a_stock_type_is_told_from_a_word_that_nobody_knows(name: str, kind: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=f"{name} is {kind} of stock transformers"):
        parse_config(LLAMA | {"model_type": name})
    with pytest.raises(UnsupportedArchitecture, match="stock transformers does not know it"):
        parse_config(LLAMA | {"model_type": f"{name}_of_ours"})


def test_the_table_of_stock_types_is_that_of_the_installed_transformers() -> None:
    assert Path(stock.__file__).read_text() == stock_types.source()


RELABELLED: dict[str, dict[str, Any]] = {
    "ministral": {"model_type": "mistral", "layer_types": ["sliding_attention", "full_attention"]},
    "cwm": {"sliding_window": 16, "layer_types": ["full_attention"] * 2},
    "granite": {"embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "smollm3": {"no_rope_layers": [1, 0], "no_rope_layer_interval": 4},
    "cohere": {"logit_scale": 0.0625},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 4},
    "deepseek": {"model_type": "qwen3_moe", "first_k_dense_replace": 1, "num_experts": 4, "num_experts_per_tok": 2},
    "a model with norms of its own": {"use_qk_norm": True},
    "a model that rotates in part": {"rotary_dim": 2},
    "a vision model": {"vision_config": {"hidden_size": 8}},
    "nobody knows": {"whatever": {"deep": [1]}},
    "an endless key": {"aux_" * 20_000: 1},
}


@pytest.mark.parametrize("changes", RELABELLED.values(), ids=RELABELLED.keys())
def test_what_the_stock_class_would_pass_over_is_refused_by_name(changes: dict[str, Any]) -> None:
    config = {**LLAMA, "architectures": None, **changes}
    with pytest.raises(UnsupportedArchitecture, match="does not read") as caught:
        parse_config(config)
    assert any(f"`{key}`" in caught.value.message or len(key) > 64 for key in changes)
    assert "weights were trained as" in caught.value.hint


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_a_stock_class_is_read_or_known_to_be_inert(family: str) -> None:
    stock_class = CONFIG_MAPPING[family]
    for field in dataclasses.fields(stock_class):
        if field.name != "is_encoder_decoder":
            refuse_unread({field.name: 7}, FAMILIES[family].keys(), stock_class.__name__)


def test_a_quantised_model_is_not_supported() -> None:
    with pytest.raises(UnsupportedArchitecture, match="quantised"):
        parse_config(LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}})


def test_a_classifier_is_not_supported() -> None:
    with pytest.raises(UnsupportedArchitecture, match="LlamaForCausalLM"):
        parse_config(LLAMA | {"architectures": ["LlamaForSequenceClassification"]})


def test_inert_private_keys_are_dropped_or_kept_by_a_known_list() -> None:
    config = OPT | {
        "_name_or_path": "facebook/opt",
        "_from_model_config": True,
        "_attn_implementation": "sdpa",
        "trust_remote_code": False,
        "auto_map": {},
        "_remove_final_layer_norm": True,
        "unsloth_version": "2025.1",
        "task_specific_params": {"text-generation": {"max_length": 50}},
        "layer_types": ["full_attention"] * 2,
        "logit_scale": 1.0,
        "use_mrope": False,
        "transformers_version": "4.21.0.dev0",
    }
    assert sanitised_config(config) == OPT | {
        "_remove_final_layer_norm": True,
        "transformers_version": "4.21.0.dev0",
    }


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_code_is_looked_for_beside_the_configuration_too(name: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    with pytest.raises(UnsafeSource, match=name.replace(".", r"\.")):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"model_type": "llama", "model_type": "opt"}',
        '{"a": NaN}',
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "\ufeff{}",
    ],
)
def test_text_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnsafeSource):
        read_config(tmp_path)


DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    INDEX,
    "the header of model.safetensors",
)
ENCODINGS = {
    "utf-8-sig": "byte order mark",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_in_another_encoding_is_told_which_and_what_to_do(name: str, tmp_path: Path) -> None:
    config = tiny("gpt2")
    write_model(tmp_path, config)
    weights = (tmp_path / "model.safetensors").read_bytes()
    if name == INDEX:
        (tmp_path / "model.safetensors").unlink()
    if name in PAIR:
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / PAIR[0]).write_text('{"a": 0, "b": 1}')
        (tmp_path / PAIR[1]).write_text("a b\n")
    for encoding, words in ENCODINGS.items():
        text = json.dumps({**(config if name == "config.json" else {}), "prefix": "ä"}, ensure_ascii=False)
        data = ("ä b\na b\n" if name == "merges.txt" else text).encode(encoding)
        if name.startswith("the"):
            (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + weights)
        else:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UnsafeSource, match=words) as caught:
            probe(tmp_path)
        assert name in caught.value.message
        assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_configuration_that_is_a_pointer_is_called_so(name: str, tmp_path: Path) -> None:
    (write_model(tmp_path) / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UnsafeSource, match=f"{name} is a Git LFS pointer"):
        read_config(tmp_path)


def test_a_configuration_of_two_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"padding": "x" * 2**21}))
    with pytest.raises(UnsafeSource, match="larger than 1 MiB"):
        read_config(tmp_path)


FIELDS = sorted({name for family in FAMILIES.values() for name in family.model_fields})


@FUZZ
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_no_configuration_raises_anything_but_a_refusal(model_type: str, changes: dict[str, Any]) -> None:
    base = OPT if model_type == "opt" else LLAMA | {"architectures": None}
    config = base | {"model_type": model_type} | changes
    try:
        family = parse_config(config)
    except SourceRefused:
        return
    assert all(size > 0 for shape in family.block_shapes(0).values() for size in shape)
    assert parse_config(sanitised_config(config)) == family
