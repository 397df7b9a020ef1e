"""The process that reads a large model's headers: `python -m app.services.admission.reader < request.json`.

It answers with two lines: `answer` or the class of a refusal, and JSON. It has no network and no secrets, and bounds
its own memory and CPU before it reads anything.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from app.services.admission.bounded import CPU_SECONDS, MEMORY_BYTES
from espalier.errors import SourceRefused
from espalier.probe.facts import probe
from espalier.probe.headers import weight_files


def main() -> int:
    """Do what one request asks for."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.load(sys.stdin)
    try:
        kind, answer = "answer", _answer(request)
    except SourceRefused as refusal:
        kind = type(refusal).__name__
        answer = json.dumps({"message": refusal.message, "hint": refusal.hint, "module": refusal.module})
    sys.stdout.write(f"{kind}\n{answer}")
    return 0


def _answer(request: dict[str, Any]) -> str:
    folder = Path(request["folder"])
    if request["do"] == "weight_files":
        return json.dumps(weight_files(folder))
    roots = [Path(root) for root in request["roots"]]
    return probe(folder, roots, unread=request["unread"]).model_dump_json()


if __name__ == "__main__":
    sys.exit(main())
