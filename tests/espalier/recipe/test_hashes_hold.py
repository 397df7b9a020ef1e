"""Equal specs keep their hashes and their text: results and manifests made before are found again.

Every number was printed by the code of commit 05ac94f, before fields that are still to be built were declared; a change
of one of them costs every user the reuse of what was computed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from app.bodies.job import JobRequest
from espalier.recipe.base import fingerprint
from espalier.recipe.hashes import work_hash
from espalier.recipe.resolution import resolve


@dataclass
class _Facts:
    max_positions: int = 1024
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"


_HALF = {"method": "wanda", "sparsity": 0.5}
_FILE = {"kind": "local", "path": "/text/own.jsonl", "column": "text"}
SPECS: dict[str, dict[str, Any]] = {
    "half": {"prune": _HALF},
    "preset": {"preset": "quality@2"},
    "pattern": {
        "prune": {"method": "ria", "pattern": {"kind": "nm", "n": 2, "m": 4}, "targets": {"exclude": ["mlp"]}},
        "reconstruct": {"window": {"blocks": 2}, "loss": "cosine"},
        "output": {"format": "both", "dtype": "float32", "publish": [{"kind": "s3", "uri": "s3://bucket/a"}]},
    },
    "solver": {
        "prune": {**_HALF, "update": {"kind": "alps"}, "budget": {"kind": "owl"}},
        "propagation": "dense",
        "calibration": {"dataset": _FILE, "samples": 16, "sequence_length": 64, "selection": "sequential"},
    },
    "own update": {
        "prune": {"method": "sparsegpt", "sparsity": 0.7},
        "evaluate": {"perplexity": [], "tasks": ["piqa"]},
    },
    "parts": {
        "prune": [
            {"method": "angular", "pattern": {"kind": "depth", "count": 2}, "replace": "least_squares"},
            {"method": "flap", "pattern": {"kind": "neurons", "multiple_of": 16}, "sparsity": 0.25},
            {"method": "reap", "pattern": {"kind": "experts"}, "sparsity": 0.5},
        ],
        "retrain": {"method": "full", "loss": "kl", "steps": 10},
        "objective": {"parameters": 1_000_000},
    },
    "soup": {"prune": _HALF, "retrain": {"dataset": _FILE, "steps": 12}, "soup": {"members": 2, "vary": "steps"}},
    "cycles": {"prune": _HALF, "retrain": {"steps": 12, "loss": "squarehead"}, "cycles": {"count": 3}},
    "gate": {
        "prune": {**_HALF, "optimizer": {"kind": "sparseswaps"}},
        "gate": {"max_relative_perplexity_increase": 0.1, "min_sparsity": 0.4},
        "evaluate": {"divergence": True, "latency": False, "after_each_phase": True},
        "objective": {"max_relative_perplexity_increase": 0.05},
    },
    "recovery alone": {"prune": [], "retrain": {"trainable": ["norms", "biases"]}, "compute_dtype": "float32"},
}
WORK = {
    "half": "681e7ed2efd02471ba31b0588ddcc3e4324f734cc55b7fb4724bcf0924880d59",
    "preset": "cc31f3ab2438a87e7f37fea81549edd85ab020886d1b0b7edb9b71c8e48235a3",
    "pattern": "0de6b85acb091120356be5372ce717d3b0969b6111b880256f3362dfad957d87",
    "solver": "a222cf69353b6c986086593ea1a45e1c454a865fa91d0cc39963b3889a1dc8fa",
    "own update": "182a60f03cf6b264a3733a42bad7d1136d40a533b693ae12c6fb5c7cbede9cc7",
    "parts": "ff17a0857c36200e01d2de099763c607289b492a11cb3d8c9b15569ceaaa58dc",
    "soup": "1e3e83e9ae90ab52dcc2fb92e85b5dee5052b61059cbe2fc97ca579786b47e08",
    "cycles": "0547b823f1a5221808b7384b40eacb839955e04339f457b81b4991cefdaa5204",
    "gate": "f3e1ec90c919e6403fe345892c6ad2eb4982a18368f164cbf24900b710e46af8",
    "recovery alone": "e2b69f6147400c92f24931f9e2978c3471e4fc1253efba5bb54e4567af24b0f1",
}
TEXT = {
    "half": "08e1095f207a4ca37cebfa2130363b8918e6b5450342e3d32baf2e371111183f",
    "preset": "e92a0d31964fad41c3850a82cfeab76302ec6077819e2a11931aad737b6429dc",
    "pattern": "583a3e76fe3dc828ddb40064bfe0d732affaf97d722dc3fee16dcf4d5d6c12d0",
    "solver": "30a53b2647c1e999090c9f38fdf624b92e0d31f23d534f53fc1b10765deeb522",
    "own update": "b04ce610d3e433fac95426d5dd3014ff3c8e5fa657ca47259bfe202b501ed97d",
    "parts": "58b8e8e8cddfacfe8a450d59ab8b85ec12a0d007071fc5ce45a3889e239f6f40",
    "soup": "38283dcabb6b13ce3ecf0e10007d609f32bbc9b63da65629b1f54dd40217d937",
    "cycles": "90bd436ba3f6ffa2e3efc15ec664206dde234afc2c4340247d511fcede6daa80",
    "gate": "5e9deaa310609582bfb220d528090d7e30a0ed5c3ea0c593d727275e3a560655",
    "recovery alone": "ca6783bce4cc8cf5003078cd39ff89a71cd9cad53bce1455bde86ee1e95036e0",
}
"""Fingerprints of the resolved spec as it stands in rows and manifests."""


def _resolved(name: str) -> dict[str, Any]:
    request = JobRequest.model_validate({"source": {"kind": "huggingface", "repo": "org/model"}, "spec": SPECS[name]})
    return resolve(request.spec, _Facts()).model_dump(mode="json")


@pytest.mark.parametrize("name", SPECS)
def test_equal_work_keeps_its_hash(name: str) -> None:
    assert work_hash("a" * 40, {"text": "b" * 64}, _resolved(name), "5") == WORK[name]


@pytest.mark.parametrize("name", SPECS)
def test_a_resolved_spec_keeps_its_text(name: str) -> None:
    assert fingerprint(_resolved(name)) == TEXT[name]


def test_cards_decide_a_hash_where_they_decide_bytes() -> None:
    def keys(**fields: Any) -> list[str]:
        return [work_hash("a" * 40, {}, {"prune": [_HALF], **fields}, "6", gpus=gpus) for gpus in (None, 1, 2, 8)]

    assert len(set(keys())) == 1, "a pruned model is the same"
    none, one, two, eight = keys(reconstruct={"window": "block"})
    assert none != one == two == eight, "reconstruction in pieces is the same for any number that is named"
    none, one, two, eight = keys(retrain={"method": "perp"})
    assert none == one
    assert len({one, two, eight}) == 3, "training in shards rounds differently"
