"""Removing whole parts of the reference model: what shrinks, what speeds up, what it costs in perplexity."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.results.harness import RESULTS, ROOT, Cell, Finished, Numbers, Row, reference_dir, reference_spec

MODELS: Final = ("ref-llama", "ref-opt")
REUSE: Final = "auto"
"""Cells share the dense baseline and whatever else is equal: the bits are the same, and so are the seconds told."""
PERP: Final = {"trainable": ["norms", "mask_lora"], "steps": 100, "batch_size": 8, "sequence_length": 256}
THREE_BLOCKS: Final = {"kind": "depth", "count": 3}
DEPTH: Final[dict[str, dict[str, Any]]] = {
    method: {"prune": [{"method": method, "pattern": THREE_BLOCKS}]}
    for method in ("block_influence", "angular", "perplexity")
}
WIDTH: Final[dict[str, dict[str, Any]]] = {
    f"{method}, 25 % of the neurons": {"prune": [{"method": method, "sparsity": 0.25}]}
    for method in ("magnitude_sp", "wanda_sp", "two_ssp", "flap", "structured_obs")
}
REPLACED: Final = {"method": "angular", "pattern": THREE_BLOCKS, "replace": "least_squares"}
METHODS: Final[dict[str, dict[str, Any]]] = {
    **{f"{name}, 3 of 8 blocks": step for name, step in DEPTH.items()},
    "angular, 3 of 8 blocks, replaced": {"prune": [REPLACED]},
    "angular, 3 of 8 blocks, replaced, PERP": {"prune": [REPLACED], "retrain": PERP},
    **WIDTH,
    "structured_obs, 25 % of the heads": {
        "prune": [{"method": "structured_obs", "sparsity": 0.25, "pattern": {"kind": "kv_groups"}}]
    },
    "1 block, 25 % of the neurons, 2:4, PERP, packed": {
        "prune": [
            {"method": "angular", "pattern": {"kind": "depth", "count": 1}, "replace": "least_squares"},
            {"method": "structured_obs", "sparsity": 0.25},
            {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
        ],
        "retrain": PERP,
        "output": {"format": "both"},
    },
}

MARKS: Final = ("<!-- structure: python -m tests.results.structure -->", "<!-- /structure -->")
"""Around the table of docs/results.md that `python -m tests.results.structure` writes."""
ABOUT: Final = """\
Made by `python -m tests.results structure` through `POST /v1/jobs`: 128 x 256 calibration tokens, perplexity on
docs.valid (200 windows of 256), float32 on one thread of a shared CPU, seed 0. PERP: 100 steps of 8 x 256 tokens.
Speed: dense over result, medians of runs that take turns, batch of one; in brackets the same for the slowest and the
fastest run of the result, and no factor where they lie on both sides of 1. Pack: share of the dense file. Seconds:
choosing and refitting, then retraining, by the clock; where others wanted the same cores they tell who waited, and not
which method is slow."""


def cells(*, seeds: int = 1, models: tuple[str, ...] = MODELS) -> list[Cell]:
    """Every method on every model; heads of OPT cannot go in a stock configuration."""
    reference = reference_dir()
    return [
        Cell(
            key=f"{model} / {name} / seed {seed}",
            model=model,
            spec=reference_spec(reference, seed=seed, **fields),
            labels={"method": name, "seed": seed},
        )
        for seed in range(seeds)
        for model in models
        for name, fields in METHODS.items()
        if not (model == "ref-opt" and "heads" in name)
    ]


def read(finished: Finished) -> Numbers:
    """The numbers of one job."""
    dense, compressed = finished.report["dense"], finished.report["compressed"]
    phases = finished.report["phases"]
    return {
        "dense": round(finished.dense, 4),
        "perplexity": round(finished.compressed, 4),
        "bytes": compressed["bytes"],
        "bytes_share": round(compressed["bytes"] / dense["bytes"], 4),
        "packed_share": round(compressed["packed_bytes"] / dense["bytes"], 4),
        "macs_share": round(compressed["macs_per_token"] / dense["macs_per_token"], 4),
        **{f"{name}_speed": _speed(dense, compressed, name) for name in ("prefill", "decode")},
        **{f"{name}_spread": _spread(dense, compressed, name) for name in ("prefill", "decode")},
        "seconds": _seconds(phases, "pruning"),
        "retraining_seconds": _seconds(phases, "retraining"),
        "peak_memory_bytes": max(phase["peak_memory_bytes"] for phase in phases),
        "structure": finished.report["protocol"]["structure"],
    }


def _speed(dense: dict[str, Any], compressed: dict[str, Any], name: str) -> float:
    before, after = (side["latency"][f"{name}_seconds_per_token"]["median"] for side in (dense, compressed))
    return round(float(before / after), 2)


def _spread(dense: dict[str, Any], compressed: dict[str, Any], name: str) -> list[float]:
    before, after = (side["latency"][f"{name}_seconds_per_token"] for side in (dense, compressed))
    return [round(float(before["median"] / after[end]), 2) for end in ("most", "least")]


def _seconds(phases: list[dict[str, Any]], name: str) -> float:
    return round(sum(float(phase["seconds"]) for phase in phases if phase["name"] == name), 1)


def render(rows: list[Row]) -> str:
    """One markdown table per model."""
    parts = ["# Whole parts removed from the reference models", ABOUT]
    for model in sorted({row["model"] for row in rows}):
        mine = [row for row in rows if row["model"] == model]
        dense = next((row["dense"] for row in mine if "dense" in row), float("nan"))
        lines = [
            f"## {model} (dense {dense:.2f})\n",
            "| method | perplexity | MB | of dense | pack | products | prompts | decoding | s |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_line(row) for row in mine),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def table(rows: list[Row], *, model: str = "ref-llama") -> str:
    """The table of docs/results.md for one model: what shrinks, what speeds up, where, and what it costs."""
    mine = [row for row in rows if row["model"] == model and row["state"] == "succeeded" and row["seed"] == 0]
    lines = [
        "| removed | what shrinks | what speeds up (one CPU thread) | on what runtime | perplexity | s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['method']} | {_shrinks(row)} "
            f"| prompts {_faster(row, 'prefill')}, decoding {_faster(row, 'decode')} | every one "
            f"| {row['dense']:.2f} -> {row['perplexity']:.2f} | {_time(row)} |"
            for row in mine
        ),
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Put what results/structure.json holds between the marks of docs/results.md."""
    path = ROOT / "docs/results.md"
    before, begin, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert begin
    assert end
    rows = json.loads((RESULTS / "structure.json").read_text())["rows"]
    path.write_text(f"{before}{begin}\n{table(rows)}\n{end}{after}")


