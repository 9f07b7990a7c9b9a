"""Real replicas behind the `World` protocol: the same commands, the same deliveries, the real code below.

Every delta goes through its bytes, as it does between nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crdtmail import views
from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.names import make_mailbox_id
from crdtmail.errors import AlreadyExists, Forbidden, NotFound
from crdtmail.replica import IncomingMessage, KeywordChange, Outcome, Replica, Selection
from crdtmail.store.interface import Store, Transaction
from crdtmail.store.tables import Tables
from simulations.commands import (
    Add,
    Command,
    Copy,
    Create,
    Delete,
    Expunge,
    ExpungeDeleted,
    Keywords,
    Mailbox,
    Move,
    Rename,
    Shown,
    View,
)

ACCOUNT = "alice"
_GENERATIONS = 50  # more than any test lets a name have


class RealWorld:
    """As many replicas as are named, each on a store of its own, made when it is first named."""

    def __init__(self, make_store: Callable[[], Store]) -> None:
        self._make_store = make_store
        self._replicas: dict[str, tuple[Store, Replica]] = {}
        self._identities: dict[MailboxId, Mailbox] = {}

    def replica(self, name: str) -> tuple[Store, Replica]:
        if name not in self._replicas:
            store = self._make_store()
            id = ReplicaId(len(self._replicas) + 1)
            self._replicas[name] = store, Replica.open(store, lambda: id, lambda: 0)
        return self._replicas[name]

    @property
    def stores(self) -> Iterable[Store]:
        return [store for store, _ in self._replicas.values()]

    def do(self, replica: str, command: Command) -> None:
        store, its = self.replica(replica)
        try:
            store.transact(lambda txn: _perform(its, txn, command))
        except (NotFound, AlreadyExists, Forbidden):
            return  # the command does not apply here

    def deliver(self, source: str, target: str, at_most: int | None = None) -> None:
        sender, _ = self.replica(source)
        store, its = self.replica(target)
        with store.snapshot() as snapshot:
            clock = Tables(snapshot).head().clock
        with sender.snapshot() as snapshot:
            entries = views.deltas_after(Tables(snapshot), clock, max_bytes=1 << 30)
        for entry in entries[:at_most]:
            delta = decode_delta(entry.delta)
            outcome = store.transact(lambda txn, d=delta, e=entry: its.receive(txn, d, e.delta))  # type: ignore[misc]
            assert outcome is Outcome.APPLIED, "a log is in causal order"

    def view(self, replica: str) -> View:
        store, _ = self.replica(replica)
        shown = {}
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            for id, living in views.living_mailboxes(tables, ACCOUNT).items():
                messages = views.messages(tables, living.record, limit=1_000_000)
                content: dict[str, frozenset[str]] = {m.id: m.keywords for m in messages}
                shown[self._identity(id)] = Shown(living.name, content)
        return shown

    def digest(self, replica: str) -> int:
        store, _ = self.replica(replica)
        with store.snapshot() as snapshot:
            return Tables(snapshot).head().digest

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def _identity(self, id: MailboxId) -> Mailbox:
        return self._identities[id] if id in self._identities else self._find(id)

    def _find(self, id: MailboxId) -> Mailbox:
        from tests.programs import NAMES

        for name in (*NAMES, "INBOX", "Archive", "Sent"):
            for generation in range(_GENERATIONS):
                known = Mailbox(name, generation)
                self._identities[_id(known)] = known
        return self._identities[id]


def _id(mailbox: Mailbox) -> MailboxId:
    return make_mailbox_id(ACCOUNT, mailbox.name, mailbox.generation)


def _ids(messages: Iterable[str]) -> Selection:
    return Selection(ids=tuple(MessageId(message) for message in messages))


def _perform(replica: Replica, txn: Transaction, command: Command) -> None:
    match command:
        case Create(name):
            replica.create_mailbox(txn, ACCOUNT, name)
        case Rename(mailbox, to):
            replica.rename_mailbox(txn, ACCOUNT, _id(mailbox), to)
        case Delete(mailbox):
            replica.delete_mailbox(txn, ACCOUNT, _id(mailbox))
        case Add(mailbox, message, keywords):
            new = IncomingMessage(MessageId(message), 100, 1_700_000_000, keywords)
            replica.add(txn, ACCOUNT, _id(mailbox), [new])
        case Keywords(mailbox, messages, add, remove):
            change = KeywordChange(_ids(messages), add, remove)
            replica.change_keywords(txn, ACCOUNT, _id(mailbox), [change])
        case Expunge(mailbox, messages):
            replica.expunge(txn, ACCOUNT, _id(mailbox), _ids(messages))
        case ExpungeDeleted(mailbox):
            replica.expunge(txn, ACCOUNT, _id(mailbox), None)
        case Move(source, target, messages):
            replica.move(txn, ACCOUNT, _id(source), _id(target), _ids(messages))
        case Copy(source, target, messages):
            replica.copy(txn, ACCOUNT, _id(source), _id(target), _ids(messages))
