"""What has come of another replica's state, kept until all of it is here and can be merged at once.

Staged messages lie in the ordinary tables under a number that no mailbox has, so nobody is shown any of
them, a node that is killed finds them again, and a mailbox that is new here is made of them by one record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crdtmail.applying import alive_digest
from crdtmail.crdt.clock import Clock
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import Message, MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.errors import PeerError, Refusal
from crdtmail.limits import MAX_ROWS_CLEARED
from crdtmail.store.tables import (
    BLOCK,
    Modseq,
    Range,
    Staged,
    WritableTables,
    element_digest,
    mailbox_salt,
)


class Element(NamedTuple):
    """One message of another replica's mailbox; `body` is `encode_instances(message)`."""

    uid: Uid
    id: MessageId
    body: bytes
    message: Message


class Wanted(NamedTuple):
    """What is known of another replica's mailbox; `blocks` are those that differ there (None: all).

    `uid_next` is above every UID that it knows to be used up there, also those of messages that are gone."""

    account: Account
    mailbox: MailboxId
    alive: Clock
    digest: int
    uid_next: int
    blocks: list[int] | None


def expect_mailbox(tables: WritableTables, comparison: int, wanted: Wanted) -> None:
    """Take note of a mailbox that differs.  What an earlier comparison left of its messages is kept, unless
    they may now be more than what keeps the mailbox alive covers."""
    staged = tables.staged_mailbox(wanted.account, wanted.mailbox)
    if staged is not None and not wanted.alive.includes(staged.alive):
        tables.put_garbage(staged.number)
        staged = None
    staged = staged or Staged(tables.next_mailbox_number())
    staged.comparison, staged.alive, staged.digest = comparison, wanted.alive, wanted.digest
    staged.blocks, staged.uid_next = wanted.blocks, max(staged.uid_next, wanted.uid_next)
    tables.put_staged(wanted.account, wanted.mailbox, staged)


def forget_blocks(
    tables: WritableTables, account: Account, mailbox: MailboxId, blocks: Iterable[int]
) -> None:
    """These blocks will come anew, or are no more."""
    staged = tables.staged_mailbox(account, mailbox)
    assert staged is not None, "the mailbox is expected"
    for block in blocks:
        for uid, id, stored in list(tables.block(staged.number, block)):
            tables.delete_message(staged.number, id, uid, stored.modseq)
            tables.put_uid(staged.number, id, None)
            staged.stale -= tables.delete_stale(staged.number, id)
            staged.total -= 1
            staged.unread -= stored.message.is_unread
        tables.put_range(staged.number, Range(block, 0, 0))
    tables.put_staged(account, mailbox, staged)


def stage(tables: WritableTables, account: Account, mailbox: MailboxId, elements: Sequence[Element]) -> None:
    """Keep messages of a mailbox that is expected, in the order of their UIDs; all that share one at once.

    Raises PeerError if one of them is there already, under another UID, or if what keeps the mailbox alive
    does not cover it: every addition does, or a mailbox could be gone while there are messages in it.
    """
    staged = tables.staged_mailbox(account, mailbox)
    assert staged is not None, "the mailbox is expected"
    salt, number = mailbox_salt(account, mailbox), staged.number
    # Above every state that a reader can have of an earlier mailbox of this id.
    modseq = Modseq(tables.head().lsn)
    ranges: dict[int, Range] = {}
    lowest, last = staged.lowest, 0
    if not tables.put_messages(number, modseq, [element[:3] for element in elements]):
        raise PeerError("a snapshot holds a message twice", Refusal.IMPOSSIBLE)
    for uid, id, body, message in elements:
        block = uid // BLOCK
        before = ranges.get(block) or tables.range(number, block)
        digest = element_digest(salt, id.encode(), body)
        ranges[block] = Range(block, before.digest ^ digest, before.messages + 1)
        if uid == last:
            tables.put_stale(number, id)
            staged.stale += 1
        last = uid
        staged.total += 1
        staged.unread += message.is_unread
        for instance in message.instances:
            replica, seq = instance.dot
            if staged.alive[replica] < seq:
                raise PeerError("a mailbox is not kept alive by a message in it", Refusal.IMPOSSIBLE)
            if seq < lowest.get(replica, seq + 1):
                lowest[replica] = seq
    staged.uid_next = max(staged.uid_next, last + 1)
    for each in ranges.values():
        tables.put_range(number, each)
    tables.put_staged(account, mailbox, staged)


def check_staged(
    tables: WritableTables, account: Account, mailbox: MailboxId, announced: dict[int, int]
) -> bool:
    """Whether what is staged of a mailbox is what was announced: the digests of these blocks, or of all."""
    staged = tables.staged_mailbox(account, mailbox)
    assert staged is not None, "the mailbox is expected"
    if staged.blocks is None:
        digest = alive_digest(mailbox_salt(account, mailbox), staged.alive)
        for each in tables.ranges(staged.number):
            digest ^= each.digest
        return digest == staged.digest
    return all(tables.range(staged.number, block).digest == announced[block] for block in announced)


def discard(tables: WritableTables) -> None:
    """Nothing of what is staged serves any more: from now on it is garbage, whatever becomes of the rest."""
    for account, _ in list(tables.staged_directories()):
        tables.delete_staged(account, MailboxId(b""))
    for account, mailbox, staged in list(tables.staged()):
        tables.put_garbage(staged.number)
        tables.delete_staged(account, mailbox)


def clear(tables: WritableTables) -> bool:
    """Take away some garbage; whether anything is left."""
    left = MAX_ROWS_CLEARED
    for number in list(tables.garbage()):
        left -= tables.delete_rows(number, left)
        if left == 0:
            return True
        tables.delete_garbage(number)
    return False