def _faster(row: Row, name: str) -> str:
    """The factor, where the spread of the repeats leaves one."""
    low, high = row[f"{name}_spread"]
    return "no difference" if low <= 1 <= high else f"{row[f'{name}_speed']:.2f} x"


def _line(row: Row) -> str:
    if row["state"] != "succeeded":
        return f"| {row['method']} | {row['error']['class']} | | | | | | | |"
    pack = f"{row['packed_share']:.0%}" if "packed" in row["method"] else ""
    speeds = (f"{_faster(row, name)} {_range(row[f'{name}_spread'])}" for name in ("prefill", "decode"))
    return (
        f"| {row['method']} | {row['perplexity']:.2f} | {row['bytes'] / 1e6:.1f} | {row['bytes_share']:.0%} | {pack} "
        f"| {row['macs_share']:.0%} | {' | '.join(speeds)} | {_time(row)} |"
    )


def _shrinks(row: Row) -> str:
    pack = f" (packed {row['packed_share']:.0%})" if "packed" in row["method"] else ""
    return f"file to {row['bytes_share']:.0%}, {row['bytes'] / 1e6:.1f} MB{pack}; products to {row['macs_share']:.0%}"


def _time(row: Row) -> str:
    return f"{row['seconds']:.0f}" + (f" + {row['retraining_seconds']:.0f}" if row["retraining_seconds"] else "")


def _range(spread: list[float]) -> str:
    return f"({spread[0]:.2f} to {spread[1]:.2f})"


if __name__ == "__main__":
    write_page()
