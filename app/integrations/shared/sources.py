"""The interface of sources of models and texts, and what they may use."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol, Self

from app.settings import Settings
from espalier.documents.gather import PlainText
from espalier.errors import Problem, SourceNotFound
from espalier.model_files import TEMPLATES
from espalier.probe import ModelFacts
from espalier.recipe.base import Spec

Use = Literal["train", "evaluation"]
MAX_FILES: Final = 2000
"""Files of a folder that are examined at most, to tell whether it is still the same."""

TRIED_AGAIN = "The job asks again by itself for about half an hour; one that gave up goes on with `retry`."


class SourceUnreachable(SourceNotFound):
    """The other side did not answer; it may later."""

    class_, retryable = "source_unreachable", True

    def __init__(
        self,
        detail: str | None = None,
        *,
        hint: str = TRIED_AGAIN,
        module: str | None = None,
        items: Sequence[Problem] = (),
    ) -> None:
        super().__init__(detail, hint=hint, module=module, items=items)


@dataclass(frozen=True)
class Access:
    """What a source may use to fetch: a cache, the allowed folders, addresses and logins of outside systems."""

    cache_dir: Path
    roots: tuple[Path, ...] = ()
    systems: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Kind of a system -> its address and the login, in the words of its `Login`."""
    refuse_outputs: bool = False
    """A rule asks, not a person: what says that Espalier made it is refused."""
    uploads: Mapping[str, Any] = field(default_factory=dict)
    """Id of an upload of the job's project -> its files and the URLs of their parts."""
    progress: Callable[[int, int], None] = field(default=lambda _current, _total: None)
    """Hears how many bytes of how many have come."""

    def of(self, kind: str) -> Mapping[str, str]:
        """Return the address and the login of a system; empty where there is neither."""
        return self.systems.get(kind, {})


class StoredUpload(Protocol):
    """A complete upload, as the service keeps it."""

    @property
    def facts(self) -> Any:  # noqa: ANN401 - JSON
        """The facts from a model's headers."""


@dataclass(frozen=True)
class AtHand:
    """What a request may read at POST: nothing is fetched."""

    settings: Settings
    find_upload: Callable[[str, str], StoredUpload | None]
    """(id, kind) -> a complete upload of the job's project."""
    probe: Callable[[Path, Sequence[Path]], ModelFacts]
    """Reads a folder below some roots."""


@dataclass(frozen=True)
class SourceInspection:
    """The result of inspecting an outside system: facts, or what is known instead and why it is no more."""

    revision: str | None
    facts: ModelFacts | None
    shown: dict[str, Any]
    """Figures from the system itself, where no file could be read."""
    code: str = ""
    why: str = ""
    """Why there are no facts: `source_gated`, `source_not_found`, `hub_unreachable`, and in words."""


class Reader(Protocol):
    """Reads what a stranger wrote, at little cost for the caller; `owner` is the project that asks."""

    def probe(
        self, directory: Path, roots: Sequence[Path] = (), *, owner: str, unread: Collection[str] = ()
    ) -> ModelFacts:
        """Return what `espalier.probe.probe` does."""

    def weight_files(self, directory: Path, *, owner: str) -> list[str]:
        """Return the files of the weights, by the index where there is one."""


class ModelSource(Spec, ABC):
    """A place that holds a model directory, as the body of a job names it.

    A subclass sets `kind: Literal["name"] = "name"` and the fields, in the module `source` of a system's folder.
    """

    title: ClassVar[str]
    """Said of the choice in the form of a job."""

    kind: str

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The name that lists and filters show."""

    @property
    def address(self) -> str:
        """The address of the model in the tags of its results; no path of this machine."""
        return self.model_name

    @abstractmethod
    def resolve(self, access: Access) -> str:
        """Return the revision: a name of the content that never changes its meaning."""

    @abstractmethod
    def fetch(self, revision: str, access: Access) -> Path:
        """Return a folder that holds the model's files at that revision, and perhaps others."""

    def pin(self, revision: str, folder: Path, access: Access) -> str:  # noqa: ARG002 (for sources that need them)
        """Return the revision that is written down, now that the files are here: for most, what was resolved."""
        return revision

    def at(self, revision: str) -> Self:  # noqa: ARG002 (for sources that can move)
        """Return the same model at a revision that was written down; itself where nothing else can be asked for."""
        return self

    def version_at(self, revision: str) -> str:
        """Return what the system itself calls a revision that was written down."""
        return revision

    def unchanging(self) -> list[Any] | None:
        """Return what, beside the fields, tells that the content is still the same; None where only a fetch can."""
        return None

    def problems(self, at_hand: AtHand) -> Iterator[Problem]:  # noqa: ARG002 (for sources that can be read at once)
        """Yield why a request cannot be taken, with pointers into the source."""
        yield from ()

    def facts(self, at_hand: AtHand) -> ModelFacts | None:  # noqa: ARG002 (for sources that can be read at once)
        """Return the facts of a model that is at hand; None where only the fetcher can look into it."""
        return None

    def inspect(self, settings: Settings, reader: Reader, *, owner: str) -> SourceInspection | None:  # noqa: ARG002
        """Inspect the model without a login, for a person who waits; None where there is no way to."""
        return None


class TextSource(Spec, ABC):
    """How the text of a data set is fetched: a subclass is also the library's declaration of that kind."""

    @abstractmethod
    def fetch(self, access: Access, use: Use) -> PlainText:
        """Return the text; `use` picks the split where the spec names none."""

    def unchanging(self) -> list[Any] | None:
        """Return what, beside the fields, tells that the text is still the same; None where only a fetch can."""
        return None


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


def seen(path: Path) -> list[list[Any]]:
    """Return what tells, unread, that a file or a model's folder is still the same; empty where nothing does."""
    try:
        nested = path / TEMPLATES
        files = sorted([*path.iterdir(), *(nested.iterdir() if nested.is_dir() else ())]) if path.is_dir() else [path]
        status = [(file.name, file.stat()) for file in files[:MAX_FILES] if file.is_file()]
    except OSError:
        return []
    return [[name, s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns] for name, s in status]


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
