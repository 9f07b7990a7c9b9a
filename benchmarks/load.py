"""A light HTTP client for many connections: prepared bytes out, and little is read of what comes back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.report import percentile


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers a second, and how long one took."""

    per_s: float
    median_ms: float
    p99_ms: float


def rate(port: int, method: str, path: str, body: bytes, *, clients: int, requests: int) -> Rate:
    """So many requests, by so many clients at once, each on a connection of its own."""
    head = f"{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // clients):
            started = time.perf_counter()
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert answer.startswith(b"http/1.1 20"), answer
            await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - started)
        writer.close()

    async def run() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - started

    took = asyncio.run(run())
    return Rate(len(times) / took, percentile(times, 0.5) * 1000, percentile(times, 0.99) * 1000)
