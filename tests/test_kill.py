"""kill -9 of a node under load: every write that was answered is there when it is started again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from crdtmail import LmdbStore, Tables, living_mailboxes, messages
from crdtmail.client import Client, Unreachable
from crdtmail.verify import verify
from simulations.recount import recount
from tests.nodes import PATIENCE_S, NodeProcess, node_process

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


def until_equal(nodes: list[NodeProcess]) -> list[dict[str, Any]]:
    """Wait until the nodes have applied the same and show the same, UIDs included; what they show."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if verify([it.address for it in nodes], timeout_s=PATIENCE_S).agrees:
            documents = [it.client().mailbox(ACCOUNT, "INBOX", limit=10_000) for it in nodes]
            if all(document["messages"] == documents[0]["messages"] for document in documents):
                return documents
        time.sleep(0.02)
    raise AssertionError("the nodes do not become equal")


def test_every_answered_write_is_there_after_kill_9(tmp_path: Path) -> None:
    """And a peer that goes on meanwhile, and gets the killed node's writes as they come, ends equal to it."""
    data = tmp_path / "node"
    load = Load()
    replicas = set()
    with node_process(tmp_path / "peer", "--name", "mx2") as peer:
        peer.client().create_mailbox(ACCOUNT, "INBOX")
        for turn in range(ROUNDS):
            with node_process(data, "--peer", peer.address) as it:
                client = it.client()
                replicas.add(client.status()["replica"])
                (document, _) = until_equal([it, peer])
                present = {message["id"]: message["keywords"] for message in document["messages"]}
                assert load.added <= present.keys(), "an answered addition is lost"
                assert all("$flagged" in present[id] for id in load.flagged), "an answered flag is lost"
                assert client.status()["alarms"] == peer.client().status()["alarms"] == []
                new = {"messages": [{"id": f"peer-{turn}", "size": 1}]}
                peer.client().at(ACCOUNT, "INBOX", "POST", "/messages", new)
                load.added.add(f"peer-{turn}")
                load.run(it, turn, writes=5 + 7 * (turn % 5))
        with node_process(data, "--peer", peer.address) as it:
            assert load.added <= {message["id"] for message in until_equal([it, peer])[0]["messages"]}
    assert len(replicas) == 1
    assert len(load.flagged) > 5 * ROUNDS
    for folder in (data, tmp_path / "peer"):
        store = LmdbStore(folder)
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            recount(tables)
            ((_, living),) = living_mailboxes(tables, ACCOUNT).items()
            assert {message.id for message in messages(tables, living.record, limit=10**6)} >= load.added
        store.close()
