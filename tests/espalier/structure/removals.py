"""Jobs that remove structure, and what their models and reports say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.fixtures.library.jobs import LocalJob, local_job

TOKENS = torch.arange(24).view(2, 12) + 60


def run(folder: Path, model: Path, texts: Path, *steps: dict[str, Any], **spec: Any) -> LocalJob:
    """Run a job of some steps to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    job = local_job(folder, model, texts, prune=list(steps), output={"dtype": "float32"}, **spec)
    job.attempt()
    return job


@torch.no_grad()
def logits(folder: Path, **options: Any) -> torch.Tensor:
    """What the stock class makes of TOKENS with the model of a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    values: torch.Tensor = model(TOKENS).logits
    return values


def report_of(job: LocalJob) -> dict[str, Any]:
    """The report of a finished job."""
    report: dict[str, Any] = json.loads((job.artifact / "report.json").read_text())
    return report
