"""A store that nobody writes, held against itself: every checksum, and everything kept twice.

Each check is one method of `_Check` that gives `Finding`s.  What can be derived from sound records carries
its repair; messages, mailboxes, directories and deltas cannot, for they are the state itself.  Checks pass
over damaged records: those were told of already, and no sum over a mailbox that has one is judged.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import fields, replace
from functools import partial
from typing import NamedTuple

import msgspec

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta, dump, plain_clock
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.errors import PeerError, StoreError
from crdtmail.limits import MAX_REPAIRS
from crdtmail.store.interface import DamagedRecord, Snapshot, Store, Table, Transaction
from crdtmail.store.migrations import check_format
from crdtmail.store.tables import (
    BLOCK,
    FORMAT,
    OF_MAILBOXES,
    AccountRecord,
    Change,
    Lsn,
    Mailbox,
    Modseq,
    PeerRecord,
    Range,
    StoredMessage,
    Tables,
    WritableTables,
    directory_digest,
    element_digest,
    encode_instances,
    mailbox_salt,
    split_key,
)
from crdtmail.views import living_mailboxes

Repair = Callable[[WritableTables], object]
Reading = Callable[[Table], None]

_ROUNDS = 100
_TRIES = 3
"""Two findings can be of one record; then what repairs the one may bring back the other, once."""
NONSENSE = (msgspec.MsgspecError, struct.error, UnicodeError)
"""What is raised where a record has a right checksum, and is in the wrong place."""
_DERIVED = {Table.LOG_INDEX, Table.MESSAGE_IDS, Table.CHANGES, Table.RANGES, Table.STALE, Table.STAGED}
"""Tables of which a damaged record may go: what it said is found missing, and is said again."""


class Finding(NamedTuple):
    """Something that is wrong, in words, and what puts it right, if anything does.

    Where it is the file that is wrong, nothing may be written to it: whatever is looked up there may be found
    or not, and what is put there may come to lie where nobody finds it.
    """

    text: str
    repair: Repair | None = None
    is_of_file: bool = False


class Repaired(NamedTuple):
    """What was put right, and what could not be."""

    done: list[str]
    left: list[str]


def check(rows: Snapshot, reading: Reading = lambda table: None) -> Generator[Finding, None, None]:
    """Everything that is wrong; `reading` is called for each record that is read.

    What is wrong with the file itself ends it.  Raises StoreError if the store is of another format.
    """
    try:
        _assure_format(rows)
        of_file = False
        for flaw in flaws(rows):
            of_file = True
            yield Finding(flaw, is_of_file=True)
        if not of_file:
            yield from _Check(_Sound(rows, reading)).findings()
    except NONSENSE as error:
        yield Finding(f"a record with a right checksum cannot be read: {error}", is_of_file=True)


def flaws(rows: Snapshot) -> Iterator[str]:
    """What is wrong with the file: a table has its keys in order, and finds each record by its key."""
    for table in Table:
        last, disordered, lost, number = None, 0, 0, 0
        for key, _ in rows.records(table):
            number += 1
            disordered += last is not None and key <= last
            lost += not _is_found(rows, table, key)
            last = key
        if disordered or lost or number != (count := rows.count(table)):
            yield f"table {table.value.decode()}: " + (
                f"{disordered} of its {number} records are out of order"
                if disordered
                else f"{lost} of its {number} records are not found by their keys"
                if lost
                else f"it should have {count} records, and {number} are there"
            )


def _is_found(rows: Snapshot, table: Table, key: bytes) -> bool:
    try:
        return rows.get(table, key) is not None
    except DamagedRecord:
        return True


def _assure_format(rows: Snapshot) -> None:
    with suppress(DamagedRecord):
        found = Tables(rows).format()
        if found is not None and found != FORMAT:
            check_format(found)
            raise StoreError(
                f"the store has format {found}: start the node once, which brings it to {FORMAT}"
            )


def repair(store: Store, reading: Reading = lambda table: None) -> Repaired:
    """Put right in one transaction all that can be, until a check finds nothing more that can.

    Nothing is written if anything is wrong with the file itself.  Raises StoreError, StoreFull.
    """
    try:
        return store.transact(lambda txn: _repair(txn, reading))
    except _NotWritable as error:
        return Repaired([], error.found)


def _repair(txn: Transaction, reading: Reading) -> Repaired:
    done: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        able, left = _found(txn, reading, done)
        if not able:
            break
        for finding in able:
            assert finding.repair is not None
            finding.repair(WritableTables(txn))
            done[finding.text] += 1
    return Repaired([text for text in done if text not in left], [*left, *(each.text for each in able)])


def _found(txn: Transaction, reading: Reading, done: Counter[str]) -> tuple[list[Finding], list[str]]:
    """What can be repaired now, as much as is repaired at once, and what cannot.

    What was repaired several times and is there again cannot: the file misleads.
    """
    able, left = [], []
    with closing(check(txn, reading)) as findings:
        for finding in findings:
            if finding.is_of_file:
                raise _NotWritable([finding.text, *(each.text for each in findings)])
            if finding.repair is None or done[finding.text] == _TRIES:
                left.append(finding.text)
            else:
                able.append(finding)
            if len(able) == MAX_REPAIRS:
                break
    return able, left


class _NotWritable(Exception):
    """Undoes what was repaired."""

    def __init__(self, found: list[str]) -> None:
        super().__init__("the file is damaged")
        self.found = found


class _Sound:
    """A snapshot whose scans pass over damaged records."""

    def __init__(self, rows: Snapshot, reading: Reading) -> None:
        self._rows = rows
        self._reading = reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._rows.get(table, key)

    def count(self, table: Table) -> int:
        return self._rows.count(table)

    def scan(
        self, table: Table, start: bytes, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        assert not reverse, "no check reads backwards"
        for key, value in self.records(table, start, stop):
            if value is not None:
                yield key, value

    def records(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        for key, value in self._rows.records(table, start, stop):
            if value is not None:
                self._reading(table)
            yield key, value


class _Check:
    """One pass over a store.  Its memory grows with the mailboxes and accounts, not with messages."""

    def __init__(self, rows: Snapshot) -> None:
        self._rows = rows
        self._tables = Tables(self._rows)
        self._boxes: dict[int, tuple[Account, MailboxId]] = {}
        for account, mailbox, box in self._tables.every_mailbox():
            self._boxes[box.number] = account, mailbox
        self._damaged: set[Table] = set()
        self._incomplete: set[int] = set()
        """The mailboxes, by number, of which a message is damaged."""
        self._damaged_ranges: set[tuple[object, ...]] = set()
        self._unindexed: set[int] = set()
        """Those of which a message is not in the index."""
        self._digest: int | None = 0
        """That of the whole state, as far as it was counted; None once something is missing from it."""
        self._clock: Clock | None = None
        """Where the log ends; None unless it is whole."""
        self._lsn = Lsn(0)
        self._log_bytes = 0
        self._count: int | None = 0
        """All messages; None where one is damaged."""
        self._staged = {staged.number for _, _, staged in self._tables.staged()} | {*self._tables.garbage()}

    @property
    def _floor(self) -> Clock:
        """Deltas that this covers may be missing from the log."""
        with suppress(DamagedRecord):
            return self._tables.head().floor
        return Clock()

    def findings(self) -> Iterator[Finding]:
        yield from self._records()
        yield from self._log()
        yield from self._log_index()
        for account, mailbox, box in self._tables.every_mailbox():
            yield from self._messages(box)
            yield from self._message_ids(box)
            yield from self._changes(box)
            yield from self._counters(account, mailbox, box)
        yield from self._rows_without_mailbox()
        yield from self._numbers()
        yield from self._accounts()
        yield from self._head()

    # Records --------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[Finding]:
        for table in Table:
            for key, value in self._rows.records(table):
                if value is None:
                    self._damaged.add(table)
                    try:
                        parts = split_key(table, key)
                    except NONSENSE:  # it is the key that is damaged
                        yield self._nameless(table, key)
                        continue
                    if table is Table.MESSAGES:
                        self._incomplete |= {parts[0]} if parts[0] in self._boxes else self._boxes.keys()
                    if table is Table.RANGES:
                        self._damaged_ranges.add(parts)
                    if table is not Table.ACCOUNTS and key not in (b"head", b"numbers"):  # told further on
                        yield self._damage(table, *parts, repair=self._repair(table, parts))
        if self._damaged & {Table.MAILBOXES, Table.DIRECTORIES} or self._incomplete:
            self._digest = None

    def _nameless(self, table: Table, key: bytes) -> Finding:
        """A damaged record whose key says nothing; what it held is missing, or somebody else's."""
        if table is Table.MESSAGES:
            self._incomplete |= self._boxes.keys()
        text = f"table {table.value.decode()}: the record under {key.hex()} is damaged: its checksum is wrong"
        return Finding(
            text, partial(WritableTables.forget_record, table=table, key=key) if table in _DERIVED else None
        )

    def _damage(self, table: Table, *parts: object, repair: Repair | None) -> Finding:
        return Finding(f"{self._name(table, parts)} is damaged: its checksum is wrong", repair)

    def _name(self, table: Table, parts: tuple[object, ...]) -> str:
        """A record in an operator's words."""
        match table, parts:
            case Table.META, (name,):
                return f"the record {name!r} of the node itself"
            case Table.LOG, (lsn,):
                return f"delta {lsn} of the log"
            case Table.LOG_INDEX, (replica, seq):
                return f"the entry of the log's index for delta {seq} of replica {replica:016x}"
            case Table.MAILBOXES, (account, mailbox):
                return f"{account}: the record of {self._mailbox_name(str(account), mailbox)}"
            case Table.BURNT, (account, mailbox):
                return f"{account}: the UIDs that were shown in the deleted mailbox {_hex(mailbox)}"
            case Table.MESSAGES, (number, uid, id):
                return f"{self._where(number)}: message {id} (UID {uid})"
            case Table.MESSAGE_IDS, (number, id):
                return f"{self._where(number)}: the index entry of message {id}"
            case Table.CHANGES, (number, modseq, uid, id):
                return f"{self._where(number)}: the change {modseq} of {id or f'UID {uid}, which vanished'}"
            case Table.RANGES, (number, block):
                return f"{self._where(number)}: the digest of the UIDs from {int(str(block)) * BLOCK} on"
            case Table.STAGED, (account, mailbox):
                return f"{account}: what has come of another node's {_hex(mailbox)}"
            case Table.GARBAGE, (number,):
                return f"the mark that rows of number {number} are to be taken away"
            case Table.STALE, (number, id):
                return f"{self._where(number)}: the mark that the UID of {id} may not be shown"
            case Table.ACCOUNTS, (account,):
                return f"{account}: the account's record"
            case Table.DIRECTORIES, (account,):
                return f"{account}: the directory of mailboxes and scripts"
            case Table.PEERS, (replica,):
                return f"what is remembered of peer {replica:016x}"
        raise AssertionError("every table has its words")

    def _repair(self, table: Table, parts: tuple[object, ...]) -> Repair | None:
        """What puts a damaged record right: its key tells all, or a later check finds it missing."""
        match table, parts:
            case Table.META, ("format",):
                return WritableTables.put_format
            case Table.META, ("replica" | "place",):
                return WritableTables.forget_identity
            case Table.LOG_INDEX, (int(replica), int(seq)):
                return partial(WritableTables.put_lsn, dot=Dot(ReplicaId(replica), seq), lsn=None)
            case Table.MESSAGE_IDS, (int(number), str(id)):
                return partial(WritableTables.put_uid, number=number, id=MessageId(id), uid=None)
            case Table.CHANGES, (int(number), *change):
                return partial(WritableTables.put_change, number=number, change=Change._make(change))
            case Table.RANGES, (int(number), int(block)):
                return partial(WritableTables.put_range, number=number, range=Range(block, 0, 0))
            case Table.STAGED, (str(account), bytes(mailbox)):
                return partial(WritableTables.delete_staged, account=account, mailbox=MailboxId(mailbox))
            case Table.GARBAGE, (int(number),):
                return partial(WritableTables.put_garbage, number=number)
            case Table.STALE, (int(number), str(id)):
                return _hide(number, MessageId(id))
            case Table.PEERS, (int(replica),):
                nothing = PeerRecord("", Clock(), 0)
                return partial(WritableTables.put_peer, replica=ReplicaId(replica), peer=nothing)
        return None

    # The log --------------------------------------------------------------------------------------------

    def _log(self) -> Iterator[Finding]:
        """The log has no hole above the floor, can be read, and is in causal order."""
        clock, is_whole = self._floor, Table.LOG not in self._damaged
        floor = clock
        for entry in self._tables.log_from(Lsn(0)):
            name = self._name(Table.LOG, (entry.lsn,))
            self._log_bytes += len(entry.delta)
            try:
                delta = decode_delta(entry.delta)
            except PeerError as error:
                yield Finding(f"{name} cannot be read: {error}")
            else:
                if delta.dot != entry.dot:
                    yield Finding(f"{name} is another one than its record says")
                elif floor.covers(entry.dot):
                    pass  # from before a snapshot
                elif is_whole and entry.dot.seq != clock[entry.dot.replica] + 1:
                    yield Finding(f"{name} does not follow on its replica's last one")
                elif is_whole and not clock.includes(delta.context):
                    yield Finding(f"{name} comes before what it builds on")
            with suppress(DamagedRecord):
                if self._tables.lsn_of(entry.dot) != entry.lsn:
                    yield Finding(
                        f"{name} is missing from the log's index",
                        partial(WritableTables.put_lsn, dot=entry.dot, lsn=entry.lsn),
                    )
            clock, self._lsn = clock.with_dot(entry.dot), entry.lsn
        if is_whole and Table.META not in self._damaged:
            self._clock = clock

    def _log_index(self) -> Iterator[Finding]:
        """The log's index leads to deltas that are there."""
        for dot, lsn in self._tables.log_index():
            with suppress(DamagedRecord):
                entry = self._tables.log_entry(lsn)
                if entry is None or entry.dot != dot:
                    yield Finding(
                        f"{self._name(Table.LOG_INDEX, dot)} leads to a delta that is not there",
                        partial(WritableTables.put_lsn, dot=dot, lsn=None),
                    )

    # Mailboxes ------------------------------------------------------------------------------------------

    def _messages(self, box: Mailbox) -> Iterator[Finding]:
        """Each message stands under its UID, in the index and among the changes, no two under one UID."""
        tables, number = self._tables, box.number
        stale = set(tables.stale(number))
        before: Uid | None = None
        for uid, id, stored in tables.messages(number):
            name = self._name(Table.MESSAGES, (number, uid, id))
            if stored.message.uid != uid:
                yield Finding(f"{name} has UID {stored.message.uid} by its own account")
            with suppress(DamagedRecord):
                for finding in self._index_entry(number, uid, id, name):
                    self._unindexed.add(number)
                    yield finding
            change = Change(stored.modseq, uid, id)
            with suppress(DamagedRecord):
                if not tables.has_change(number, change):
                    yield Finding(
                        f"{name} is missing among the changes",
                        partial(WritableTables.put_change, number=number, change=change),
                    )
            if id not in stale and Table.STALE not in self._damaged:
                if uid == before:
                    yield Finding(f"{name} shares its UID with another", _hide(number, id))
                before = uid

    def _index_entry(self, number: int, uid: Uid, id: MessageId, name: str) -> Iterator[Finding]:
        found = self._tables.uid(number, id)
        if found is None:
            yield Finding(
                f"{name} is missing from the index",
                partial(WritableTables.put_uid, number=number, id=id, uid=uid),
            )
        elif found != uid and self._tables.message(number, found, id) is None:
            yield Finding(
                f"{name} has UID {found} in the index",
                partial(WritableTables.put_uid, number=number, id=id, uid=uid),
            )
        elif found != uid:
            yield Finding(f"{name} is there a second time, as UID {found}")

    def _message_ids(self, box: Mailbox) -> Iterator[Finding]:
        """Index entries and stale marks are of messages that are there."""
        tables, number = self._tables, box.number
        for id, uid in tables.uids(number):
            with suppress(DamagedRecord):
                if tables.message(number, uid, id) is None:
                    yield Finding(
                        f"{self._name(Table.MESSAGES, (number, uid, id))} is in the index, but is not there",
                        partial(WritableTables.put_uid, number=number, id=id, uid=None),
                    )
        for id in tables.stale(number):
            with suppress(DamagedRecord):
                if tables.uid(number, id) is None and number not in self._incomplete | self._unindexed:
                    yield Finding(
                        f"{self._name(Table.STALE, (number, id))} is of no message",
                        partial(WritableTables.delete_stale, number=number, id=id),
                    )

    def _changes(self, box: Mailbox) -> Iterator[Finding]:
        """Changes are those of the messages as they are, and of UIDs that were shown and are free."""
        tables, number = self._tables, box.number
        for change in tables.changes(number, 0, 0):
            modseq, uid, id = change
            with suppress(DamagedRecord):
                stored = None if id is None else tables.message(number, uid, id)
                if uid > box.shown if id is None else stored is None or stored.modseq != modseq:
                    yield Finding(
                        f"{self._name(Table.CHANGES, (number, *change))} is of nothing that happened",
                        partial(WritableTables.forget_change, number=number, change=change),
                    )
                    continue
            if id is None and Table.STALE not in self._damaged:
                for _, shown, _ in tables.messages(number, uid, uid):
                    if not tables.is_stale(number, shown):
                        name = self._name(Table.MESSAGES, (number, uid, shown))
                        yield Finding(f"{name} has a UID that has vanished", _hide(number, shown))

    def _counters(self, account: Account, mailbox: MailboxId, box: Mailbox) -> Iterator[Finding]:
        """Counters and digest are what the messages say."""
        if not box.alive:
            yield Finding(f"{self._where(box.number)}: nothing keeps the mailbox alive")
        if box.number in self._incomplete:
            self._count = None
            return
        counted = replace(box, total=0, unread=0)
        ranges: dict[int, Range] = {}
        if Table.STALE not in self._damaged:
            counted.stale = sum(1 for _ in self._tables.stale(box.number))
        salt = mailbox_salt(account, mailbox)
        counted.digest = element_digest(salt, b"", dump(plain_clock(box.alive)))
        for uid, id, stored in self._tables.messages(box.number):
            _count(counted, ranges, salt, uid, id, stored)
        if self._count is not None:
            self._count += counted.total
        yield from self._ranges(box.number, ranges)
        if counted != box:
            wrong = ", ".join(
                f"{field.name} is {_shown(kept)}, should be {_shown(right)}"
                for field in fields(box)
                if (kept := getattr(box, field.name)) != (right := getattr(counted, field.name))
            )
            yield Finding(
                f"{self._where(box.number)}: {wrong}",
                partial(WritableTables.put_mailbox, account=account, mailbox=mailbox, record=counted),
            )
        if self._digest is not None:
            self._digest ^= counted.digest

    def _ranges(self, number: int, counted: dict[int, Range]) -> Iterator[Finding]:
        """The digest of each block of UIDs is that of its messages."""
        kept = {each.block: each for each in self._tables.ranges(number)}
        for block in sorted(kept.keys() | counted.keys()):
            if kept.get(block) != counted.get(block) and (number, block) not in self._damaged_ranges:
                right = counted.get(block) or Range(block, 0, 0)
                yield Finding(
                    f"{self._name(Table.RANGES, (number, block))} does not fit its messages",
                    partial(WritableTables.put_range, number=number, range=right),
                )

    def _rows_without_mailbox(self) -> Iterator[Finding]:
        """Every row is of a living mailbox."""
        if Table.MAILBOXES in self._damaged:
            return
        homes = self._boxes.keys() | self._staged
        homeless = set(self._tables.mailbox_numbers(Table.MESSAGES)) - homes
        for number in sorted(homeless):
            yield Finding(f"there are messages of a mailbox (number {number}) that is not there")
        for table in OF_MAILBOXES:
            for number in self._tables.mailbox_numbers(table):
                if number not in homes and number not in homeless:
                    yield Finding(
                        f"table {table.value.decode()} has rows of a mailbox (number {number}) that is gone",
                        partial(WritableTables.forget_rows, table=table, number=number),
                    )

    def _numbers(self) -> Iterator[Finding]:
        """No mailbox number is given a second time; most deltas make one mailbox at most."""
        highest = max(self._boxes.keys() | self._staged, default=0)
        renumber = partial(WritableTables.put_last_mailbox_number, number=max(highest, self._lsn))
        try:
            if highest > self._tables.last_mailbox_number():
                yield Finding("mailbox numbers would be given a second time", renumber)
        except DamagedRecord:
            yield self._damage(Table.META, "numbers", repair=renumber)

    def _where(self, number: object) -> str:
        """A mailbox in an operator's words."""
        assert isinstance(number, int)
        if number not in self._boxes:
            return f"mailbox number {number}, whose record is missing"
        account, mailbox = self._boxes[number]
        return f"{account}, {self._mailbox_name(account, mailbox)}"

    def _mailbox_name(self, account: Account, mailbox: object) -> str:
        with suppress(DamagedRecord, PeerError):
            living = living_mailboxes(self._tables, account)
            if isinstance(mailbox, bytes) and (found := living.get(MailboxId(mailbox))) is not None:
                return found.name
        return f"mailbox {_hex(mailbox)}"

    # Accounts -------------------------------------------------------------------------------------------

    def _accounts(self) -> Iterator[Finding]:
        """Each account has its record, and a directory that can be read and has the digest that it says."""
        tables = self._tables
        listed = {split_key(Table.ACCOUNTS, key)[0] for key, _ in self._rows.records(Table.ACCOUNTS)}
        owners = {account for account, _ in self._boxes.values()}
        for account in sorted({*listed, *tables.directories(), *owners}):
            record = digest = None
            with suppress(DamagedRecord):
                record = tables.account(account)
            try:
                digest = _directory_digest(account, tables.directory(account))
            except DamagedRecord:
                self._digest = None
            except (PeerError, ValueError) as error:
                self._digest = None
                yield Finding(f"{account}: its directory cannot be read: {error}")
            if record is None:
                yield self._damage(Table.ACCOUNTS, account, repair=self._rebuilt(account, digest))
            elif digest == 0 != record.digest:
                digest = None
                yield Finding(f"{account}: its directory is missing")
            elif digest is not None and (account not in listed or record.digest != digest):
                text = f"{account}: the account's record does not fit its directory"
                yield Finding(text, self._rebuilt(account, digest))
            self._digest = None if digest is None or self._digest is None else self._digest ^ digest

    def _rebuilt(self, account: Account, digest: int | None) -> Repair | None:
        """Whoever follows the account's mailboxes reads them anew, and its next change waits for all that is
        here."""
        lsn, clock = self._lsn, self._clock
        with suppress(DamagedRecord):
            head = self._tables.head()
            lsn, clock = head.lsn, head.clock
        if digest is None or clock is None:
            return None
        record = AccountRecord(Modseq(lsn), digest, clock)
        return partial(WritableTables.put_account, account=account, record=record)

    # The head -------------------------------------------------------------------------------------------

    def _head(self) -> Iterator[Finding]:
        """The node's clock is the log's end, its digest that of all mailboxes and accounts."""
        try:
            head = self._tables.head()
        except (
            DamagedRecord
        ):  # what was pruned is in no log, so nothing else tells how far this node has come
            yield self._damage(Table.META, "head", repair=None)
            return
        if self._clock is not None and (head.clock != self._clock or head.lsn < self._lsn):
            yield Finding(
                f"the node stands at LSN {head.lsn} and {head.clock}, "
                f"its log ends at LSN {self._lsn} and {self._clock}"
            )
        counted = replace(head)
        if self._digest is not None:
            counted.digest = self._digest
        if self._count is not None and Table.MAILBOXES not in self._damaged:
            counted.messages = self._count
        if Table.LOG not in self._damaged:
            counted.log_bytes = self._log_bytes
        for what in ("digest", "messages", "log_bytes"):
            kept, right = getattr(head, what), getattr(counted, what)
            if kept != right:
                yield Finding(
                    f"the node's {what} is {_shown(kept)}, should be {_shown(right)}",
                    partial(WritableTables.put_head, head=counted),
                )


def _count(
    counted: Mailbox, ranges: dict[int, Range], salt: bytes, uid: Uid, id: MessageId, stored: StoredMessage
) -> None:
    counted.total += 1
    counted.unread += stored.message.is_unread
    counted.uid_next = max(counted.uid_next, uid + 1)
    counted.modseq = max(counted.modseq, stored.modseq)
    digest = element_digest(salt, id.encode(), encode_instances(stored.message))
    counted.digest ^= digest
    block = uid // BLOCK
    before = ranges.get(block) or Range(block, 0, 0)
    ranges[block] = Range(block, before.digest ^ digest, before.messages + 1)


def _directory_digest(account: Account, state: bytes) -> int:
    """Raises PeerError or ValueError if it is no directory."""
    if not state:
        return 0
    return directory_digest(account, Directory(state, ReplicaId(0)).content())


def _hide(number: int, id: MessageId) -> Repair:
    """Whoever shares a UID, or has one that vanished, gets another before it is shown."""
    return partial(WritableTables.put_stale, number=number, id=id)


def _hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _shown(value: object) -> str:
    return f"{value:016x}" if isinstance(value, int) and value >= 2**32 else str(value)
