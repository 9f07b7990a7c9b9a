"""kill -9 of nodes under load: three nodes in processes; one of them dies at a random moment, over and over.

Owns what is done while a node is killed (`PHASES`) and what must be true afterwards (`Ledger`).  A new kind
of work (a snapshot that is being fetched, a log that is being pruned, a store that is being migrated) is one
more entry of `PHASES`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from crdtmail import LmdbStore, Tables
from crdtmail.client import Client, Unreachable
from crdtmail.verify import verify
from simulations.recount import recount
from tests.nodes import PATIENCE_S, NodeProcess, free_ports, node_process, starting, write_timing

NAMES = ("mx1", "mx2", "mx3")
BOXES = ("INBOX", "Archive")
ROUNDS_AN_ACCOUNT = 10  # so that what is read after each kill stays small
WRITERS = 4


class Ledger:
    """What was answered.

    Whoever tries to take something away says so first: until it is answered, both outcomes are right.
    """

    def __init__(self) -> None:
        self._must: dict[tuple[str, str], dict[str, bool]] = {}
        self._flags: dict[str, set[str]] = {}
        self._names: dict[str, dict[str, bool]] = {}
        self.answers = 0

    def present(self, account: str, box: str, *ids: str) -> None:
        self._must.setdefault((account, box), {}).update(dict.fromkeys(ids, True))
        self.answers += 1

    def absent(self, account: str, box: str, *ids: str) -> None:
        self._must.setdefault((account, box), {}).update(dict.fromkeys(ids, False))

    def uncertain(self, account: str, box: str, *ids: str) -> None:
        for id in ids:
            self._must.get((account, box), {}).pop(id, None)

    def flagged(self, account: str, *ids: str) -> None:
        self._flags.setdefault(account, set()).update(ids)
        self.answers += 1

    def named(self, account: str, name: str, there: bool | None) -> None:
        """A mailbox is there, is not, or (None) may be either."""
        if there is None:
            self._names.get(account, {}).pop(name, None)
        else:
            self._names.setdefault(account, {})[name] = there
            self.answers += 1

    def check(self, account: str, boxes: dict[str, dict[str, set[str]]], names: set[str]) -> None:
        """Hold what a node shows against all that was answered in the account."""
        for (of, box), must in list(self._must.items()):
            if of == account:
                lost = [id for id, there in list(must.items()) if there and id not in boxes[box]]
                back = [id for id, there in list(must.items()) if not there and id in boxes[box]]
                assert not lost, f"answered additions to {box} are lost: {lost[:5]}"
                assert not back, f"what was answered as taken out of {box} is back: {back[:5]}"
        shown = {id: keywords for content in boxes.values() for id, keywords in content.items()}
        unflagged = [
            id for id in self._flags.get(account, ()) if "$flagged" not in shown.get(id, {"$flagged"})
        ]
        assert not unflagged, f"answered flags are lost: {unflagged[:5]}"
        for name, there in self._names.get(account, {}).items():
            assert (name in names) is there, f"mailbox {name} is {'lost' if there else 'back'}"


@dataclass
class Round:
    """One life of one node, which ends with a kill."""

    account: str
    prefix: str
    node: NodeProcess
    others: Sequence[NodeProcess]
    ledger: Ledger
    answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    problems: list[BaseException] = field(default_factory=list)

    def at(self, client: Client, method: str, what: str, body: dict[str, Any], box: str = "INBOX") -> Any:
        answer = client.at(self.account, box, method, what, body)
        self.answered.release()
        return answer


Work = Callable[[Round, Client, str], None]
"""Goes on until the node does not answer (Unreachable); the text is a prefix for names of its own."""


def deliver(it: Round, client: Client, prefix: str) -> None:
    for n in count():
        id = f"{prefix}-{n}"
        it.at(client, "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.at(client, "PATCH", "/messages", {"ids": [id], "patch": {"keywords/$flagged": True}})
        it.ledger.flagged(it.account, id)


def deliver_much(it: Round, client: Client, prefix: str) -> None:
    """Large deltas: some pages of the store each."""
    for n in count():
        ids = [f"{prefix}-{n}-{m}" for m in range(200)]
        it.at(client, "POST", "/messages", {"messages": [{"id": id, "size": 1} for id in ids]})
        it.ledger.present(it.account, "INBOX", *ids)
        it.at(client, "PATCH", "/messages", {"ids": ids, "patch": {"keywords/$flagged": True}})
        it.ledger.flagged(it.account, *ids)
        it.ledger.uncertain(it.account, "INBOX", *ids[10:])
        it.at(client, "POST", "/expunge", {"ids": ids[10:]})
        it.ledger.absent(it.account, "INBOX", *ids[10:])


def move(it: Round, client: Client, prefix: str) -> None:
    for n in count():
        id = f"{prefix}-{n}"
        it.at(client, "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.ledger.uncertain(it.account, "INBOX", id)
        it.at(client, "POST", "/move", {"ids": [id], "to": "name:Archive"})
        it.ledger.absent(it.account, "INBOX", id)
        it.ledger.present(it.account, "Archive", id)


def read(it: Round, client: Client, prefix: str) -> None:
    """Readers, for whom UIDs are shown, and made anew where another node's mail came too late for its own."""
    elsewhere = it.others[0].client()
    for n in count():
        id = f"{prefix}-{n}"
        elsewhere.at(it.account, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.at(client, "POST", "/messages", {"messages": [{"size": 1}], "wantUids": True})
        client.mailbox(it.account, "INBOX", limit=100)


def folders(it: Round, client: Client, prefix: str) -> None:
    for n in count():
        name, new = f"{prefix}-{n}", f"{prefix}-{n}-renamed"
        client.create_mailbox(it.account, name)
        it.ledger.named(it.account, name, True)
        it.answered.release()
        it.ledger.named(it.account, name, None)
        client.at(it.account, name, "PATCH", "", {"name": new})
        it.ledger.named(it.account, name, False)
        it.ledger.named(it.account, new, True)
        it.answered.release()
        if n % 2:
            it.ledger.named(it.account, new, None)
            client.at(it.account, new, "DELETE")
            it.ledger.named(it.account, new, False)


@dataclass(frozen=True)
class Phase:
    """What goes on while a node is killed; `arguments` are added to its command.

    A phase without work kills it while it opens its store and begins to serve.
    """

    work: Sequence[Work]
    arguments: tuple[str, ...] = ()


PHASES: dict[str, Phase] = {
    "delivery": Phase([deliver] * WRITERS),
    "large changes": Phase([deliver_much, deliver]),
    "moves": Phase([move] * WRITERS),
    "readers": Phase([read] * WRITERS),
    "folders": Phase([folders, folders, deliver]),
    "everything": Phase([deliver, deliver_much, move, read, folders]),
    "opening": Phase([]),
}


class Campaign:
    """Three nodes that call each other, and their lives and deaths."""

    def __init__(self, folder: Path, seed: int, program: Sequence[str] = ("-m", "crdtmail")) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._program = program
        self._timing = write_timing(folder)
        self._ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self._stacks: dict[str, ExitStack] = {}
        self._replicas: dict[str, str] = {}
        self._opening_s = 1.0
        self.nodes: dict[str, NodeProcess] = {}
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()

    def __enter__(self) -> Campaign:
        for name in NAMES:
            self._start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for stack in self._stacks.values():
            stack.close()

    def round(self, number: int, phase: str) -> None:
        """Kill a node in this phase, start it again, and hold all three against what was answered."""
        account = f"user{number // ROUNDS_AN_ACCOUNT}"
        first = self.nodes[NAMES[0]].client()
        if account not in self._accounts():
            for box in BOXES:
                first.create_mailbox(account, box)
            self.check(account)
        victim = self._chance.choice(NAMES)
        if PHASES[phase].work:
            self._load_and_kill(account, number, victim, PHASES[phase])
        else:
            self._kill_while_opening(victim)
        self.kills[phase] += 1
        self._start(victim)
        self.check(account)

    def check(self, account: str) -> None:
        documents = until_equal(list(self.nodes.values()), account)
        shown = {
            box: {message["id"]: set(message["keywords"]) for message in document["messages"]}
            for box, document in documents.items()
        }
        some = next(iter(self.nodes.values())).client()
        self.ledger.check(account, shown, {box["name"] for box in some.mailboxes(account)})
        for name, node in self.nodes.items():
            status = node.client().status()
            assert status["alarms"] == [], f"{name} raises an alarm"
            assert status["refusedFromPeers"] == 0, f"{name} has refused something of a peer"
            assert self._replicas.setdefault(name, status["replica"]) == status["replica"], (
                f"{name} is another"
            )

    def finish(self) -> None:
        """Stop all nodes; every counter and digest must be what the records say."""
        for account in self._accounts():
            self.check(account)
        for name in NAMES:
            self._stacks.pop(name).close()
            store = LmdbStore(self._folder / name)
            with store.snapshot() as snapshot:
                recount(Tables(snapshot))
            store.close()

    def _accounts(self) -> list[str]:
        return [each["account"] for each in self.nodes[NAMES[0]].client().accounts()]

    def _arguments(self, name: str) -> list[str]:
        peers = [f"http://127.0.0.1:{port}" for other, port in self._ports.items() if other != name]
        return ["--config", str(self._timing), "--name", name, *(a for p in peers for a in ("--peer", p))]

    def _start(self, name: str, *arguments: str) -> None:
        if name in self._stacks:
            self._stacks.pop(name).close()
        begun = time.monotonic()
        stack = self._stacks[name] = ExitStack()
        self.nodes[name] = stack.enter_context(
            node_process(
                self._folder / name,
                *self._arguments(name),
                *arguments,
                listen=f"127.0.0.1:{self._ports[name]}",
                program=self._program,
            )
        )
        self._opening_s = time.monotonic() - begun

    def _load_and_kill(self, account: str, number: int, victim: str, phase: Phase) -> None:
        if phase.arguments:
            self._start(victim, *phase.arguments)
        node = self.nodes[victim]
        others = [other for name, other in self.nodes.items() if name != victim]
        it = Round(account, str(number), node, others, self.ledger)
        threads = [
            threading.Thread(target=_until_gone, args=(it, work, f"{number}-{n}"))
            for n, work in enumerate(phase.work)
        ]
        for thread in threads:
            thread.start()
        for _ in range(self._chance.randrange(3, 25)):
            assert it.answered.acquire(timeout=PATIENCE_S), "the node answers nobody"
        time.sleep(self._chance.uniform(0, 0.02))  # somewhere between two answers, also in a commit
        node.kill()
        for thread in threads:
            thread.join()
        if it.problems:
            raise it.problems[0]

    def _kill_while_opening(self, victim: str) -> None:
        self.nodes[victim].kill()
        self._stacks.pop(victim).close()
        listen = f"127.0.0.1:{self._ports[victim]}"
        with starting(
            self._folder / victim, *self._arguments(victim), listen=listen, program=self._program
        ) as process:
            time.sleep(
                self._chance.uniform(0.3, 1.1) * self._opening_s
            )  # Python itself takes the first third
            process.kill()


def _until_gone(it: Round, work: Work, prefix: str) -> None:
    client = it.node.client()
    try:
        work(it, client, prefix)
    except Unreachable:
        client.close()
    except BaseException as error:
        it.problems.append(error)


def until_equal(nodes: list[NodeProcess], account: str) -> dict[str, dict[str, Any]]:
    """Wait until the nodes have applied the same and show the same, UIDs included; what they show."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        verdict = verify([it.address for it in nodes], timeout_s=PATIENCE_S)
        if verdict.agrees and verdict.in_step:
            documents = [
                {box: it.client().mailbox(account, box, limit=100_000) for box in BOXES} for it in nodes
            ]
            shown = [[document["messages"] for document in each.values()] for each in documents]
            if all(each == shown[0] for each in shown):
                return documents[0]
        time.sleep(0.02)
    raise AssertionError("the nodes do not become equal")


def run(folder: Path, kills: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Counter[str]:
    """So many kills, in all phases in turn; how many there were in each."""
    with Campaign(folder, seed) as campaign:
        phases = list(PHASES)
        for number in range(kills):
            campaign.round(number, phases[number % len(phases)])
            if (number + 1) % 50 == 0:
                say(f"{number + 1} kills, {campaign.ledger.answers} answers kept")
        campaign.finish()
        return campaign.kills
