"""Describe the protocol of a perplexity in one line, for portal and command line."""

from __future__ import annotations

from typing import Any


def protocol_line(protocol: dict[str, Any], name: str) -> str:
    """Say in one line how a perplexity was measured; empty where the report does not tell."""
    measured = (protocol.get("perplexity") or {}).get(name) or {}
    dataset = measured.get("dataset") or {}
    text = " ".join(str(dataset[key]) for key in ("kind", "name", "path", "upload_id", "split") if dataset.get(key))
    parts = (
        text,
        _counted(measured, "windows", "windows"),
        _counted(measured, "sequence_length", "tokens each"),
        _counted(measured, "predicted_tokens", "predicted tokens"),
        measured.get("dtype"),
        measured.get("tokenizer"),
    )
    return ", ".join(str(part) for part in parts if part)


def _counted(measured: dict[str, Any], key: str, what: str) -> str | None:
    return f"{measured[key]:,} {what}" if isinstance(measured.get(key), int) else None
