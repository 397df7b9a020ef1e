"""Devices, dtypes, determinism, and seeds that depend on what they are for and not on what ran before."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
import torch

from espalier.errors import DEVICE_FAULTS, DeviceFault, NumericalError, device_fault

CPU: Final = torch.device("cpu")


def is_accelerator(device: torch.device) -> bool:
    """Tell whether a device has memory and kernels of its own."""
    return device.type != "cpu"


def _of(device: torch.device) -> Any:  # noqa: ANN401 - a module of torch
    """Return what torch has for a kind of device: `torch.cuda` or the like."""
    return torch.get_device_module(device)


def fault_of(error: BaseException) -> DeviceFault | None:
    """Return what an exception tells of a GPU; None where it is about something else."""
    if isinstance(error, torch.OutOfMemoryError):
        return DEVICE_FAULTS[0]
    if isinstance(error, RuntimeError | AssertionError):
        return device_fault(str(error)) or (DEVICE_FAULTS[-1] if isinstance(error, torch.AcceleratorError) else None)
    return None


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, and what its allocator keeps for later; of the host for a CPU.

    Where this process has a limit (`limiting_memory`), no more than is left of that.
    """
    if not is_accelerator(device):
        return int(psutil.virtual_memory().available)
    of = _of(device)
    free, total = of.mem_get_info(device)
    allocated = int(of.memory_allocated(device))
    left = int(of.get_per_process_memory_fraction(device) * total) - allocated
    return max(0, min(int(free) + int(of.memory_reserved(device)) - allocated, left))


@contextmanager
def limiting_memory(device: torch.device, limit: int | None) -> Iterator[None]:
    """Let this process take no more than `limit` bytes of a GPU: beyond, torch raises; None, or a CPU: as it was."""
    if limit is None or not is_accelerator(device):
        yield
        return
    of = _of(device)
    before = of.get_per_process_memory_fraction(device)
    of.set_per_process_memory_fraction(min(before, limit / device_memory_bytes(device)), device)
    try:
        yield
    finally:
        of.set_per_process_memory_fraction(before, device)


def release_device_memory(device: torch.device) -> None:
    """Return what the allocator of a GPU keeps for later to the device: the next phase cuts it in other pieces."""
    if is_accelerator(device):
        _of(device).empty_cache()


NAMES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The dtypes of a spec."""


def pick_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; raises what torch raises where `cuda` is not there."""
    if name == "cuda":
        torch.cuda.current_device()  # makes the context, or raises
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def pick_compute_dtype(name: str, device: torch.device, *, float16: bool = False) -> torch.dtype:
    """Return the dtype of forward passes: `auto` is bfloat16 on a GPU that computes in it, float32 on a CPU.

    GPUs before Ampere (T4, V100) emulate bfloat16, slower than float32. They compute in float16 where the caller allows
    it: models that were trained in bfloat16 overflow in it, and small gradients vanish.
    """
    if name != "auto":
        return NAMES[name]
    if not is_accelerator(device):
        return torch.float32
    if _of(device).is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if float16 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype: `float32`, `bfloat16`, ..."""
    return str(dtype).removeprefix("torch.")


def use_deterministic_algorithms(threads: int) -> None:
    """Fix everything that could make equal work give other bytes; call before the first kernel runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    switch: Any = torch.utils.deterministic
    # Filling fresh memory with NaN costs a second per GB read, and leaves a meta tensor's pages with the process.
    switch.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


@dataclass
class _Held:
    """The contexts that need determinism in this process now; the switches are the process's, not a thread's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: int = 0
    restore: Callable[[], None] = lambda: None


_HELD: Final = _Held()


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Enable determinism while the context holds; the last of several contexts restores the process's settings."""
    with _HELD.lock:
        if not _HELD.holders:
            _HELD.restore = _restoring()
            use_deterministic_algorithms(threads)
        _HELD.holders += 1
    try:
        yield
    finally:
        with _HELD.lock:
            _HELD.holders -= 1
            if not _HELD.holders:
                _HELD.restore()


