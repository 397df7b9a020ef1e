"""What can be wrong with a model, a text or the numbers; each names its class of the contract and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

ErrorClass = Literal[
    "invalid_spec",
    "unsupported_architecture",
    "source_not_found",
    "source_unreachable",  # the other side does not answer: it is asked again
    "source_gated",
    "source_unsafe",
    "dataset_error",
    "gpu_oom",
    "device_lost",  # the GPU, or the way to it, is broken; another worker may do
    "host_oom",
    "disk_full",
    "numerical",
    "collapsed",
    "timeout",
    "worker_lost",
    "storage",
    "publish_failed",
    "internal",
]
"""How a failed job says what went wrong (contract, section 3)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request, and the JSON Pointer to it."""

    pointer: str
    code: str
    detail: str


class EngineError(Exception):
    """A failure that the user can understand."""

    class_: ErrorClass
    retryable: ClassVar[bool] = False
    """Whether another attempt may go well."""

    def __init__(self, message: str, *, hint: str, module: str | None = None) -> None:
        self.message = message
        self.hint = hint
        """What the user can do about it, one sentence."""
        self.module = module
        """The file, tensor or field at fault."""
        super().__init__(self.detail)

    @property
    def detail(self) -> str:
        """What is wrong and the way out."""
        return f"{self.message} {self.hint}".strip()


class UnsupportedArchitectureError(EngineError):
    """The model is built in a way that the engine cannot walk."""

    class_ = "unsupported_architecture"


class UnsafeTokenizerError(EngineError):
    """The model's tokenizer cannot be loaded, or runs wild on a text."""

    class_ = "source_unsafe"


class UnsafeFileError(EngineError):
    """A file of the model is not what its name says."""

    class_ = "source_unsafe"


class DatasetError(EngineError):
    """The text cannot give what was asked for."""

    class_ = "dataset_error"


class NumericalError(EngineError):
    """NaN or infinity where numbers are needed."""

    class_ = "numerical"


class CollapsedError(EngineError):
    """The pruned model does no better than guessing."""

    class_ = "collapsed"


class TargetsError(EngineError, ValueError):
    """The step selects no matrix, or one that cannot be pruned."""

    class_ = "invalid_spec"


class NothingKeptError(EngineError):
    """A search ends without a result that keeps its objective."""

    class_ = "invalid_spec"


class MissingExtraError(EngineError):
    """The worker was installed without something that the spec needs."""

    class_ = "invalid_spec"


class BrokenResultError(EngineError):
    """What was written is not what was meant: ours to mend."""

    class_ = "internal"


class NoRoomError(EngineError):
    """What a step has to hold does not fit into memory; known before any work."""

    def __init__(self, message: str, *, hint: str, class_: Literal["gpu_oom", "host_oom"]) -> None:
        super().__init__(message, hint=hint)
        self.class_ = class_


class UnequalMembersError(EngineError, ValueError):
    """Models that are not pruned alike have no average."""

    class_ = "invalid_spec"


class SourceRefused(EngineError):
    """The model or its text cannot be worked on."""

    class_: ErrorClass = "invalid_spec"
    code: ClassVar[str] = "invalid-source"
    """What the answer to a request calls it."""

    def __init__(
        self, message: str | None = None, *, hint: str = "", module: str | None = None, items: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip(), hint=hint, module=module)
        self.items = tuple(items)
        """The places in the request that it is about."""

    def at(self, pointer: str) -> SourceRefused:
        """Name the place in the request that it is about, where none is named."""
        self.items = self.items or (Problem(pointer, self.code, self.detail),)
        return self


class SourceNotFound(SourceRefused):
    """There is no model at this source."""

    class_: ErrorClass = "source_not_found"
    code = "source-not-found"


class SourceGated(SourceRefused):
    """The repository asks for permission that the service's token does not have."""

    class_, code = "source_gated", "source-gated"


class OwnOutput(SourceRefused):
    """The model is an output of Espalier, and a rule compresses sources only."""

    code = "own-output"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, hint="Submit the job yourself if you mean it; a rule would run in circles.")


class UnsafeSource(SourceRefused):
    """The model carries something that could run code or that contradicts itself."""

    class_, code = "source_unsafe", "source-unsafe"


class UnsupportedArchitecture(SourceRefused):
    """The engine does not know this kind of model."""

    class_, code = "unsupported_architecture", "unsupported-architecture"


class InvalidForModel(SourceRefused):
    """The spec asks for something that this model cannot carry."""

    code = "invalid-spec"


class DatasetRefused(SourceRefused):
    """The text cannot be read or is too short."""

    class_, code = "dataset_error", "dataset-error"
