"""Nodes in network namespaces of their own, joined by a bridge: real interfaces, routes and packets.

Owns the namespaces, which go when the block ends, and what can be done to them.  Needs root and `ip`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from crdtmail.client import Client, Credentials
from crdtmail.verify import Verdict, verify
from tests.nodes import SECRET, TOKEN, NodeProcess, node_process

T = TypeVar("T")
PORT = 7420
_CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip"
    name = f"crdtmail-{os.getpid()}-try"
    if _ip("netns", "add", name, check=False):
        return "this kernel or container has no network namespaces"
    cannot = _ip("-n", name, "link", "add", "bridge", "type", "bridge", check=False) or _ip(
        "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two", check=False
    )
    _ip("netns", "del", name)
    return "this kernel has no bridges or no veth pairs" if cannot else ""


def _ip(*arguments: str, check: bool = True) -> int:
    done = subprocess.run(["ip", *arguments], stderr=subprocess.PIPE, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.returncode


class Network:
    """Some nodes, each in a namespace, with an interface on one bridge."""

    def __init__(self, names: Sequence[str], stack: ExitStack) -> None:
        self._prefix = f"crdtmail-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self._stack = stack
        self.names = tuple(names)
        self.nodes: dict[str, NodeProcess] = {}
        self._started: dict[str, tuple[Path, tuple[str, ...]]] = {}
        self._lives: dict[str, ExitStack] = {}
        self._inside: dict[str, ThreadPoolExecutor] = {}
        self._add_namespace(self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in names:
            self._join(name)

    def _add_namespace(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._stack.callback(_ip, "netns", "del", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _join(self, name: str) -> None:
        namespace = self._namespace(name)
        self._add_namespace(namespace)
        peer = ("peer", "name", name, "netns", self._switch)
        _ip("-n", namespace, "link", "add", "eth0", "type", "veth", *peer)
        _ip("-n", namespace, "addr", "add", f"{self._host(name)}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        executor = ThreadPoolExecutor(1, initializer=_enter, initargs=(namespace,))
        self._stack.callback(executor.shutdown)
        self._inside[name] = executor

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _host(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def address(self, name: str) -> str:
        return f"http://{self._host(name)}:{PORT}"

    def start(self, name: str, data: Path, *arguments: str) -> NodeProcess:
        """A node that has all the others as its peers."""
        self._started[name] = (data, arguments)
        peers = [part for other in self.names if other != name for part in ("--peer", self.address(other))]
        node = node_process(
            data,
            "--name",
            name,
            *peers,
            *arguments,
            listen=f"{self._host(name)}:{PORT}",
            prefix=("ip", "netns", "exec", self._namespace(name)),
            env={"CRDTMAIL_CLUSTER_SECRET": SECRET},
        )
        stack = self._lives[name] = ExitStack()
        self._stack.callback(stack.close)
        self.nodes[name] = stack.enter_context(node)
        return self.nodes[name]

    def restart(self, name: str) -> None:
        """Stop the node and start it with the same data: whoever wants to talk to it has to call again."""
        self._lives.pop(name).close()
        data, arguments = self._started[name]
        self.start(name, data, *arguments)

    def stop(self) -> None:
        """Stop all nodes."""
        for life in self._lives.values():
            life.close()
        self._lives.clear()

    # What is asked --------------------------------------------------------------------------------------

    def within(self, name: str, work: Callable[[], T]) -> T:
        """Run `work` in the namespace of a node: sockets that it makes are in that network."""
        return self._inside[name].submit(work).result()

    def ask(self, name: str, query: Callable[[Client], T]) -> T:
        """Ask a node from where it runs, whatever is cut."""

        def work() -> T:
            client = Client(self.address(name), Credentials(TOKEN), timeout_s=30)
            try:
                return query(client)
            finally:
                client.close()

        return self.within(name, work)

    def peer_status(self, name: str, of: str) -> dict[str, Any]:
        """What a node says about another."""
        peers: list[dict[str, Any]] = self.ask(name, lambda client: client.status())["peers"]
        return next(peer for peer in peers if peer["address"] == self.address(of))

    def verify(self, name: str) -> Verdict:
        """`crdtmail verify` as it would be run on that node's machine."""
        addresses = [self.address(each) for each in self.names]
        return self.within(name, lambda: verify(addresses, Credentials(TOKEN), timeout_s=30))

    # What is broken -------------------------------------------------------------------------------------

    @contextmanager
    def isolated(self, name: str) -> Iterator[None]:
        """The node's cable is out of the switch: its packets and those for it vanish."""
        _ip("-n", self._switch, "link", "set", name, "down")
        try:
            yield
        finally:
            _ip("-n", self._switch, "link", "set", name, "up")

    @contextmanager
    def blocked(self, source: str, target: str) -> Iterator[None]:
        """`source` can open no connection to `target`, which still can to `source`: a rule of a firewall."""
        _ip("-n", self._namespace(source), "rule", "add", *self._rule(target))
        try:
            yield
        finally:
            _ip("-n", self._namespace(source), "rule", "del", *self._rule(target))

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """The node stands still: its machine answers packets, it does not."""
        process = self.nodes[name].process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _rule(self, target: str) -> tuple[str, ...]:
        return ("to", self._host(target), "ipproto", "tcp", "dport", str(PORT), "prohibit")

    def slow_down(self, name: str, *netem: str) -> bool:
        """Delay, lose or reorder what the node sends.  False if this kernel has no netem."""
        command = ["tc", "-n", self._namespace(name), "qdisc", "add", "dev", "eth0", "root", "netem", *netem]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def speed_up(self, name: str) -> None:
        subprocess.run(["tc", "-n", self._namespace(name), "qdisc", "del", "dev", "eth0", "root"], check=True)


def _enter(namespace: str) -> None:
    """Let this thread be in another network namespace."""
    with open(f"/var/run/netns/{namespace}", "rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def network(*names: str) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(names, stack)