def _restoring() -> Callable[[], None]:
    """Return what puts the process's switches back to where they are now."""
    switch: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fills = torch.backends.cudnn.benchmark, switch.fill_uninitialized_memory
    threads = torch.get_num_threads()

    def restore() -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, switch.fill_uninitialized_memory = benchmark, fills
        torch.set_num_threads(threads)

    return restore


def to_device(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Move a tensor to a device, then cast it: the file's narrow dtype crosses the bus."""
    return tensor.to(device).to(dtype)


def autocast(device: torch.device, dtype: torch.dtype, *, keeps_copies: bool = True) -> torch.autocast:
    """Let a model whose trained parameters are float32 run in the compute dtype.

    `keeps_copies`: of those parameters, until the context ends; else they are cast anew wherever they are read.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=keeps_copies)


def derived_seed(seed: int, *scope: object) -> int:
    """Derive a 63-bit seed for one purpose: equal for equal scope, unrelated otherwise."""
    text = "/".join(str(part) for part in (seed, *scope))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *scope: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Create a generator for one purpose, so that a resumed run draws the same numbers."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *scope))


def all_finite(tensor: torch.Tensor) -> torch.Tensor:
    """Tell whether all numbers are finite, bool () on their device.

    The least and the largest one carry NaN and infinity along: one pass without a copy, where `isfinite` makes four.
    """
    if not (tensor.numel() and tensor.is_floating_point()):
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    return torch.stack(tensor.detach().aminmax()).isfinite().all()


def require_finite(module: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise NumericalError for the first tensor that holds NaN or infinity; the device is waited for once.

    `tensors`: what they are -> they.
    """
    finite = torch.stack([all_finite(tensor) for tensor in tensors.values()]).tolist()
    for what, fine in zip(tensors, finite, strict=True):
        if not fine:
            raise not_finite(module, what)


def not_finite(module: str, what: str) -> NumericalError:
    """Return the error for a tensor that holds NaN or infinity."""
    return NumericalError(
        f"{what} of {module} are not finite",
        hint="Check the source's weights; try compute_dtype float32.",
        module=module,
    )


def hint_if_not_finite(dtype: torch.dtype, *, dense: bool = False) -> str:
    """Say what to do about a model that computes no finite number in `dtype`; `dense`: nothing of it was compressed."""
    if dtype != torch.float32:
        wider = "Use compute_dtype float32"
        return f"{wider}; if that changes nothing, the checkpoint is broken." if dense else f"{wider}, or prune less."
    if dense:
        return (
            "The source itself gives no number for this text in float32: its checkpoint is broken. See whether stock "
            "transformers gives one, bring the files again, or take another revision."
        )
    return "Prune less, or let `update` or `reconstruct` make up for more of it."


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory: of the device on a GPU (since the last reset), of the process on a CPU."""
    if is_accelerator(device):
        return int(_of(device).max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new high-water mark where the device can; the process's own cannot be reset."""
    if is_accelerator(device):
        _of(device).reset_peak_memory_stats(device)


def release_free_memory() -> None:
    """Return pages that are free but still the process's to the system, where the C library can (glibc)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def host_memory_bytes() -> int:
    """Return the machine's memory, or the data limit (RLIMIT_DATA) of this process."""
    total, (bound, _) = psutil.virtual_memory().total, resource.getrlimit(resource.RLIMIT_DATA)
    return total if bound == resource.RLIM_INFINITY else min(total, bound)


def device_memory_bytes(device: torch.device) -> int:
    """Return the total memory of a GPU."""
    return int(_of(device).get_device_properties(device).total_memory)


def device_name(device: torch.device) -> str:
    """Return the device's own name."""
    return str(_of(device).get_device_name(device)) if is_accelerator(device) else platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if is_accelerator(device):
        _of(device).synchronize(device)
