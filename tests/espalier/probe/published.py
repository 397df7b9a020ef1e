"""Configurations of public models, written from what is published, and how many parameters each has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DOCUMENT = json.loads(Path(__file__).with_suffix(".json").read_text())

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    name: (entry["config"], entry["parameters"]) for name, entry in _DOCUMENT.items()
}
"""By name: config.json, and the number of parameters with a tied head counted once."""

MODELS = {config["model_type"]: config for config, _ in PUBLISHED.values()}
"""One public configuration of every family."""
