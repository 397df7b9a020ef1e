"""The one sanctioned way to torch from a declaration: it is imported at the first use of an attribute."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch  # noqa: PLC0414 (re-exported)
else:

    class _Lazy:
        """Stand in for the module torch."""

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(importlib.import_module("torch"), name)

    torch = _Lazy()
