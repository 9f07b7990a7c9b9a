"""The promises about UIDs, on random programs of masters that add, move, expunge, exchange and read.

What an IMAP client relies on (RFC 9051 section 2.3.1.1): on one server a UID that is new to it is above
all that it was shown before, and never means another message than it did.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail import views
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Renumber
from crdtmail.crdt.message import MessageId
from crdtmail.replica import IncomingMessage, Outcome, Replica, Selection
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Lsn, Tables

ACCOUNT = "alice"
ROUNDS = 12  # of everybody reading and everybody exchanging; three suffice for most programs


@dataclass
class Master:
    """One replica, and what its readers have been shown in each mailbox."""

    store: MemoryStore
    replica: Replica
    shown: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def clock(self) -> Clock:
        with self.store.snapshot() as snapshot:
            return Tables(snapshot).head().clock


class Masters:
    """Several masters with two mailboxes, INBOX and Archive, known to all."""

    def __init__(self, count: int, *, acquainted: bool) -> None:
        ids = [ReplicaId(number * 1000 + 7) for number in range(1, count + 1)]
        self.all = []
        for id in ids:
            store = MemoryStore()
            replica = Replica.open(store, lambda id=id: id, lambda: 0)  # type: ignore[misc]
            if acquainted:
                replica.members |= set(ids)
            self.all.append(Master(store, replica))
        first = self.all[0]
        self.mailboxes = {
            name: first.store.transact(lambda txn, n=name: first.replica.create_mailbox(txn, ACCOUNT, n))  # type: ignore[misc]
            for name in ("INBOX", "Archive")
        }
        self.exchange_all()
        self.added = 0

    def add(self, at: int, name: str, count: int) -> None:
        master = self.all[at]
        messages = []
        for _ in range(count):
            self.added += 1
            messages.append(IncomingMessage(MessageId(f"m{self.added}"), 1, 0, frozenset()))
        box = self.mailboxes[name]
        master.store.transact(lambda txn: master.replica.add(txn, ACCOUNT, box, messages))

    def add_same(self, at: int, name: str) -> None:
        """Mail that comes in on several masters under one id."""
        master = self.all[at]
        message = IncomingMessage(MessageId("shared"), 1, 0, frozenset())
        box = self.mailboxes[name]
        master.store.transact(lambda txn: master.replica.add(txn, ACCOUNT, box, [message]))

    def expunge(self, at: int, name: str, uids: tuple[int, int]) -> None:
        master, box = self.all[at], self.mailboxes[name]
        chosen = Selection(uids=(uids,))
        master.store.transact(lambda txn: master.replica.expunge(txn, ACCOUNT, box, chosen))

    def move(self, at: int, source: str, target: str, uids: tuple[int, int]) -> None:
        master = self.all[at]
        from_box, to_box = self.mailboxes[source], self.mailboxes[target]
        chosen = Selection(uids=(uids,))
        master.store.transact(lambda txn: master.replica.move(txn, ACCOUNT, from_box, to_box, chosen))

    def deliver(self, source: int, target: int, at_most: int | None = None) -> None:
        sender, receiver = self.all[source], self.all[target]
        with sender.store.snapshot() as snapshot:
            entries = views.deltas_after(Tables(snapshot), receiver.clock(), max_bytes=1 << 30)
        for entry in entries[:at_most]:
            delta, data = decode_delta(entry.delta), entry.delta
            outcome = receiver.store.transact(
                lambda txn, d=delta, b=data: receiver.replica.receive(txn, d, b)  # type: ignore[misc]
            )
            assert outcome is Outcome.APPLIED

    def exchange_all(self) -> None:
        for source in range(len(self.all)):
            for target in range(len(self.all)):
                if source != target:
                    self.deliver(source, target)

    def read(self, at: int, name: str) -> dict[int, str]:
        """Show a mailbox to a reader, and hold it to what readers of this master were shown before."""
        master, box = self.all[at], self.mailboxes[name]
        master.store.transact(lambda txn: master.replica.show(txn, ACCOUNT, box))
        with master.store.snapshot() as snapshot:
            tables = Tables(snapshot)
            record = tables.mailbox(ACCOUNT, box)
            assert record is not None
            found = views.messages(tables, record, limit=10_000)
        uids = [message.uid for message in found]
        assert uids == sorted(set(uids)), "every message has a UID of its own"
        before = master.shown[name]
        highest = max(before, default=0)
        for message in found:
            if message.uid in before:
                assert before[message.uid] == message.id, "a shown UID never changes its meaning"
            else:
                assert message.uid > highest, "a new UID is above all that were shown"
        now = {int(message.uid): str(message.id) for message in found}
        before.update(now)
        return now

    def renumberings(self) -> int:
        """How many messages were given another UID, over all deltas."""
        with self.all[0].store.snapshot() as snapshot:
            deltas = [decode_delta(entry.delta) for entry in Tables(snapshot).log_from(Lsn(1))]
        return sum(len(op.uids) for delta in deltas for op in delta.operations if isinstance(op, Renumber))

    def settle_and_compare(self) -> None:
        """Everybody reads and exchanges until nothing more happens; then all show the same."""
        for _ in range(ROUNDS):
            for name in self.mailboxes:
                for at in range(len(self.all)):
                    self.read(at, name)
            before = [master.clock() for master in self.all]
            self.exchange_all()
            if before == [master.clock() for master in self.all]:
                break
        else:
            pytest.fail(f"still renumbering after {ROUNDS} rounds")
        for name in self.mailboxes:
            shown = [self.read(at, name) for at in range(len(self.all))]
            assert all(view == shown[0] for view in shown), f"{name}: not all masters show the same UIDs"


@dataclass(frozen=True)
class Program:
    masters: int
    acquainted: bool
    steps: tuple[tuple[object, ...], ...]

    def run(self) -> Masters:
        masters = Masters(self.masters, acquainted=self.acquainted)
        for what, *arguments in self.steps:
            getattr(masters, str(what))(*arguments)
        return masters


@st.composite
def programs(draw: st.DrawFn, *, with_reads: bool = True) -> Program:
    count = draw(st.integers(2, 5))
    at = st.integers(0, count - 1)
    name = st.sampled_from(("INBOX", "INBOX", "Archive"))
    uids = st.tuples(st.integers(1, 8), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    links = st.tuples(at, at).filter(lambda pair: pair[0] != pair[1])
    steps: list[st.SearchStrategy[tuple[object, ...]]] = [
        st.tuples(st.just("add"), at, name, st.integers(1, 4)),
        st.tuples(st.just("add"), at, name, st.integers(1, 4)),
        st.tuples(st.just("add_same"), at, name),
        st.tuples(st.just("expunge"), at, name, uids),
        st.tuples(st.just("move"), at, st.just("INBOX"), st.just("Archive"), uids),
        st.tuples(links, st.one_of(st.none(), st.integers(1, 2))).map(lambda p: ("deliver", *p[0], p[1])),
        st.tuples(links, st.none()).map(lambda p: ("deliver", *p[0], p[1])),
    ]
    if with_reads:
        steps += [st.tuples(st.just("read"), at, name)] * 2
    return Program(count, draw(st.booleans()), tuple(draw(st.lists(st.one_of(steps), max_size=40))))


@given(programs())
def test_shown_uids_ascend_and_all_masters_agree_when_quiet(program: Program) -> None:
    program.run().settle_and_compare()


@given(programs(with_reads=False))
def test_nothing_is_renumbered_where_nobody_reads(program: Program) -> None:
    masters = program.run()
    masters.exchange_all()
    assert masters.renumberings() == 0


@pytest.mark.parametrize("count", [2, 3, 5])
def test_masters_that_know_each_other_never_pick_the_same_uid(count: int) -> None:
    masters = Masters(count, acquainted=True)
    for at in range(count):
        masters.add(at, "INBOX", 50)
    masters.exchange_all()
    masters.settle_and_compare()
    assert masters.renumberings() == 0, "nobody had read, so nothing was stale"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_on_average_a_message_is_renumbered_less_often_than_there_are_masters(count: int) -> None:
    """Everybody adds and reads at the same time, which is the worst that can happen.

    Two masters that heal at once cannot both come out above the other, so one of them heals again.
    """
    masters = Masters(count, acquainted=True)
    for at in range(count):
        masters.add(at, "INBOX", 200)
        masters.read(at, "INBOX")
    masters.exchange_all()
    masters.settle_and_compare()
    assert masters.renumberings() / (200 * count) < count


def test_masters_that_never_met_may_pick_the_same_uid_and_still_come_to_agree() -> None:
    masters = Masters(2, acquainted=False)
    masters.all[0].replica.members = masters.all[1].replica.members = frozenset()
    masters.add(0, "INBOX", 3)
    masters.add(1, "INBOX", 3)
    assert masters.read(0, "INBOX").keys() & masters.read(1, "INBOX").keys()
    masters.exchange_all()
    masters.settle_and_compare()


def test_a_uid_that_a_client_was_shown_never_selects_a_message_that_came_later_under_it() -> None:
    masters = Masters(2, acquainted=False)
    masters.add(0, "INBOX", 1)
    masters.add(1, "INBOX", 1)
    (uid,) = masters.read(0, "INBOX")
    masters.expunge(0, "INBOX", (uid, uid))
    masters.deliver(1, 0)
    masters.expunge(0, "INBOX", (uid, uid))
    masters.exchange_all()
    assert list(masters.read(0, "INBOX").values()) == ["m2"]
