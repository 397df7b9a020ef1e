"""Clients that cost little themselves: `python -m tests.load.clients URL PATH CLIENTS SECONDS BODY [KEY]` prints JSON.

Each keeps one connection and sends the next request when the answer to the last one is there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from urllib.parse import urlsplit


async def _client(
    url: str, path: str, body: bytes, key: str, until: float, seconds: list[float], seen: Counter[int]
) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    while time.monotonic() < until:
        began = time.perf_counter()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        seconds.append(time.perf_counter() - began)
        seen[int(answer[9:12])] += 1
    writer.close()


async def _all(url: str, path: str, clients: int, duration: float, body: bytes, key: str) -> dict[str, object]:
    seconds: list[float] = []
    seen: Counter[int] = Counter()
    began = time.monotonic()
    await asyncio.gather(*(_client(url, path, body, key, began + duration, seconds, seen) for _ in range(clients)))
    lasted = time.monotonic() - began
    seconds.sort()
    return {
        "rate": len(seconds) / lasted,
        "p50": seconds[len(seconds) // 2],
        "p99": seconds[int(len(seconds) * 0.99)],
        "statuses": {str(status): count for status, count in seen.items()},
        "clients": clients,
        "seconds": lasted,
    }


if __name__ == "__main__":
    _url, _path, _clients, _duration, _body, *_key = sys.argv[1:]
    import uvloop

    print(json.dumps(uvloop.run(_all(_url, _path, int(_clients), float(_duration), _body.encode(), "".join(_key)))))  # noqa: T201
