"""What can be wrong with a model, a text or the numbers; each names its class of the contract and a way out."""

from __future__ import annotations

from typing import Literal

ErrorClass = Literal[
    "source_unsafe",
    "unsupported_architecture",
    "dataset_error",
    "numerical",
    "collapsed",
    "gpu_oom",
    "host_oom",
    "invalid_spec",
    "internal",
]


class EngineError(Exception):
    """A failure that the user can understand; `class_` is the contract's error class."""

    class_: ErrorClass

    def __init__(self, message: str, *, hint: str, module: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.module = module


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
