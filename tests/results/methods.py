"""All criteria and updates on the reference models: perplexity, mean layer error, seconds."""

from __future__ import annotations

from typing import Any, Final

from tests.results.harness import Cell, Finished, Numbers, Row, reference_dir, reference_spec

MODELS: Final = ("ref-llama", "ref-opt")
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "50 %": {"sparsity": 0.5},
    "70 %": {"sparsity": 0.7},
    "2:4": {"pattern": {"kind": "nm", "n": 2, "m": 4}},
}
MATRIX: Final = {"kind": "unstructured", "scope": "matrix"}
"""As the papers of ALPS and ADMM choose: the largest of a whole matrix, not of every row."""
METHODS: Final[dict[str, dict[str, Any]]] = {
    "random": {"method": "random"},
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "ria": {"method": "ria"},
    "dass": {"method": "dass"},
    "wanda + sparseswaps": {"method": "wanda", "optimizer": {"kind": "sparseswaps"}},
    "wanda + sparsefw": {"method": "wanda", "optimizer": {"kind": "sparsefw"}},
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": {"kind": "least_squares"}},
    "sparsegpt mask + least squares": {"method": "sparsegpt", "update": {"kind": "least_squares"}},
    "wanda + sparseswaps + least squares": {
        "method": "wanda",
        "optimizer": {"kind": "sparseswaps"},
        "update": {"kind": "least_squares"},
    },
    "awp": {"method": "wanda", "update": {"kind": "awp"}},
    "admm + least squares": {"method": "wanda", "update": {"kind": "admm"}},
    "alps": {"method": "wanda", "update": {"kind": "alps"}},
    "admm + least squares, scope matrix": {"method": "wanda", "update": {"kind": "admm"}, "pattern": MATRIX},
    "alps, scope matrix": {"method": "wanda", "update": {"kind": "alps"}, "pattern": MATRIX},
}

ABOUT: Final = """\
Made by `make results` through `POST /v1/jobs`: 128 x 256 calibration tokens, perplexity on docs.valid (200 windows of
256), float32 on a CPU, number of seeds in brackets. Error: mean relative output error of the pruned matrices after the
update. Seconds: scores, masks and updates on one thread of a shared machine: good for ratios only."""


def cells(*, seeds: int = 1, models: tuple[str, ...] = MODELS) -> list[Cell]:
    """Every method at every setting on every model; criteria with unusual budgets are not in the table."""
    reference = reference_dir()
    return [
        Cell(
            key=f"{model} / {setting} / {name} / seed {seed}",
            model=model,
            spec=reference_spec(reference, seed=seed, prune={**step, **sparsity}),
            labels={"method": name, "setting": setting, "seed": seed},
        )
        for seed in range(seeds)
        for model in models
        for setting, sparsity in SETTINGS.items()
        for name, step in METHODS.items()
        if not ("pattern" in step and "pattern" in sparsity)
    ]


def read(finished: Finished) -> Numbers:
    """The numbers of one job."""
    return {
        "dense": round(finished.dense, 4),
        "perplexity": round(finished.compressed, 4),
        "error_before": round(finished.mean_error("error_before"), 6),
        "error_after": round(finished.mean_error(), 6),
        "pruning_seconds": round(finished.phase("pruning")["seconds"], 1),
        "solving_seconds": round(sum(row["seconds"] for row in finished.layers), 1),
        "predicted_tokens": finished.report["protocol"]["perplexity"]["docs"]["predicted_tokens"],
        "text_sha256": finished.report["protocol"]["perplexity"]["docs"]["text_sha256"],
    }


def render(rows: list[Row]) -> str:
    """One markdown table per model: a line per method, and perplexity, error and seconds per setting."""
    parts = [
        "# One-shot methods on the reference models",
        ABOUT,
    ]
    for model in sorted({row["model"] for row in rows}):
        mine = [row for row in rows if row["model"] == model]
        dense = next((row["dense"] for row in mine if "dense" in row), float("nan"))
        parts.append(f"## {model} (dense {dense:.2f})")
        settings = [name for name in SETTINGS if any(row["setting"] == name for row in mine)]
        header = "| method | " + " | ".join(f"{name}: perplexity / error / s" for name in settings) + " |"
        lines = [header, "|---" * (len(settings) + 1) + "|"]
        for method in dict.fromkeys(row["method"] for row in mine):
            cells = [_cell([r for r in mine if (r["method"], r["setting"]) == (method, name)]) for name in settings]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(rows: list[Row]) -> str:
    done = [row for row in rows if row["state"] == "succeeded"]
    if not done:
        return rows[0]["error"]["class"] if rows else ""

    def mean(name: str) -> float:
        return sum(float(row[name]) for row in done) / len(done)

    return f"{mean('perplexity'):.2f} / {mean('error_after'):.4f} / {mean('solving_seconds'):.0f} ({len(done)})"
