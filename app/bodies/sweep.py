"""The body of POST /v1/sweeps: a request, and lists of values for some of its fields."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec

Pointer = Annotated[str, Field(min_length=2, max_length=300, pattern=r"^(/[^/]+)+$")]
MAX_CHILDREN = 256
MAX_SPELLED_OUT = 300_000
"""Values of the base, times points: every point has its own copy."""


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid: the value of every axis and the request that they make."""

    values: dict[str, Any]
    request: dict[str, Any]


class SweepRequest(Spec):
    """One job per combination of the axes' values."""

    name: str | None = Field(None, min_length=1, max_length=200)
    base: dict[str, Any] = Field(max_length=16, description="A job's request; what the axes give may be left out.")
    axes: dict[Pointer, Annotated[list[Any], Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=8, description='JSON Pointer into `base` -> values: {"/spec/prune/sparsity": [0.5]}.'
    )
    max_children: int = Field(64, ge=1, le=MAX_CHILDREN, description="A larger grid is refused.")

    @model_validator(mode="after")
    def _grid_is_bounded(self) -> SweepRequest:
        count = 1
        for values in self.axes.values():
            count *= len(values)
        if count > self.max_children:
            raise PydanticCustomError(
                "too_many_children",
                "the grid has {count} points, `max_children` is {most}",
                {"count": count, "most": self.max_children, "at": "axes"},
            )
        return self

    @model_validator(mode="after")
    def _copies_are_bounded(self) -> SweepRequest:
        values = _count(self.base) + max(_count(value) for values in self.axes.values() for value in values)
        points = math.prod(len(values) for values in self.axes.values())
        if values * points > MAX_SPELLED_OUT:
            raise PydanticCustomError(
                "sweep_too_large",
                "{points} points of {values} values each are more than {most}: sweep over less at once",
                {"points": points, "values": values, "most": MAX_SPELLED_OUT, "at": "axes"},
            )
        return self

    @model_validator(mode="after")
    def _points_do_not_publish_over_each_other(self) -> SweepRequest:
        spec = self.base.get("spec")
        output = spec.get("output") if isinstance(spec, dict) else None
        moved = any(pointer.startswith("/spec/output/publish") for pointer in self.axes)
        if isinstance(output, dict) and output.get("publish") and not moved:
            raise PydanticCustomError(
                "one_place_for_all",
                "all points would publish to one place: publish the best job afterwards, or make it an axis",
                {"at": "base/spec/output/publish"},
            )
        return self

    def points(self) -> Iterator[GridPoint]:
        """Return every combination, the last axis fastest; ValueError names an axis that leads nowhere."""
        for combination in itertools.product(*self.axes.values()):
            values = dict(zip(self.axes, combination, strict=True))
            request = copy.deepcopy(self.base)
            for pointer, value in values.items():
                place(request, pointer, value)
            yield GridPoint(values, request)


def _count(value: object) -> int:
    """Return the number of values in a document, itself included."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, items))


def place(document: Any, pointer: str, value: object) -> None:  # noqa: ANN401 - JSON
    """Set what a JSON Pointer leads to; objects on the way are made, lists are not."""
    *steps, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    for step in steps:
        document = _step(document, step, pointer)
    if isinstance(document, dict):
        document[last] = copy.deepcopy(value)
    elif isinstance(document, list) and last.isdecimal() and int(last) < len(document):
        document[int(last)] = copy.deepcopy(value)
    else:
        raise ValueError(pointer)


def _step(document: Any, step: str, pointer: str) -> Any:  # noqa: ANN401 - JSON
    if isinstance(document, dict):
        return document.setdefault(step, {})
    if isinstance(document, list) and step.isdecimal() and int(step) < len(document):
        return document[int(step)]
    raise ValueError(pointer)
