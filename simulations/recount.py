"""Counts a state anew, from its records alone, and holds the kept counters and digests against that."""

from __future__ import annotations

from collections import Counter, defaultdict

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.codec import dump, plain_clock
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.directory import Directory
from crdtmail.store import tables as layout
from crdtmail.store.interface import Table
from crdtmail.store.tables import Lsn, Mailbox, Tables, element_digest, encode_instances, mailbox_salt
from simulations.memo import decoded_delta


def recount(tables: Tables) -> None:
    """Assert that everything kept by increments is what the records say."""
    head = tables.head()
    total = messages = 0
    numbers: dict[int, tuple[int, int]] = {}
    for account in tables.accounts():
        content = Directory(tables.directory(account), ReplicaId(0)).content()
        record = tables.account(account)
        if tables.directory(account):
            found = element_digest(b"", account.encode(), dump(content))
            assert record.digest == found, f"directory digest of {account}"
        total ^= record.digest
        for mailbox, box in tables.mailboxes(account):
            try:
                digest, count, stale = _recount_mailbox(tables, account, mailbox, box)
            except AssertionError as error:
                raise AssertionError(f"{error}: {mailbox.hex()} of {account}") from error
            numbers[box.number] = count, stale
            messages += count
            total ^= digest
    assert head.digest == total, "digest of the whole state"
    _nothing_is_left_over(tables, numbers)
    assert head.messages == messages, "count of all messages"
    clock, last, size = head.floor, 0, 0
    for entry in tables.log_from(Lsn(1)):
        delta = decoded_delta(entry.delta)
        assert last < entry.lsn <= head.lsn, "the log is in order"
        last, size = entry.lsn, size + len(entry.delta)
        assert delta.dot == entry.dot, "the log names its deltas"
        assert tables.lsn_of(delta.dot) == entry.lsn, "the index leads to the log"
        if head.floor.covers(delta.dot):  # from before a snapshot
            continue
        assert delta.dot.seq == clock[delta.dot.replica] + 1, "each origin's deltas are in order"
        assert clock.includes(delta.context), "the log is in causal order"
        clock = clock.with_dot(delta.dot)
    assert clock == head.clock, "the log goes from the floor to the clock"
    assert size == head.log_bytes, "size of the log"


def _recount_mailbox(
    tables: Tables, account: Account, mailbox: MailboxId, box: Mailbox
) -> tuple[int, int, int]:
    """Its digest, and how many messages it has, and how many of these are stale."""
    block_size: int = vars(layout)["BLOCK"]  # which a run may have drawn in
    salt = mailbox_salt(account, mailbox)
    digest = element_digest(salt, b"", dump(plain_clock(box.alive)))
    count = unread = 0
    kept: dict[int, tuple[int, int]] = {}
    uids: dict[int, list[str]] = defaultdict(list)
    changed = {(c.modseq, c.uid, c.id) for c in tables.changes(box.number, 0, 0) if c.id is not None}
    for uid, id, stored in tables.messages(box.number):
        count += 1
        unread += not {"$seen", "$draft"} & stored.message.keywords
        element = element_digest(salt, id.encode(), encode_instances(stored.message))
        digest ^= element
        found, of = kept.get(uid // block_size, (0, 0))
        kept[uid // block_size] = found ^ element, of + 1
        assert stored.message.uid == uid, "a record stands under its UID"
        assert tables.uid(box.number, id) == uid, "the index leads to the record"
        assert (stored.modseq, uid, id) in changed, "every message has its change entry"
        assert uid < box.uid_next, "the next UID is above all"
        uids[uid].append(id)
    assert len(changed) == count, "no change entry is left over"
    assert (box.total, box.unread) == (count, unread), "counters"
    assert box.digest == digest, "mailbox digest"
    blocks = {block: (found, count) for block, found, count in tables.ranges(box.number)}
    assert blocks == kept, "digests of blocks"
    stale = list(tables.stale(box.number))
    assert box.stale == len(stale), "count of stale messages"
    assert box.alive, "a mailbox that nothing keeps alive is gone"
    vanished = {c.uid for c in tables.changes(box.number, 0, 0) if c.id is None}
    for taken, named in uids.items():
        hidden = taken > box.shown or set(named) <= set(stale)
        assert hidden or taken not in vanished, "a vanished UID is burnt"
    assert max(vanished, default=0) <= box.shown, "what nobody was shown does not vanish"
    for shared in uids.values():
        assert sum(id not in stale for id in shared) <= 1, "of twins under one UID one may be shown"
    return digest, count, len(stale)


def _nothing_is_left_over(tables: Tables, numbers: dict[int, tuple[int, int]]) -> None:
    """Every row belongs to a living mailbox, and there are no more than its messages account for."""
    found: dict[Table, Counter[int]] = {}
    staged = {each.number for _, _, each in tables.staged()} | {*tables.garbage()}
    for table in (Table.MESSAGES, Table.MESSAGE_IDS, Table.RANGES, Table.STALE, Table.CHANGES):
        keys = (key for key, _ in tables._rows.scan(table, b""))
        found[table] = Counter(int.from_bytes(key[:4], "big") for key in keys)
        assert found[table].keys() <= numbers.keys() | staged, (
            f"{table.name} has rows of a mailbox that is gone"
        )
    for number, (messages, stale) in numbers.items():
        assert found[Table.MESSAGES][number] == found[Table.MESSAGE_IDS][number] == messages, (
            "rows of messages"
        )
        assert found[Table.STALE][number] == stale, "rows of stale messages"
