"""The table of stock decoders, and what is accepted and refused by it before any weight is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers

from espalier.errors import SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.families import FAMILIES, accepted, family_of
from espalier.families.stock_decoders import TABLE, rows
from espalier.probe.config import parse_config, sanitised_config
from tests.families.__main__ import DOCUMENT, document, table
from tests.families.fields import decoders, row_of
from tests.families.trial import row_with_verdict

TEXT = TABLE.read_text()
RAW: dict[str, dict[str, Any]] = json.loads(TEXT)["decoders"]
GEMMA = {"model_type": "gemma", "vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_the_installed_transformers_knows_no_more_than_the_table() -> None:
    assert json.loads(TEXT)["transformers"] == transformers.__version__, "run `make families-table`"
    assert list(RAW) == decoders()
    for name, row in RAW.items():
        read = row_of(name)
        assert {key: json.loads(json.dumps(read[key])) for key in read.keys() - {"refused"}}.items() <= row.items(), (
            name
        )


def test_the_table_and_its_document_are_as_they_would_be_written() -> None:
    assert table(RAW) == TEXT
    assert DOCUMENT.read_text().endswith(document(RAW))


@pytest.mark.deep
@pytest.mark.parametrize("name", sorted(set(RAW) - set(FAMILIES)))
def test_a_tiny_model_says_of_its_type_what_the_table_says(name: str) -> None:
    assert json.loads(json.dumps(row_with_verdict(name))) == RAW[name]


def test_a_declared_family_stays_as_declared() -> None:
    assert all(family_of(name) is family for name, family in FAMILIES.items())
    assert accepted().keys() - FAMILIES.keys() == {name for name, row in rows().items() if row.refused is None}


@pytest.mark.parametrize("name", [name for name, row in RAW.items() if "refused" in row and name not in FAMILIES])
def test_a_refused_decoder_is_told_why(name: str) -> None:
    with pytest.raises(UnsupportedArchitecture) as refused:
        parse_config(GEMMA | {"model_type": name})
    assert str(RAW[name]["refused"]) in str(refused.value)
    assert "Did you mean" not in str(refused.value)


HOSTILE: dict[str, dict[str, Any]] = {
    "a billion blocks": {"num_hidden_layers": 10**9},
    "no block": {"num_hidden_layers": 0},
    "a wide block": {"intermediate_size": 2**40},
    "a text for a number": {"hidden_size": "16"},
    "a truth for a number": {"head_dim": True},
    "a number that is none": {"rms_norm_eps": float("nan")},
    "an activation of its own": {"hidden_act": "os.system"},
    "a rope of its own": {"rope_parameters": {"rope_type": "default", "unknown": 1}},
    "a part of a head": {"partial_rotary_factor": 0.5},
    "both ways": {"use_bidirectional_attention": True},
    "many positions": {"max_position_embeddings": 2**40},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_configuration_out_of_bounds_is_refused_before_anything_is_built(case: str) -> None:
    assert parse_config(GEMMA).num_hidden_layers == 2
    with pytest.raises(UnsafeSource):
        parse_config(GEMMA | HOSTILE[case])


def test_an_entry_that_the_stock_class_does_not_read_is_refused_by_name() -> None:
    with pytest.raises(SourceRefused, match="`logit_scale`, which a stock GemmaForCausalLM does not read"):
        parse_config(GEMMA | {"logit_scale": 0.5})


def test_keys_reach_transformers_as_they_were_written() -> None:
    config = {"model_type": "gptj", "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 32}
    assert sanitised_config(config) == config
    assert parse_config(config).hidden_size == 16
    other = {"hidden_size" if key == "n_embd" else key: value for key, value in config.items()}
    assert sanitised_config(other) == config
