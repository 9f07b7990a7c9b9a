"""What clients do to a node while it is killed: each kind of work goes on until the node is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from crdtmail.client import Client, Unreachable
from tests.ledger import Ledger
from tests.nodes import PATIENCE_S, NodeProcess

WRITERS = 4


class _Over(Exception):
    """The load has to end, though the node has not."""


@dataclass
class Load:
    """Clients of one life of one node."""

    account: str
    node: NodeProcess
    others: Sequence[NodeProcess]
    ledger: Ledger
    answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_over: threading.Event = field(default_factory=threading.Event)
    problems: list[BaseException] = field(default_factory=list)

    def at(self, client: Client, method: str, what: str, body: dict[str, Any], box: str = "INBOX") -> Any:
        if self.is_over.is_set():
            raise _Over
        answer = client.at(self.account, box, method, what, body)
        self.answered.release()
        return answer

    def wait_for_answers(self, number: int) -> None:
        for _ in range(number):
            assert self.answered.acquire(timeout=PATIENCE_S), "the node answers nobody"


Work = Callable[[Load, Client, str], None]
"""Goes on until the node does not answer (Unreachable); the text is a prefix for names of its own."""


def deliver(it: Load, client: Client, prefix: str) -> None:
    for n in count():
        id = f"{prefix}-{n}"
        it.at(client, "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.at(client, "PATCH", "/messages", {"ids": [id], "patch": {"keywords/$flagged": True}})
        it.ledger.flagged(it.account, id)


def deliver_much(it: Load, client: Client, prefix: str) -> None:
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


def move(it: Load, client: Client, prefix: str) -> None:
    for n in count():
        id = f"{prefix}-{n}"
        it.at(client, "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.ledger.uncertain(it.account, "INBOX", id)
        it.at(client, "POST", "/move", {"ids": [id], "to": "name:Archive"})
        it.ledger.absent(it.account, "INBOX", id)
        it.ledger.present(it.account, "Archive", id)


def read(it: Load, client: Client, prefix: str) -> None:
    """Readers, for whom UIDs are shown, and made anew where another node's mail came too late for its own."""
    elsewhere = it.others[0].client()
    for n in count():
        id = f"{prefix}-{n}"
        elsewhere.at(it.account, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(it.account, "INBOX", id)
        it.at(client, "POST", "/messages", {"messages": [{"size": 1}], "wantUids": True})
        client.mailbox(it.account, "INBOX", limit=100)


def folders(it: Load, client: Client, prefix: str) -> None:
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


@contextmanager
def load(it: Load, works: Sequence[Work], prefix: str) -> Iterator[Load]:
    """Do these works, each in a thread; the block kills the node, or the load ends with it."""
    threads = [
        threading.Thread(target=_until_gone, args=(it, work, f"{prefix}-{n}")) for n, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    try:
        yield it
    finally:
        it.is_over.set()
        for thread in threads:
            thread.join()
    if it.problems:
        raise it.problems[0]


def _until_gone(it: Load, work: Work, prefix: str) -> None:
    client = it.node.client()
    try:
        work(it, client, prefix)
    except (Unreachable, _Over):
        client.close()
    except BaseException as error:
        it.problems.append(error)
