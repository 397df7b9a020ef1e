"""Errors of a model, a text or the numbers; each names its class of the contract and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal

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
class DeviceFault:
    """One way in which a GPU fails: its words, and what they mean for a job."""

    class_: ErrorClass
    message: str
    hint: str
    words: tuple[str, ...]
    """Of torch, CUDA, its libraries, NCCL and the driver; whatever they raise, it is some RuntimeError."""


_SEE_GPU: Final = "See the GPU's state on the worker (nvidia-smi, dmesg); the job's log has the driver's words."
DEVICE_FAULTS: Final = (
    DeviceFault(
        "gpu_oom",
        "The device ran out of memory.",
        "Use fewer or shorter calibration samples, or a device with more memory.",
        (
            "CUDA out of memory",
            "CUDA error: out of memory",
            "CUDA driver error: out of memory",
            "Triton Error [CUDA]: out of memory",
            "Cuda failure 'out of memory'",
            "Cuda failure 2 'out of memory'",
            "_STATUS_ALLOC_FAILED",
            "_DEVICE_ALLOCATION_FAILED",
            "cudaErrorMemoryAllocation",
        ),
    ),
    DeviceFault(
        "internal",
        "The GPU was asked for what it cannot do.",
        "The job's log has the details; report this.",
        (
            "device-side assert triggered",
            "CUDA error: invalid argument",
            "CUDA error: invalid configuration argument",
            "CUDA error: too many resources requested for launch",
            "_STATUS_INVALID_VALUE",
            "_STATUS_BAD_PARAM",
        ),
    ),
    DeviceFault(
        "device_lost",
        "The GPU's driver is too old for this build of torch.",
        "Update the worker's NVIDIA driver, or install torch for an older CUDA (TORCH_INDEX_URL, docs/operations.md).",
        (
            "NVIDIA driver on your system is too old",
            "driver version is insufficient",
            "unsupported display driver",
            "forward compatibility was attempted",
            "unsupported toolchain",
        ),
    ),
    DeviceFault(
        "device_lost",
        "This build of torch has no code for the GPU.",
        "Install torch with CUDA for it (TORCH_INDEX_URL, docs/operations.md), or set ESPALIER_DEVICE=cpu there.",
        ("no kernel image is available", "Torch not compiled with CUDA enabled", "device kernel image is invalid"),
    ),
    DeviceFault(
        "device_lost",
        "The GPU is held by another process.",
        "End what else computes there, or set its compute mode to default (nvidia-smi -c 0).",
        ("busy or unavailable",),
    ),
    DeviceFault(
        "device_lost",
        "No GPU can be reached, and the worker was promised one.",
        "Compare CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES with `nvidia-smi -L` on the worker; see its driver.",
        (
            "No CUDA GPUs are available",
            "no NVIDIA driver",
            "no CUDA-capable device",
            "invalid device ordinal",
            "CUDA driver initialization failed",
            "CUDA unknown error",
            "Unexpected error from cuda",
        ),
    ),
    DeviceFault(
        "device_lost",
        "The GPUs of the job lost each other.",
        _SEE_GPU,
        ("NCCL error", "Cuda failure", "ncclSystemError", "ncclRemoteError", "collective operation timeout"),
    ),
    DeviceFault(
        "device_lost",
        "The GPU failed or cannot be reached.",
        _SEE_GPU,
        (
            "CUDA error",
            "CUDA driver error",
            "Triton Error [CUDA]",
            "cudaError",
            "CUBLAS_STATUS_",
            "CUSOLVER_STATUS_",
            "CUSPARSE_STATUS_",
            "CUDNN_STATUS_",
            "cuDNN error",
            "ECC error",
            "GPU is lost",
            "fallen off the bus",
            "Xid (",
        ),
    ),
)
"""The first whose words appear counts. After most of them a process can use its GPU no more."""


def device_fault(text: str) -> DeviceFault | None:
    """Return what a message tells of a GPU; None where it is about something else."""
    return next((fault for fault in DEVICE_FAULTS if any(words in text for words in fault.words)), None)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request, and the JSON Pointer to it."""

    pointer: str
    code: str
    detail: str


