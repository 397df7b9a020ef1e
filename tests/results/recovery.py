"""Criteria, recoveries and sparsities on the reference models: what comes back of what pruning lost, and its cost."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from tests.results.bars import Bar, draw
from tests.results.harness import RESULTS, Cell, Finished, Numbers, Row, reference_dir, reference_spec

SPARSITIES: Final[dict[str, dict[str, Any]]] = {
    "50 %": {"sparsity": 0.5},
    "70 %": {"sparsity": 0.7},
    "2:4": {"pattern": {"kind": "nm", "n": 2, "m": 4}},
}
TRAINING: Final[dict[str, Any]] = {"steps": 80, "batch_size": 8, "sequence_length": 256}
TOLD: Final = ("validation_loss", "learning_rates", "rate_search")
"""What a row keeps of the retraining's protocol."""
REUSE: Final = "auto"
"""Cells share the dense baseline and the pruned model; the seconds of recovery are their own."""


def _perp(*names: str, **fields: Any) -> dict[str, Any]:
    return {"retrain": {**TRAINING, "trainable": list(names), **fields}}


SOLVED: Final[dict[str, Any]] = {"update": {"kind": "least_squares"}}
UPDATES: Final[dict[str, dict[str, Any]]] = {"least squares per matrix": SOLVED}
WINDOWS: Final[dict[str, dict[str, Any]]] = {
    "reconstruct submodules": {"reconstruct": {"window": "submodule"}},
    "reconstruct matrices": {"reconstruct": {"window": "matrix"}},
    "reconstruct blocks": {"reconstruct": {"window": "block"}},
    **UPDATES,
}
RETRAINING: Final[dict[str, dict[str, Any]]] = {
    "full": {"retrain": {**TRAINING, "method": "full"}},
    "mask_lora": _perp("mask_lora"),
    "norms + biases": _perp("norms", "biases"),
    "norms + mask_lora": _perp("norms", "mask_lora"),
    "scale_lora": _perp("scale_lora"),
    "lora_prune": _perp("lora_prune"),
    "spp": _perp("spp"),
    "mask_lora, kl": _perp("mask_lora", loss="kl"),
    "mask_lora, squarehead": _perp("mask_lora", loss="squarehead"),
    "mask_lora, soup of 3": {**_perp("mask_lora"), "soup": {"members": 3}},
    "mask_lora, greedy soup of 3": {**_perp("mask_lora"), "soup": {"members": 3, "average": "greedy"}},
    "mask_lora, 3 x as long": _perp("mask_lora", steps=3 * TRAINING["steps"]),
    "mask_lora in 3 cycles": {**_perp("mask_lora"), "cycles": {"count": 3}},
    "reconstruct, then mask_lora": {"reconstruct": {}, **_perp("mask_lora")},
}
BOTH: Final[dict[str, dict[str, Any]]] = {
    "least squares, then submodules": {**SOLVED, "reconstruct": {"window": "submodule"}},
    "auto, then submodules": {"update": {"kind": "auto"}, "reconstruct": {"window": "submodule"}},
    "auto, submodules, then mask_lora, kl": {
        "update": {"kind": "auto"},
        "reconstruct": {"window": "submodule"},
        **_perp("mask_lora", loss="kl"),
    },
}
SOLVE: Final = (*UPDATES, *BOTH)
"""What prunes and refits in one step: what the mask alone left is in the rows of others."""
RECOVERIES: Final = {**WINDOWS, **RETRAINING, **BOTH}
"""What follows pruning; every learning rate is found by the service's own search."""
MAIN: Final = ("full", "mask_lora", "norms + biases")
TABLES: Final[dict[tuple[str, str, str], tuple[str, ...]]] = {
    ("ref-llama", "wanda", "70 %"): (*WINDOWS, *RETRAINING, *BOTH),
    ("ref-llama", "wanda", "50 %"): (*WINDOWS, "mask_lora", *BOTH),
    ("ref-llama", "wanda", "2:4"): (*WINDOWS, "mask_lora", *BOTH),
    ("ref-opt", "wanda", "70 %"): (*WINDOWS, *MAIN, *BOTH),
    ("ref-opt", "wanda", "50 %"): tuple(WINDOWS),
    ("ref-opt", "wanda", "2:4"): tuple(WINDOWS),
    ("ref-llama", "magnitude", "70 %"): ("reconstruct submodules", "mask_lora"),
    ("ref-llama", "sparsegpt", "70 %"): ("reconstruct submodules", "mask_lora"),
}
"""Model, criterion, sparsity: what is measured there."""

ABOUT: Final = f"""\
Made by `python -m tests.results recovery` through `POST /v1/jobs`: 128 x 256 calibration tokens, retraining in
{TRAINING["steps"]} steps of {TRAINING["batch_size"]} x {TRAINING["sequence_length"]} tokens at the rate that
the service finds, perplexity on docs.valid (200 windows of 256; the median over seeds), float32 on one thread of a
shared CPU.
Recovered: the share of the perplexity lost by pruning that came back (above 100 %: better than the dense model, which
is undertrained). Seconds: recovery alone, good for ratios only. Seeds and versions are in `results/recovery.json`.
Engine: the version that made the row; 2 tried three rates in trials of 4 steps, 3 goes along a ladder until the best
rate lies inside, in trials of 8 steps. What does not retrain is the same in both."""


