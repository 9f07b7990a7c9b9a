"""One replica: local commands become deltas, deltas from others become state.

Every method takes the transaction in which it works; the caller makes it durable before it tells
anybody.  Commands raise RequestError and then have changed nothing.  Queries are in `views`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import NamedTuple

from crdtmail.applying import Rehoming, apply
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import encode_delta
from crdtmail.crdt.delta import (
    Account,
    Add,
    Create,
    DeleteMailbox,
    Delta,
    DirectoryUpdate,
    Expunge,
    Keywords,
    MailboxId,
    Move,
    Operation,
    Renumber,
)
from crdtmail.crdt.directory import Directory, below
from crdtmail.crdt.message import DELETED, MessageId, NewMessage, expand
from crdtmail.crdt.names import INBOX
from crdtmail.crdt.uid import Stripe, Uid
from crdtmail.errors import (
    AlreadyExists,
    Forbidden,
    NotFound,
    Overloaded,
    PeerError,
    Refusal,
    RequestError,
    TooLarge,
)
from crdtmail.limits import (
    MAX_ANNOTATIONS,
    MAX_DELTA,
    MAX_DIRECTORY,
    MAX_KEYWORDS_PER_MESSAGE,
    MAX_MAILBOX_NAME,
    MAX_MAILBOXES_PER_ACCOUNT,
    MAX_MESSAGES_PER_OPERATION,
    MAX_OPERATIONS,
    MAX_REPLICAS,
    MAX_ROWS_CLEARED,
    MAX_SCRIPTS,
    MAX_UID_JUMP,
)
from crdtmail.merging import merge
from crdtmail.staging import clear, discard
from crdtmail.store.interface import Store, T, Transaction
from crdtmail.store.migrations import migrate
from crdtmail.store.tables import (
    Head,
    LogEntry,
    Lsn,
    Mailbox,
    PeerRecord,
    StoredMessage,
    Tables,
    WritableTables,
)
from crdtmail.views import living_mailboxes

_REHOMED_AT_ONCE, _REHOMINGS_AT_ONCE = 10_000, 8  # messages an operation, operations a delta: both fit one


class IncomingMessage(NamedTuple):
    """A message that is to be added.  `size` in bytes, `received_at` in seconds since 1970 UTC."""

    id: MessageId
    size: int
    received_at: int
    keywords: frozenset[str]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some messages of a mailbox: by id, or by ranges of UIDs as the client was shown them."""

    ids: tuple[MessageId, ...] = ()
    uids: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class KeywordChange:
    """One STORE: keywords that some messages get and lose."""

    selection: Selection
    add: frozenset[str]
    remove: frozenset[str]


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the log is kept for members that are away: bytes of deltas, and milliseconds."""

    bytes: int
    age_ms: int


KEEP_ALL = Keep(bytes=1 << 62, age_ms=1 << 62)
"""Only what every member has goes."""


@dataclass(slots=True)
class Attempt:
    """An attempt to take over a snapshot, and whether somebody is still at it."""

    is_on: bool = True
    has_turned_away: bool = False
    """Whether others had deltas meanwhile, which were not applied."""


class Outcome(Enum):
    """What became of a delta from another replica."""

    APPLIED = auto()
    KNOWN = auto()
    GAP = auto()


class Replica:
    """The identity under which this node writes, and everything that it can do to its state.

    `time_ms` is read when a delta is logged; nothing but what an operator is shown depends on it.
    """

    def __init__(
        self,
        id: ReplicaId,
        members: Iterable[ReplicaId],
        new_id: Callable[[], ReplicaId],
        time_ms: Callable[[], int],
    ) -> None:
        self.id = id
        """Who we are, durably.  Whoever performs what is asked for sets it after each commit."""
        self.author = id
        """Who we are in the transaction that runs: another id comes with it, or comes to nothing with it."""
        self.members = frozenset(members) | {id}
        self._touched: set[Account] = set()
        self._filling: Attempt | None = None
        self._has_renewed = False
        self._given_up: set[ReplicaId] = set()
        """Ids that were to be left, whether or not another one could be written down."""
        self._renumbered: set[tuple[Account, MailboxId]] = set()
        self._new_id = new_id
        self.time_ms = time_ms

    @classmethod
    def open(cls, store: Store, new_id: Callable[[], ReplicaId], time_ms: Callable[[], int]) -> Replica:
        """The replica whose state is in `store`.

        In an empty store it is a new one, whose id `new_id` gives; likewise in a store that lies elsewhere
        than when it got its id.  That is a copy: the original may be alive, or may have written what the
        copy lacks, and one dot must never name two deltas.

        A store of an older format is brought up to date first, in the same transaction.  Raises StoreError if
        this version cannot read it, StoreFull if there is no room.
        """

        def identify(txn: Transaction) -> Replica:
            migrate(txn)
            tables = WritableTables(txn)
            id = tables.replica()
            if id is None or not store.is_at(tables.place()):
                id = new_id()
            tables.put_identity(id, store.next_place)
            return cls(id, tables.peers(), new_id, time_ms)

        replica = store.transact(identify)
        store.settle()
        return replica

    # Deltas from other replicas -----------------------------------------------------------------------

    def receive(self, txn: Transaction, delta: Delta, data: bytes) -> Outcome:
        """Apply a delta of another replica: once, after all that it builds on, or not at all.

        Raises PeerError if it claims to be ours, or cannot be applied.
        """
        tables = WritableTables(txn)
        head = tables.head()
        if head.clock.covers(delta.dot):
            return Outcome.KNOWN
        self.author = self.identity(tables)
        if delta.replica == self.author:
            raise PeerError(
                f"delta {delta.dot.seq} is said to be this replica's own, which never made it",
                Refusal.OWN_DELTA,
            )
        if self._filling is not None and self._filling.is_on:
            self._filling.has_turned_away = True
            return Outcome.GAP
        if delta.dot.seq != head.clock[delta.replica] + 1 or not head.clock.includes(delta.context):
            return Outcome.GAP
        _check_uids(tables, delta)
        _check_replicas(head.clock.with_dot(delta.dot))
        self._touched.add(delta.account)
        rehomings = apply(tables, head, delta, data, replica=self.author, now_ms=self.time_ms())
        self._rehome(tables, delta.account, rehomings)
        return Outcome.APPLIED

    # Snapshots of other replicas ----------------------------------------------------------------------

    @property
    def is_filling(self) -> bool:
        """Whether another replica's snapshot is being compared with this one's state."""
        return self._filling is not None and self._filling.is_on

    def compare(self, txn: Transaction, attempt: Attempt) -> int:
        """Begin a comparison with another replica's snapshot; its number.

        As long as the attempt is on, no delta of others is applied: what was found equal must stay so but for
        our own writes.
        """
        self._filling = attempt
        self._renumbered.clear()
        return WritableTables(txn).next_mailbox_number()

    def merge(
        self, txn: Transaction, attempt: Attempt, comparison: int, theirs: Clock, *, is_repair: bool
    ) -> bool:
        """Merge what the comparison has staged of a replica at clock `theirs`, and that clock with ours.

        False if it has to be compared again, because messages have got new UIDs here meanwhile: they are in
        other blocks than those that were compared.  Raises PeerError if it can no longer be merged.
        """
        tables = WritableTables(txn)
        head = tables.head()
        self.author = self.identity(tables)
        if self._filling is not attempt or not attempt.is_on:
            raise PeerError("the snapshot was given up, and deltas may have come since")
        if theirs[self.author] > head.clock[self.author]:
            raise PeerError("the peer has changes of this node that its own store has lost")
        if is_repair and not theirs.includes(head.floor):
            raise PeerError("the log no longer holds what was changed since the snapshot")
        _check_replicas(head.clock.join(theirs))
        if any(tables.staged_mailbox(*each) is not None for each in self._renumbered):
            return False
        merged = merge(tables, head, comparison, theirs, replica=self.author, is_repair=is_repair)
        self._touched |= merged.accounts
        followed: dict[Account, list[Rehoming]] = {}
        for account, rehoming in merged.followed:
            followed.setdefault(account, []).append(rehoming)
        for account, rehomings in followed.items():
            self._rehome(tables, account, rehomings)
        return True

    def discard_staged(self, txn: Transaction) -> None:
        """What has come of another replica's snapshot is not going to be used any more, unless somebody has
        begun to compare meanwhile."""
        if not self.is_filling:
            discard(WritableTables(txn))

    def clear_garbage(self, txn: Transaction) -> bool:
        """Take away some of what is no longer needed of snapshots; whether anything is left."""
        return clear(WritableTables(txn))

    # Who we are, who else there is ---------------------------------------------------------------------

    def renew(self, txn: Transaction, old: ReplicaId, *, is_ambiguous: bool) -> bool:
        """Go on under a new id: the old one names what is not here, is retired, or is another node's.

        It is ambiguous if others may know other deltas under it than we do: from the last one on that any
        peer was known to have.
        """
        tables = WritableTables(txn)
        self.author = self.identity(tables)
        if self.author != old:  # several may say so at once
            return False
        self._given_up.add(old)
        if is_ambiguous:
            sure = max((peer.clock[old] for peer in tables.peers().values()), default=0)
            tables.put_doubts(tables.doubts() | {old: sure})
        self.author, self._has_renewed = self._new_id(), True
        self.members |= {self.author}
        tables.put_identity(self.author, tables.place())
        return True

    def identity(self, tables: Tables) -> ReplicaId:
        """Who the store says that we are, which is asked once another id was to be taken: that may fail."""
        if not self._has_renewed:
            return self.id
        id = tables.replica()
        assert id is not None, "an open store has a replica"
        return id

    def retire(self, txn: Transaction, replicas: Iterable[ReplicaId]) -> None:
        """These are gone for good: nothing is kept for them any more.  Raises Forbidden for ourselves."""
        tables = WritableTables(txn)
        known = tables.peers()
        for replica in replicas:
            if replica == self.author:
                raise Forbidden("a node cannot retire itself; stop it, and say so to another node")
            record = known.get(replica) or PeerRecord("", Clock(), self.time_ms())
            tables.put_peer(replica, record._replace(is_retired=True))

    def prune(self, txn: Transaction, covered: Clock, keep: Keep) -> None:
        """Take deltas off the log, oldest first: some that `covered` covers, or that are over a limit."""
        tables = WritableTables(txn)
        head = tables.head()
        gone = []
        for entry in islice(tables.log_from(Lsn(0)), MAX_ROWS_CLEARED):
            if not self._is_prunable(head, entry, covered, keep):
                break
            gone.append(entry._replace(delta=b""))
            head.log_bytes -= len(entry.delta)
            head.floor = head.floor.with_dot(entry.dot)
        for entry in gone:  # the scan is over now
            tables.delete_from_log(entry)
        had = tables.cut()
        cut = Clock.of([*had.items(), *(entry.dot for entry in gone)]).without(covered)
        if cut != had:
            tables.put_cut(cut)
        tables.put_head(head)

    def may_prune(self, tables: Tables, covered: Clock, keep: Keep) -> bool:
        """Whether there is anything to prune."""
        first = next(tables.log_from(Lsn(0)), None)
        return first is not None and self._is_prunable(tables.head(), first, covered, keep)

    def _is_prunable(self, head: Head, entry: LogEntry, covered: Clock, keep: Keep) -> bool:
        is_old = self.time_ms() - entry.applied_at_ms > keep.age_ms
        return covered.covers(entry.dot) or is_old or head.log_bytes > keep.bytes

    def take_touched(self) -> set[Account]:
        """The accounts touched since the last call.  For the writer's thread, after a commit."""
        touched, self._touched = self._touched, set()
        return touched

    def meet(self, txn: Transaction, peer: ReplicaId, name: str, clock: Clock) -> None:
        """Remember another replica, and how far it was now that it was heard of.

        That is after all others of its name, which it may have been before, wherever the wall clock was set.
        """
        tables = WritableTables(txn)
        peers = tables.peers()
        known = peers.pop(peer, None)
        is_retired = known is not None and known.is_retired
        others = (each.seen_at_ms + 1 for each in peers.values() if each.name == name)
        tables.put_peer(peer, PeerRecord(name, clock, max([self.time_ms(), *others]), is_retired))

    def remember(self, txn: Transaction, heard: Mapping[ReplicaId, tuple[Clock, int]]) -> None:
        """Remember, of the replicas that were met, how far each was when last heard of, so many ms ago."""
        tables = WritableTables(txn)
        for replica, record in tables.peers().items():
            if replica in heard:
                clock, ago_ms = heard[replica]
                tables.put_peer(replica, record._replace(clock=clock, seen_at_ms=self.time_ms() - ago_ms))

    # Mailboxes ----------------------------------------------------------------------------------------

    def create_mailbox(
        self,
        txn: Transaction,
        account: Account,
        name: str,
        *,
        role: str | None = None,
        is_subscribed: bool | None = None,
    ) -> MailboxId:
        """Make a mailbox, or on another replica at the same time the same one.  Raises AlreadyExists."""
        tables = WritableTables(txn)
        living = living_mailboxes(tables, account)
        taken = next((id for id, entry in living.items() if entry.name == name), None)
        if taken is not None:
            raise AlreadyExists(f"a mailbox named {name!r} exists already (id {taken.hex()})")
        if len(living) >= MAX_MAILBOXES_PER_ACCOUNT:
            raise TooLarge(f"an account has at most {MAX_MAILBOXES_PER_ACCOUNT} mailboxes")
        directory = Directory(tables.directory(account), self.author)
        mailbox = directory.new_id(account, name)
        updates = [directory.create(mailbox, name)]
        if role is not None or is_subscribed is not None:
            updates.append(directory.describe(mailbox, role=role, is_subscribed=is_subscribed))
        self._commit(tables, account, Create(mailbox), *self._additions(tables, account, updates))
        return mailbox

    def rename_mailbox(self, txn: Transaction, account: Account, mailbox: MailboxId, name: str) -> None:
        """Rename a mailbox and with it those below it.

        Raises AlreadyExists, Forbidden, NotFound, TooLarge.
        """
        tables = WritableTables(txn)
        living = living_mailboxes(tables, account)
        entry = living.get(mailbox)
        if entry is None:
            raise _no_mailbox(mailbox)
        if INBOX in (entry.name, name):
            raise Forbidden("INBOX keeps its name; move its messages instead")
        if below(entry.name, name):
            raise Forbidden(f"{entry.name!r} cannot become a mailbox below itself")
        renamed = {mailbox: name}
        for other, its in living.items():
            if below(entry.name, its.name):
                renamed[other] = name + its.name[len(entry.name) :]
        if renamed[mailbox] == entry.name:
            return
        names = {its.name for other, its in living.items() if other not in renamed}
        for new in renamed.values():
            if len(new.encode()) > MAX_MAILBOX_NAME:
                raise TooLarge(f"a mailbox below would have a name of over {MAX_MAILBOX_NAME} bytes")
            if new in names:
                raise AlreadyExists(f"a mailbox named {new!r} exists already")
        update = Directory(tables.directory(account), self.author).rename(
            [(id, living[id].base_name, new) for id, new in renamed.items()]
        )
        self._commit(tables, account, *self._additions(tables, account, [update]))

    def describe_mailbox(
        self,
        txn: Transaction,
        account: Account,
        mailbox: MailboxId,
        *,
        role: str | None = None,
        is_subscribed: bool | None = None,
        annotations: dict[str, str | None] | None = None,
    ) -> None:
        """Set role, subscription, annotations (RFC 5464); None leaves one be, an empty role removes it."""
        tables = WritableTables(txn)
        entry = living_mailboxes(tables, account).get(mailbox)
        if entry is None:
            raise _no_mailbox(mailbox)
        kept = {name for name in entry.annotations if (annotations or {}).get(name, "") is not None}
        if len(kept | {name for name, value in (annotations or {}).items() if value}) > MAX_ANNOTATIONS:
            raise TooLarge(f"a mailbox has at most {MAX_ANNOTATIONS} annotations")
        update = Directory(tables.directory(account), self.author).describe(
            mailbox, role=role, is_subscribed=is_subscribed, annotations=annotations
        )
        self._commit(tables, account, *self._additions(tables, account, [update]))

    def delete_mailbox(self, txn: Transaction, account: Account, mailbox: MailboxId) -> None:
        """Delete a mailbox with all that is in it here.  Raises NotFound, and Forbidden for INBOX."""
        tables = WritableTables(txn)
        box = self._mailbox(tables, account, mailbox)
        entry = living_mailboxes(tables, account)[mailbox]
        if entry.base_name == INBOX:
            raise Forbidden("INBOX cannot be deleted")
        update = Directory(tables.directory(account), self.author).vacate(mailbox, entry.base_name)
        deletion = DeleteMailbox(mailbox, box.alive)
        self._commit(tables, account, deletion, *self._directory_updates(tables, account, [update]))

    # Sieve scripts ------------------------------------------------------------------------------------

    def change_script(
        self,
        txn: Transaction,
        account: Account,
        name: str,
        *,
        content: str | None = None,
        is_active: bool | None = None,
    ) -> None:
        """Make or change a script, make it the active one or not.  Raises NotFound, TooLarge."""
        tables = WritableTables(txn)
        directory = Directory(tables.directory(account), self.author)
        updates = []
        if content is not None:
            if name not in directory.scripts() and len(directory.scripts()) >= MAX_SCRIPTS:
                raise TooLarge(f"an account has at most {MAX_SCRIPTS} scripts")
            updates.append(directory.put_script(name, content))
        if name not in directory.scripts():
            raise _no_script(name)
        if is_active or (is_active is False and directory.active_script == name):
            updates.append(directory.activate_script(name if is_active else ""))
        self._commit(tables, account, *self._additions(tables, account, updates))

    def delete_script(self, txn: Transaction, account: Account, name: str) -> None:
        """Raises NotFound, and Forbidden for the active script (RFC 5804 section 2.10)."""
        tables = WritableTables(txn)
        directory = Directory(tables.directory(account), self.author)
        if name not in directory.scripts():
            raise _no_script(name)
        if directory.active_script == name:
            raise Forbidden(f"script {name!r} is active")
        update = directory.delete_script(name)
        self._commit(tables, account, *self._directory_updates(tables, account, [update]))

    # Messages -----------------------------------------------------------------------------------------

    def add(
        self,
        txn: Transaction,
        account: Account,
        mailbox: MailboxId,
        messages: Sequence[IncomingMessage],
        *,
        if_absent: bool = False,
    ) -> list[MessageId]:
        """Add messages; those that were added.

        One that is there already keeps its UID and gets another instance, so an expunge elsewhere that
        has not seen this addition does not take it away.  With `if_absent` it is left as it is instead.
        """
        _check_count(len(messages))
        tables = WritableTables(txn)
        box = self._mailbox(tables, account, mailbox)
        if if_absent:
            messages = [message for message in messages if tables.uid(box.number, message.id) is None]
        if messages:
            self._commit(
                tables, account, Add(mailbox, self._numbered(tables, box, messages), self._causes(box))
            )
        return [message.id for message in messages]

    def change_keywords(
        self, txn: Transaction, account: Account, mailbox: MailboxId, changes: Sequence[KeywordChange]
    ) -> list[MessageId]:
        """Add and remove keywords, all in one delta; the messages that were named and are there."""
        tables = WritableTables(txn)
        box = self._mailbox(tables, account, mailbox)
        if len(changes) > MAX_OPERATIONS:
            raise TooLarge(f"at most {MAX_OPERATIONS} different keyword changes at once")
        found: list[MessageId] = []
        operations = []
        for change in changes:
            selected = self._select(tables, box, change.selection)
            named, operation = _keyword_operation(mailbox, change, selected)
            found += named
            if operation is not None:
                operations.append(operation)
        self._commit(tables, account, *operations)
        return found

    def expunge(
        self, txn: Transaction, account: Account, mailbox: MailboxId, selection: Selection | None
    ) -> list[MessageId]:
        """Take messages out of a mailbox; without a selection, those that show `$deleted` here."""
        tables = WritableTables(txn)
        box = self._mailbox(tables, account, mailbox)
        selected: Iterable[tuple[MessageId, StoredMessage]]
        if selection is None:
            every = tables.messages(box.number)
            selected = ((id, stored) for _, id, stored in every if DELETED in stored.message.keywords)
        else:
            selected = self._select(tables, box, selection)
        observed = _Observed()
        for id, stored in selected:
            observed.see(id, stored)
        if observed.ids:
            self._commit(tables, account, Expunge(mailbox, tuple(observed.ids), observed.clock))
        return observed.ids

    def move(
        self,
        txn: Transaction,
        account: Account,
        source: MailboxId,
        target: MailboxId,
        selection: Selection,
    ) -> list[MessageId]:
        """Move messages with their keywords; those that moved.

        Raises NotFound, and Forbidden if source and target are one.
        """
        tables = WritableTables(txn)
        new, _ = self._between(tables, account, source, target, selection)
        if new:
            # Whoever applies it must have applied all that we had, or it could take a keyword that we saw
            # cleared for one that we did not see, and put it after the message.
            self._commit(tables, account, Move(source, target, new, tables.head().clock))
        return [message.id for message in new]

    def copy(
        self,
        txn: Transaction,
        account: Account,
        source: MailboxId,
        target: MailboxId,
        selection: Selection,
    ) -> list[MessageId]:
        """Copy messages with their keywords; as `move`, but they stay in the source too."""
        tables = WritableTables(txn)
        new, causes = self._between(tables, account, source, target, selection)
        if new:
            self._commit(tables, account, Add(target, new, causes))
        return [message.id for message in new]

    def show(self, txn: Transaction, account: Account, mailbox: MailboxId) -> None:
        """Make the mailbox fit to be shown: stale messages get new UIDs, and the shown mark is raised.

        Must be durable before a reader sees a UID (RFC 9051 section 2.3.1.1).
        """
        tables = WritableTables(txn)
        box = self._mailbox(tables, account, mailbox)
        if box.stale:
            stored = [(id, self._stored(tables, box, id)) for id in tables.stale(box.number)]
            stored.sort(key=lambda pair: (pair[1].message.uid, pair[0]))
            if self.is_filling:
                self._renumbered.add((account, mailbox))
            head = tables.head()
            fresh = self._stripe(head).healed_uids(box.uid_next, len(stored))
            for block in _blocks(stored, MAX_MESSAGES_PER_OPERATION):
                observed = _Observed()
                for id, message in block:
                    observed.see(id, message)
                uids = tuple(zip(observed.ids, fresh, strict=False))
                self._commit(tables, account, Renumber(mailbox, uids, observed.clock))
            box = self._mailbox(tables, account, mailbox)
        if box.shown < box.uid_next - 1:
            box.shown = box.uid_next - 1
            tables.put_mailbox(account, mailbox, box)

    def show_uids(
        self, txn: Transaction, account: Account, mailbox: MailboxId, ids: Iterable[MessageId]
    ) -> dict[MessageId, Uid]:
        """The UIDs of some messages, made fit to be shown (RFC 4315's APPENDUID and COPYUID)."""
        self.show(txn, account, mailbox)
        tables = Tables(txn)
        box = self._mailbox(tables, account, mailbox)
        return {id: uid for id in ids if (uid := tables.uid(box.number, id)) is not None}

    # ----------------------------------------------------------------------------------------------------

    def _commit(self, tables: WritableTables, account: Account, *operations: Operation) -> None:
        """Make one delta of the operations and apply it; without any, nothing happened."""
        if not operations:
            return
        self.author = self.identity(tables)
        if self.author in self._given_up:
            raise Overloaded(
                "this node must take another id before it writes, and could not note that down yet"
            )
        head = tables.head()
        delta = Delta(Dot(self.author, head.clock[self.author] + 1), account, operations)
        assert head.clock.includes(delta.context), "a context holds only what this replica has seen"
        try:
            data = encode_delta(delta)
        except ValueError as error:
            raise RequestError(f"the change cannot be told to other replicas: {error}") from error
        if len(data) > MAX_DELTA:
            raise TooLarge(f"the change takes {len(data)} bytes, at most {MAX_DELTA} fit one delta")
        self._touched.add(account)
        rehomings = apply(tables, head, delta, data, replica=self.author, now_ms=self.time_ms())
        assert not rehomings, "this replica's own moves have seen all that it did"

    def _rehome(self, tables: WritableTables, account: Account, rehomings: list[Rehoming]) -> None:
        """Put keywords after the messages that moves took along unseen, in a delta of this replica's own."""
        wanted: dict[tuple[Dot, MailboxId, tuple[str, ...], tuple[str, ...]], dict[MessageId, None]] = {}
        for move, mailbox, id, add, remove in rehomings:
            for change in _within_limits(add, remove):
                wanted.setdefault((move, mailbox, *change), {})[id] = None
        operations = [
            # The context is the instances that the move has made, and no others.
            Keywords(mailbox, tuple(block), add, remove, Clock.of([move]))
            for (move, mailbox, add, remove), ids in wanted.items()
            for block in _blocks(list(ids), _REHOMED_AT_ONCE)
        ]
        for some in _blocks(operations, _REHOMINGS_AT_ONCE):
            self._commit(tables, account, *some)

    def _mailbox(self, tables: Tables, account: Account, mailbox: MailboxId) -> Mailbox:
        box = tables.mailbox(account, mailbox)
        if box is None:
            raise _no_mailbox(mailbox)
        return box

    def _stripe(self, head: Head) -> Stripe:
        return Stripe.of(self.author, self.members | head.clock.entries.keys())

    def _causes(self, box: Mailbox) -> Clock:
        """What an addition to the mailbox must not overtake: what keeps it alive.

        If one of this replica's own deltas does, that one has waited for its creation, and whoever takes our
        next delta has that one.
        """
        return Clock() if box.alive[self.author] else box.alive

    def _numbered(
        self, tables: Tables, box: Mailbox, messages: Sequence[IncomingMessage]
    ) -> tuple[NewMessage, ...]:
        """The messages with the UIDs that they have or get in `box`."""
        fresh = self._stripe(tables.head()).uids_from(box.uid_next)
        return tuple(
            NewMessage(
                message.id,
                tables.uid(box.number, message.id) or next(fresh),
                message.size,
                message.received_at,
                tuple(sorted(message.keywords)),
            )
            for message in messages
        )

    def _between(
        self,
        tables: Tables,
        account: Account,
        source: MailboxId,
        target: MailboxId,
        selection: Selection,
    ) -> tuple[tuple[NewMessage, ...], Clock]:
        """How what is selected in `source` comes into `target`, and what that must not overtake."""
        box = self._mailbox(tables, account, source)
        there = self._mailbox(tables, account, target)
        if source == target:
            raise Forbidden("source and target are the same mailbox")
        messages = []
        for id, stored in self._select(tables, box, selection):
            first = stored.message.first
            messages.append(IncomingMessage(id, first.size, first.received_at, stored.message.keywords))
            _check_count(len(messages))
        return self._numbered(tables, there, messages), self._causes(there)

    def _select(
        self, tables: Tables, box: Mailbox, selection: Selection
    ) -> Iterator[tuple[MessageId, StoredMessage]]:
        """The selected messages that are there, each once.  The scan must be over before anything is written.

        A UID never means a message that was not shown under it.  Raises TooLarge.
        """
        named = dict.fromkeys(selection.ids)
        for id in named:
            uid = tables.uid(box.number, id)
            stored = None if uid is None else tables.message(box.number, uid, id)
            if stored is not None:
                yield id, stored
        for first, last in _merged(selection.uids):
            for _, id, stored in tables.messages(box.number, first, last):
                if id not in named and not (box.stale and tables.is_stale(box.number, id)):
                    yield id, stored

    def _stored(self, tables: Tables, box: Mailbox, id: MessageId) -> StoredMessage:
        uid = tables.uid(box.number, id)
        assert uid is not None, "a stale message is there"
        stored = tables.message(box.number, uid, id)
        assert stored is not None, "every id in the index has its record"
        return stored

    def _additions(self, tables: Tables, account: Account, updates: list[bytes]) -> list[DirectoryUpdate]:
        """What these make of the account's directory.  Raises TooLarge if it would take too much."""
        if len(tables.directory(account)) + sum(map(len, updates)) > MAX_DIRECTORY:
            raise TooLarge(f"an account's folders and scripts take at most {MAX_DIRECTORY} bytes in all")
        return self._directory_updates(tables, account, updates)

    @staticmethod
    def _directory_updates(tables: Tables, account: Account, updates: list[bytes]) -> list[DirectoryUpdate]:
        clock = tables.account(account).clock
        return [DirectoryUpdate(update, clock) for update in updates]


