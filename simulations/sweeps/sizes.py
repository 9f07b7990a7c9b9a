"""How large clocks, and what carries them, get with the number of replicas that ever wrote anything.

A replica stays in every clock, also when its server is gone or has got a new identity, up to `MAX_REPLICAS`.
The deltas are what a real replica makes in a mailbox into which every other one has put a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import NamedTuple

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import dump, encode_delta, plain_clock
from crdtmail.crdt.delta import Add, Delta, MailboxId
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.names import INBOX, make_mailbox_id
from crdtmail.crdt.uid import Uid
from crdtmail.gossip.codec import encode_answer, encode_position
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.session import Timing
from crdtmail.limits import MAX_TOKEN
from crdtmail.replica import IncomingMessage, KeywordChange, Replica, Selection
from crdtmail.store.interface import Transaction
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Tables, WritableTables
from simulations.chance import generator
from simulations.sweeps.point import Row, Sweep

_ACCOUNT = "alice@example.org"
_INBOX = make_mailbox_id(_ACCOUNT, INBOX, 0)
_DELTAS = 1_000_000
"""Of each replica, before: any number from 65,536 to 4,294,967,295 takes the same five bytes."""


class Point(NamedTuple):
    replicas: int


def points(quick: bool) -> Iterator[Point]:
    for replicas in (2, 10, 200) if quick else (2, 5, 10, 20, 50, 100, 200, 400, 500, 1000):
        yield Point(replicas)


def measure(point: Point) -> list[Row]:
    chance = generator(point.replicas, "replicas")
    own, *others = [ReplicaId(chance.getrandbits(64)) for _ in range(point.replicas)]
    store = MemoryStore()
    replica = Replica.open(store, lambda: own, lambda: 0)
    store.transact(lambda txn: _receive_from_all(replica, txn, others))
    first, next = _mail(1), _mail(2)
    archive = store.transact(lambda txn: replica.create_mailbox(txn, _ACCOUNT, "Archive"))
    sizes = {}
    with store.snapshot() as snapshot:
        clock = Tables(snapshot).head().clock
    for what, work in {
        "first_mail_bytes": lambda txn: replica.add(txn, _ACCOUNT, _INBOX, [first]),
        "mail_bytes": lambda txn: replica.add(txn, _ACCOUNT, _INBOX, [next]),
        "flag_bytes": lambda txn: _flag(replica, txn, next),
        "move_bytes": lambda txn: _move(replica, txn, next, archive),
    }.items():
        store.transact(work)
        sizes[what] = _last_delta_bytes(store, own)
    position = Position(own, "mx1.example.org", clock, chance.getrandbits(64))
    exchange = len(encode_position(position)) + len(encode_answer(ExchangeAnswer(position, ())))
    plain = len(dump(plain_clock(clock)))
    token = ceil(plain * 4 / 3)
    return [
        point._asdict()
        | {
            "clock_bytes": plain,
            "exchange_bytes": exchange,
            "idle_bytes_per_node_and_s": exchange / Timing().interval_s,
            "token_chars": token,
            "is_token_accepted": token <= MAX_TOKEN,
        }
        | sizes
    ]


def _receive_from_all(replica: Replica, txn: Transaction, others: list[ReplicaId]) -> None:
    """The replica has written and received much; now it gets a message from everybody."""
    tables = WritableTables(txn)
    head = tables.head()
    tables.put_head(replace(head, clock=Clock(dict.fromkeys([replica.id, *others], _DELTAS))))
    for number, other in enumerate(others):
        message = NewMessage(MessageId(f"from {number}"), Uid(number + 1), 4000, 1_700_000_000, ())
        delta = Delta(Dot(other, _DELTAS + 1), _ACCOUNT, (Add(_INBOX, (message,), Clock()),))
        replica.receive(txn, delta, encode_delta(delta))


def _mail(number: int) -> IncomingMessage:
    """Named as Dovecot's Maildir would name it."""
    return IncomingMessage(MessageId(f"170000000{number}.M123456P1234.mx1"), 4000, 1_700_000_000, frozenset())


def _flag(replica: Replica, txn: Transaction, message: IncomingMessage) -> None:
    change = KeywordChange(Selection(ids=(message.id,)), frozenset({"$seen"}), frozenset())
    replica.change_keywords(txn, _ACCOUNT, _INBOX, [change])


def _move(replica: Replica, txn: Transaction, message: IncomingMessage, to: MailboxId) -> None:
    replica.move(txn, _ACCOUNT, _INBOX, to, Selection(ids=(message.id,)))


def _last_delta_bytes(store: MemoryStore, replica: ReplicaId) -> int:
    with store.snapshot() as snapshot:
        tables = Tables(snapshot)
        lsn = tables.lsn_of(Dot(replica, tables.head().clock[replica]))
        entry = None if lsn is None else tables.log_entry(lsn)
    assert entry is not None, "what was written is in the log"
    return len(entry.delta)


SWEEP = Sweep(
    "Bytes of clocks and of what carries them, against the replicas that ever wrote", points, measure
)
