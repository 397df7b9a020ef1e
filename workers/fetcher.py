"""The fetcher process of one job: `python -m workers.fetcher < request.json` prints JSON lines of workers.messages.

It has the network and the credentials; what it hands on is a folder with files that were checked, and text.
"""

from __future__ import annotations

import errno
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.integrations.shared.cache import evict, linked
from app.integrations.shared.sources import (
    Access,
    Use,
)
from app.integrations.systems import read_text
from espalier.errors import EngineError
from espalier.export.outputs import refuse_by_card
from espalier.intake import admit, lay_out
from espalier.messages import (
    ErrorInfo,
    Failed,
    Message,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    Warned,
)
from espalier.probe.config import dropped_keys
from espalier.recipe.base import fingerprint
from espalier.recipe.phases import Phase
from espalier.recipe.spec import CompressionSpec
from workers.messages import Fetched, FetchRequest, Resolved
from workers.processes.pipe import MessageWriter, take_stdout

PROGRESS_SECONDS = 0.5

Send = Callable[[Message], None]


class _Fetcher:
    def __init__(self, request: FetchRequest, send: Send) -> None:
        self._request, self._send = request, send
        self._workspace = Path(request.workspace)
        self.phase: Phase = "resolving"
        self._reported_at = 0.0
        self._access = Access(
            cache_dir=Path(request.cache_dir),
            roots=tuple(Path(root) for root in request.roots),
            systems=request.systems,
            uploads=request.uploads,
            progress=self._progress,
            refuse_outputs=request.refuse_outputs,
        )

    def run(self) -> None:
        """Resolve, fetch, check, and lay out what the compute child may see."""
        source = self._request.job.source
        with self._in_phase("resolving", "step"):
            revision = source.resolve(self._access)
        with self._in_phase("fetching", "byte"):
            folder = source.fetch(revision, self._access)
            if self._access.refuse_outputs:
                refuse_by_card(folder)
            revision = source.pin(revision, folder, self._access)
            # Links of a model on this machine must stay below the allowed folders; the cache's files are our own.
            ours = folder.resolve().is_relative_to(self._access.cache_dir.resolve())
            facts, spec = admit(folder, self._request.job.spec, () if ours else self._access.roots)
            self._send(
                Resolved(revision=revision, spec=spec.model_dump(mode="json"), facts=facts.model_dump(mode="json"))
            )
            model_dir = lay_out(folder, self._workspace / "model")
            dropped = dropped_keys(json.loads((folder / "config.json").read_bytes()))
            paths, data = self._texts(spec)
            self._send(Fetched(model_dir=str(model_dir), datasets=paths, data_sha256=data, dropped_keys=dropped))
        evict(self._access.cache_dir, self._request.cache_max_bytes, in_use=linked(self._workspace.parent))

    def _texts(self, spec: CompressionSpec) -> tuple[dict[str, str], dict[str, str]]:
        """Fetch every text of a spec, each once."""
        paths: dict[str, str] = {}
        data: dict[str, str] = {}
        for pointer, dataset in spec.datasets.items():
            document = dataset.model_dump(mode="json")
            key = fingerprint(document)
            if key in data:
                continue
            text = read_text(document).fetch(self._access, _use(pointer))
            data[key] = text.sha256
            if text.path is not None:
                # A link, which keeps the text in the cache for as long as the workspace stands.
                link = self._workspace / "text" / text.path.name
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(text.path)
                paths[key] = str(link)
            for code, words in text.warnings.items():
                self._send(Warned(code=code, text=words))
        return paths, data

    def _progress(self, current: int, total: int) -> None:
        if current < total and time.monotonic() - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = time.monotonic()
        self._send(Progress(phase=self.phase, current=current, total=total, unit="byte"))

    @contextmanager
    def _in_phase(self, phase: Phase, unit: str) -> Iterator[None]:
        self.phase, started = phase, time.monotonic()
        self._send(PhaseStarted(phase=phase, unit=unit))
        yield
        self._send(PhaseCompleted(phase=phase, seconds=time.monotonic() - started, peak_memory_bytes=0))


def _use(pointer: str) -> Use:
    return "evaluation" if pointer.startswith("evaluate/") else "train"


def describe(error: Exception, phase: Phase) -> ErrorInfo:
    """Return the contract's error for an exception of the fetcher."""
    if isinstance(error, EngineError):
        return ErrorInfo.of(error, phase)
    if isinstance(error, MemoryError):
        hint = "See the sizes of its tokenizer and headers, or raise ESPALIER_FETCH_MEMORY_BYTES."
        message = "Reading the model's small files takes more memory than the fetcher has."
        return ErrorInfo(class_="source_unsafe", retryable=False, phase=phase, hint=hint, message=message)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "Free space below ESPALIER_CACHE_DIR."
        return ErrorInfo(class_="disk_full", retryable=True, phase=phase, hint=hint, message="The disk is full.")
    hint = "The job's log has the details; report this."
    return ErrorInfo(
        class_="internal", retryable=False, phase=phase, hint=hint, message=f"Unexpected {type(error).__name__}."
    )


def serve(line: str, send: Send) -> int:
    """Serve one request, send the outcome, and return the exit status."""
    fetcher: _Fetcher | None = None
    try:
        fetcher = _Fetcher(FetchRequest.model_validate_json(line), send)
        fetcher.run()
    except Exception as error:  # noqa: BLE001 (the one place where every failure becomes a message)
        if not isinstance(error, EngineError):
            traceback.print_exc()
        send(Failed(error=describe(error, fetcher.phase if fetcher else "resolving")))
        return 1
    return 0


def main() -> int:
    """Read one request from standard input, fetch, and say how it went."""
    return serve(sys.stdin.readline(), MessageWriter(take_stdout()).send)


if __name__ == "__main__":
    sys.exit(main())
