"""What a project stores to log in at an outside system, and what the operator says of that system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from app.settings import Settings
from espalier.recipe.base import Spec

Doing = Literal["fetch", "publish"]
Secret = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$")]
LEAST_HINTED: Final = 12
"""Characters of a secret whose end is shown."""


class Login(Spec, ABC):
    """The body that stores a login. A subclass stands in the module `credentials` of a system's folder."""

    kind: ClassVar[str]
    """The system, as sources and targets name it."""
    title: ClassVar[str]
    """What a project stores, for people."""
    about: ClassVar[str]
    """Who gets it, for the documentation of the API."""
    lent: ClassVar[tuple[Doing, ...]] = ()
    """What the operator's own login does for the projects that may use it."""

    @abstractmethod
    def hint(self) -> str:
        """Return what its owner knows it by, and nothing that would give it away."""

    @classmethod
    def server(cls, settings: Settings) -> dict[str, str]:  # noqa: ARG003 (for systems of which the operator says any)
        """Return what the operator says of the system's address; empty where that is the public one, or none."""
        return {}

    @classmethod
    def operators(cls, settings: Settings) -> dict[str, str]:  # noqa: ARG003 (for systems where the operator has one)
        """Return the operator's own login, in the words of this body; empty where there is none."""
        return {}

    @classmethod
    def own(cls, settings: Settings) -> dict[str, str]:
        """Return the login of who runs a job without a service; empty where there is none."""
        return cls.operators(settings)

    @classmethod
    def missing_here(cls, settings: Settings, doing: Doing) -> str | None:  # noqa: ARG003 (for systems open to all)
        """Return what a run without a service lacks to fetch from the system, or publish there; None where nothing."""
        return None


def ending(secret: str) -> str:
    """Return the end of a secret, for its owner to know it by; nothing of one that this would give away."""
    return secret[-4:] if len(secret) >= LEAST_HINTED else ""