class _Observed:
    """Messages that an operation is about, and the clock that covers what it has seen of them."""

    def __init__(self) -> None:
        self.ids: list[MessageId] = []
        self.clock = Clock()

    def see(self, id: MessageId, stored: StoredMessage, keywords: Iterable[str] = ()) -> None:
        """Take note of a message, of its instances and of these keywords on them."""
        _check_count(len(self.ids) + 1)
        self.ids.append(id)
        entries = self.clock.entries
        for replica, seq in stored.message.dots(keywords):
            if entries.get(replica, 0) < seq:
                entries[replica] = seq


def _keyword_operation(
    mailbox: MailboxId, change: KeywordChange, selected: Iterable[tuple[MessageId, StoredMessage]]
) -> tuple[list[MessageId], Keywords | None]:
    """The messages that are there, and the operation for one STORE on those where it does something.

    Adding always counts, also what is there already: it wins over a removal elsewhere.  Removing
    counts where there is something to remove; removing `$deleted` always, because it wins too.
    """
    adds, removes = expand(change.add, change.remove)
    touched = adds | removes
    named = []
    observed = _Observed()
    for id, stored in selected:
        named.append(id)
        if adds or any(not removes.isdisjoint(instance.keywords) for instance in stored.message.instances):
            observed.see(id, stored, touched)
    if not observed.ids:
        return named, None
    add, remove = tuple(sorted(change.add)), tuple(sorted(change.remove))
    return named, Keywords(mailbox, tuple(observed.ids), add, remove, observed.clock)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in ranges that do not overlap, ascending."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _within_limits(
    add: frozenset[str], remove: frozenset[str]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The keyword change as several, none over the limit of one."""
    signed = [(keyword, True) for keyword in sorted(add)] + [(keyword, False) for keyword in sorted(remove)]
    for block in _blocks(signed, MAX_KEYWORDS_PER_MESSAGE):
        yield tuple(k for k, adds in block if adds), tuple(k for k, adds in block if not adds)


def _blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, in blocks of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_uids(tables: Tables, delta: Delta) -> None:
    """Refuse UIDs so far up that hardly any would be left.  Raises PeerError.

    A replica that lacks what the others did meanwhile may refuse what it takes once it has caught up.  All
    operations are judged by what was there before: together they must not go further than one.
    """
    for operation in delta.operations:
        match operation:
            case Add(mailbox, messages) | Move(_, mailbox, messages):
                highest = max(message.uid for message in messages)
            case Renumber(mailbox, uids):
                highest = max(uid for _, uid in uids)
            case _:
                continue
        if highest <= MAX_UID_JUMP:
            continue
        box = tables.mailbox(delta.account, mailbox)
        next = tables.burnt(delta.account, mailbox)[1] if box is None else box.uid_next
        if highest > next + MAX_UID_JUMP:
            raise PeerError(f"UID {highest} is too far above {next}, the next one here", Refusal.IMPOSSIBLE)


def _check_replicas(clock: Clock) -> None:
    """Raises PeerError for a clock that nobody could be told."""
    if len(clock) > MAX_REPLICAS:
        raise PeerError(f"there would be {len(clock)} replicas, at most {MAX_REPLICAS} are known")


def _check_count(count: int) -> None:
    if count > MAX_MESSAGES_PER_OPERATION:
        raise TooLarge(f"at most {MAX_MESSAGES_PER_OPERATION} messages at once, these are {count}")


def _no_script(name: str) -> NotFound:
    return NotFound(f"there is no script named {name!r} in this account")


def _no_mailbox(mailbox: MailboxId) -> NotFound:
    return NotFound(f"there is no mailbox with the id {mailbox.hex()} in this account")
