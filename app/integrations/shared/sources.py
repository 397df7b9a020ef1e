"""What a source of a model or of text is, and what it may use."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from espalier.documents.gather import PlainText
from espalier.refusals import Problem, SourceNotFound

Use = Literal["train", "evaluation"]


TRIED_AGAIN = "The job asks again by itself for about half an hour; one that gave up goes on with `retry`."


class Unreachable(SourceNotFound):
    """The other side did not answer; it may later."""

    error_class = "source_unreachable"

    def __init__(
        self, detail: str | None = None, *, hint: str = TRIED_AGAIN, module: str | None = None,
        items: Sequence[Problem] = (),
    ) -> None:  # fmt: skip
        super().__init__(detail, hint=hint, module=module, items=items)


@dataclass(frozen=True)
class Access:
    """What a source may use: a cache, the folders that are allowed, other services' addresses and secrets."""

    cache_dir: Path
    roots: tuple[Path, ...] = ()
    hf_endpoint: str | None = None
    hf_token: str | None = None
    refuse_outputs: bool = False
    """A rule asks, not a person: what says that Espalier made it is refused."""
    uploads: Mapping[str, Any] = field(default_factory=dict)
    """Id of an upload of the job's project -> its files and the URLs of their parts."""
    mlflow: Mapping[str, str] = field(default_factory=dict)
    """The server's `tracking_uri`, and the login: `token`, or `username` and `password`."""
    s3: Mapping[str, str] = field(default_factory=dict)
    """The project's own key pair."""
    s3_endpoint_url: str | None = None
    progress: Callable[[int, int], None] = field(default=lambda _current, _total: None)
    """Hears how many bytes of how many have come."""


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(_Declaration, ABC):
    """A place that holds a model directory. A subclass sets `kind: Literal["name"] = "name"` and the spec's fields."""

    @abstractmethod
    def resolve(self, access: Access) -> str:
        """Return the revision: a name of the content that never changes its meaning."""

    @abstractmethod
    def fetch(self, revision: str, access: Access) -> Path:
        """Return a folder that holds the model's files at that revision, and perhaps others."""

    def pin(self, revision: str, folder: Path, access: Access) -> str:  # noqa: ARG002 (for sources that need them)
        """Return the revision that is written down, now that the files are here: for most, what was resolved."""
        return revision


class TextSource(_Declaration, ABC):
    """A place that holds text. A subclass sets `kind: Literal["name"] = "name"` and the spec's fields."""

    @abstractmethod
    def fetch(self, access: Access, use: Use) -> PlainText:
        """Return the text; `use` picks the split where the spec names none."""


def below(path: Path, roots: Iterable[Path]) -> Path:
    """Return the resolved path when it lies below one of the allowed folders."""
    try:
        resolved = path.resolve()
    except RuntimeError:
        raise SourceNotFound("The path is a link that leads back to itself.") from None
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise SourceNotFound(
            "The path does not lie below one of the allowed folders.", hint="Add its folder to ESPALIER_LOCAL_ROOTS."
        )
    return resolved


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time fill a place of the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
