"""Deltas to state: what each operation does to the tables.

The one place where messages, counters, digests, change entries and stale marks are written, for local
and remote deltas alike.  Applying is a function of the state, so replicas that have applied the same
deltas, in whatever causal order, hold the same replicated state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta, dump, plain_clock
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
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.message import DELETED, EMPTY, UNDELETED, Instance, Message, MessageId, expand
from crdtmail.crdt.uid import Uid
from crdtmail.store.tables import (
    BLOCK,
    AccountRecord,
    Change,
    Head,
    LogEntry,
    Lsn,
    Mailbox,
    Modseq,
    Range,
    StoredMessage,
    Tables,
    WritableTables,
    directory_digest,
    element_digest,
    encode_instances,
    mailbox_salt,
)


class Rehoming(NamedTuple):
    """Keyword changes that a move had not seen; they follow the message to the instance that it made."""

    move: Dot
    mailbox: MailboxId
    id: MessageId
    add: frozenset[str]
    remove: frozenset[str]


def apply(
    tables: WritableTables, head: Head, delta: Delta, data: bytes, *, replica: ReplicaId, now_ms: int
) -> list[Rehoming]:
    """Apply the next delta of its origin and log its bytes; `head` moves on, in the same transaction.

    The caller has made sure that `head.clock` covers the delta's context and its predecessor.  Answers
    what this replica has to put on moved messages, in a delta of its own.  Raises PeerError for a
    directory update that cannot be read.
    """
    head.lsn = Lsn(head.lsn + 1)
    head.clock = head.clock.with_dot(delta.dot)
    application = _Application(tables, head, delta, replica)
    for operation in delta.operations:
        application.apply(operation)
    tables.append_to_log(LogEntry(head.lsn, delta.dot, now_ms, data))
    head.log_bytes += len(data)
    tables.put_head(head)
    return application.rehomings


def reapply(tables: WritableTables, head: Head, data: bytes, replica: ReplicaId) -> Account:
    """Let a delta of our log have its effect once more; `head` is written by the caller.  Its account."""
    delta = decode_delta(data)
    application = _Application(tables, head, delta, replica)
    for operation in delta.operations:
        application.apply(operation)
    return delta.account


class _Application:
    """One delta while it is being applied."""

    def __init__(self, tables: WritableTables, head: Head, delta: Delta, replica: ReplicaId) -> None:
        self._tables = tables
        self._head = head
        self._delta = delta
        self._replica = replica
        self.rehomings: list[Rehoming] = []

    def apply(self, operation: Operation) -> None:
        dot = self._delta.dot
        match operation:
            case Create(mailbox):
                with self._born(mailbox):
                    pass
            case Add(mailbox, messages):
                with self._born(mailbox) as box:
                    for new in messages:
                        before = box.get(new.id)
                        box.replace(new.id, before, _message(before).with_instance(dot, new))
            case Move():
                self._move(operation)
            case Keywords(mailbox, ids, add, remove, context):
                adds, removes = expand(add, remove)
                may_follow = bool(adds) and self._delta.replica != self._replica
                gone: list[MessageId] = []
                with self._living(mailbox) as box:
                    for id in ids:
                        before = box.get(id)
                        if before is not None:
                            box.replace(id, before, before.message.with_keywords(dot, adds, removes, context))
                        if may_follow and not any(context.covers(i.dot) for i in _message(before).instances):
                            gone.append(id)
                self._follow(gone, set(adds))
            case Expunge(mailbox, ids, context):
                with self._living(mailbox) as box:
                    for id in ids:
                        if (before := box.get(id)) is not None:
                            box.replace(id, before, before.message.without(context))
            case Renumber(mailbox, uids, context):
                with self._living(mailbox) as box:
                    for id, uid in uids:
                        if (before := box.get(id)) is not None:
                            box.replace(id, before, before.message.with_uid(uid, context))
            case DirectoryUpdate(update):
                clock = Clock.of([dot])
                merge_directory(self._tables, self._head, self._delta.account, update, clock, self._replica)
            case DeleteMailbox(mailbox, context):
                with self._living(mailbox) as box:
                    box.delete(context)

    def _move(self, move: Move) -> None:
        with self._living(move.source) as source, self._born(move.target) as target:
            for new in move.messages:
                if (before := source.get(new.id)) is not None:
                    source.replace(new.id, before, before.message.without(move.context))
                    if self._delta.replica != self._replica:
                        self._rehome(move, new.id, before.message)
                there = target.get(new.id)
                moved = _message(there).with_instance(self._delta.dot, new, is_moved=True)
                target.replace(new.id, there, moved)

    def _rehome(self, move: Move, id: MessageId, left: Message) -> None:
        """Find the keywords that this replica added to what the move took away, and that it had not seen."""
        unseen = {key for key, dot in unseen_keywords(left, move.context) if dot[0] == self._replica}
        if unseen:
            self.rehomings.append(rehoming(self._delta.dot, move.target, id, unseen))

    def _follow(self, ids: list[MessageId], keywords: set[str]) -> None:
        """Put keywords of another replica on messages that have been moved away meanwhile, if that replica
        may not hear of the move by its delta any more, for then it cannot do it itself.

        But not `$deleted`: should it have been a copy that was moved, nobody asked for its end.
        """
        keywords = keywords - {DELETED}
        if not ids or not keywords or not (cut := self._tables.cut()):
            return
        mailboxes = list(self._tables.mailboxes(self._delta.account))
        for id in ids:
            for mailbox, moved in moved_instances(self._tables, mailboxes, id):
                if cut.covers(moved.dot):
                    self.rehomings.append(rehoming(Dot(*moved.dot), mailbox, id, keywords))

    def _living(self, mailbox: MailboxId) -> Editor:
        """The mailbox as it is; where there is none, whatever is done in it comes to nothing."""
        return Editor(self._tables, self._head, self._delta.account, mailbox)

    def _born(self, mailbox: MailboxId) -> Editor:
        """The mailbox, which this delta keeps alive."""
        editor = self._living(mailbox)
        editor.keep_alive(editor.alive.with_dot(self._delta.dot))
        return editor


class Editor:
    """One mailbox while a delta changes it: its record is read once and written once."""

    def __init__(self, tables: WritableTables, head: Head, account: Account, mailbox: MailboxId) -> None:
        self._tables = tables
        self._head = head
        self._account = account
        self._mailbox = mailbox
        self._modseq = Modseq(head.lsn)
        self._salt = mailbox_salt(account, mailbox)
        self._existing = tables.mailbox(account, mailbox)
        self._record = self._existing or Mailbox(number=0)
        self._old_digest = self._record.digest
        self._old_total = self._record.total
        self._ranges: dict[int, Range] = {}
        self._old_alive = self._record.alive

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or self._record.modseq != self._modseq:
            return  # the transaction is given up, or nothing changed
        record = self._record
        if record.alive is not self._old_alive:
            record.digest ^= alive_digest(self._salt, self._old_alive) ^ alive_digest(
                self._salt, record.alive
            )
        self._head.digest ^= self._old_digest ^ record.digest
        self._head.messages += record.total - self._old_total
        for each in self._ranges.values():
            self._tables.put_range(record.number, each)
        if self._existing is None or not record.alive:
            account = self._tables.account(self._account)
            self._tables.put_account(self._account, replace(account, modseq=self._modseq))
        if record.alive:
            self._tables.put_mailbox(self._account, self._mailbox, record)
        else:
            assert record.total == record.digest == 0, "a mailbox that holds messages lives"
            self._tables.delete_mailbox(self._account, self._mailbox, record)

    def keep_alive(self, alive: Clock) -> None:
        """From now on this keeps the mailbox alive, which is made if there is none."""
        record = self._record
        if self._existing is None and not record.number:
            record.number = self._tables.next_mailbox_number()
            record.shown, record.uid_next = self._tables.burnt(self._account, self._mailbox)
        record.alive = alive
        record.modseq = self._modseq

    def use_up(self, uid_next: int) -> None:
        """No message is given a UID below this one from now on."""
        if self._record.uid_next < uid_next:
            self._record.uid_next = uid_next
            self._record.modseq = self._modseq

    @property
    def alive(self) -> Clock:
        return self._record.alive

    def ids(self, block: int | None) -> list[MessageId]:
        """The messages in one block of UIDs, or in the whole mailbox."""
        return [id for _, id, _ in self._tables.block(self._record.number, block)]

    def get(self, id: MessageId) -> StoredMessage | None:
        number = self._record.number
        uid = self._tables.uid(number, id)
        if uid is None:
            return None
        stored = self._tables.message(number, uid, id)
        assert stored is not None, "every id in the index has its record"
        return stored

    def replace(self, id: MessageId, before: StoredMessage | None, after: Message) -> None:
        """Put `after` where `before` was; without instances the message is gone."""
        body = encode_instances(after) if after.instances else b""
        if body == (b"" if before is None else before.body):
            return
        record, tables = self._record, self._tables
        number, modseq = record.number, self._modseq
        record.modseq = modseq
        name = id.encode()
        old_uid = new_uid = None
        if before is not None:
            old_uid = before.message.uid
            self._count(old_uid, element_digest(self._salt, name, before.body), -1)
            record.unread -= before.message.is_unread
        if after.instances:
            new_uid = after.uid
            self._count(new_uid, element_digest(self._salt, name, body), 1)
            record.unread += after.is_unread
        if before is not None and old_uid is not None:
            if old_uid == new_uid:
                tables.forget_change(number, Change(before.modseq, old_uid, id))
            else:
                tables.delete_message(number, id, old_uid, before.modseq)
                self._vanish(id, old_uid)
        if new_uid != old_uid:
            tables.put_uid(number, id, new_uid)
            if new_uid is not None:
                self._arrive(id, new_uid)
        if new_uid is not None:
            tables.put_message(number, id, new_uid, modseq, body)

    def delete(self, context: Clock) -> None:
        """Take away all that `context` covers, the mailbox itself with the rest if nothing keeps it alive."""
        left = self._record.alive.without(context)
        if left != self._record.alive:
            self._record.alive = left
            self._record.modseq = self._modseq
        for _, id, stored in list(self._tables.messages(self._record.number)):
            self.replace(id, stored, stored.message.without(context))

    def _count(self, uid: Uid, digest: int, by: int) -> None:
        """One message more or less in the mailbox, and in its block."""
        record, block = self._record, uid // BLOCK
        record.digest ^= digest
        record.total += by
        before = self._ranges.get(block) or self._tables.range(record.number, block)
        self._ranges[block] = Range(block, before.digest ^ digest, before.messages + by)

    def _vanish(self, id: MessageId, uid: Uid) -> None:
        """The message leaves `uid`; readers hear of it if it had been shown to any."""
        was_stale = self._record.stale > 0 and self._tables.delete_stale(self._record.number, id)
        self._record.stale -= was_stale
        if uid <= self._record.shown and not was_stale:
            self._tables.put_vanished(self._record.number, uid, self._modseq)

    def _arrive(self, id: MessageId, uid: Uid) -> None:
        """The message takes `uid`, which may be too low to be shown here, or another's."""
        record = self._record
        if uid <= record.shown or (uid < record.uid_next and self._tables.has_uid(record.number, uid)):
            self._tables.put_stale(record.number, id)
            record.stale += 1
        record.uid_next = max(record.uid_next, uid + 1)


