"""The model card: what was done, what came out, and by which protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from espalier.evaluate.latency_comparison import compare_latency
from espalier.export.card_data import front
from espalier.export.relative_paths import WHERE_TO, without_local_paths
from espalier.formats import FORMATS
from espalier.recipe.spec import ENGINE_VERSION, CompressionSpec
from espalier.session import Session

_MASKS = """`masks.safetensors` holds one bit-packed mask per pruned matrix, under the module's name: uint8 of shape
(outputs, ceil(inputs / 8)); bit b (value 2^b) of byte k stands for input 8k + b; 1 = kept. Pruned weights are exactly
zero."""

_PROTOCOL = """Perplexity is exp of the mean cross entropy over all predicted tokens of non-overlapping windows; the
dense model was measured in the same job, the compressed one from these files. `report.json` tells all of it."""
_SNIPPET = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""


def card(session: Session, report: dict[str, Any]) -> str:
    """Render README.md."""
    source, spec = session.request.source_name, session.request.spec
    title = f"{source.rsplit('/', 1)[-1]}, {report['sparsity']['achieved']:.1%} of the pruned matrices zero"
    load = FORMATS[spec.output.format].how_to_load
    parts = [
        front(session, report, title=title),
        f"# {title}",
        f"Made from `{source}` at revision `{session.request.revision}` by Espalier. {load}:",
        _SNIPPET,
        "\n".join(_recipe(spec)),
        "## Numbers",
        "\n".join(_perplexity_table(report)),
        "\n".join(_facts(report)),
        "\n".join([*(f"- {line}" for line in report["advice"]), *_warned(report)]),
        "## Protocol",
        _PROTOCOL,
        "\n".join(_protocol(report)),
        "## Masks",
        _MASKS,
        "## Spec",
        "What differs from the defaults; `manifest.json` holds the rest of the spec, and the sha256 of every file.",
        f"```json\n{json.dumps(_asked(session), indent=2, sort_keys=True, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _recipe(spec: CompressionSpec) -> Iterator[str]:
    """Describe the recipe, a line for each step."""
    for step in spec.prune:
        update = getattr(getattr(step, "update", None), "kind", "none")
        refit = f", kept weights refitted by {update}" if update != "none" else ""
        shape = _named({}, step.pattern.model_dump(mode="json"))
        where = ", ".join(f"{name} {value}" for name, value in shape.items())
        yield f"- Pruned by `{step.method}`: {step.label} ({where}){refit}"
    if spec.reconstruct is not None:
        yield f"- Reconstructed, window `{spec.reconstruct.window}`"
    if spec.retrain is not None:
        what = "every parameter" if spec.retrain.method == "full" else ", ".join(spec.retrain.trainable)
        yield f"- Retrained for {spec.retrain.steps} steps: {what}"


def _facts(report: dict[str, Any]) -> list[str]:
    dense, compressed = report["dense"], report["compressed"]
    how = report["protocol"]["packed_bytes"].split(":")[0]
    return [
        "| | dense | compressed |",
        "|---|---|---|",
        f"| parameters | {dense['parameters']:,} | {compressed['parameters']:,} |",
        f"| of these not zero | | {compressed['nonzero_parameters']:,} |",
        f"| bytes of the files | {dense['bytes']:,} | {compressed['bytes']:,} |",
        f"| bytes in a bit-mask pack ({how}) | | {compressed['packed_bytes']:,} |",
        f"| multiply-adds per token | {dense['macs_per_token']:,} | {compressed['macs_per_token']:,} |",
        *(
            f"| {row.name}, ms per token, batch 1 ({row.text}) | {row.dense.text} | {row.result.text} |"
            for row in compare_latency(report)
        ),
        f"| most memory that the job took, bytes | | {max(row['peak_memory_bytes'] for row in report['phases']):,} |",
        f"| parameters trained | | {report['trained_parameters']['count']:,} |",
        *_comparisons(report),
    ]


def _warned(report: dict[str, Any]) -> list[str]:
    return [f"- Warning: {warning['text']}" for warning in report["warnings"]]


def _protocol(report: dict[str, Any]) -> Iterator[str]:
    """Describe how each perplexity was measured, and with which versions."""
    measured = report["protocol"]["perplexity"]
    if measured:
        yield "| perplexity | text | windows | tokens each | predicted tokens | dtype |"
        yield "|---|---|---|---|---|---|"
    for name, how in measured.items():
        dataset = how["dataset"]
        text = " ".join(str(dataset[key]) for key in ("kind", "name", "path", "upload_id", "split") if dataset.get(key))
        yield (
            f"| {name} | {text}, sha256 {how['text_sha256']} | {how['windows']} | {how['sequence_length']} "
            f"| {how['predicted_tokens']:,} | {how['dtype']} |"
        )
    environment = report["environment"]
    versions = (f"{name} {environment[name]}" for name in ("torch", "transformers", "device") if name in environment)
    yield f"\nMade by engine {environment.get('engine', ENGINE_VERSION)} with {', '.join(versions)}."


def _asked(session: Session) -> dict[str, Any]:
    spec = session.request.spec
    settings = spec.model_dump(mode="json", exclude_defaults=True, exclude=WHERE_TO)
    asked = _named({name: value for name, value in settings.items() if value != {}}, spec.model_dump(mode="json"))
    return cast("dict[str, Any]", without_local_paths(session, asked))


def _named(asked: Any, whole: Any) -> Any:  # noqa: ANN401 - JSON
    """Put back what says which one of several an object is, also where it is the default."""
    if isinstance(asked, list):
        return [_named(*pair) for pair in zip(asked, whole, strict=True)]
    if not isinstance(asked, dict):
        return asked
    tags = {name: whole[name] for name in ("method", "kind", "scope", "n", "m") if name in whole}
    return {**tags, **{name: _named(value, whole[name]) for name, value in asked.items()}}


def _perplexity_table(report: dict[str, Any]) -> list[str]:
    names = sorted(report["compressed"]["perplexity"])
    if not names:
        return ["Perplexity was not measured."]
    rows = [("dense", report["dense"]["perplexity"])]
    rows += [
        (_PHASE_TITLES[phase["name"]], phase["perplexity"])
        for phase in report["phases"]
        if phase["name"] in _PHASE_TITLES
    ]
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


_PHASE_TITLES = {"pruning": "after pruning", "reconstructing": "after reconstruction", "retraining": "after retraining"}
