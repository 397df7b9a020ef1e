"""Events and reports, as people see them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from rich.console import Console

from app.cli.commands.local.run import AS_EVENTS, as_event
from app.cli.progress import Bars, JsonLines, Lines, describe, display
from app.cli.report import facts, stage_table
from espalier.client import Event
from workers.messages import MESSAGES, AnyMessage


def event(kind: str, **data: Any) -> Event:
    return Event(seq=1, type=f"job.{kind}", time=datetime(2026, 11, 21, tzinfo=UTC), data=data)


EVENTS = [
    (event("phase_started", phase="pruning", total=6, unit="block"), "pruning  started"),
    (event("progress", phase="pruning", current=2, total=6, unit="block"), "2/6 block"),
    (event("phase_completed", phase="pruning", seconds=3.14, perplexity={"docs": 37.0}), "3.1 s, perplexity docs 37"),
    (event("phase_completed", phase="merging", seconds=0.0, perplexity=None), "in 0.0 s"),
    (event("warning", code="x", text="[bold]not markup[/]"), r"\[bold]not markup\[/]"),
    (event("attempt_failed", error={"class": "worker_lost", "hint": "retried"}), "worker_lost: retried"),
    (event("retry_scheduled", delay_seconds=1.5), "in 1.5 s"),
    (event("gate_evaluated", verdict="accepted"), "accepted"),
    (event("succeeded"), "succeeded"),
]


@pytest.mark.parametrize(("shown", "words"), EVENTS)
def test_an_event_is_one_line(shown: Event, words: str) -> None:
    line = describe(shown)
    assert line is not None
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["metric", "layer_completed", "checkpoint", "created", "something_new"])
def test_events_for_machines_are_no_lines(kind: str) -> None:
    assert describe(event(kind)) is None


def test_lines_are_plain_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    shown = display(Console(file=text, width=200), json=False)
    with shown.running():
        for item, _ in EVENTS:
            shown.show(item)
    assert len(text.getvalue().splitlines()) == len(EVENTS)
    assert "\x1b" not in text.getvalue()
    assert "[bold]not markup[/]" in text.getvalue()


def test_a_terminal_gets_bars() -> None:
    text = io.StringIO()
    shown = display(Console(file=text, width=100, force_terminal=True), json=False)
    assert isinstance(shown, Bars)
    with shown.running():
        shown.show(event("phase_started", phase="pruning", total=6, unit="block"))
        shown.show(event("progress", phase="pruning", current=4, total=6, unit="block"))
        shown.show(event("layer_completed", name="q_proj"))
        shown.show(event("progress", phase="pruning", current=5, total=6, unit="block"))
    assert "5/6" in text.getvalue()


def test_json_comes_first() -> None:
    assert isinstance(display(Console(force_terminal=True), json=True), JsonLines)
    assert type(display(Console(file=io.StringIO()), json=False)) is Lines


MESSAGES_OF_A_RUN: list[dict[str, Any]] = [
    {"kind": "phase_started", "phase": "pruning", "total": 6, "unit": "block"},
    {"kind": "progress", "phase": "pruning", "current": 1, "total": 6, "unit": "block"},
    {"kind": "phase_completed", "phase": "pruning", "seconds": 1.0, "peak_memory_bytes": 1, "perplexity": {}},
    {"kind": "warning", "code": "c", "text": "t"},
]


@pytest.mark.parametrize("message", MESSAGES_OF_A_RUN)
def test_what_the_children_say_reads_like_the_events_of_the_service(message: dict[str, Any]) -> None:
    MESSAGES.validate_python(message)
    assert describe(as_event(message)) is not None


def test_every_message_that_is_shown_exists() -> None:
    union, _ = get_args(AnyMessage)
    assert set(AS_EVENTS) <= {message.model_fields["kind"].default for message in get_args(union)}


REPORT: dict[str, Any] = {
    "dense": {"perplexity": {"docs": 20.0}, "parameters": 100, "bytes": 2_000_000},
    "compressed": {
        "perplexity": {"docs": 22.0},
        "parameters": 100,
        "nonzero_parameters": 50,
        "bytes": 2_000_000,
        "packed_bytes": 1_125_000,
    },
    "phases": [
        {"name": "baseline", "seconds": 1.0, "perplexity": {"docs": 20.0}},
        {"name": "pruning", "seconds": 3.0, "perplexity": {"docs": 30.0}},
        {"name": "reconstructing", "seconds": 9.0, "perplexity": {"docs": 25.0}},
        {"name": "retraining", "seconds": 8.0, "perplexity": {"docs": 22.5}},
        {"name": "merging", "seconds": 0.5, "perplexity": None},
    ],
    "sparsity": {"requested": 0.5, "achieved": 0.5, "scope": "pruned matrices"},
    "trained_parameters": {"count": 1000, "fraction": 0.01},
    "gate": {"verdict": "accepted"},
    "warnings": [{"code": "x", "text": "careful"}],
}


def rendered(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(stage_table(report))
    for line in facts(report):
        console.print(line)
    return console.export_text()


def test_a_report_shows_each_stage_sizes_and_seconds() -> None:
    text = rendered(REPORT)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["dense", "20.00", ""],
        ["pruned", "30.00", "+50.0%"],
        ["reconstructed", "25.00", "+25.0%"],
        ["retrained", "22.50", "+12.5%"],
        ["the artifact, reloaded", "22.00", "+10.0%"],
    ]
    for words in ("50.00%", "2.00 MB", "1.12 MB (estimate)", "1,000 parameters", "pruning 3.0", "accepted", "careful"):
        assert words in text


def test_a_report_shows_divergence_and_tasks() -> None:
    compared = {"divergence": {"docs": {"kl": 0.01234, "top1_agreement": 0.934}}, "tasks": {"piqa": {"acc": 0.5}}}
    report = REPORT | {
        "dense": REPORT["dense"] | {"tasks": {"piqa": {"acc": 0.75}}},
        "compressed": REPORT["compressed"] | compared,
    }
    text = rendered(report)
    assert "docs: KL 0.0123 nats per token from dense, same first choice 93.4%" in text
    assert "piqa: acc 0.7500 -> 0.5000" in text


def test_a_report_says_by_which_protocol_each_perplexity_was_measured() -> None:
    dataset = {"kind": "builtin", "name": "python-docs", "split": "[held-out]"}
    measured = {"dataset": dataset, "windows": 27, "sequence_length": 1024, "predicted_tokens": 27_621}
    text = rendered(REPORT | {"protocol": {"perplexity": {"docs": measured}}})
    assert (
        "protocol     docs: builtin python-docs [held-out], 27 windows, 1,024 tokens each, 27,621 predicted tokens"
        in text
    )


def test_a_report_without_measurements_is_a_report() -> None:
    bare = REPORT | {
        "dense": REPORT["dense"] | {"perplexity": {}},
        "compressed": REPORT["compressed"] | {"perplexity": {}},
        "trained_parameters": None,
        "gate": None,
        "warnings": [],
        "phases": [],
    }
    assert "sparsity" in rendered(bare)
