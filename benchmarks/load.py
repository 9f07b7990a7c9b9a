"""A light HTTP client for many connections, in a process of its own so that it takes no node's time.

Requests are prepared bytes; of an answer only the status and the length are read.
`python -m benchmarks.load` reads its task as JSON from standard input and answers with JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import uvloop

from benchmarks.report import Sample

_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Task:
    """`requests` requests in all, by `clients` at once, each on a connection of its own."""

    port: int
    method: str
    path: str
    body: str
    clients: int
    requests: int
    headers: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers a second; how long each took; the bytes of one answer's body, and its status."""

    per_s: float
    took_s: Sample
    body_bytes: int
    status: int


def rate(task: Task) -> Rate:
    """Run the task in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    spec = json.dumps(asdict(task)).encode()
    answer = json.loads(subprocess.run(command, input=spec, capture_output=True, timeout=_TIMEOUT_S).stdout)
    return Rate(answer["per_s"], Sample.of(answer["took_s"]), answer["body_bytes"], answer["status"])


class _Connection(asyncio.Protocol):
    """One client: sends the request again as soon as it is answered."""

    def __init__(self, request: bytes, count: int) -> None:
        self._request = request
        self._left = count
        self._head = b""
        self._missing = -1  # bytes of the body still to come; below zero while the head is being read
        self._sent_at = 0.0
        self.took_s: list[float] = []
        self.body_bytes = 0
        self.status = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head[9:12])
            assert self.status in (200, 201, 204, 304), head
            _, _, length = head.lower().partition(b"content-length:")
            self.body_bytes = self._missing = int(length.partition(b"\r\n")[0] or 0)
            self._missing -= len(rest)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the node closed the connection"))

    def _answered(self) -> None:
        self.took_s.append(time.perf_counter() - self._sent_at)
        self._head, self._missing = b"", -1
        self._left -= 1
        if self._left:
            self.send()
        elif not self.done.done():
            self.done.set_result(None)


async def _run(task: Task) -> dict[str, object]:
    body = task.body.encode()
    head = f"{task.method} {task.path} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n{task.headers}"
    request = head.encode() + b"\r\n" + body
    loop = asyncio.get_running_loop()
    count = task.requests // task.clients
    connections = [
        (await loop.create_connection(lambda: _Connection(request, count), "127.0.0.1", task.port))[1]
        for _ in range(task.clients)
    ]
    started = time.perf_counter()
    for connection in connections:
        connection.send()
    await asyncio.gather(*(connection.done for connection in connections))
    took = time.perf_counter() - started
    times = [time for connection in connections for time in connection.took_s]
    one = connections[0]
    return {"per_s": len(times) / took, "took_s": times, "body_bytes": one.body_bytes, "status": one.status}


def main() -> None:
    task = Task(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(task))))


if __name__ == "__main__":
    main()
