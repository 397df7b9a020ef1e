"""The dense model's weights where it is computed: each is read, checked and brought there once, whoever asks again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from espalier.errors import NumericalError
from espalier.model.numerics import all_finite, dtype_name
from espalier.model.weights import Weights


class FiniteCheck:
    """Whether tensors hold NaN or infinity, also in dtypes that are narrower; the device is waited for once."""

    def __init__(self, dtypes: Iterable[torch.dtype | None]) -> None:
        """`dtypes`: what the tensors become later on."""
        self._dtypes = [dtype for dtype in dtypes if dtype is not None]
        self._flags: list[tuple[str, str, torch.Tensor]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Look at one tensor of the files."""
        if tensor.is_floating_point():
            self._flags.append((name, "the values", all_finite(tensor)))
            for dtype in self._dtypes:
                if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
                    what = f"in {dtype_name(dtype)} the values"
                    self._flags.append((name, what, all_finite(tensor.to(dtype))))

    def require(self, order: Sequence[str]) -> None:
        """Raise NumericalError for the first tensor, in the order of the files, that holds another number."""
        flags = torch.stack([fine for *_, fine in self._flags]).tolist() if self._flags else []
        broken = [(name, what) for (name, what, _), fine in zip(self._flags, flags, strict=True) if not fine]
        if broken:
            rank = {name: index for index, name in enumerate(order)}
            name, what = min(broken, key=lambda each: rank.get(each[0], len(rank)))
            raise NumericalError(
                f"{what} of {name} are not finite",
                hint="Mend the source's weights, or ask for a wider dtype.",
                module=name.removesuffix(".weight"),
            )


class HeldWeights(Weights):
    """Weights that are kept on a device once they were read: parameters in the compute dtype, the rest as stored."""

    def __init__(
        self, weights: Weights, parameters: Iterable[str], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`parameters`: the tensors of the files that are cast."""
        self.__dict__.update(weights.__dict__)
        self._source, self._parameters = weights, frozenset(parameters)
        self._device, self._dtype = device, dtype
        self._held: dict[str, torch.Tensor] = {}

    def get(self, name: str) -> torch.Tensor:
        """Return a tensor on the device; nobody may write into it."""
        if name not in self._held:
            self._held[name] = self._cast(name, self._source.get(name).to(self._device))
        return self._held[name]

    def hold(self, names: Iterable[str], check: FiniteCheck) -> None:
        """Bring tensors to the device, each checked where it arrives."""
        for name in names:
            tensor = self._source.get(name).to(self._device)
            check.add(name, tensor)
            self._held[name] = self._cast(name, tensor)

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype) if self.home(name) in self._parameters else tensor
