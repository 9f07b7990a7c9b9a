"""A snapshot to state: all that was staged of another replica is merged in one transaction, with its clock.

The rule for a dot: in both, keep it; only here, keep it unless their clock covers it; only there, keep it
unless ours does.  What was compared and found equal is not looked at: nothing but this replica's own writes
may have been applied since (`Replica.compare`), and these neither hold nor remove what their clock covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from crdtmail.applying import (
    Editor,
    Rehoming,
    alive_digest,
    merge_directory,
    moved_instances,
    reapply,
    rehoming,
    unseen_keywords,
)
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import DELETED, EMPTY, Message, MessageId
from crdtmail.staging import discard
from crdtmail.store.tables import (
    Head,
    Lsn,
    Mailbox,
    Modseq,
    Staged,
    WritableTables,
    mailbox_salt,
)


class Merged(NamedTuple):
    """What a merge leaves to be done: keywords that are to follow messages which others have moved."""

    accounts: set[Account]
    followed: list[tuple[Account, Rehoming]]


class _Left(NamedTuple):
    """A message that was taken out of its mailbox by somebody who had not seen these keywords."""

    account: Account
    id: MessageId
    keywords: set[str]
    seen: Clock
    """What those had seen who added them."""


def merge(
    tables: WritableTables, head: Head, comparison: int, theirs: Clock, *, replica: ReplicaId, is_repair: bool
) -> Merged:
    """Merge what this comparison has staged of a replica at clock `theirs`.

    For a repair, where one of two states with one clock is damaged, every dot that either has is kept, and
    the clock stays: what it does not cover yet comes as deltas, and what this replica has applied since is
    applied once more, so that nothing comes back that either side has removed meanwhile.  A dot of an id that
    this node may have used twice is kept by whoever has it: neither clock says anything of it.
    """
    ours, doubts = head.clock, tables.doubts()
    merging = _Merging(
        tables,
        head,
        replica,
        Clock() if is_repair else ours.limited(doubts),
        Clock() if is_repair else theirs.limited(doubts),
    )
    head.lsn = Lsn(head.lsn + 1)
    accounts = set()
    for account, mailbox, staged in list(tables.staged()):
        if staged.comparison == comparison:
            accounts.add(account)
            merging.mailbox(account, mailbox, staged)
    for account, directory in list(tables.staged_directories()):
        if directory.comparison == comparison:
            accounts.add(account)
            merging.directory(account, directory.clock, directory.document)
    discard(tables)
    if is_repair:
        for entry in tables.log_from(Lsn(0)):
            if not theirs.covers(entry.dot):
                accounts.add(reapply(tables, head, entry.delta, replica))
    else:
        raised = {r: seq for r, seq in theirs.items() if ours[r] < seq}
        head.clock = ours.join(theirs)
        head.floor = head.floor.join(Clock(raised))
        if doubts and all(theirs[r] >= ours[r] for r in doubts):
            tables.put_doubts({})
    tables.put_head(head)
    return Merged(accounts, list(merging.followed()))


class _Merging:
    def __init__(
        self, tables: WritableTables, head: Head, replica: ReplicaId, ours: Clock, theirs: Clock
    ) -> None:
        self._tables = tables
        self._head = head
        self._replica = replica
        self._ours = ours
        self._theirs = theirs
        self._left: list[_Left] = []
        self._left_from: Counter[tuple[Account, MessageId]] = Counter()
        """How many mailboxes each message was taken out of."""

    def mailbox(self, account: Account, mailbox: MailboxId, staged: Staged) -> None:
        tables = self._tables
        is_unknown = tables.mailbox(account, mailbox) is None and tables.burnt(account, mailbox) == (0, 1)
        if staged.blocks is None and is_unknown and staged.alive and self._is_all_news(staged):
            self._link(account, mailbox, staged)
            return
        with Editor(tables, self._head, account, mailbox) as editor:
            alive = self._alive(editor.alive, staged.alive)
            if alive or editor.alive:
                if alive != editor.alive:
                    editor.keep_alive(alive)
                editor.use_up(staged.uid_next)
            # Else it was deleted here, and nothing has come into it there since; but flags have, perhaps.
            blocks = [None] if staged.blocks is None else staged.blocks
            there = {id: message for block in blocks for id, message in self._staged(staged.number, block)}
            here = [id for block in blocks for id in editor.ids(block)]
            for id in dict.fromkeys([*there, *here]):
                before = editor.get(id)
                had = EMPTY if before is None else before.message
                after = had.merged(there.get(id, EMPTY), self._ours, self._theirs)
                editor.replace(id, before, after)
                self._note_lost(account, id, had, there.get(id, EMPTY), after)

    def directory(self, account: Account, clock: Clock, document: bytes) -> None:
        merge_directory(self._tables, self._head, account, document, clock, self._replica)

    def followed(self) -> Iterator[tuple[Account, Rehoming]]:
        """Where messages that left with keywords unseen are now, in what these had not seen either.

        From which mailbox a message was moved, nobody knows any more.  Where it was in several, `$deleted`
        does not follow: it might end a copy whose end nobody asked for.
        """
        mailboxes: dict[Account, list[tuple[MailboxId, Mailbox]]] = {}
        for account, id, lost, seen in self._left:
            keywords = lost if self._left_from[account, id] == 1 else lost - {DELETED}
            if not keywords:
                continue
            if account not in mailboxes:
                mailboxes[account] = list(self._tables.mailboxes(account))
            for mailbox, moved in moved_instances(self._tables, mailboxes[account], id):
                if not seen.covers(moved.dot):
                    yield account, rehoming(Dot(*moved.dot), mailbox, id, keywords)

    def _note_lost(
        self,
        account: Account,
        id: MessageId,
        had: Message,
        there: Message,
        after: Message,
    ) -> None:
        """Take note of keywords that went with an instance which one side removed without having seen them.

        Of anybody, not only our own: who added them will be told that we have seen them, and cannot know any
        more that the removal had not.  If it does put them after the message, too, that changes nothing.
        """
        stay = {instance.dot for instance in after.instances}
        if any(instance.dot not in stay for instance in (*had.instances, *there.instances)):
            self._left_from[account, id] += 1
        kept = {(key, dot) for each in after.instances for key, dots in each.keywords.items() for dot in dots}
        for message, seen, others in ((had, self._ours, self._theirs), (there, self._theirs, self._ours)):
            if lost := {keyword for keyword, _ in unseen_keywords(message, others) - kept}:
                self._left.append(_Left(account, id, lost, seen))

    def _is_all_news(self, staged: Staged) -> bool:
        """Whether nothing that is staged is covered by our clock."""
        ours = self._ours
        return all(ours[r] < seq for r, seq in (*staged.lowest.items(), *staged.alive.items()))

    def _link(self, account: Account, mailbox: MailboxId, staged: Staged) -> None:
        """Make the mailbox of what is staged, as it lies there."""
        tables, head, modseq = self._tables, self._head, Modseq(self._head.lsn)
        digest = alive_digest(mailbox_salt(account, mailbox), staged.alive)
        for each in tables.ranges(staged.number):
            digest ^= each.digest
        box = Mailbox(
            staged.number,
            alive=staged.alive,
            total=staged.total,
            unread=staged.unread,
            uid_next=staged.uid_next,
            stale=staged.stale,
            modseq=modseq,
            digest=digest,
        )
        tables.put_mailbox(account, mailbox, box)
        tables.put_account(account, replace(tables.account(account), modseq=modseq))
        tables.delete_staged(account, mailbox)
        head.digest ^= digest
        head.messages += staged.total

    def _staged(self, number: int, block: int | None) -> Iterator[tuple[MessageId, Message]]:
        for _, id, stored in self._tables.block(number, block):
            yield id, stored.message

    def _alive(self, here: Clock, there: Clock) -> Clock:
        """What keeps the mailbox alive: each entry is one dot."""
        mine = {(r, s) for r, s in here.items() if there[r] == s or not self._theirs.covers((r, s))}
        other = {(r, s) for r, s in there.items() if here[r] == s or not self._ours.covers((r, s))}
        return Clock.of(mine | other)
