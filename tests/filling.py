"""One replica in memory takes over another one's snapshot, over the real questions and answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from crdtmail.applying import Editor
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import EMPTY, MessageId
from crdtmail.effects import Call, Compute, Hold, Persist, Read, ReadHeld, Reply, Steps
from crdtmail.gossip.filling import Filling, fill
from crdtmail.gossip.messages import Position
from crdtmail.gossip.serving import Snapshots
from crdtmail.gossip.snapshot import decode_request
from crdtmail.replica import Replica
from crdtmail.store.interface import Store, Transaction
from crdtmail.store.tables import Lsn, Tables, WritableTables

Meanwhile = Callable[[int], None]
"""What happens before the nth question is asked."""


class Kept:
    """A snapshot that is held for a peer."""

    def __init__(self, store: Store) -> None:
        self._closing = store.snapshot()
        self.tables = Tables(self._closing.__enter__())

    def release(self) -> None:
        self._closing.__exit__(None, None, None)


class Source:
    """A replica that is asked about its snapshots."""

    def __init__(self, store: Store, replica: Replica) -> None:
        self.store = store
        self.replica = replica
        self.now = 0.0
        self.snapshots = Snapshots(random.Random(1), lambda: self.now)

    def answer(self, peer: ReplicaId, question: bytes) -> bytes:
        request = decode_request(question)
        ours = Position(self.replica.id, "source", Clock(), None)
        found: bytes = perform(self.snapshots.answer(peer, ours, request), self.store)
        return found


def take_over(
    store: Store,
    replica: Replica,
    source: Source,
    *,
    meanwhile: Meanwhile = lambda _: None,
    is_repair: bool = False,
    clears: bool = True,
) -> Filling:
    """Fill `replica` from `source`; what came of it.  Raises PeerError as `fill` does."""
    filling = Filling("source", 0.0)
    asked = 0

    def hear(position: Position) -> Steps[None]:
        yield from ()

    def ask(call: Call) -> Reply:
        nonlocal asked
        asked += 1
        meanwhile(asked)
        return Reply(200, source.replica.id, source.answer(replica.id, call.body))

    try:
        steps = fill(replica, "source", filling, hear=hear, now=lambda: 0.0, is_repair=is_repair)
        perform(steps, store, ask)
        while clears and store.transact(replica.clear_garbage):
            pass
    finally:
        filling.attempt.is_on = False
    return filling


def perform(steps: Steps[Any], store: Store, ask: Callable[[Call], Reply] | None = None) -> Any:
    """Perform the steps on a store, at once."""
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            effect = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        value, error = None, None
        try:
            match effect:
                case Persist(work):
                    value = store.transact(work)
                case Read(query):
                    with store.snapshot() as snapshot:
                        value = query(Tables(snapshot))
                case Hold():
                    value = Kept(store)
                case ReadHeld(held, query):
                    assert isinstance(held, Kept)
                    value = query(held.tables)
                case Compute(work):
                    value = work()
                case Call():
                    assert ask is not None
                    value = ask(effect)
                case _:
                    raise AssertionError(effect)
        except Exception as raised:
            error = raised


def lose_a_message(txn: Transaction, account: Account, id: str | None = None) -> None:
    """Take a message out of the account's first mailbox: this one, or the first."""
    tables = Tables(txn)
    mailbox, box = next(iter(tables.mailboxes(account)))
    lose_messages(
        txn, account, mailbox, [MessageId(id) if id is not None else next(tables.messages(box.number))[1]]
    )


def lose_messages(txn: Transaction, account: Account, mailbox: MailboxId, ids: Iterable[MessageId]) -> None:
    """Take messages out of a mailbox as no replica would: a disk has lost them."""
    tables = WritableTables(txn)
    head = tables.head()
    head.lsn = Lsn(head.lsn + 1)
    with Editor(tables, head, account, mailbox) as editor:
        for lost in ids:
            editor.replace(lost, editor.get(lost), EMPTY)
    tables.put_head(head)
