"""The outside systems that this version knows, found in their folders: a new one is a folder, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

from pydantic import Field, ValidationError

from app.integrations.shared.logins import Login
from app.integrations.shared.sources import ModelSource, TextSource
from app.integrations.shared.targets import ResultTarget
from espalier.discovery import discover
from espalier.recipe.base import canonical
from espalier.recipe.refusals.unbuilt import is_text, refusing_if

SOURCES: Final = discover("app.integrations", ModelSource, tag="kind", nested=True)  # type: ignore[type-abstract]
TEXTS: Final = discover("app.integrations", TextSource, tag="kind", nested=True)  # type: ignore[type-abstract]
LOGINS: Final = discover("app.integrations", Login, tag="kind", nested=True)  # type: ignore[type-abstract]
TARGETS: Final = discover("app.integrations", ResultTarget, tag="kind", nested=True)  # type: ignore[type-abstract]

if TYPE_CHECKING:
    Source = ModelSource
else:
    Source = Annotated[
        Union[tuple(SOURCES.values())],  # noqa: UP007 - made at run time
        Field(discriminator="kind"),
        refusing_if(is_text, "a source by its name alone", instead='{"kind": "huggingface", "repo": "owner/name"}'),
    ]


def read_source(document: Mapping[str, Any]) -> ModelSource:
    """Return the source of a stored request; raises KeyError or ValidationError where this version knows none such."""
    return SOURCES[document["kind"]].model_validate_json(canonical(document))


def read_text(document: Mapping[str, Any]) -> TextSource:
    """Return how a data set of a dumped spec is fetched; raises as `read_source` does."""
    return TEXTS[document["kind"]].model_validate_json(canonical(document))


def read_target(document: Mapping[str, Any]) -> ResultTarget:
    """Return a stored target; raises as `read_source` does."""
    return TARGETS[document["kind"]].model_validate_json(canonical(document))


def target_name(document: Mapping[str, Any]) -> str:
    """Return what the system calls a stored target's model; empty where this version knows no such target."""
    try:
        return read_target(document).place
    except (KeyError, ValidationError):
        return ""
