"""The model card: what was done, what came out, and by which protocol."""

from __future__ import annotations

import json
from typing import Any

from workers.phases.base import Context

_MASKS = """`masks.safetensors` holds one bit-packed mask per pruned matrix, under the module's name: uint8 of shape
(outputs, ceil(inputs / 8)); bit b (value 2^b) of byte k stands for input 8k + b; 1 = kept. Pruned weights are exactly
zero."""

_HOW = dict.fromkeys(("safetensors", "both"), "It loads with stock transformers") | {
    "packed": "After `espalier unpack path/to/this/folder` it loads with stock transformers"
}


def card(context: Context, report: dict[str, Any]) -> str:
    """Render README.md."""
    source, spec = context.request.source_name, context.request.spec
    sparsity, how = report["sparsity"], report["protocol"]["packed_bytes"].split(":")[0]
    dense, compressed = report["dense"], report["compressed"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [espalier, pruned]",
        "---",
        "",
        f"# {source.rsplit('/', 1)[-1]}, {sparsity['achieved']:.1%} of the pruned matrices zero",
        "",
        f"Made from `{source}` at revision `{context.request.revision}` by Espalier. {_HOW[spec.output.format]}:",
        "",
        "```python",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        "```",
        "",
        "## Numbers",
        "",
        *_perplexity_table(report),
        "",
        "| | dense | compressed |",
        "|---|---|---|",
        f"| parameters | {report['dense']['parameters']:,} | {report['compressed']['parameters']:,} |",
        f"| of these not zero | | {report['compressed']['nonzero_parameters']:,} |",
        f"| bytes of the files | {report['dense']['bytes']:,} | {report['compressed']['bytes']:,} |",
        f"| bytes in a bit-mask pack ({how}) | | {report['compressed']['packed_bytes']:,} |",
        f"| multiply-adds per token | {dense['macs_per_token']:,} | {compressed['macs_per_token']:,} |",
        *_speed_rows(dense["latency"], compressed["latency"]),
        f"| most memory that the job took, bytes | | {max(row['peak_memory_bytes'] for row in report['phases']):,} |",
        f"| parameters trained | | {report['trained_parameters']['count']:,} |",
        *_comparisons(report),
        "",
        *(f"- {line}" for line in report["advice"]),
        *(f"- Warning: {warning['text']}" for warning in report["warnings"]),
        "",
        "## Protocol",
        "",
        "Perplexity is exp of the mean cross entropy over all predicted tokens of non-overlapping windows; the dense",
        "model was measured in the same job, the compressed one from these files.",
        "",
        "```json",
        json.dumps({"protocol": report["protocol"], "environment": report["environment"]}, indent=2, sort_keys=True),
        "```",
        "",
        "## Masks",
        "",
        _MASKS,
        "",
        "## Spec",
        "",
        "```json",
        json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def _speed_rows(dense: dict[str, Any] | None, compressed: dict[str, Any] | None) -> list[str]:
    if not dense or not compressed:
        return []
    rows = []
    for name in ("prefill", "decode"):
        cells = [
            f"{1e3 * item['median']:.3f} ({1e3 * item['least']:.3f} to {1e3 * item['most']:.3f})"
            for item in (side[f"{name}_seconds_per_token"] for side in (dense, compressed))
        ]
        rows.append(f"| {name}, ms per token, batch 1 | {cells[0]} | {cells[1]} |")
    return rows


def _perplexity_table(report: dict[str, Any]) -> list[str]:
    names = sorted(report["compressed"]["perplexity"])
    if not names:
        return ["Perplexity was not measured."]
    rows = [("dense", report["dense"]["perplexity"])]
    rows += [(_TOLD[phase["name"]], phase["perplexity"]) for phase in report["phases"] if phase["name"] in _TOLD]
    rows.append(("this model", report["compressed"]["perplexity"]))
    lines = [f"| perplexity | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for title, numbers in rows:
        if numbers:
            lines.append(f"| {title} | {' | '.join(f'{numbers[name]:.2f}' for name in names)} |")
    return lines


def _comparisons(report: dict[str, Any]) -> list[str]:
    """Rows of the second table: divergence from the dense model, and tasks."""
    dense, compressed = report["dense"], report["compressed"]
    rows = []
    for name, numbers in compressed["divergence"].items():
        rows.append(f"| KL(dense, this) on {name}, nats per token | | {numbers['kl']:.4f} |")
        rows.append(f"| same likeliest token on {name} | | {numbers['top1_agreement']:.1%} |")
    for task, numbers in compressed["tasks"].items():
        before = dense["tasks"].get(task, {})
        rows += [f"| {task}, {name} | {before.get(name, 0):.4f} | {value:.4f} |" for name, value in numbers.items()]
    return rows


_TOLD = {"pruning": "after pruning", "reconstructing": "after reconstruction", "retraining": "after retraining"}
