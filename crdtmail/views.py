"""Queries: what readers are told, from one snapshot.  Nothing is written here.

What shows UIDs may only be read from a snapshot in which the mailbox is fit to be shown: see
`is_fit_to_show` and `Replica.show`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import dump, plain_clock
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.directory import Directory, Entry, lost_name, shown_names
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.errors import NotFound
from crdtmail.limits import MAX_UID
from crdtmail.store.tables import (
    Head,
    LogEntry,
    Lsn,
    Mailbox,
    Modseq,
    Tables,
    directory_digest,
    element_digest,
)

_READER = ReplicaId(0)  # a document that is only read needs no author


@dataclass(frozen=True, slots=True)
class LivingMailbox:
    """A mailbox as its owner sees it.  `name` is unique in the account; twins share the `base_name`."""

    name: str
    base_name: str
    role: str | None
    is_subscribed: bool
    annotations: dict[str, str]
    record: Mailbox


class MessageView(NamedTuple):
    """One message as readers see it."""

    uid: Uid
    id: MessageId
    keywords: frozenset[str]
    size: int
    received_at: int
    modseq: Modseq


class ChangesPage(NamedTuple):
    """What changed and vanished after a position, up to `position`; there may be more."""

    changed: list[MessageView]
    vanished: list[Uid]
    position: tuple[int, int]
    has_more: bool


def living_mailboxes(tables: Tables, account: Account) -> dict[MailboxId, LivingMailbox]:
    """The account's mailboxes by id."""
    records = dict(tables.mailboxes(account))
    entries = _entries(tables.directory(account)) if records else {}
    known = {mailbox: entries.get(mailbox) or Entry(lost_name(mailbox)) for mailbox in records}
    names = shown_names({mailbox: entry.name for mailbox, entry in known.items()})
    return {
        mailbox: LivingMailbox(
            names[mailbox], entry.name, entry.role, entry.is_subscribed, entry.annotations, records[mailbox]
        )
        for mailbox, entry in known.items()
    }


class Script(NamedTuple):
    """A Sieve script (RFC 5228)."""

    name: str
    content: str
    is_active: bool


def scripts(tables: Tables, account: Account) -> list[Script]:
    """The account's Sieve scripts by name."""
    directory = Directory(tables.directory(account), _READER)
    active = directory.active_script
    return [Script(name, content, name == active) for name, content in directory.scripts().items()]


@lru_cache(maxsize=64)
def _entries(state: bytes) -> dict[MailboxId, Entry]:
    """Reading a document takes longer than the rest of a query; nobody changes what this gives."""
    return Directory(state, _READER).entries()


def find_mailbox(tables: Tables, account: Account, name: str) -> MailboxId:
    """The mailbox that shows this name.  Raises NotFound."""
    for mailbox, living in living_mailboxes(tables, account).items():
        if living.name == name:
            return mailbox
    raise NotFound(f"account {account!r} has no mailbox named {name!r}")


def is_fit_to_show(box: Mailbox) -> bool:
    """Whether every UID in the mailbox may be shown, and the shown mark says so already."""
    return box.stale == 0 and box.shown >= box.uid_next - 1


def messages(tables: Tables, box: Mailbox, *, after: int = 0, limit: int) -> list[MessageView]:
    """At most `limit` messages above the UID `after`, by UID."""
    found: list[MessageView] = []
    for uid, id, stored in tables.messages(box.number, after + 1):
        if len(found) == limit:
            break
        message = stored.message
        first = message.first
        found.append(MessageView(uid, id, message.keywords, first.size, first.received_at, stored.modseq))
    return found


def changes(tables: Tables, box: Mailbox, position: tuple[int, int], *, limit: int) -> ChangesPage:
    """At most `limit` entries after `position`, a (modseq, uid); a message is named once, as it is now."""
    changed: list[MessageView] = []
    vanished: list[Uid] = []
    for change in tables.changes(box.number, *position):
        if len(changed) + len(vanished) == limit:
            return ChangesPage(changed, vanished, position, True)
        position = (change.modseq, change.uid)
        if change.id is None:
            vanished.append(change.uid)
        else:
            stored = tables.message(box.number, change.uid, change.id)
            assert stored is not None, "a change entry stands for a record or for a vanished UID"
            first = stored.message.first
            changed.append(
                MessageView(
                    change.uid,
                    change.id,
                    stored.message.keywords,
                    first.size,
                    first.received_at,
                    change.modseq,
                )
            )
    return ChangesPage(changed, vanished, position_now(box), False)


