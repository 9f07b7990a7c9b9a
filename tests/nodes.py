"""Whole nodes for tests: several in one event loop, with links that can be cut, or as processes."""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from crdtmail import daemon
from crdtmail.client import Client
from crdtmail.config import Config
from crdtmail.crdt.clock import Clock
from crdtmail.demo import Link
from crdtmail.gossip.session import Timing
from crdtmail.node import Node
from crdtmail.security import tokens
from crdtmail.security.tokens import Scope

T = TypeVar("T")
QUICK = Timing(interval_s=0.2, grace_s=0.05, first_retry_s=0.05, last_retry_s=0.2)
PATIENCE_S = 30.0

MESH = {"mx1": ["mx2", "mx3"], "mx2": ["mx1", "mx3"], "mx3": ["mx1", "mx2"]}
CHAIN = {"mx1": ["mx2"], "mx2": ["mx1", "mx3"], "mx3": ["mx2"]}
STAR = {"mx1": ["mx2", "mx3", "mx4"], "mx2": ["mx1"], "mx3": ["mx1"], "mx4": ["mx1"]}


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous test."""
    return asyncio.run(work)


async def until(true: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for a condition; fail, saying what did not happen, when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"did not happen within {PATIENCE_S:.0f} s: {what}")


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.body["status"] == self.status
        return str(self.body["type"]).removeprefix("/problems/")


@dataclass
class Running:
    """One node in this process."""

    name: str
    node: Node
    port: int
    http: aiohttp.ClientSession

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> tuple[Clock, int]:
        """What it holds, however much of its log is pruned."""
        return self.node.head.clock, self.node.head.digest

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        url = self.address + path
        async with self.http.request(method, url, json=body, data=data, headers=headers) as response:
            raw = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
            parsed = await response.json(content_type=None) if is_json and raw else raw
            return Answer(response.status, response.headers, parsed)

    def digest(self) -> int:
        return self.node.head.digest


class Cluster:
    """Nodes by name; each calls its peers through a link of its own, which can be cut."""

    def __init__(self, folder: Path, topology: Mapping[str, Sequence[str]], stack: AsyncExitStack) -> None:
        self._folder = folder
        self._topology = topology
        self._stack = stack
        self._stacks: dict[str, AsyncExitStack] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.nodes: dict[str, Running] = {}

    async def prepare(self) -> None:
        for source, targets in self._topology.items():
            for target in targets:
                link = Link(source, target)
                server = await link.open()
                self._stack.callback(server.close)
                self._stack.callback(link.cut)
                self.links[source, target] = link

    async def start(self, name: str) -> Running:
        stack = self._stacks[name] = AsyncExitStack()
        peers = tuple(self.links[name, peer].address for peer in self._topology[name])
        config = Config(name, self._folder / name, "127.0.0.1", 0, peers, QUICK, cluster="tests")
        node, port = await stack.enter_async_context(daemon.running(config))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for (_, target), link in self.links.items():
            if target == name:
                link.target = port
        self.nodes[name] = Running(name, node, port, http)
        return self.nodes[name]

    async def stop(self, name: str) -> None:
        await self._stacks.pop(name).aclose()
        del self.nodes[name]

    async def stop_all(self) -> None:
        for name in list(self._stacks):
            await self.stop(name)

    def cut(self, *names: str) -> None:
        """Cut these nodes off from all the others; among themselves they stay connected."""
        for (source, target), link in self.links.items():
            if (source in names) != (target in names):
                link.cut()

    def heal(self) -> None:
        for link in self.links.values():
            link.is_cut = False

    async def converged(self) -> None:
        """Wait until all nodes that run have applied the same, and hold the same."""

        def equal() -> bool:
            first, *others = [it.node.head for it in self.nodes.values()]
            return all(it.clock == first.clock and it.digest == first.digest for it in others)

        await until(equal, "all nodes have equal clocks and digests")


@asynccontextmanager
async def cluster(
    folder: Path, topology: Mapping[str, Sequence[str]], *, start: bool = True
) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        made = Cluster(folder, topology, stack)
        await made.prepare()
        stack.push_async_callback(made.stop_all)
        if start:
            for name in topology:
                await made.start(name)
        yield made


@asynccontextmanager
async def single(folder: Path, *, timing: Timing = QUICK) -> AsyncIterator[Running]:
    config = replace(Config("mx1", folder, "127.0.0.1", 0, (), QUICK), timing=timing)
    async with daemon.running(config) as (node, port), aiohttp.ClientSession() as http:
        yield Running("mx1", node, port, http)


PYTHON_MODULE = ("-m", "crdtmail")
READY = re.compile(r"listening on (https?://\S+:\d+),")


SECRET = "a secret that every test knows, so none at all"
TOKEN = "crdtmail_" + "A" * 43
"""What a node that listens beyond loopback lets everybody in with."""


def node_command(
    data: Path, *arguments: str, listen: str = "127.0.0.1:0", program: Sequence[str] = PYTHON_MODULE
) -> list[str]:
    """The command that starts a node.  What a node needs to listen beyond loopback is said here alone."""
    given = ["node", "--data", str(data), "--listen", listen, *arguments]
    if not listen.startswith("127.") and not (data / "tokens.json").exists():
        data.mkdir(parents=True, exist_ok=True)
        scopes = [Scope.READ, Scope.WRITE, Scope.ADMIN]
        assert tokens.create(data, "test", scopes, ["*"], bytes(tokens.TOKEN_BYTES)) == TOKEN
    return [sys.executable, *program, *given]


def write_timing(folder: Path, *, keep_mb: float | None = None) -> Path:
    """A configuration of a named cluster, in which everything that is periodic is quick, perhaps with a short
    log."""
    file = folder / "quick.toml"
    kept = "" if keep_mb is None else f"[log]\nkeep_mb = {keep_mb}\n"
    file.write_text(f'cluster = "tests"\n[gossip]\ninterval = 0.2\ngrace = 0.05\nlast_retry = 0.2\n{kept}')
    return file


@dataclass
class NodeProcess:
    """One node as a process of its own."""

    process: subprocess.Popen[bytes]
    address: str
    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self) -> Client:
        """A connection of its own, closed with the node."""
        self.clients.append(Client(self.address))
        return self.clients[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def starting(
    data: Path,
    *arguments: str,
    listen: str = "127.0.0.1:0",
    program: Sequence[str] = PYTHON_MODULE,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A node's process that need not be in service yet.  It is ended at the latest with the block."""
    command = [*prefix, *node_command(data, *arguments, listen=listen, program=program)]
    with (data.parent / f"{data.name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=None if env is None else {**os.environ, **env},
        )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a test may have stopped it
            process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def node_process(
    data: Path,
    *arguments: str,
    listen: str = "127.0.0.1:0",
    program: Sequence[str] = PYTHON_MODULE,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[NodeProcess]:
    """A node in a process, in service, which is ended at the latest with the block."""
    with starting(data, *arguments, listen=listen, program=program, prefix=prefix, env=env) as process:
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline().decode())
        assert ready is not None, (data.parent / f"{data.name}.log").read_text()
        it = NodeProcess(process, ready[1])
        try:
            yield it
        finally:
            for client in it.clients:
                client.close()


_FIRST_PORT = 10_000


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, and that the system gives to nobody who does not ask for one.

    A node that is down for a while would else find that a connection of another test has got its port.
    """
    given_away = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    chance = random.SystemRandom()  # not the one that Hypothesis sets back
    found = set[int]()
    while len(found) < count:
        port = chance.randrange(_FIRST_PORT, int(given_away[0]))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)
