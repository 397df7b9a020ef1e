"""The page of all errors: how a job fails, and how a request is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final, TypeVar, get_args

from app.errors import AppError
from app.main import create_app
from espalier.errors import ErrorClass, SourceRefused
from tests.docs.tables import table

T = TypeVar("T")
JOBS: Final = """\
# Errors

Made from the classes by `python -m tests.docs`.

## How a job fails

`error` of a failed job is `{class, retryable, phase, module, hint, attempt}`. What is retryable is tried again by
itself, after a pause; what is not can be queued anew by `espalier retry JOB`, from the phase that failed.

"""
CLASSES: Final[dict[ErrorClass, tuple[str, str]]] = {
    "invalid_spec": (
        "The model or the text cannot have what the spec asks for.",
        "Change what the hint names, in a clone of the job.",
    ),
    "unsupported_architecture": ("The model is built in a way that is not supported.", "See [families](families.md)."),
    "source_not_found": (
        "There is no such model, revision or file.",
        "Check the name; store a credential if it is private.",
    ),
    "source_unreachable": (
        "The Hub, MLflow or S3 did not answer.",
        "Wait: it is asked again for about half an hour; then `retry`.",
    ),
    "source_gated": (
        "The model is there, and the credential may not read it.",
        "Ask for access, then store a token of that account.",
    ),
    "source_unsafe": (
        "A file is not what its name says, names code, or wants too much memory.",
        "Take safetensors and stock classes; remove what the hint names.",
    ),
    "dataset_error": (
        "The text is missing, too short, or has no such column.",
        "Give more text, fewer samples or shorter sequences.",
    ),
    "gpu_oom": (
        "The GPU's memory was full.",
        "It is tried again with less at once; else take shorter sequences or a larger worker class.",
    ),
    "device_lost": (
        "The GPU, or the way to it, is broken.",
        "It is tried again; look at `espalier workers`.",
    ),
    "host_oom": (
        "The job wanted more main memory than its limit.",
        "Raise `limits.max_host_memory_bytes`, or take a larger worker class.",
    ),
    "disk_full": ("The worker's scratch space or cache was full.", "Raise its cap, or free space."),
    "numerical": (
        "NaN or infinity appeared where numbers are needed.",
        "Raise `damping`, calibrate on more text, or compute in float32.",
    ),
    "collapsed": ("The pruned model does no better than guessing.", "Prune less, or refit while pruning (`update`)."),
    "timeout": (
        "The job ran longer than its limit.",
        "Raise `limits.max_run_seconds`; `retry` goes on from the last block.",
    ),
    "worker_lost": (
        "The worker died or could not be reached.",
        "It is tried again; if that repeats, look at the worker's machine.",
    ),
    "storage": (
        "The object store did not take or give a file, or gave another one.",
        "It is tried again; look at the store.",
    ),
    "publish_failed": (
        "The result is stored, and the registry did not take it.",
        "Mend the credential or the target, then publish again.",
    ),
    "internal": ("A fault of ours.", "Report it, with the job's log."),
}
"""Class -> what happened, what to do."""
REQUESTS: Final = """
## How a request is refused

Every 4xx and 5xx is `application/problem+json` (RFC 9457): `type, title, status, detail, instance, code, request_id`
and `errors: [{pointer, code, detail}]` with JSON Pointers into the request.

"""


def page() -> str:
    """Return docs/errors.md."""
    assert list(CLASSES) == list(get_args(ErrorClass)), "a class of jobs' errors is new or gone"
    jobs = ((f"`{name}`", what, way_out) for name, (what, way_out) in CLASSES.items())
    refusals = sorted({(str(status), f"`{code}`", about) for status, code, about in _refusals()})
    failing = table(("class", "what happened", "what to do"), jobs)
    return JOBS + failing + REQUESTS + table(("status", "code", "what it says, unless it knows better"), refusals)


def _refusals() -> Iterator[tuple[int, str, str]]:
    create_app()  # loads every module that declares one
    for kind in _below(AppError):
        if "code" in vars(kind):
            yield kind.status, kind.code, _about(kind)
    for refused in _below(SourceRefused):
        if "code" in vars(refused):
            yield 422, refused.code, _about(refused)


def _below(kind: type[T]) -> Iterator[type[T]]:
    """Every class of the product below another."""
    for child in kind.__subclasses__():
        if child.__module__.startswith(("app.", "espalier.")):
            yield child
            yield from _below(child)


def _about(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
