"""Reads models for the API: small ones here, all others in a process of their own that may be stopped.

What a stranger wrote decides how long it takes to read and how much memory that needs. Configurations are counted
before anything is spelled out; whatever is not small is read by a child with limits, one of a project at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import app
from app.errors import NotReady, TooManyRequests
from espalier import errors
from espalier.errors import SourceRefused, UnsafeSource
from espalier.probe import facts, headers
from espalier.probe.config import read_config
from espalier.probe.facts import ModelFacts

SMALL_BYTES: Final = 2**18
"""Of all that is parsed of a model: read in the API itself up to here."""
SMALL_NAMES: Final = 4096
"""Tensors."""
SMALL_FILES: Final = 256
CPU_SECONDS: Final = 30
WALL_SECONDS: Final = 60
MEMORY_BYTES: Final = 2**30
AT_ONCE: Final = 4
"""Children of this process."""
WAIT_SECONDS: Final = 5.0

_children = threading.BoundedSemaphore(AT_ONCE)
_guard = threading.Lock()
_reading: set[str] = set()
"""Projects for which a model is being read."""


def probe(directory: Path, roots: Sequence[Path] = (), *, owner: str, unread: Collection[str] = ()) -> ModelFacts:
    """Return what `espalier.probe.probe` does, and cost the caller little; `owner` is the project that asks.

    Raises what it raises, and TooManyRequests while another model of the project is read.
    """
    if _is_small(directory, roots):
        return facts.probe(directory, roots, unread=unread)
    request = {"do": "probe", "folder": str(directory), "roots": list(map(str, roots)), "unread": list(unread)}
    answer = ask(request, owner)
    return ModelFacts.model_validate_json(answer)


def weight_files(directory: Path, *, owner: str) -> list[str]:
    """Return what `espalier.probe.headers.weight_files` does, for an index of any size."""
    index = directory / headers.INDEX
    if not index.is_file() or index.stat().st_size <= SMALL_BYTES:
        return headers.weight_files(directory)
    names: list[str] = json.loads(ask({"do": "weight_files", "folder": str(directory)}, owner))
    return names


def _is_small(directory: Path, roots: Sequence[Path]) -> bool:
    """Tell whether reading a folder costs nothing to speak of, by sizes and counts alone."""
    try:
        files = [path for path, _ in zip(directory.iterdir(), range(SMALL_FILES + 1), strict=False)]
        if len(files) > SMALL_FILES:
            return False
        facts.check_files(directory, roots)  # no pipe is opened below
        read = [path for path in files if path.suffix in {".json", ".txt"} and path.is_file()]
        weights = [path for path in files if path.suffix == ".safetensors" and path.is_file()]
        parsed = sum(path.stat().st_size for path in read) + sum(map(headers.header_bytes, weights))
        return parsed <= SMALL_BYTES and read_config(directory).num_tensors() <= SMALL_NAMES
    except (OSError, SourceRefused):
        return True  # whatever is wrong is found before much is read


def ask(request: dict[str, Any], owner: str) -> bytes:
    """Run a request in a child process; raises what it refused."""
    with reading_permit(owner):
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "app.services.admission.reader"],
                input=json.dumps(request).encode(),
                check=False,
                env={"PYTHONPATH": str(Path(app.__file__).parents[1])},
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=WALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise _too_much() from None
    kind, _, answer = done.stdout.partition(b"\n")
    if done.returncode or not answer:
        raise _too_much()
    if kind == b"answer":
        return answer
    error = json.loads(answer)
    refusal: type[SourceRefused] = getattr(errors, kind.decode())
    raise refusal(error["message"], hint=error["hint"], module=error["module"])


@contextmanager
def reading_permit(owner: str) -> Iterator[None]:
    """Let a project read one model at a time, and all of them together a few."""
    with _guard:
        if owner in _reading:
            busy = "Another model of this project is being read; ask again when it is."
            raise TooManyRequests(busy, headers={"Retry-After": "2"})
        _reading.add(owner)
    try:
        if not _children.acquire(timeout=WAIT_SECONDS):
            raise NotReady("Many models are being read; ask again in a moment.", headers={"Retry-After": "5"})
        try:
            yield
        finally:
            _children.release()
    finally:
        with _guard:
            _reading.remove(owner)


def _too_much() -> UnsafeSource:
    return UnsafeSource(
        f"Reading the configuration and the headers takes more than {CPU_SECONDS} s or {MEMORY_BYTES >> 30} GiB.",
        hint="Save the model again with save_pretrained.",
    )