class EngineError(Exception):
    """A failure that the user can understand; a subclass names its class of the contract where it begins."""

    class_: ErrorClass
    retryable: ClassVar[bool] = False
    """Whether another attempt may go well."""

    def __init_subclass__(cls, *, class_: ErrorClass | None = None) -> None:
        """Set the error class of the contract; a subclass without one inherits it."""
        if class_ is not None:
            cls.class_ = class_

    def __init__(self, message: str, *, hint: str, module: str | None = None) -> None:
        self.message = message
        self.hint = hint
        """What the user can do about it, one sentence."""
        self.module = module
        """The file, tensor or field at fault."""
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel pickled between the ranks of a job, whatever a subclass is made of."""
        return partial(type(self).__new__, type(self)), self.args, self.__dict__

    @property
    def detail(self) -> str:
        """What is wrong and the way out."""
        return f"{self.message} {self.hint}".strip()


class UnsupportedArchitectureError(EngineError, class_="unsupported_architecture"):
    """The model is built in a way that the engine cannot walk."""


class UnsafeTokenizerError(EngineError, class_="source_unsafe"):
    """The model's tokenizer cannot be loaded, or runs wild on a text."""


class UnsafeFileError(EngineError, class_="source_unsafe"):
    """A file of the model is not what its name says."""


class DatasetError(EngineError, class_="dataset_error"):
    """The text cannot give what was asked for."""


class NumericalError(EngineError, class_="numerical"):
    """NaN or infinity where numbers are needed."""


class CollapsedError(EngineError, class_="collapsed"):
    """The pruned model does no better than guessing."""


class TargetsError(EngineError, ValueError, class_="invalid_spec"):
    """The step selects no matrix, or one that cannot be pruned."""


class NothingKeptError(EngineError, class_="invalid_spec"):
    """A search ends without a result that keeps its objective."""


class MissingExtraError(EngineError, class_="invalid_spec"):
    """The worker was installed without something that the spec needs."""


class BrokenResultError(EngineError, class_="internal"):
    """A written artifact differs from the computed one: a fault of ours."""


class InsufficientMemoryError(EngineError):
    """What a step has to hold does not fit into memory; known before any work."""

    def __init__(self, message: str, *, hint: str, class_: Literal["gpu_oom", "host_oom"]) -> None:
        super().__init__(message, hint=hint)
        self.class_ = class_


class PeerLostError(EngineError, class_="worker_lost"):
    """A rank of the job does not answer the others; what ended it is told by that rank itself."""

    retryable: ClassVar[bool] = True


class UnequalMembersError(EngineError, ValueError, class_="invalid_spec"):
    """Models that are not pruned alike have no average."""


class SourceRefused(EngineError, class_="invalid_spec"):
    """The model or its text cannot be worked on."""

    code: ClassVar[str] = "invalid-source"
    """What the answer to a request calls it."""

    def __init_subclass__(cls, *, class_: ErrorClass | None = None) -> None:
        """Set the error class of the contract, which is the refusal's code too."""
        super().__init_subclass__(class_=class_)
        if class_ is not None:
            cls.code = class_.replace("_", "-")

    def __init__(
        self, message: str | None = None, *, hint: str = "", module: str | None = None, items: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip(), hint=hint, module=module)
        self.items = tuple(items)
        """The pointers into the request that it is about."""

    def at(self, pointer: str) -> SourceRefused:
        """Add a pointer into the request where the error has none."""
        self.items = self.items or (Problem(pointer, self.code, self.detail),)
        return self


class SourceNotFound(SourceRefused, class_="source_not_found"):
    """There is no model at this source."""


class SourceGated(SourceRefused, class_="source_gated"):
    """The repository asks for permission that the service's token does not have."""


class OwnOutput(SourceRefused):
    """The model is an output of Espalier, and a rule compresses sources only."""

    code = "own-output"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, hint="Submit the job yourself if you mean it; a rule would run in circles.")


class UnsafeSource(SourceRefused, class_="source_unsafe"):
    """The model carries something that could run code or that contradicts itself."""


class UnsupportedArchitecture(SourceRefused, class_="unsupported_architecture"):
    """The engine does not know this kind of model."""


class InvalidForModel(SourceRefused, class_="invalid_spec"):
    """The spec asks for something that this model cannot carry."""


class DatasetRefused(SourceRefused, class_="dataset_error"):
    """The text cannot be read or is too short."""
