"""Nodes as processes of their own, from their start to their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from crdtmail.client import Client

_STOP_S = 20


@dataclass(frozen=True, slots=True)
class RunningNode:
    port: int
    pid: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Client:
        return Client(self.address)

    def memory_bytes(self) -> tuple[int, int]:
        """What the process has resident in all, and of that what is its own, pages of its files apart."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        return tuple(int(found[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def node(data: Path, *peers: str, name: str = "mx") -> AbstractContextManager[RunningNode]:
    """A node as operators start it."""
    words = ["crdtmail", "node", "--name", name, "--data", str(data), "--listen", "127.0.0.1:0"]
    return _process(words + [word for peer in peers for word in ("--peer", peer)])


def variant(kind: str, data: Path) -> AbstractContextManager[RunningNode]:
    """A node that differs in one thing: see `variants`."""
    return _process(["benchmarks.variants", kind, str(data)])


@contextmanager
def _process(words: list[str]) -> Iterator[RunningNode]:
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().decode()
        yield RunningNode(int(ready.split("127.0.0.1:")[1].split(",")[0]), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
