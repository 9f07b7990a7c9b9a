"""Three nodes that call each other, in processes, and their lives and deaths.

Owns the processes, what is read from the disk of a dead one, and what must be true after each kill.  What is
going on while a node is killed is in `kills` and `kill_moments`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crdtmail import LmdbStore, Tables
from crdtmail.store.tables import FORMAT, Lsn
from crdtmail.verify import Verdict, verify
from crdtmail.web.documents import clock as plain_clock
from simulations.recount import recount
from tests import endings
from tests.ledger import Ledger
from tests.nodes import PATIENCE_S, NodeProcess, free_ports, node_process, write_timing
from tests.stepwise import PROGRAM

T = TypeVar("T")

NAMES = ("mx1", "mx2", "mx3")
BOXES = ("INBOX", "Archive")
KEEP_MB = 0.25
"""How much of its log a node keeps for one that is away: more than any load writes meanwhile, less than what
is written where a snapshot is wanted."""

MISSED = ""
"""Where a kill hit that did not hit what it was meant for."""

_DIVERGED = "different digests"


@dataclass(frozen=True)
class Disk:
    """What a dead node has on its disk."""

    format: int | None
    clock: dict[str, int]
    digest: int
    log: tuple[int, ...]
    """The LSNs of the deltas in it."""
    staged: dict[str, int]
    """How many messages have come of another node's mailboxes, by id."""


