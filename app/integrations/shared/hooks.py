"""The interface of hooks: a credential verified over the raw body, and a document parsed into one neutral event."""

from __future__ import annotations

import hmac
import re
import secrets as chance
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

TOLERANCE_SECONDS = 300
"""How far the timestamp of a signed delivery may be from now."""
_PRINTABLE = re.compile(r"[\x21-\x7e]{8,200}")

What = Literal["version", "alias", "tag", "other"]


class NoCredential(ValueError):
    """The delivery carries no credential at all."""


class WrongCredential(ValueError):
    """The credential is not made with this secret, or too old."""


class RegistryEvent(BaseModel):
    """What happened in a registry, in words that all of them share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Of the registry."""
    event: str
    """As the registry calls it: `repo.content.update`, `model_version.created`."""
    what: What
    """A new version, an alias that points to one, a tag of one; anything else is written down and starts nothing."""
    model: str
    """The name that globs match."""
    dedupe_key: str
    """Equal for one fact, however often and by whatever way it is heard of."""
    subject: str | None = None
    """Of facts that replace each other (where an alias points): what they are about. The same fact may come back
    after another one, and is news then."""
    source: dict[str, Any] | None = None
    """The source of a job; null where there is nothing to compress."""
    why_not: str = ""
    """Why there is nothing to compress."""
    refs: dict[str, str] = {}
    """Git reference -> its new commit; a rule picks one of them."""
    ref: str | None = None
    """The one that was picked."""
    revision: str | None = None
    version: str | None = None
    alias: str | None = None
    tags: dict[str, str] = {}
    message: str | None = None
    """Of the commit, where the registry tells it."""
    references: tuple[str, ...] = ()
    """What a publication of ours would call this very version."""

    def at(self, ref: str) -> RegistryEvent:
        """Return the event of one of its references, pinned to the commit."""
        commit = self.refs[ref]
        pinned = {**self.source, "revision": commit} if self.source is not None else None
        names = (f"{self.model}@{commit}",)
        return self.model_copy(update={"ref": ref, "revision": commit, "source": pinned, "references": names})


class Payload(BaseModel):
    """The part of a registry's document that is read; what else it says is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Receiver(BaseModel, ABC):
    """One registry: how its deliveries are verified, and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str]
    """For people."""
    EXAMPLE: ClassVar[dict[str, Any]]
    """A document as the registry sends it, of a new version; the contract tests replay it."""

    kind: str
    """A Literal with its only value as default."""

    @abstractmethod
    def headers(self, secret: str, body: bytes, *, now: float) -> dict[str, str]:
        """Return the headers that the registry sends with a body, lower-case: how the example becomes a delivery."""

    @abstractmethod
    def verify(self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Check the credential against every secret in force; raises NoCredential, WrongCredential.

        `headers` has lower-case names. Takes the same time whichever byte is wrong.
        """

    @abstractmethod
    def read(self, headers: Mapping[str, str], document: dict[str, Any]) -> RegistryEvent:
        """Return the event of a verified document; raises pydantic.ValidationError where it is not the registry's."""

    def new_secret(self) -> str:
        """Return a fresh secret."""
        return chance.token_urlsafe(32)

    def check_secret(self, secret: str) -> None:
        """Raise ValueError where a secret could not be the registry's."""
        if not _PRINTABLE.fullmatch(secret):
            raise ValueError("a secret has 8 to 200 printable ASCII characters without spaces")


def same(given: str, wanted: Iterable[str]) -> bool:
    """Tell whether a text is one of those wanted, looking at all of them in constant time."""
    return bool(sum(hmac.compare_digest(given.encode(), one.encode()) for one in wanted))


def fresh(stamp: str, *, now: float) -> bool:
    """Tell whether a timestamp in Unix seconds is close to now."""
    return bool(re.fullmatch(r"[0-9]{1,12}", stamp)) and abs(now - int(stamp)) <= TOLERANCE_SECONDS


Text = Field(max_length=500)
"""A name in a payload."""
MAX_TAGS = 500


def _refuse_too_many(tags: object) -> object:
    """Refuse too many before any is validated, with one error and not one for each."""
    if isinstance(tags, dict) and len(tags) > MAX_TAGS:
        raise PydanticCustomError("too_long", "a version has {most} tags at most", {"most": MAX_TAGS})
    return {} if tags is None else tags


Tags = Annotated[dict[str, Annotated[str, Field(max_length=20_000)]], BeforeValidator(_refuse_too_many)]
