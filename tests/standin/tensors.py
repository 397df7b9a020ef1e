"""Tensors of the pretend card: they say `standin:0`, lie on the CPU, and every operator on them goes through the books.

Faithful: the device of every tensor, mixed devices refused (0-dim CPU tensors and CPU indices pass, as on CUDA), float
scans, medians and the like refused in deterministic mode, waits of the host for the device, bytes that cross and casts
that the host makes of them, launches (one for each operator, a floor), live and peak bytes, memory that runs out.
Not faithful: the numbers are the CPU's, and nothing is asynchronous.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.standin.card import CARD, Allocation
from tests.standin.driver import Driver

aten: Final = torch.ops.aten
NAME: Final = "standin"
_setup_privateuseone_for_python_backend(NAME, backend_module=Driver(NAME))
DEVICE: Final = torch.device(NAME, 0)

CROSSING: Final = frozenset(["copy_", "_to_copy", "index", "index_put_", "index_put", "_index_put_impl_"])
"""Operators that take tensors of two devices."""
WAITING: Final = frozenset(
    [
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "_unique2",
        "unique_consecutive",
        "unique_dim",
        "_linalg_check_errors",
        "is_nonzero",
        "repeat_interleave",
    ]
)
"""Operators whose result the host has to know before it goes on."""
UNDETERMINED: Final = frozenset(
    [
        "kthvalue",
        "median",
        "nanmedian",
        "put_",
        "put",
        "histc",
        "bincount",
        "cumsum",
        "cumprod",
        "index_reduce_",
        "nll_loss2d_forward",
        "grid_sampler_2d_backward",
        "reflection_pad1d_backward",
        "upsample_linear1d_backward",
    ]
)
"""Operators that have no deterministic CUDA kernel, of floating-point numbers at least."""
SORTED: Final = frozenset(
    [
        "scatter_",
        "scatter",
        "scatter_add_",
        "scatter_add",
        "index_add_",
        "index_add",
        "index_put_",
        "index_put",
        "_index_put_impl_",
        "index_copy_",
        "index_copy",
    ]
)
"""Operators that sort their indices first in deterministic mode."""


class DeviceTensor(torch.Tensor):
    """A tensor that says that it lies on the card; `held` lies on the CPU."""

    held: torch.Tensor
    _allocation: Allocation

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:  # noqa: ANN001
        """Wrap a tensor, as the card's."""
        wrapped: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=False,
        )
        wrapped.held, wrapped._allocation = held, CARD.allocation_of(held)
        return wrapped

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Name shape and dtype; the numbers would be a copy to the host."""
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        """Copy on the card."""
        copied = DeviceTensor(self.held.detach().clone())
        copied.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        memo[id(self)] = copied
        return copied

    def tolist(self) -> Any:
        """Copy to the host first, as torch does."""
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse, as CUDA does."""
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run_operator(func, args, kwargs or {})


def run_operator(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what the tensors hold, if a card would run it; a result of the card is the card's."""
    given, _ = tree_flatten((args, kwargs))
    ours = [each for each in given if isinstance(each, DeviceTensor)]
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    on_card = target.type == NAME if target is not None else bool(ours)
    if not ours and not on_card:
        return func(*args, **kwargs)
    name, overload = _names(func)
    CARD.fault(name)
    _refuse_mixed(func, name, given, ours)
    _refuse_undetermined(name, overload, ours)
    _count(name, args, kwargs, ours, on_card=on_card, target=target)
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if name == "histc" and not args[0].is_floating_point():
        # A card counts whole numbers, which the CPU does in floats alone.
        result = func(args[0].held.float(), *args[1:], **kwargs).to(args[0].dtype)
    elif name == "mm" and overload == "dtype":
        # So does it widen the products of narrow numbers.
        result = aten.mm.default(*(_held(each).to(args[2]) for each in args[:2]))
    else:
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(each.held): each for each in ours}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, DeviceTensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return DeviceTensor(value) if on_card or target is None else value

    if name == "copy_" and not isinstance(args[0], DeviceTensor):
        return args[0]
    return tree_map(wrapped, result)


def _names(func: Any) -> tuple[str, str]:
    """Return the name of an operator and of its overload."""
    name, _, overload = str(func.name()).partition("::")[2].partition(".")
    return name, overload


def _held(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def _refuse_mixed(func: Any, name: str, given: list[Any], ours: list[DeviceTensor]) -> None:
    strangers = [
        each for each in given if isinstance(each, torch.Tensor) and not isinstance(each, DeviceTensor) and each.dim()
    ]
    if ours and strangers and name not in CROSSING:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
            f"(when running {func})"
        )


def _refuse_undetermined(name: str, overload: str, ours: list[DeviceTensor]) -> None:
    floats = any(each.is_floating_point() for each in ours)
    dims = name in {"median", "nanmedian"} and overload != "dim"
    if name in UNDETERMINED and floats and not dims and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(
            f"{name}_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'."
        )


def _count(
    name: str,
    args: Any,
    kwargs: dict[str, Any],
    ours: list[DeviceTensor],
    *,
    on_card: bool,
    target: torch.device | None,
) -> None:
    books = CARD.books
    CARD.launch()
    if name in WAITING or (name == "index" and any(_is_mask(each) for each in args[1] or [])):
        books.note("waits")
    if name in SORTED and torch.are_deterministic_algorithms_enabled():
        books.note("sorted_scatters")
    if name == "copy_":
        into, source = args[0], args[1]
        if isinstance(into, DeviceTensor) and not isinstance(source, DeviceTensor):
            _note_sent(source, into.dtype)
        elif not isinstance(into, DeviceTensor):
            books.note("to_host", source.nbytes)
            books.note("waits")
    elif name == "_to_copy" and on_card and not ours:
        _note_sent(args[0], args[0].dtype)
    elif name == "_to_copy" and target is not None and not on_card:
        books.note("to_host", ours[0].nbytes)
        if not kwargs.get("non_blocking"):  # torch copies into pinned memory, and whoever reads that waits
            books.note("waits")


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _note_sent(source: torch.Tensor, dtype: torch.dtype) -> None:
    """A copy to the device; torch widens on the host what has another dtype there, and sends the wide numbers."""
    if source.dim():
        CARD.books.note("to_device", source.numel() * dtype.itemsize)
        if dtype.itemsize > source.dtype.itemsize:
            CARD.books.note("host_casts")


class Watch(TorchDispatchMode):
    """Sees factories and copies from the host, in which no tensor of the card takes part yet."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operator(func, args, kwargs or {})
