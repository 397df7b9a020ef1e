"""Criteria, recoveries and sparsities on the reference models: what comes back of what pruning lost, and its cost."""

from __future__ import annotations

from typing import Any, Final

from tests.results.bars import Bar, draw
from tests.results.harness import RESULTS, Cell, Finished, Numbers, Row, reference_dir, reference_spec

MODELS: Final = ("demo-llama", "ref-llama", "ref-opt")
SPARSITIES: Final = {"70 %": 0.7, "50 %": 0.5}
CRITERIA: Final = ("wanda", "magnitude", "sparsegpt")
TRAINING: Final[dict[str, Any]] = {"steps": 60, "batch_size": 8, "sequence_length": 128}
WINDOWS: Final = 60
REUSE: Final = "auto"
"""Cells share the dense baseline and the pruned model; the seconds of recovery are their own."""


def _perp(*names: str, **fields: Any) -> dict[str, Any]:
    return {"retrain": {**TRAINING, "trainable": list(names), **fields}}


RECOVERIES: Final[dict[str, dict[str, Any]]] = {
    "full": {"retrain": {**TRAINING, "method": "full"}},
    "mask_lora": _perp("mask_lora"),
    "norms": _perp("norms"),
    "norms + mask_lora": _perp("norms", "mask_lora"),
    "spp": _perp("spp"),
    "scale_lora": _perp("scale_lora"),
    "lora_prune": _perp("lora_prune"),
    "mask_lora, kl": _perp("mask_lora", loss="kl"),
    "mask_lora, squarehead": _perp("mask_lora", loss="squarehead"),
    "mask_lora, 3 x as long": _perp("mask_lora", steps=3 * TRAINING["steps"]),
    "mask_lora, soup of 3": {**_perp("mask_lora"), "soup": {"members": 3}},
    "mask_lora, greedy soup of 3": {**_perp("mask_lora"), "soup": {"members": 3, "average": "greedy"}},
    "mask_lora in 3 cycles": {**_perp("mask_lora"), "cycles": {"count": 3}},
    "reconstruct": {"reconstruct": {"epochs": 2}},
    "reconstruct + norms": {"reconstruct": {"epochs": 2}, **_perp("norms")},
}
"""What follows pruning; every learning rate is found by the service's own search."""

ABOUT: Final = f"""\
Made by `python -m tests.results recovery` through `POST /v1/jobs`: 128 x 256 calibration tokens, retraining in
{TRAINING["steps"]} steps of {TRAINING["batch_size"]} x {TRAINING["sequence_length"]} tokens at the rate that
the service finds, perplexity on docs.valid ({WINDOWS} windows of 256), float32 on one thread of a shared CPU.
Recovered: the share of the perplexity lost by pruning that came back (above 100 %: better than the dense model, which
is undertrained). Seconds: recovery alone, good for ratios only. Seeds and versions are in `results/recovery.json`."""


def cells(*, seeds: int = 1, models: tuple[str, ...] = MODELS) -> list[Cell]:
    """Every recovery at every sparsity after every criterion, on every model; SparseGPT's own masks do not nest."""
    reference = reference_dir()
    return [
        Cell(
            key=f"{model} / {setting} / {criterion} / {name} / seed {seed}",
            model=model,
            spec=_spec(reference_spec(reference, seed=seed, windows=WINDOWS), criterion, sparsity, recovery, seed=seed),
            labels={"criterion": criterion, "recovery": name, "setting": setting, "seed": seed},
        )
        for seed in range(seeds)
        for model in models
        for setting, sparsity in SPARSITIES.items()
        for criterion in CRITERIA
        for name, recovery in RECOVERIES.items()
        if not (criterion == "sparsegpt" and "cycles" in recovery)
    ]


def _spec(
    base: dict[str, Any], criterion: str, sparsity: float, recovery: dict[str, Any], *, seed: int
) -> dict[str, Any]:
    spec = {**base, "prune": {"method": criterion, "sparsity": sparsity}, **recovery}
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
        "recovered": before and round((before - after) / (before - dense), 4),
        "trained": report["trained_parameters"]["count"],
        "trained_fraction": report["trained_parameters"]["fraction"],
        "sparsity": report["sparsity"]["achieved"],
        "seconds": round(sum(row["seconds"] for row in phases), 1),
        "validation_loss": report["protocol"].get("retraining", {}).get("validation_loss"),
        "soup": report.get("soup"),
    }


def render(rows: list[Row]) -> str:
    """One markdown table per model, sparsity and criterion, and a drawing of the first."""
    parts = ["# What recovery brings back", ABOUT]
    done = [row for row in rows if row["state"] == "succeeded"]
    groups = dict.fromkeys((row["model"], row["setting"], row["criterion"]) for row in done)
    for number, (model, setting, criterion) in enumerate(groups):
        mine = [r for r in done if (r["model"], r["setting"], r["criterion"]) == (model, setting, criterion)]
        before = next((row["pruned"] for row in mine if row["pruned"]), float("nan"))
        title = f"{model}, {criterion} {setting}: dense {mine[0]['dense']:.2f}, pruned {before:.2f}"
        if number == 0:
            drawing = RESULTS / "recovery.svg"
            bars = [Bar("pruned", before), *(Bar(name, value) for name, value in _medians(mine).items())]
            drawing.write_text(draw(f"Perplexity on docs.valid: {title}", bars, line=mine[0]["dense"]))
            parts.append("![Perplexity after every recovery](recovery.svg)")
        parts.append(f"## {title}\n\n" + _table(mine, before))
    return "\n\n".join(parts) + "\n"


def _table(rows: list[Row], before: float) -> str:
    header = ["recovery", "perplexity", "recovered", "parameters trained", "seconds", "seeds"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, value in _medians(rows).items():
        same = [row for row in rows if row["recovery"] == name]
        share = (before - value) / (before - rows[0]["dense"])
        trained = f"{same[0]['trained']:,} ({same[0]['trained_fraction']:.2%})"
        lines.append(f"| {name} | {value:.2f} | {share:.0%} | {trained} | {same[0]['seconds']:.0f} | {len(same)} |")
    return "\n".join(lines)


def _medians(rows: list[Row]) -> dict[str, float]:
    """The median perplexity over the seeds, by recovery, in the order of the table."""
    found: dict[str, float] = {}
    for name in RECOVERIES:
        values = sorted(float(row["perplexity"]) for row in rows if row["recovery"] == name)
        if values:
            found[name] = values[len(values) // 2]
    return found
