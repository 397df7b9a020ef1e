"""A full request for a job, and changes here and there that may make anything of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

FULL: dict[str, Any] = {
    "name": "a",
    "plan_id": None,
    "priority": "normal",
    "reuse": "auto",
    "labels": {"team": "nlp"},
    "limits": {"max_run_seconds": 14400, "max_pending_seconds": 60, "max_host_memory_bytes": None},
    "spec": {
        "calibration": {"dataset": {"kind": "builtin"}, "samples": 4, "sequence_length": 64, "selection": "random"},
        "prune": [
            {
                "method": "wanda",
                "sparsity": 0.5,
                "pattern": {"kind": "nm", "n": 2, "m": 4},
                "budget": {"kind": "uniform"},
                "optimizer": None,
                "update": {"kind": "none"},
                "targets": {"include": ["proj"], "exclude": []},
            }
        ],
        "reconstruct": {"window": "submodule", "trainable": ["weights"], "learning_rate": 0.1, "interleave": False},
        "retrain": {"method": "perp", "trainable": ["norms", "biases"], "dataset": {"kind": "builtin"}},
        "evaluate": {"perplexity": [{"name": "docs", "dataset": {"kind": "builtin", "split": "validation"}}]},
        "gate": {"max_relative_perplexity_increase": 0.1},
        "output": {"format": "safetensors", "publish": []},
    },
}
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    1e308,
    1e-320,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**400,
    -(10**30),
    -(10**900),
    4.0,
    "",
    "x",
    "0",
    "\u202e",
    "a\nb",
    "é" * 300,
    "x" * 5000,
    "/" * 4000,
    "../..",
    "(",
    "(a+)+$",
    [],
    {},
    [[]],
    [{}],
    [None],
    {"kind": []},
    {"kind": None},
    {"": ""},
    {"a/b~": {}},
    {"kind": "local", "path": "/"},
    {"kind": "huggingface", "repo": "x"},
    "wanda",
    "auto",
    {"method": "wanda", "sparsity": 0},
    {"kind": "upload"},
    ["norms"] * 70,
    {"blocks": 1},
    list(range(300)),
    "nm",
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and list of a document, as (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change a document here and there."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not (points := list(_places(body))):  # nothing is left
            break
        container, key = rng.choice(points)
        other, source = rng.choice(list(_places(body)))
        match rng.randrange(5):
            case 0:
                container[key] = copy.deepcopy(other[source])
            case 1 if isinstance(container, dict):
                container[rng.choice(["0", "kind", "wanda", "local", "é/~", "prune", "spec"])] = copy.deepcopy(
                    rng.choice(ODD)
                )
            case 2:
                del container[key]
            case _:
                container[key] = copy.deepcopy(rng.choice(ODD))
    return body
