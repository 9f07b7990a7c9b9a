"""Real replicas in memory, with one verb for each thing that a test does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from crdtmail import views
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta, encode_delta
from crdtmail.crdt.delta import Delta, MailboxId, Operation
from crdtmail.crdt.message import MessageId
from crdtmail.replica import IncomingMessage, KeywordChange, Outcome, Replica, Selection
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import LogEntry, Mailbox, Tables
from simulations.recount import recount

T = TypeVar("T")
ACCOUNT = "alice"
EVERYTHING = 1 << 40


def ids(*names: str) -> Selection:
    return Selection(ids=tuple(MessageId(name) for name in names))


def uids(first: int, last: int) -> Selection:
    return Selection(uids=((first, last),))


def mail(name: str, *keywords: str) -> IncomingMessage:
    return IncomingMessage(MessageId(name), 1000, 1_700_000_000, frozenset(keywords))


class Master:
    """One replica on its store, and one account on it."""

    def __init__(self, number: int, *, knows: Iterable[int] = ()) -> None:
        self.store = MemoryStore()
        self.new_id = number
        self.replica = Replica.open(self.store, lambda: ReplicaId(self.new_id), lambda: 0)
        self.replica.members |= {ReplicaId(other) for other in knows}

    def do(self, command: Callable[[Replica, Transaction], T]) -> T:
        result = self.store.transact(lambda txn: command(self.replica, txn))
        self.replica.id = self.replica.author
        return result

    def ask(self, query: Callable[[Tables], T]) -> T:
        with self.store.snapshot() as snapshot:
            return query(Tables(snapshot))

    # What users do --------------------------------------------------------------------------------------

    def create(self, name: str = "INBOX") -> MailboxId:
        return self.do(lambda replica, txn: replica.create_mailbox(txn, ACCOUNT, name))

    def add(self, box: MailboxId, *names: str, keywords: Iterable[str] = ()) -> list[MessageId]:
        messages = [mail(name, *keywords) for name in names]
        return self.do(lambda replica, txn: replica.add(txn, ACCOUNT, box, messages))

    def mark(
        self, box: MailboxId, which: Selection, *, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> list[MessageId]:
        change = KeywordChange(which, frozenset(add), frozenset(remove))
        return self.do(lambda replica, txn: replica.change_keywords(txn, ACCOUNT, box, [change]))

    def expunge(self, box: MailboxId, which: Selection | None = None) -> list[MessageId]:
        return self.do(lambda replica, txn: replica.expunge(txn, ACCOUNT, box, which))

    def move(self, source: MailboxId, target: MailboxId, which: Selection) -> list[MessageId]:
        return self.do(lambda replica, txn: replica.move(txn, ACCOUNT, source, target, which))

    def delete(self, box: MailboxId) -> None:
        self.do(lambda replica, txn: replica.delete_mailbox(txn, ACCOUNT, box))

    # What readers see -----------------------------------------------------------------------------------

    def record(self, box: MailboxId) -> Mailbox:
        found = self.ask(lambda tables: tables.mailbox(ACCOUNT, box))
        assert found is not None, "the mailbox lives"
        return found

    def read(self, box: MailboxId) -> list[views.MessageView]:
        """All messages as a reader is shown them, by UID."""
        self.do(lambda replica, txn: replica.show(txn, ACCOUNT, box))
        record = self.record(box)
        return self.ask(lambda tables: views.messages(tables, record, limit=EVERYTHING))

    def keywords(self, box: MailboxId) -> dict[str, frozenset[str]]:
        return {message.id: message.keywords for message in self.read(box)}

    def changes(
        self, box: MailboxId, position: tuple[int, int] = (0, 0), limit: int = EVERYTHING
    ) -> views.ChangesPage:
        self.do(lambda replica, txn: replica.show(txn, ACCOUNT, box))
        record = self.record(box)
        return self.ask(lambda tables: views.changes(tables, record, position, limit=limit))

    # What goes between ----------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.ask(lambda tables: tables.head().clock)

    @property
    def digest(self) -> int:
        return self.ask(lambda tables: tables.head().digest)

    def log(self) -> list[LogEntry]:
        return self.ask(lambda tables: views.deltas_after(tables, Clock(), max_bytes=EVERYTHING))

    def receive(self, data: bytes) -> Outcome:
        delta = decode_delta(data)
        return self.do(lambda replica, txn: replica.receive(txn, delta, data))

    def receive_from(self, number: int, seq: int, *operations: Operation) -> Outcome:
        """A delta of some other program's making."""
        return self.receive(encode_delta(Delta(Dot(ReplicaId(number), seq), ACCOUNT, operations)))

    def hear(self, other: Master, at_most: int | None = None) -> None:
        clock = self.clock
        lacking = other.ask(lambda tables: views.deltas_after(tables, clock, max_bytes=EVERYTHING))
        for entry in lacking[:at_most]:
            assert self.receive(entry.delta) is Outcome.APPLIED

    def rows(self) -> dict[Table, list[tuple[bytes, bytes]]]:
        """All that is stored."""
        with self.store.snapshot() as snapshot:
            return {table: list(snapshot.scan(table, b"")) for table in Table}

    def recount(self) -> None:
        self.ask(recount)


def exchange(*masters: Master) -> None:
    """Everybody hears everything; twice, because hearing of a move may cause a change of one's own."""
    for _ in range(2):
        for target in masters:
            for source in masters:
                if source is not target:
                    target.hear(source)


def pair() -> tuple[Master, Master, MailboxId]:
    """Two masters that know each other and have one mailbox."""
    one, two = Master(1, knows=[2]), Master(2, knows=[1])
    box = one.create()
    two.hear(one)
    return one, two, box
