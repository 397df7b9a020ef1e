"""Render a report for people: dense against every phase, sizes, seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from app.cli.output import out, size
from espalier.evaluate.latency_comparison import compare_latency
from espalier.evaluate.protocol_line import protocol_line
from espalier.recipe.phases import STAGES


def print_report(report: dict[str, Any]) -> None:
    """Print the table of stages, then sizes, seconds and the gate."""
    out.print(stage_table(report))
    for line in facts(report):
        out.print(line)


def stage_table(report: dict[str, Any]) -> Table:
    """Return a table with a row per stage of the model and a column per measurement."""
    dense = report["dense"]["perplexity"]
    table = Table("model", *(f"perplexity {escape(name)}" for name in dense), "against dense")
    for stage, scores in _stages(report):
        rises = [scores[name] / dense[name] - 1 for name in dense if name in scores]
        cells = [f"{scores[name]:.2f}" if name in scores else "-" for name in dense]
        table.add_row(stage, *cells, f"{max(rises):+.1%}" if rises and stage != "dense" else "")
    return table


def _stages(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    yield "dense", report["dense"]["perplexity"]
    for phase in report["phases"]:
        if phase["name"] in STAGES and phase.get("perplexity"):
            yield STAGES[phase["name"]], phase["perplexity"]
    yield "the artifact, reloaded", report["compressed"]["perplexity"]


def _comparisons(report: dict[str, Any]) -> Iterator[str]:
    """Divergence from the dense model and tasks: one line for each measurement."""
    for name, numbers in (report["compressed"].get("divergence") or {}).items():
        yield (
            f"divergence   {escape(name)}: KL {numbers['kl']:.4f} nats per token from dense, "
            f"same first choice {numbers['top1_agreement']:.1%}"
        )
    dense = report["dense"].get("tasks") or {}
    for task, numbers in (report["compressed"].get("tasks") or {}).items():
        shown = (
            f"{escape(name)} {dense[task][name]:.4f} -> {value:.4f}"
            for name, value in numbers.items()
            if name in dense.get(task, {}) and not name.endswith("_stderr")
        )
        yield f"task         {escape(task)}: {', '.join(shown)}"


def facts(report: dict[str, Any]) -> Iterator[str]:
    """Return one line each: protocol, sparsity, sizes, trained parameters, seconds per phase, verdict, warnings."""
    sparsity, compressed = report["sparsity"], report["compressed"]
    protocol = report.get("protocol") or {}
    for name in report["dense"]["perplexity"]:
        if line := protocol_line(protocol, name):
            yield f"protocol     {escape(name)}: {escape(line)}"
    requested = "as given" if sparsity["requested"] is None else f"requested {sparsity['requested']:.2%}"
    yield f"sparsity     {sparsity['achieved']:.2%} of the {sparsity['scope']} ({requested})"
    yield (
        f"bytes        dense {size(report['dense']['bytes'])}, artifact {size(compressed['bytes'])}, "
        f"packed {size(compressed.get('packed_bytes'))}{_estimate(report)}"
    )
    yield from _speeds(report)
    yield from _comparisons(report)
    trained = report.get("trained_parameters") or {}
    if trained.get("count"):
        yield f"trained      {trained['count']:,} parameters ({trained['fraction']:.2%})"
    seconds = ", ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in report["phases"])
    yield f"seconds      {seconds}"
    gate = report.get("gate")
    if gate:
        yield f"gate         {gate['verdict']}"
    for warning in report.get("warnings", []):
        text = warning["text"] if isinstance(warning, dict) else warning
        yield f"[yellow]warning[/]      {escape(str(text))}"


def _estimate(report: dict[str, Any]) -> str:
    """Nothing where the packed files were written and measured."""
    return "" if str(report.get("protocol", {}).get("packed_bytes", "")).startswith("measured") else " (estimate)"


def _speeds(report: dict[str, Any]) -> Iterator[str]:
    """Milliseconds per token, dense against result, with their spread; nothing where it was not timed."""
    for row in compare_latency(report):
        yield f"speed        {row.name} {row.dense.text} -> {row.result.text} ms a token: {row.text}"
    for line in report.get("advice", []):
        yield f"runtimes     {escape(str(line))}"
