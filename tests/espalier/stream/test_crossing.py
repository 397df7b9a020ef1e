"""The order in which batches cross to a device, and that a stream of hidden states is the same for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from espalier.model.numerics import CPU
from espalier.stream import crossing
from espalier.stream.crossing import Take, crossed

ELSEWHERE = torch.device("meta")


def _parts(count: int, seen: list[str]) -> Iterator[torch.Tensor]:
    for number in range(count):
        seen.append(f"cut {number}")
        yield torch.full((1,), number)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_next_one_begins_before_one_is_computed(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def plainly(_: torch.device) -> Callable[[torch.Tensor], Take]:
        def begin(part: torch.Tensor) -> Take:
            seen.append(f"begin {int(part)}")

            def take() -> torch.Tensor:
                seen.append(f"take {int(part)}")
                return part

            return take

        return begin

    monkeypatch.setattr(crossing, "begin_plainly", plainly)
    seen.extend(f"compute {int(part)}" for part in crossed(_parts(count, seen), ELSEWHERE))
    expected = [word for number in range(min(count, 1)) for word in (f"cut {number}", f"begin {number}")]
    for number in range(count):
        if number + 1 < count:
            expected += [f"cut {number + 1}", f"begin {number + 1}"]
        expected += [f"take {number}", f"compute {number}"]
    assert seen == expected


def test_on_a_cpu_nothing_is_ahead() -> None:
    seen: list[str] = []
    for part in crossed(_parts(3, seen), CPU):
        assert seen[-1] == f"cut {int(part)}"


def test_what_lies_on_the_device_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: torch.device) -> Callable[[torch.Tensor], Take]:
        return lambda _: pytest.fail("nothing has to cross")

    monkeypatch.setattr(crossing, "begin_plainly", refuse)
    numbered: list[Any] = [torch.zeros(1, device=ELSEWHERE)]
    assert list(crossed(numbered, torch.device(ELSEWHERE.type, 1))) == numbered, "a device may lack its number"
    parts = [torch.zeros(2, device=ELSEWHERE) for _ in range(3)]
    assert [each is part for each, part in zip(crossed(parts, ELSEWHERE), parts, strict=True)] == [True] * 3


class _Recorded:
    """What torch.cuda is asked for, in order, on a machine without one."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def Stream(self, _: torch.device) -> _Recorded:  # noqa: N802 - torch's name
        return self

    def stream(self, _: _Recorded) -> _Recorded:
        return self

    def __enter__(self) -> None:
        self.said.append("on the stream of copies")

    def __exit__(self, *_: object) -> None:
        self.said.append("and back")

    def record_event(self) -> str:
        return "event"

    def current_stream(self, _: torch.device) -> _Recorded:
        return self

    def wait_event(self, event: str) -> None:
        self.said.append(f"wait for the {event}")


class _Part:
    """A tensor on the host that says what is done with it."""

    def __init__(self, said: list[str]) -> None:
        self.said, self.device = said, CPU

    def pin_memory(self) -> _Part:
        self.said.append("pin")
        return self

    def to(self, _: torch.device, *, non_blocking: bool) -> _Part:
        self.said.append("copy and go on" if non_blocking else "copy")
        return self

    def record_stream(self, _: _Recorded) -> None:
        self.said.append("keep for the kernels")


def test_on_cuda_a_copy_waits_for_no_kernel_and_the_kernel_for_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Recorded()
    monkeypatch.setattr(torch, "cuda", cuda)
    parts: list[Any] = [_Part(cuda.said)]
    assert list(crossed(parts, torch.device("cuda"))) == parts
    assert cuda.said == [
        "pin",
        "on the stream of copies",
        "copy and go on",
        "and back",
        "wait for the event",
        "keep for the kernels",
    ]
