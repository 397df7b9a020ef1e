"""Why a model, a text or a request cannot be worked on: one class each, with its code and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request, and the JSON Pointer to it."""

    pointer: str
    code: str
    detail: str


class AppError(Exception):
    """The request cannot be served."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(
        self, detail: str | None = None, *, items: Sequence[Problem] = (), headers: dict[str, str] | None = None
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.items = tuple(items)
        self.headers = headers or {}
        super().__init__(self.detail)


class SourceRefused(AppError):
    """The model or its text cannot be worked on."""

    code, status = "invalid-source", 422
    error_class: ClassVar[str] = "invalid_spec"
    """What a failed job calls it (contract, section 3)."""

    def __init__(
        self, detail: str | None = None, *, hint: str = "", module: str | None = None, items: Sequence[Problem] = ()
    ) -> None:
        self.message = detail or (type(self).__doc__ or "").strip()
        self.hint = hint
        """What the user can do about it, one sentence."""
        self.module = module
        """The file or tensor at fault."""
        super().__init__(f"{self.message} {hint}".strip(), items=items)

    def at(self, pointer: str) -> SourceRefused:
        """The same refusal, with the place in the request that it is about."""
        items = self.items or [Problem(pointer, self.code, self.detail)]
        return type(self)(self.message, hint=self.hint, module=self.module, items=items)


class SourceNotFound(SourceRefused):
    """There is no model at this source."""

    code, error_class = "source-not-found", "source_not_found"


class SourceGated(SourceRefused):
    """The repository asks for permission that the service's token does not have."""

    code, error_class = "source-gated", "source_gated"


class OwnOutput(SourceRefused):
    """The model is an output of Espalier, and a rule compresses sources only."""

    code, error_class = "own-output", "invalid_spec"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, hint="Submit the job yourself if you mean it; a rule would run in circles.")


class UnsafeSource(SourceRefused):
    """The model carries something that could run code or that contradicts itself."""

    code, error_class = "source-unsafe", "source_unsafe"


class UnsupportedArchitecture(SourceRefused):
    """The engine does not know this kind of model."""

    code, error_class = "unsupported-architecture", "unsupported_architecture"


class InvalidForModel(SourceRefused):
    """The spec asks for something that this model cannot carry."""

    code, error_class = "invalid-spec", "invalid_spec"


class DatasetRefused(SourceRefused):
    """The text cannot be read or is too short."""

    code, error_class = "dataset-error", "dataset_error"