def merge_directory(
    tables: WritableTables, head: Head, account: Account, update: bytes, clock: Clock, replica: ReplicaId
) -> None:
    """Merge an update of the account's directory, or another replica's document; `clock` is of what it holds.

    Raises PeerError if it cannot be read.
    """
    directory = Directory(tables.directory(account), replica)
    digest = directory_digest(account, directory.merge(update))
    before = tables.account(account)
    tables.put_account(account, AccountRecord(Modseq(head.lsn), digest, before.clock.join(clock)))
    tables.put_directory(account, directory.state())
    head.digest ^= before.digest ^ digest


def unseen_keywords(left: Message, seen: Clock) -> set[tuple[str, tuple[ReplicaId, int]]]:
    """The keywords on those instances that `seen` covers that it does not cover itself, with their dots."""
    return {
        (keyword, dot)
        for instance in left.instances
        if seen.covers(instance.dot)
        for keyword, dots in instance.keywords.items()
        for dot in dots
        if not seen.covers(dot)
    }


def moved_instances(
    tables: Tables, mailboxes: Iterable[tuple[MailboxId, Mailbox]], id: MessageId
) -> Iterator[tuple[MailboxId, Instance]]:
    """The instances of a message in these mailboxes that a move has made.

    From where, nobody knows any more; it may have been a copy of the message in yet another mailbox.
    """
    for mailbox, box in mailboxes:
        uid = tables.uid(box.number, id)
        stored = None if uid is None else tables.message(box.number, uid, id)
        for instance in () if stored is None else stored.message.instances:
            if instance.is_moved:
                yield mailbox, instance


def rehoming(move: Dot, mailbox: MailboxId, id: MessageId, unseen: set[str]) -> Rehoming:
    """How these keywords come back to the message where it is now."""
    remove = frozenset({DELETED} if UNDELETED in unseen else ())
    return Rehoming(move, mailbox, id, frozenset(unseen - {UNDELETED} - remove), remove)


def alive_digest(salt: bytes, alive: Clock) -> int:
    """What keeps a mailbox alive, as a part of the mailbox's digest."""
    return element_digest(salt, b"", dump(plain_clock(alive))) if alive else 0


def _message(stored: StoredMessage | None) -> Message:
    return EMPTY if stored is None else stored.message
