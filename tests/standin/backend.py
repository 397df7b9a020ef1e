"""The pretend card as a backend of torch: factories, copies past every mode, and autocast as CUDA does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils._pytree import tree_map

from tests.standin.card import CARD, Card
from tests.standin.tensors import NAME, DeviceTensor, Watch, run_operator

aten: Final = torch.ops.aten
_LIBRARY: Final = torch.library.Library("aten", "IMPL")
"""What torch calls past every mode, as `torch.tensor(..., device=...)` does."""


def _empty(size: Any, **options: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty(size, dtype=options.get("dtype")))


def _empty_strided(size: Any, stride: Any, **options: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def _copy_from(source: torch.Tensor, into: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    run_operator(aten.copy_.default, (into, source, non_blocking), {})
    return into


_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


NARROW: Final = [
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "mv",
    "conv1d",
    "conv2d",
    "scaled_dot_product_attention",
]
"""Operators that CUDA's autocast runs in its dtype."""
WIDE: Final = [
    "layer_norm",
    "rms_norm",
    "softmax.int",
    "log_softmax.int",
    "nll_loss",
    "cross_entropy_loss",
    "mse_loss",
    "kl_div",
    "cosine_similarity",
    "pow.Tensor_Scalar",
    "exp",
    "log",
    "rsqrt",
    "sum",
    "cumsum",
    "norm.Scalar",
]
"""Operators that CUDA's autocast runs in float32."""


_AUTOCAST: Final = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, "AutocastPrivateUse1"))  # noqa: B009 - unknown to its types


def _autocast(name: str, dtype: Callable[[], torch.dtype]) -> None:
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(aten, packet), overload or "default")

    def cast(value: Any) -> Any:
        floats = isinstance(value, DeviceTensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype()) if floats else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*tree_map(cast, args), **tree_map(cast, kwargs))

    _LIBRARY.impl(name, kernel, "AutocastPrivateUse1")


_FALLBACK: Final = torch.library.Library("_", "IMPL")
_FALLBACK.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _name in NARROW:
    _autocast(_name, lambda: torch.get_autocast_dtype(NAME))
for _name in WIDE:
    _autocast(_name, lambda: torch.float32)


@contextmanager
def watching() -> Iterator[Card]:
    """Let tensors be made on the card."""
    with Watch():
        yield CARD
