"""What is measured on: stores with large mailboxes, and nodes as processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crdtmail import IncomingMessage, LmdbStore, MessageId, Replica, ReplicaId
from crdtmail.client import Client
from crdtmail.crdt.delta import MailboxId
from crdtmail.store.interface import Store

ACCOUNT = "alice@example.org"
_BATCH = 50_000


@contextmanager
def folder() -> Iterator[Path]:
    """A folder beside this checkout, on a real disk: what lies in memory has no fsync."""
    made = Path(tempfile.mkdtemp(prefix="crdtmail-bench-", dir=Path(__file__).parents[2]))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def open_replica(store: Store, number: int = 1) -> Replica:
    return Replica.open(store, lambda: ReplicaId(0x1234_5678_9ABC_0000 + number), lambda: 0)


def message_id(number: int) -> MessageId:
    """As Dovecot's Maildir would name it."""
    return MessageId(f"17000{number:08}.M{number:06}P1234.mx1")


def fill(store: Store, replica: Replica, name: str, messages: int) -> MailboxId:
    """A mailbox with so many messages, all of them seen."""
    box = store.transact(lambda txn: replica.create_mailbox(txn, ACCOUNT, name))
    for start in range(0, messages, _BATCH):
        batch = [
            IncomingMessage(message_id(n), 4000 + n % 5000, 1_700_000_000 + n, frozenset({"$seen"}))
            for n in range(start, min(messages, start + _BATCH))
        ]
        store.transact(lambda txn, b=batch: replica.add(txn, ACCOUNT, box, b))  # type: ignore[misc]
    return box


@contextmanager
def filled(messages: int, name: str = "INBOX") -> Iterator[tuple[Path, LmdbStore, Replica, MailboxId]]:
    with folder() as data:
        store = LmdbStore(data)
        replica = open_replica(store)
        try:
            yield data, store, replica, fill(store, replica, name, messages)
        finally:
            store.close()


@dataclass(frozen=True, slots=True)
class RunningNode:
    port: int
    pid: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Client:
        return Client(self.address)

    def resident_bytes(self) -> tuple[int, int]:
        """Memory of its own, and all that is mapped now (which counts pages of the store's file)."""
        found = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(found["RssAnon"].split()[0]) * 1024, int(found["VmRSS"].split()[0]) * 1024


@contextmanager
def node(
    data: Path, *peers: str, name: str = "mx", port: int = 0, config: Path | None = None
) -> Iterator[RunningNode]:
    """A node as a process, from its start to its end."""
    command = [sys.executable, "-m", "crdtmail", "node", "--name", name, "--data", str(data)]
    command += ["--listen", f"127.0.0.1:{port}", *(word for peer in peers for word in ("--peer", peer))]
    command += ["--config", str(config)] if config is not None else []
    process = subprocess.Popen(
        command,
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
        process.wait()
        process.stdout.close()
