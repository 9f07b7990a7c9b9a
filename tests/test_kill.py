"""kill -9 of a node under load: every write that was answered is there when it is started again."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from crdtmail import LmdbStore, Tables, living_mailboxes, messages
from crdtmail.client import Client, Refused, Unreachable
from tests.nodes import NodeProcess, node_process
from tests.recount import recount

ROUNDS = 50 if os.environ.get("CRDTMAIL_LONG") else 8
WRITERS = 6
ACCOUNT = "alice"


class Load:
    """Writers that add messages and flag them, and remember what was answered."""

    def __init__(self) -> None:
        self.added: set[str] = set()
        self.flagged: set[str] = set()
        self._enough = threading.Event()

    def run(self, it: NodeProcess, turn: int, *, writes: int) -> None:
        """Load the node, kill it in the middle of its work, and let the writers notice."""
        answered = threading.Semaphore(0)
        threads = [
            threading.Thread(target=self._write, args=(it.client(), f"{turn}-{n}", answered))
            for n in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        for _ in range(writes):
            assert answered.acquire(timeout=30)
        it.kill()
        for thread in threads:
            thread.join()

    def _write(self, client: Client, prefix: str, answered: threading.Semaphore) -> None:
        number = 0
        while True:
            id = f"{prefix}-{number}"
            number += 1
            try:
                new = {"messages": [{"id": id, "size": 1}]}
                client.at(ACCOUNT, "INBOX", "POST", "/messages", new)
                self.added.add(id)
                patch = {"ids": [id], "patch": {"keywords/$flagged": True}}
                client.at(ACCOUNT, "INBOX", "PATCH", "/messages", patch)
                self.flagged.add(id)
                answered.release()
            except Unreachable:
                client.close()
                return


def test_every_answered_write_is_there_after_kill_9(tmp_path: Path) -> None:
    data = tmp_path / "node"
    load = Load()
    replicas = set()
    for turn in range(ROUNDS):
        with node_process(data) as it:
            client = it.client()
            replicas.add(client.status()["replica"])
            with suppress(Refused):  # it exists from the second turn on
                client.create_mailbox(ACCOUNT, "INBOX")
            document = client.mailbox(ACCOUNT, "INBOX", limit=10_000)
            present = {message["id"]: message["keywords"] for message in document["messages"]}
            assert load.added <= present.keys(), "an answered addition is lost"
            assert all("$flagged" in present[id] for id in load.flagged), "an answered flag is lost"
            client.close()
            load.run(it, turn, writes=5 + 7 * (turn % 5))
    assert len(replicas) == 1
    assert len(load.flagged) > 5 * ROUNDS
    store = LmdbStore(data)
    with store.snapshot() as snapshot:
        tables = Tables(snapshot)
        recount(tables)
        ((_, living),) = living_mailboxes(tables, ACCOUNT).items()
        assert {message.id for message in messages(tables, living.record, limit=10**6)} >= load.added
    store.close()
