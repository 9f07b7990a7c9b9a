"""Bugs that are put into the code on purpose, by name: the simulator is worth what it finds of them.

Each is a mistake that somebody could make in the real code.  `planted` switches some on for a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from crdtmail import applying, merging, service
from crdtmail.crdt.clock import Clock
from crdtmail.crdt.delta import Add, Create, Delta
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.message import UNDELETED, Message
from crdtmail.crdt.uid import Stripe
from crdtmail.effects import Steps, wait
from crdtmail.gossip import codec, conversation
from crdtmail.gossip.conversation import Gossip
from crdtmail.gossip.peers import Peers
from crdtmail.replica import Outcome, Replica
from crdtmail.store import interface, memory_store
from crdtmail.store.interface import Table
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import PeerRecord, Tables, WritableTables
from simulations.disk import Disk

Replacements = Iterable[tuple[Any, str, Any]]
"""(where, name, what stands there instead)."""


def _no_fsync_before_answer() -> Replacements:
    yield Disk, "lies_about_sync", True


def _replica_id_reused() -> Replacements:
    yield Disk, "is_at", lambda self, place: True


def _shown_mark_skipped() -> Replacements:
    put = WritableTables.put_mailbox

    def put_mailbox(self: WritableTables, account: str, mailbox: Any, record: Any) -> None:
        before = self.mailbox(account, mailbox)
        record.shown = 0 if before is None else before.shown
        put(self, account, mailbox, record)

    show = Replica.show

    def without_mark(self: Replica, txn: Any, account: str, mailbox: Any) -> None:
        with patch.object(WritableTables, "put_mailbox", put_mailbox):
            show(self, txn, account, mailbox)

    yield Replica, "show", without_mark


def _causes_not_awaited() -> Replacements:
    yield Delta, "context", property(lambda self: Clock())


def _addition_overtakes_its_mailbox() -> Replacements:
    def context(self: Delta) -> Clock:
        joined = Clock()
        for operation in self.operations:
            if not isinstance(operation, Create | Add):
                joined = joined.join(operation.context)
        return joined

    yield Delta, "context", property(context)


def _gossip_checksum_not_tested() -> Replacements:
    yield codec, "without_checksum", lambda data: data[:-5]


def _gap_not_noticed() -> Replacements:
    receive = Replica.receive

    def without_gap(self: Replica, txn: Any, delta: Delta, data: bytes) -> Outcome:
        tables = WritableTables(txn)
        head = tables.head()
        if 0 < head.clock[delta.replica] < delta.dot.seq - 1:
            head.clock = head.clock.join(Clock({delta.replica: delta.dot.seq - 1}))
            tables.put_head(head)
        return receive(self, txn, delta, data)

    yield Replica, "receive", without_gap


def _expunge_takes_the_unseen() -> Replacements:
    yield Message, "without", lambda self, context: Message(())


def _counter_not_decremented() -> Replacements:
    replace = applying.Editor.replace

    def without_count(self: Any, id: Any, before: Any, after: Message) -> None:
        replace(self, id, before, after)
        if before is not None and not after.instances:
            self._record.unread += before.message.is_unread

    yield applying.Editor, "replace", without_count


def _digest_forgotten() -> Replacements:
    replace = applying.Editor.replace

    def without_digest(self: Any, id: Any, before: Any, after: Message) -> None:
        digest = self._record.digest
        replace(self, id, before, after)
        if before is not None and after.instances:
            self._record.digest = digest

    yield applying.Editor, "replace", without_digest


def _remove_wins() -> Replacements:
    change = Message.with_keywords

    def with_keywords(self: Message, dot: Any, add: Any, remove: Any, context: Clock) -> Message:
        found = change(self, dot, add, remove, context)
        removed = set(remove)
        return Message(
            tuple(
                i._replace(keywords={k: d for k, d in i.keywords.items() if k not in removed})
                for i in found.instances
            )
        )

    yield Message, "with_keywords", with_keywords


def _undelete_forgotten() -> Replacements:
    def keywords(self: Message) -> frozenset[str]:
        return frozenset(k for i in self.instances for k in i.keywords) - {UNDELETED}

    yield Message, "keywords", property(keywords)


def _flags_do_not_follow_a_move() -> Replacements:
    yield Replica, "_rehome", lambda self, tables, account, rehomings: None


def _healed_uids_too_low() -> Replacements:
    yield Stripe, "healed_uids", lambda self, uid_next, stale: self.uids_from(max(1, uid_next - 3))


def _token_not_awaited() -> Replacements:
    def wait_for_clock(gossip: Gossip, clock: Clock, timeout_s: float) -> Steps[None]:
        yield from wait(lambda: True, timeout_s)

    yield service, "wait_for_clock", wait_for_clock


def _acknowledged_too_early() -> Replacements:
    count = Peers.count_covering
    yield Peers, "count_covering", lambda self, dot: count(self, dot) + 1


def _vanished_not_told() -> Replacements:
    yield WritableTables, "put_vanished", lambda self, number, uid, modseq: None


def _checksum_not_tested() -> Replacements:
    def unseal(table: Any, key: bytes, record: bytes) -> bytes:
        return record[4:]

    yield interface, "unseal", unseal
    yield memory_store, "unseal", unseal


def _half_a_delta_stays() -> Replacements:
    @contextmanager
    def nested(self: Any) -> Iterator[Any]:
        yield self

    yield memory_store._View, "nested", nested


def _known_delta_applied_again() -> Replacements:
    def receive_again(self: Replica, txn: Any, delta: Delta, data: bytes) -> Outcome:
        tables = WritableTables(txn)
        head = tables.head()
        if head.clock.covers(delta.dot) and delta.replica != self.author:
            applying.apply(tables, head, delta, data, replica=self.author, now_ms=0)
            return Outcome.APPLIED
        return receive(self, txn, delta, data)

    receive = Replica.receive
    yield Replica, "receive", receive_again


def _exchange_brings_nothing() -> Replacements:
    batch = conversation._batch
    yield conversation, "_batch", lambda tables, after, only=None: batch(tables, after, only) if only else []


def _commit_before_the_clock() -> Replacements:
    """The state is written in one commit and the clock in another, so a crash comes between them."""

    def torn(self: MemoryStore, keep: int = 0) -> None:
        for replaced in reversed(self._unsynced):
            head = replaced.get(Table.META, {}).get(b"head")
            self._apply({Table.META: {b"head": head}} if head else {})
        self._unsynced.clear()

    yield MemoryStore, "lose_unsynced", torn


def _mailbox_ids_do_not_merge() -> Replacements:
    make = Directory.new_id

    def new_id(self: Any, account: str, name: str) -> Any:
        own = bytes(make(self, account, name))
        return own[:-1] + bytes([self._doc.client_id & 0xFF])

    yield Directory, "new_id", new_id


def _snapshot_merged_in_part() -> Replacements:
    """What has come so far is merged with the clock of all."""
    staged = Tables.staged
    yield Tables, "staged", lambda self: iter(list(staged(self))[:1])


def _merge_keeps_what_they_removed() -> Replacements:
    merged = Message.merged
    yield Message, "merged", lambda self, there, ours, theirs: merged(self, there, ours, Clock())


def _merge_brings_back_what_we_removed() -> Replacements:
    merged = Message.merged
    yield Message, "merged", lambda self, there, ours, theirs: merged(self, there, Clock(), theirs)
    yield merging._Merging, "_is_all_news", lambda self, staged: True


def _floor_not_raised() -> Replacements:
    merge = Replica.merge

    def merge_only(self: Replica, txn: Any, *args: Any, **options: Any) -> bool:
        floor = Tables(txn).head().floor
        merged = merge(self, txn, *args, **options)
        head = Tables(txn).head()
        head.floor = floor
        WritableTables(txn).put_head(head)
        return merged

    yield Replica, "merge", merge_only


def _retired_keeps_its_id() -> Replacements:
    def renew(self: Gossip, old: Any, *, is_ambiguous: bool) -> Steps[None]:
        yield from wait(lambda: True, 0)

    yield Gossip, "_renew", renew


def _a_merge_wakes_nobody() -> Replacements:
    merge = Replica.merge

    def quietly(self: Replica, *args: Any, **options: Any) -> bool:
        touched = set(self._touched)
        merged = merge(self, *args, **options)
        self._touched = touched
        return merged

    yield Replica, "merge", quietly


def _another_id_at_every_start() -> Replacements:
    yield Disk, "is_at", lambda self, place: False


def _log_pruned_too_early() -> Replacements:
    yield Peers, "stable", lambda self, clock, retired: clock


def _all_number_in_one_stripe() -> Replacements:
    yield Stripe, "of", classmethod(lambda cls, replica, members: cls(0, 1))


def _an_acknowledgement_counts_ids() -> Replacements:
    def count_covering(self: Peers, dot: Any) -> int:
        heard = self.heard.items()
        return sum(each.clock.covers(dot) for replica, each in heard if replica != self._replica)

    yield Peers, "count_covering", count_covering


def _a_merged_list_under_an_old_modseq() -> Replacements:
    directory = merging._Merging.directory

    def as_before(self: Any, account: str, clock: Clock, document: bytes) -> None:
        before = self._tables.account(account).modseq
        directory(self, account, clock, document)
        self._tables.put_account(account, replace(self._tables.account(account), modseq=before))

    yield merging._Merging, "directory", as_before


def _role_not_removed() -> Replacements:
    describe = Directory.describe

    def without_removal(self: Directory, mailbox: Any, *, role: str | None = None, **others: Any) -> bytes:
        return describe(self, mailbox, role=role or None, **others)

    yield Directory, "describe", without_removal


def _retired_forgotten_on_meeting() -> Replacements:
    def meet(self: Replica, txn: Any, peer: Any, name: str, clock: Clock) -> None:
        WritableTables(txn).put_peer(peer, PeerRecord(name, clock, self.time_ms()))

    yield Replica, "meet", meet


PLANTED: dict[str, Callable[[], Replacements]] = {
    function.__name__.strip("_").replace("_", "-"): function
    for function in (
        _no_fsync_before_answer,
        _replica_id_reused,
        _shown_mark_skipped,
        _causes_not_awaited,
        _addition_overtakes_its_mailbox,
        _gossip_checksum_not_tested,
        _gap_not_noticed,
        _expunge_takes_the_unseen,
        _counter_not_decremented,
        _digest_forgotten,
        _remove_wins,
        _undelete_forgotten,
        _flags_do_not_follow_a_move,
        _healed_uids_too_low,
        _token_not_awaited,
        _acknowledged_too_early,
        _vanished_not_told,
        _checksum_not_tested,
        _half_a_delta_stays,
        _known_delta_applied_again,
        _exchange_brings_nothing,
        _commit_before_the_clock,
        _mailbox_ids_do_not_merge,
        _snapshot_merged_in_part,
        _merge_keeps_what_they_removed,
        _merge_brings_back_what_we_removed,
        _floor_not_raised,
        _retired_keeps_its_id,
        _a_merge_wakes_nobody,
        _another_id_at_every_start,
        _log_pruned_too_early,
        _all_number_in_one_stripe,
        _an_acknowledgement_counts_ids,
        _a_merged_list_under_an_old_modseq,
        _role_not_removed,
        _retired_forgotten_on_meeting,
    )
}
"""Every planted bug by name."""


@contextmanager
def planted(names: Sequence[str]) -> Iterator[None]:
    """Switch these bugs on for the length of the block.  Raises ValueError for a name that does not exist."""
    with ExitStack() as stack:
        for name in names:
            if name not in PLANTED:
                raise ValueError(f"there is no planted bug {name!r}; there are {', '.join(PLANTED)}")
            for where, what, instead in PLANTED[name]():
                stack.enter_context(patch.object(where, what, instead))
        yield
