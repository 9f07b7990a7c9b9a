"""What is measured on: how much of it, and stores with large mailboxes, each built once a run."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lmdb

from benchmarks.report import Sample, seconds
from crdtmail import (
    Clock,
    IncomingMessage,
    KeywordChange,
    LmdbStore,
    MessageId,
    Replica,
    ReplicaId,
    Selection,
    Tables,
    deltas_after,
)
from crdtmail.crdt.delta import MailboxId
from crdtmail.store.interface import Store

ACCOUNT = "alice@example.org"
EVERY = Selection(uids=((1, 2**32 - 1),))
_BATCH = 50_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured, and how often."""

    messages: int
    large: int
    mailboxes: int
    toggles: int
    requests: int
    samples: int
    rounds: int


FULL = Sizes(
    messages=100_000,
    large=1_000_000,
    mailboxes=100_000,
    toggles=1_000_000,
    requests=12_800,
    samples=1000,
    rounds=5,
)
QUICK = Sizes(
    messages=5_000, large=20_000, mailboxes=500, toggles=5_000, requests=1280, samples=50, rounds=1
)


@dataclass(frozen=True, slots=True)
class Stock:
    """A store on disk with one mailbox of so many messages, all of them seen.  Nobody has it open."""

    data: Path
    mailbox: MailboxId
    messages: int

    @contextmanager
    def opened(self) -> Iterator[tuple[LmdbStore, Replica]]:
        store = LmdbStore(self.data)
        try:
            yield store, open_replica(store)
        finally:
            store.close()


class Bench:
    """One run: its sizes, and what it has built so far."""

    def __init__(self, sizes: Sizes, root: Path) -> None:
        self.sizes = sizes
        self._root = root
        self._stocks: dict[int, Stock] = {}

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder on the disk that is measured, to the end of the block."""
        made = Path(tempfile.mkdtemp(dir=self._root))
        try:
            yield made
        finally:
            shutil.rmtree(made)

    def stock(self, messages: int) -> Stock:
        """Built the first time that it is asked for; what figures change in it are single keywords."""
        if messages not in self._stocks:
            data = self._root / f"stock-{messages}"
            store = LmdbStore(data)
            mailbox = fill(store, open_replica(store), "INBOX", messages)
            store.close()
            self._stocks[messages] = Stock(data, mailbox, messages)
        return self._stocks[messages]


@contextmanager
def bench(sizes: Sizes, root: Path | None) -> Iterator[Bench]:
    """A run whose files lie below `root`; without one beside this checkout, for /tmp may lie in memory."""
    made = Path(tempfile.mkdtemp(prefix="crdtmail-bench-", dir=root or Path(__file__).parents[2]))
    try:
        yield Bench(sizes, made)
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


def flag(store: Store, replica: Replica, box: MailboxId, chosen: Selection, keyword: str) -> None:
    """One durable keyword change."""
    change = KeywordChange(chosen, frozenset({keyword}), frozenset())
    store.transact(lambda txn: replica.change_keywords(txn, ACCOUNT, box, [change]))


def clock_of(store: Store) -> Clock:
    with store.snapshot() as snapshot:
        return Tables(snapshot).head().clock


def log_after(store: Store, clock: Clock) -> list[bytes]:
    """The deltas that `clock` does not cover."""
    with store.snapshot() as snapshot:
        return [entry.delta for entry in deltas_after(Tables(snapshot), clock, max_bytes=1 << 40)]


def drop_page_cache(data: Path) -> None:
    """Let the kernel forget what it holds of the store's file."""
    with (data / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_commits(folder: Path, count: int) -> Sample:
    """How many seconds one synced LMDB commit of a small record takes, one after the other."""
    env = lmdb.open(str(folder / "bare"), map_size=1 << 26)

    def commit(n: int) -> None:
        with env.begin(write=True) as txn:
            txn.put(b"%d" % (n % 1000), b"x" * 64)

    times = [seconds(lambda n=n: commit(n)) for n in range(count)]  # type: ignore[misc]
    env.close()
    return Sample.of(times)


def mean(values: Sample) -> float:
    return statistics.fmean(values.values)
