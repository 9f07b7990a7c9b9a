"""What a node keeps on disk and what two nodes compare, against the number of mailboxes.

The real store, in a folder that is thrown away.  Time and memory are for `python -m benchmarks`: a sweep
gives the same rows everywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.message import MessageId
from crdtmail.gossip.codec import encode_position
from crdtmail.gossip.messages import Position
from crdtmail.replica import IncomingMessage, Replica
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.tables import Tables
from simulations.sweeps.point import Row, Sweep

_AT_ONCE = 200


class Point(NamedTuple):
    accounts: int
    mailboxes: int
    """Of each account."""
    messages: int
    """In each mailbox."""


def points(quick: bool) -> Iterator[Point]:
    for accounts in (5, 50) if quick else (100, 1000):
        yield Point(accounts, 10, 0)
        yield Point(accounts, 10, 10)
    yield Point(1 if quick else 10, 200, 0)


def measure(point: Point) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="crdtmail-sweep-") as folder:
        store = LmdbStore(Path(folder))
        try:
            replica = Replica.open(store, lambda: ReplicaId(0x1234_5678_9ABC_0001), lambda: 0)
            for first in range(0, point.accounts, _AT_ONCE):
                accounts = range(first, min(first + _AT_ONCE, point.accounts))
                store.transact(lambda txn, accounts=accounts: _fill(replica, txn, accounts, point))  # type: ignore[misc]
            size = store.size()
            with store.snapshot() as snapshot:
                head = Tables(snapshot).head()
        finally:
            store.close()
    log = size[Table.LOG] + size[Table.LOG_INDEX]
    position = encode_position(Position(replica.id, "mx1.example.org", head.clock, head.digest))
    many = point.accounts * point.mailboxes
    return [
        point._asdict()
        | {
            "bytes_per_mailbox": (sum(size.values()) - log) / many,
            "of_which_directory": (size[Table.DIRECTORIES] + size[Table.ACCOUNTS]) / many,
            "log_bytes_per_mailbox": log / many,
            "position_bytes": len(position),
        }
    ]


def _fill(replica: Replica, txn: Transaction, accounts: range, point: Point) -> None:
    for number in accounts:
        account = f"user{number:08}@example.org"
        for place in range(point.mailboxes):
            name = "INBOX" if place == 0 else f"Folder {place}"
            mailbox = replica.create_mailbox(txn, account, name)
            messages = [
                IncomingMessage(
                    # As Dovecot's Maildir would name it.
                    MessageId(f"17{number:08}.M{place:03}{n:03}P1234.mx1"),
                    4000,
                    1_700_000_000 + n,
                    frozenset({"$seen"}),
                )
                for n in range(point.messages)
            ]
            if messages:
                replica.add(txn, account, mailbox, messages)


SWEEP = Sweep("Bytes on disk a mailbox, and of a comparison, against mailboxes", points, measure)
