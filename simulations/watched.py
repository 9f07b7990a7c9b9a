"""The real replica, taking notes: what it made and applied, in which order, having seen what.

Notes are of a transaction that may yet be undone or lost; whoever has made it durable hands them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from crdtmail.applying import Rehoming
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, Add, Delta, MailboxId, Move, Operation
from crdtmail.crdt.message import MessageId
from crdtmail.errors import CrdtmailError
from crdtmail.replica import Attempt, Keep, Outcome, Replica
from crdtmail.store.interface import Snapshot, Transaction
from crdtmail.store.tables import Lsn, Tables, WritableTables
from crdtmail.store.tables import Mailbox as MailboxRecord
from simulations.commands import Command, Mailbox
from simulations.violation import expect


class Made(NamedTuple):
    """A delta of the replica's own: the UIDs that it gave to messages, and the replicas that it knew then."""

    dot: Dot
    account: Account
    uids: tuple[tuple[MailboxId, MessageId, int], ...] = ()
    known: frozenset[ReplicaId] = frozenset()


class Followed(NamedTuple):
    """Keywords were put after a message; `is_cut` if the log no longer holds the move that took it there."""

    account: Account
    rehoming: Rehoming
    is_cut: bool


class Received(NamedTuple):
    """A delta of another replica, applied when the clock stood at `seen`; the next `caused` notes, all
    `Made`, are because of it."""

    dot: Dot
    account: Account
    seen: Clock
    caused: int
    followed: tuple[Followed, ...] = ()
    """Where keywords of the other replica were put after a message, because it may not hear of the move."""


class Filled(NamedTuple):
    """A snapshot of a replica at clock `theirs` was merged where the clock stood at `seen`; the next `caused`
    notes, all `Made`, are because of it.  `changed` are the accounts that are not what they were before."""

    seen: Clock
    theirs: Clock
    caused: int
    followed: tuple[Followed, ...]
    changed: frozenset[Account]
    is_in_doubt: bool
    """Whether there are ids of which neither clock says what was seen."""


class Pruned(NamedTuple):
    """Deltas were taken off the log, up to these, though it was neither too long nor too old."""

    gone: Clock


class Showed(NamedTuple):
    """A mailbox was made fit to be shown, with these UIDs."""

    account: Account
    mailbox: MailboxId
    uids: frozenset[int]


class CutShort(NamedTuple):
    """The log was pruned where all members have what `covered` covers; `gone` are the deltas up to which that
    was done though members may lack them."""

    gone: Clock
    covered: Clock


class Registered(NamedTuple):
    """A register of the directory got a value: a mailbox's annotation or subscription, a script."""

    key: tuple[str, ...]
    value: str


class Did(NamedTuple):
    """What a client's command did, in the terms of the reference's `History.record`."""

    what: Command | Registered
    if_absent: bool = False
    """An addition that is none where the message is there already."""
    refused: bool = False
    made: Mailbox | None = None
    vacated: str | None = None


class Commanded(NamedTuple):
    """A client's command, given where the clock stood at `seen`; `dot` names the delta it made, if any."""

    account: Account
    did: Did
    seen: Clock
    dot: Dot | None


Note = Made | Received | Filled | Pruned | CutShort | Showed | Commanded