def cells(*, seeds: int = 1) -> list[Cell]:
    """Every cell of every table, seed by seed."""
    reference = reference_dir()
    return [
        Cell(
            key=f"{model} / {setting} / {criterion} / {name} / seed {seed}",
            model=model,
            spec=_spec(reference_spec(reference, seed=seed), criterion, setting, RECOVERIES[name], seed=seed),
            labels={"criterion": criterion, "recovery": name, "setting": setting, "seed": seed},
        )
        for seed in range(seeds)
        for (model, criterion, setting), names in TABLES.items()
        for name in names
    ]


def _spec(base: dict[str, Any], criterion: str, setting: str, recovery: dict[str, Any], *, seed: int) -> dict[str, Any]:
    recovery = dict(recovery)
    update = {"update": recovery.pop("update")} if "update" in recovery else {}
    spec = {**base, "prune": {"method": criterion, **SPARSITIES[setting], **update}, **recovery}
    if "retrain" in recovery:
        spec["retrain"] = {**recovery["retrain"], "seed": seed}
    return spec


def read(finished: Finished) -> Numbers:
    """The numbers of one job."""
    report, dense, after = finished.report, finished.dense, finished.compressed
    phases = [row for row in report["phases"] if row["name"] in {"reconstructing", "retraining", "merging"}]
    pruned = [row for row in report["phases"] if row["name"] == "pruning"][-1]["perplexity"]
    before = None if "cycles" in report or not pruned else next(iter(pruned.values()))
    return {
        "dense": round(dense, 4),
        "pruned": before and round(before, 4),
        "perplexity": round(after, 4),
        "trained": report["trained_parameters"]["count"],
        "trained_fraction": report["trained_parameters"]["fraction"],
        "sparsity": report["sparsity"]["achieved"],
        "seconds": round(sum(row["seconds"] for row in phases), 1),
        **{name: report["protocol"].get("retraining", {}).get(name) for name in TOLD},
        "soup": report.get("soup"),
    }


def render(rows: list[Row]) -> str:
    """One markdown table per model, sparsity and criterion, and a drawing of the first."""
    parts = ["# What recovery brings back", ABOUT]
    done = [row for row in rows if row["state"] == "succeeded"]
    groups = dict.fromkeys((row["model"], row["setting"], row["criterion"]) for row in done)
    for number, (model, setting, criterion) in enumerate(groups):
        mine = [r for r in done if (r["model"], r["setting"], r["criterion"]) == (model, setting, criterion)]
        pruned = {row["seed"]: row["pruned"] for row in mine if row["pruned"] and row["recovery"] not in SOLVE}
        before = median(pruned.values())
        title = f"{model}, {criterion} {setting}: dense {mine[0]['dense']:.2f}, pruned {before:.2f}"
        if number == 0:
            drawing = RESULTS / "recovery.svg"
            bars = [Bar("pruned", before), *(Bar(name, value) for name, value in _medians(mine).items())]
            drawing.write_text(draw(f"Perplexity on docs.valid: {title}", bars, line=mine[0]["dense"]))
            parts.append("![Perplexity after every recovery](recovery.svg)")
        parts.append(f"## {title}\n\n" + _table(mine, pruned, before))
    return "\n\n".join(parts) + "\n"


def _table(rows: list[Row], pruned: dict[int, float], before: float) -> str:
    header = ["recovery", "perplexity", "recovered", "parameters trained", "seconds", "seeds", "engine"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, value in _medians(rows).items():
        same = [row for row in rows if row["recovery"] == name]
        fraction = median(_share(row, pruned.get(row["seed"], before)) for row in same)
        trained = f"{same[0]['trained']:,} ({same[0]['trained_fraction']:.2%})" if not same[0]["soup"] else "by members"
        engines = ", ".join(sorted({row["environment"]["engine"] for row in same}))
        seconds = f"{median(row['seconds'] for row in same):.0f}" if name not in UPDATES else "within pruning"
        seconds += " after its members" if same[0]["soup"] else ""
        numbers = (f"{value:.2f}", f"{fraction:.0%}", trained, seconds, str(len(same)), engines)
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _share(row: Row, pruned: float) -> float:
    """The part of what pruning lost with this seed that came back."""
    return float((pruned - row["perplexity"]) / (pruned - row["dense"]))


def _medians(rows: list[Row]) -> dict[str, float]:
    """The median perplexity over the seeds, by recovery, in the order of the table."""
    medians: dict[str, float] = {}
    for name in RECOVERIES:
        values = [float(row["perplexity"]) for row in rows if row["recovery"] == name]
        if values:
            medians[name] = median(values)
    return medians