def position_now(box: Mailbox) -> tuple[int, int]:
    """The position after all changes so far."""
    return box.modseq, MAX_UID


def account_keys(
    tables: Tables, after: Account, last: Account | None, limit: int
) -> list[tuple[Account, int]]:
    """Accounts after one, up to `last`, each with a digest of all that two replicas must have in common, and
    of the UIDs that are used up: what is gone left no other trace, and its UID must not come back."""
    found: list[tuple[Account, int]] = []
    for account in tables.accounts(after):
        if len(found) == limit or (last is not None and account.encode() > last.encode()):
            break
        key = directory_key(tables, account)
        for mailbox, record in tables.mailboxes(account):
            key ^= record.digest ^ element_digest(b"", mailbox, dump(record.uid_next))
        found.append((account, key))
    return found


def directory_key(tables: Tables, account: Account) -> int:
    """A digest of an account's directory and of the updates that it holds.

    Two documents can say the same and yet differ in what they need to understand the next update.
    """
    record = tables.account(account)
    return _directory_key(account, record.digest, record.clock)


def key_of_directory(account: Account, content: list[Any], clock: Clock) -> int:
    """What `directory_key` is where the directory has this content."""
    return _directory_key(account, directory_digest(account, content), clock)


def _directory_key(account: Account, digest: int, clock: Clock) -> int:
    if not clock:
        return 0
    said = dump([digest, plain_clock(clock)])
    return element_digest(b"", b"directory of " + account.encode(), said)


def deltas_after(
    tables: Tables, clock: Clock, *, max_bytes: int, own: ReplicaId | None = None
) -> list[LogEntry]:
    """What `clock` does not cover, in LSN order, up to `max_bytes` (one delta at least).

    With `own`, only the deltas of that replica.  The log is read from the first entry that is missing.  It
    gives nothing if the log no longer reaches back so far.
    """
    head = tables.head()
    if not reaches(head, clock, own):
        return []
    first = first_missing(tables, head, clock, own)
    found: list[LogEntry] = []
    size = 0
    if first is None:
        return found
    wanted = {own} if own is not None else {r for r, seq in head.clock.items() if clock[r] < seq}
    remaining = sum(head.clock[r] - clock[r] for r in wanted)
    for entry in tables.log_from(first):
        if clock.covers(entry.dot) or entry.dot.replica not in wanted:
            continue
        if found and size + len(entry.delta) > max_bytes:
            break
        found.append(entry)
        size += len(entry.delta)
        remaining -= 1
        if remaining == 0:
            break
    return found


def reaches(head: Head, clock: Clock, own: ReplicaId | None = None) -> bool:
    """Whether the log still holds everything, or all of one replica, that `clock` does not cover."""
    return clock.includes(head.floor) if own is None else clock[own] >= head.floor[own]


def first_missing(tables: Tables, head: Head, theirs: Clock, own: ReplicaId | None = None) -> Lsn | None:
    """The LSN of the first delta in the log that `theirs` does not cover."""
    lsns = []
    for replica, seq in head.clock.items():
        first = max(theirs[replica], head.floor[replica]) + 1
        if first <= seq and own in (None, replica):
            lsn = tables.lsn_of(Dot(replica, first))
            assert lsn is not None, "every delta above the floor is in the log"
            lsns.append(lsn)
    return min(lsns, default=None)


def digests(tables: Tables, account: Account) -> tuple[int, dict[MailboxId, int]]:
    """The digest of an account's directory, and of each of its mailboxes."""
    directory = tables.account(account).digest
    return directory, {mailbox: record.digest for mailbox, record in tables.mailboxes(account)}
