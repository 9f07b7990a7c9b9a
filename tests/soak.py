"""Steady load for a long time, with faults: what a node holds of memory, files, log and disk must stay level.

Three nodes in processes, joined by relays.  Writers deliver, flag, read and expunge at a steady rate, so the
mailboxes keep their size; every few seconds a node is killed, stopped or cut off for a while.  mx1 is never
killed: what it leaks adds up, and is what is judged.  Thirty minutes at 50 changes a second are as many as a
mail server with one a second has in a day.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from crdtmail.client import Client, Refused, Unreachable
from crdtmail.verify import verify
from tests import endings
from tests.endings import asking
from tests.nodes import PATIENCE_S, NodeProcess, free_ports, node_process, write_timing
from tests.rough_link import RoughLink, rough_links

NAMES = ("mx1", "mx2", "mx3")
KEPT = 200  # messages that a writer leaves in its mailbox
_MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """What one node holds: memory of its own (which mapped pages of the data file are not), open files, what
    its data file takes on the disk, and the log: its deltas and their bytes."""

    at_s: float
    rss: int
    files: int
    disk: int
    deltas: int
    log: int


@dataclass(frozen=True)
class Limits:
    """How much more the last third of a run may hold than the second, in the median."""

    rss: int = 8 * _MIB
    files: int = 8
    disk: int = 8 * _MIB
    deltas: int = 1000
    log: int = 128 * 1024
    """Both of the log.  It is pruned every HOUSE_S, and kept while a fault lasts: in some 15 s, 600 deltas
    come at the usual rate.  If it were not pruned, each third of half an hour would add 25,000."""


COARSE = Limits(rss=24 * _MIB, files=16, disk=32 * _MIB, deltas=100, log=12 * 1024)
"""For a run of seconds in which housekeeping is done all the time."""


def judge(samples: Sequence[Sample], limits: Limits) -> None:
    """Raises AssertionError, naming what has grown.  The first third of a run may fill caches."""
    third = len(samples) // 3
    assert third >= 2, "too few samples to judge"
    earlier, later = samples[third : 2 * third], samples[2 * third :]

    def growth(of: Callable[[Sample], int]) -> float:
        return median(map(of, later)) - median(map(of, earlier))

    assert growth(lambda it: it.files) <= limits.files, "open files have grown"
    assert growth(lambda it: it.rss) <= limits.rss, "memory has grown"
    assert growth(lambda it: it.disk) <= limits.disk, "the data file has grown"
    assert growth(lambda it: it.deltas) <= limits.deltas, "the log has grown"
    assert growth(lambda it: it.log) <= limits.log, "the bytes of the log have grown"


def sample(node: NodeProcess, data: Path, at_s: float) -> Sample:
    pid = node.process.pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    rss = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    with asking(node.address) as client:
        log = client.status()["log"]
    disk = (data / "data.mdb").stat().st_blocks * 512
    return Sample(at_s, rss, len(os.listdir(f"/proc/{pid}/fd")), disk, log["deltas"], log["bytes"])


class Soak:
    """The nodes, their relays, and what is done to them."""

    def __init__(self, folder: Path, seed: int, program: Sequence[str], stack: ExitStack) -> None:
        self._folder = folder
        self._program = program
        self._timing = write_timing(folder)
        self._ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.chance = random.Random(seed)
        self.links = {
            (source, target): RoughLink(self._ports[target], delay_s=0.001, loss=0.002, seed=seed)
            for source in NAMES
            for target in NAMES
            if source != target
        }
        stack.enter_context(rough_links(*self.links.values()))
        self._stacks: dict[str, ExitStack] = {}
        self.nodes: dict[str, NodeProcess] = {}
        stack.callback(self.stop)
        for name in NAMES:
            self.start(name)
        self.changes = 0
        self.faults: Counter[str] = Counter()

    def data(self, name: str) -> Path:
        return self._folder / name

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def start(self, name: str) -> None:
        peers = [link.address for (source, _), link in self.links.items() if source == name]
        arguments = ["--config", str(self._timing), "--name", name]
        stack = self._stacks[name] = ExitStack()
        self.nodes[name] = stack.enter_context(
            node_process(
                self.data(name),
                *arguments,
                *(part for peer in peers for part in ("--peer", peer)),
                listen=f"127.0.0.1:{self._ports[name]}",
                program=self._program,
            )
        )

    def stop(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        self._stacks.clear()

    def fault(self, stopping: threading.Event) -> None:
        """One fault, and its end."""
        kind, name = self.chance.choice(["kill", "stop", "cut"]), self.chance.choice(NAMES)
        lasts_s = self.chance.uniform(0.2, 3)
        if kind == "kill" and name != "mx1":
            self.nodes[name].kill()
            self._stacks.pop(name).close()
            self.start(name)
        elif kind == "stop":
            self.nodes[name].process.send_signal(signal.SIGSTOP)
            stopping.wait(lasts_s)
            self.nodes[name].process.send_signal(signal.SIGCONT)
        else:
            kind = "cut"
            ends = [link for ends, link in self.links.items() if name in ends]
            for link in ends:
                link.is_cut = True
            stopping.wait(lasts_s)
            for link in ends:
                link.is_cut = False
        self.faults[kind] += 1

    def write(self, name: str, account: str, rate: float, stopping: threading.Event) -> None:
        """Change things at a steady rate, through whatever happens to the node."""
        kept, number = deque[str](), 0
        with asking(self.address(name)) as client:
            while not stopping.wait(1 / rate):
                try:
                    number += 1
                    self._change(client, account, f"{account}-{time.time_ns()}", number, kept)
                    self.changes += 1
                except Unreachable:
                    stopping.wait(0.1)
                except Refused as error:
                    if error.status != 503:  # it is stopping
                        raise

    def _change(self, client: Client, account: str, id: str, number: int, kept: deque[str]) -> None:
        match number % 4:
            case 0 | 1:
                client.at(account, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
                kept.append(id)
            case 2 if kept:
                patch = {"ids": [kept[-1]], "patch": {"keywords/$seen": True}}
                client.at(account, "INBOX", "PATCH", "/messages", patch)
            case _:
                if len(kept) > KEPT:
                    gone = [kept.popleft() for _ in range(len(kept) - KEPT)]
                    client.at(account, "INBOX", "POST", "/expunge", {"ids": gone})
                else:
                    client.at(account, "INBOX", "GET", query={"limit": "50"})


@contextmanager
def _writing(it: Soak, rate: float) -> Iterator[list[BaseException]]:
    """Writers at all nodes, to the end of the block; gives what went wrong in them."""
    stopping, problems = threading.Event(), list[BaseException]()

    def write(name: str) -> None:
        try:
            it.write(name, f"user-{name}", rate / len(NAMES), stopping)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    try:
        yield problems
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def run(
    folder: Path,
    *,
    seconds: float,
    rate: float,
    seed: int,
    limits: Limits,
    program: Sequence[str] = ("-m", "crdtmail"),
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Load and faults for so long; then all must be equal and sound, and what mx1 holds be level."""
    with ExitStack() as stack:
        it = Soak(folder, seed, program, stack)
        for name in NAMES:
            with asking(it.address(name)) as client:
                client.create_mailbox(f"user-{name}", "INBOX")
        samples: list[Sample] = []
        never = threading.Event()
        begun = time.monotonic()
        pause_s = max(1.0, seconds / 200)
        with _writing(it, rate) as problems:
            while (now := time.monotonic() - begun) < seconds:
                samples.append(sample(it.nodes["mx1"], it.data("mx1"), now))
                if len(samples) % 20 == 0:
                    say(f"{samples[-1]}")
                it.fault(never)
                never.wait(pause_s)
                assert not problems, problems
        addresses = [it.address(name) for name in NAMES]
        endings.until_equal(lambda: verify(addresses, timeout_s=PATIENCE_S))
        for node in it.nodes.values():
            with asking(node.address) as client:
                assert client.status()["alarms"] == []
        endings.end_well(
            lambda: verify(addresses, timeout_s=PATIENCE_S), it.stop, [it.data(name) for name in NAMES]
        )
        assert it.changes > seconds * rate / 4, "the load came to a stand"
        judge(samples, limits)
        first, last = samples[len(samples) // 3], samples[-1]
        return f"{it.changes} changes, faults {dict(it.faults)}; a third into it {first}, at the end {last}"