class Campaign:
    """The nodes, by name, and what was answered by them."""

    def __init__(self, folder: Path, seed: int, program: Sequence[str] = PROGRAM) -> None:
        self._folder = folder
        self._program = program
        self._timing = write_timing(folder, keep_mb=KEEP_MB)
        self._ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self._stacks: dict[str, ExitStack] = {}
        self._replicas: dict[str, str] = {}
        self._read_logs: Counter[str] = Counter()
        self.chance = random.Random(seed)
        self.opening_s = 1.0
        """How long it took to start a node, the last time."""
        self.nodes: dict[str, NodeProcess] = {}
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()
        """In each phase."""
        self.hits: Counter[str] = Counter()
        """Those of them that hit what they were meant for."""
        self.moments: Counter[tuple[str, str]] = Counter()
        """These, by where they hit."""

    def __enter__(self) -> Campaign:
        for name in NAMES:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        self._stacks.clear()

    # Lives and deaths -----------------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        return self._folder / name

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def others(self, name: str) -> list[str]:
        return [other for other in NAMES if other != name]

    def command(self, name: str) -> dict[str, Any]:
        """What starts a node in its place."""
        peers = [part for other in self.others(name) for part in ("--peer", self.address(other))]
        return {
            "arguments": ["--config", str(self._timing), "--name", name, *peers],
            "listen": f"127.0.0.1:{self._ports[name]}",
            "program": self._program,
        }

    def start(self, name: str, *, alone: bool = False) -> NodeProcess:
        """Start a node that does not run; `alone` it knows nobody, and nobody finds it."""
        self.end(name)
        given = self.command(name)
        if alone:
            given |= {"arguments": ["--config", str(self._timing), "--name", name], "listen": "127.0.0.1:0"}
        begun = time.monotonic()
        stack = self._stacks[name] = ExitStack()
        arguments = given.pop("arguments")
        self.nodes[name] = stack.enter_context(node_process(self.folder(name), *arguments, **given))
        self.opening_s = time.monotonic() - begun
        return self.nodes[name]

    def kill(self, name: str) -> None:
        self.nodes[name].kill()

    def end(self, name: str) -> None:
        """What is left of a node's process goes, and the process itself if it lives."""
        if name in self._stacks:
            self._stacks.pop(name).close()

    def disk(self, name: str) -> Disk:
        """What is on the disk of a dead node, which must be sound unless it is of an older format."""

        def read(tables: Tables) -> Disk:
            head = tables.head()
            staged = {mailbox.hex(): each.total for _, mailbox, each in tables.staged()}
            log = () if tables.format() != FORMAT else tuple(int(it.lsn) for it in tables.log_from(Lsn(0)))
            return Disk(tables.format(), plain_clock(head.clock), head.digest, log, staged)

        found = self.ask_disk(name, read)
        if found.format == FORMAT:
            wrong = endings.findings(self.folder(name))
            assert not wrong, f"{name} has left a store that is not sound: {wrong[:5]}"
        return found

    def ask_disk(self, name: str, query: Callable[[Tables], T]) -> T:
        with closing(LmdbStore(self.folder(name))) as store, store.snapshot() as snapshot:
            return query(Tables(snapshot))

    def pause(self, at_most_s: float) -> None:
        time.sleep(self.chance.uniform(0, at_most_s))

    # What a node says -----------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        with endings.asking(self.address(name)) as client:
            return client.status()

    def verify(self, *names: str) -> Verdict:
        return verify([self.address(name) for name in names], timeout_s=PATIENCE_S)

    def log_size(self, name: str) -> int:
        return self._log(name).stat().st_size

    def said(self, name: str, since: int = 0) -> str:
        """What a node has said on stderr since its log had that size."""
        with self._log(name).open("rb") as log:
            log.seek(since)
            return log.read().decode()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    # What must be true ----------------------------------------------------------------------------------

    def prepare(self, account: str) -> None:
        """Make the account if it is not there."""
        client = self.nodes[NAMES[0]].client()
        if account not in [each["account"] for each in client.accounts()]:
            for box in BOXES:
                client.create_mailbox(account, box)
            self.check(account)

    def fillings(self) -> dict[str, Any]:
        """The last snapshot that each node has taken over in this life."""
        return {name: self.status(name)["lastFilling"] for name in NAMES}

    def check(self, account: str, *, may_differ: bool = False) -> None:
        """Wait until the nodes are equal, and hold what they show against all that was answered.

        `may_differ`: something was put out of order on purpose, and the nodes may have said so.
        """
        documents = self._until_equal(account)
        shown = {
            box: {message["id"]: set(message["keywords"]) for message in document["messages"]}
            for box, document in documents.items()
        }
        some = next(iter(self.nodes.values())).client()
        self.ledger.check(account, shown, {box["name"] for box in some.mailboxes(account)})
        for name in NAMES:
            if may_differ:
                until(lambda name=name: not self.status(name)["alarms"], f"{name} withdraws its alarm")  # type: ignore[misc]
            status = self.status(name)
            assert status["alarms"] == [], f"{name} raises an alarm"
            assert status["refusedFromPeers"] == 0, f"{name} has refused something of a peer"
            assert self._replicas.setdefault(name, status["replica"]) == status["replica"], (
                f"{name} is another"
            )
            said = self.said(name, self._read_logs[name])
            self._read_logs[name] += len(said.encode())
            assert may_differ or _DIVERGED not in said, f"{name} raises an alarm: {said}"
            assert "Traceback" not in said, said

    def _until_equal(self, account: str) -> dict[str, dict[str, Any]]:
        """Wait until the nodes have applied the same and show the same, UIDs included; what they show."""
        boxes = sorted({*BOXES, *self.ledger.boxes(account)})
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            endings.until_equal(lambda: self.verify(*NAMES), PATIENCE_S)
            documents = [
                {box: it.client().mailbox(account, box, limit=100_000) for box in boxes}
                for it in self.nodes.values()
            ]
            shown = [[document["messages"] for document in each.values()] for each in documents]
            if all(each == shown[0] for each in shown):
                return documents[0]
            time.sleep(0.02)
        raise AssertionError("the nodes do not become equal")

    def finish(self) -> None:
        """Every account once more; then all nodes are stopped, and their stores must be sound."""
        with endings.asking(self.address(NAMES[0])) as client:
            accounts = [each["account"] for each in client.accounts()]
        for account in accounts:
            self.check(account)
        endings.end_well(
            lambda: self.verify(*NAMES),
            self.stop,
            [self.folder(name) for name in NAMES],
        )
        for name in NAMES:
            self.ask_disk(name, recount)


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a condition, looking often; fail, saying what did not happen, when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"did not happen within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.002)


def covers(clock: Mapping[str, int], other: Mapping[str, int]) -> bool:
    return all(clock.get(replica, 0) >= seq for replica, seq in other.items())
