"""The bytes of a stream are the contract: clients of before read them too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import InvalidCursor
from app.sse import event_stream, frame, seq_of


async def _items() -> AsyncIterator[int | None]:
    yield 1
    yield None
    yield 2


def test_a_stream_is_retry_then_id_and_data_of_each_event_and_comments_between() -> None:
    response = event_stream(_items(), lambda number: frame(str(number), b'{"seq": %d}' % number))

    async def sent() -> bytes:
        return b"".join([bytes(part) async for part in response.body_iterator if not isinstance(part, str)])

    whole = b'retry: 2000\n\nid: 1\ndata: {"seq": 1}\n\n: beat\n\nid: 2\ndata: {"seq": 2}\n\n'
    assert asyncio.run(sent()) == whole
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.parametrize("id_", ["", "-1", "1.0", " 1", "²", "1" * 19, "job_1"])
def test_an_id_that_is_no_seq_is_refused(id_: str) -> None:
    with pytest.raises(InvalidCursor):
        seq_of(id_)


def test_a_seq_is_read() -> None:
    assert seq_of("9" * 18) == 10**18 - 1