class WatchedReplica(Replica):
    """A replica that takes notes."""

    def __init__(
        self,
        id: ReplicaId,
        members: Iterable[ReplicaId],
        new_id: Callable[[], ReplicaId],
        time_ms: Callable[[], int],
    ) -> None:
        super().__init__(id, members, new_id, time_ms)
        self.notes: list[Note] = []
        self._followed: list[Followed] = []

    def receive(self, txn: Transaction, delta: Delta, data: bytes) -> Outcome:
        before = Tables(txn).head().clock
        place = len(self.notes)
        self._followed.clear()
        was_filling = self.is_filling
        try:
            outcome = super().receive(txn, delta, data)
        except CrdtmailError:
            self.undo(place)
            raise
        if outcome is Outcome.APPLIED:
            promise, seen = "while a snapshot is taken over, deltas wait", "{} did not, on {}"
            expect(not was_filling, promise, seen, delta.dot, self.id)
            followed = tuple(each for each in self._followed if each.rehoming.move != delta.dot)
            caused = len(self.notes) - place
            self.notes.insert(place, Received(delta.dot, delta.account, before, caused, followed))
        return outcome

    def merge(
        self, txn: Transaction, attempt: Attempt, comparison: int, theirs: Clock, *, is_repair: bool
    ) -> bool:
        head, place, had = Tables(txn).head(), len(self.notes), _states(Tables(txn))
        before = head.clock
        is_in_doubt = is_repair or bool(Tables(txn).doubts())
        self._followed.clear()
        merged = super().merge(txn, attempt, comparison, theirs, is_repair=is_repair)
        if merged:
            promise, seen = "what was given up is not merged", "{} merged a snapshot at {}"
            expect(attempt.is_on, promise, seen, self.id, theirs)
            floor = Tables(txn).head().floor
            gone = {r for r, seq in floor.items() if head.floor[r] < seq and theirs[r] <= before[r]}
            promise, seen = (
                "a snapshot takes the place of no log that is here",
                "the log of {} was at {}, and is at {}",
            )
            expect(not gone, promise, seen, self.id, head.floor, floor)
            changed = frozenset(account for account, _ in had ^ _states(Tables(txn)))
            caused = len(self.notes) - place
            self.notes.insert(
                place, Filled(before, theirs, caused, tuple(self._followed), changed, is_in_doubt)
            )
        return merged

    def _rehome(self, tables: WritableTables, account: Account, rehomings: list[Rehoming]) -> None:
        super()._rehome(tables, account, rehomings)
        floor = tables.head().floor if rehomings else Clock()
        self._followed += [Followed(account, each, floor.covers(each.move)) for each in rehomings]

    def _commit(self, tables: WritableTables, account: Account, *operations: Operation) -> None:
        super()._commit(tables, account, *operations)
        if operations:
            clock, uids = tables.head().clock, tuple(_given(operations))
            known = frozenset(clock.entries) | self.members if uids else frozenset()
            self.notes.append(Made(Dot(self.author, clock[self.author]), account, uids, known))

    def show(self, txn: Transaction, account: Account, mailbox: MailboxId) -> None:
        tables = Tables(txn)
        box = tables.mailbox(account, mailbox)
        stale = list(tables.stale(box.number)) if box is not None and box.stale else []
        before = sorted((_uid(tables, box, id), id) for id in stale)
        super().show(txn, account, mailbox)
        if (now := tables.mailbox(account, mailbox)) != box and now is not None:
            shown = frozenset(int(uid) for uid, _, _ in tables.messages(now.number))
            self.notes.append(Showed(account, mailbox, shown))
        after = [_uid(tables, box, id) for _, id in before]
        promise, seen = "messages keep their order", "{}, {}, {}: {} got the new UIDs {}"
        expect(after == sorted(after), promise, seen, self.id, account, mailbox.hex(), before, after)

    def prune(self, txn: Transaction, covered: Clock, keep: Keep) -> None:
        before, oldest = Tables(txn).head(), self.time_ms() - keep.age_ms
        is_full = before.log_bytes > keep.bytes
        is_full = is_full or any(entry.applied_at_ms < oldest for entry in Tables(txn).log_from(Lsn(0)))
        had = before.floor
        super().prune(txn, covered, keep)
        floor = Tables(txn).head().floor
        if not is_full and floor != had:
            self.notes.append(Pruned(Clock({r: seq for r, seq in floor.items() if had[r] < seq})))
        lacked = {r: seq for r, seq in floor.items() if max(had[r], covered[r]) < seq}
        self.notes.append(CutShort(Clock(lacked), covered))

    def take_notes(self) -> list[Note]:
        """The notes since the last call."""
        notes, self.notes = self.notes, []
        return notes

    def undo(self, notes: int) -> None:
        """Forget all but so many notes: what they were of was undone."""
        del self.notes[notes:]


def _uid(tables: Tables, box: MailboxRecord | None, id: MessageId) -> int:
    uid = tables.uid(box.number, id) if box is not None else None
    assert uid is not None, "a stale message is there"
    return uid


def _given(operations: Iterable[Operation]) -> Iterator[tuple[MailboxId, MessageId, int]]:
    """The UIDs that these give to messages."""
    for operation in operations:
        if isinstance(operation, Add | Move):
            mailbox = operation.target if isinstance(operation, Move) else operation.mailbox
            for new in operation.messages:
                yield mailbox, new.id, new.uid


def _states(tables: Tables) -> set[tuple[Account, frozenset[tuple[bytes, int]]]]:
    """What can be told of each account: its directory and its mailboxes, by their digests."""
    return {
        (
            account,
            frozenset(
                [
                    (b"", tables.account(account).digest),
                    *((id, box.digest) for id, box in tables.mailboxes(account)),
                ]
            ),
        )
        for account in tables.accounts()
    }


def clock_in(txn: Snapshot) -> Clock:
    """Where the clock stands inside a transaction."""
    return Tables(txn).head().clock
