"""What a check of a store finds, and what a repair puts right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.checking import Repaired, check, repair
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import encode_delta
from crdtmail.crdt.delta import DeleteMailbox, Delta, MailboxId
from crdtmail.crdt.message import Message, MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.errors import StoreError
from crdtmail.replica import Replica
from crdtmail.store.interface import Snapshot, Store, T, Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import (
    FORMAT,
    Change,
    LogEntry,
    Lsn,
    Modseq,
    Tables,
    WritableTables,
    encode_instances,
    split_key,
)
from simulations.recount import recount
from tests.masters import ACCOUNT, Master, exchange, ids, pair
from tests.programs import Program, programs
from tests.real_world import RealWorld

STATE = {Table.MESSAGES, Table.MAILBOXES, Table.BURNT, Table.LOG, Table.DIRECTORIES}
"""What can be derived from nothing else; besides these the node's head."""


def is_state(table: Table, key: bytes) -> bool:
    return table in STATE or (table, key) == (Table.META, b"head")


def findings(store: Store) -> list[str]:
    with store.snapshot() as snapshot:
        return [finding.text for finding in check(snapshot)]


def mended(store: Store) -> Repaired:
    """Repair; what could not be is what a check still finds, and what could be is counted right."""
    repaired = repair(store)
    assert findings(store) == repaired.left
    if not repaired.left:
        with store.snapshot() as snapshot:
            recount(Tables(snapshot))
    return repaired


def everything() -> Master:
    """A master of whose tables none is empty: with stale and vanished messages and a deleted mailbox."""
    one, two, box = pair()
    gone = one.create("Gone")
    one.add(gone, "old")
    one.read(gone)
    one.delete(gone)
    two.add(box, "m1", "m2", keywords=["$seen"])
    one.add(box, "m3", "m4", "m5")
    one.read(box)
    one.expunge(box, ids("m4"))
    exchange(one, two)
    one.do(lambda replica, txn: replica.meet(txn, two.replica.id, "mx2", two.clock))
    of_snapshots = {Table.STAGED, Table.GARBAGE}
    assert all(one.rows()[table] for table in Table if table not in of_snapshots), "no table is empty"
    return one


def records(store: MemoryStore) -> list[tuple[Table, bytes]]:
    return [(table, key) for table, rows in store.image().items() for key in rows]


def records_of_everything() -> list[tuple[Table, bytes]]:
    return records(everything().store)


# Damage ---------------------------------------------------------------------------------------------------


@given(programs(max_steps=25), st.data())
def test_a_sound_store_is_clean_and_damage_to_any_record_is_found(
    program: Program, data: st.DataObject
) -> None:
    world = RealWorld(MemoryStore)
    program.run(world)
    for name in program.replicas:
        store = world.replica(name)[0]
        assert isinstance(store, MemoryStore)
        assert findings(store) == []
        table, key = data.draw(st.sampled_from(records(store)))
        store.damage(table, key)
        found = findings(store)
        assert [text for text in found if "checksum" in text] == found != []
        repaired = mended(store)
        assert bool(repaired.left) == is_state(table, key), "what is derived is repaired, and nothing else"


@pytest.mark.parametrize(("table", "key"), records_of_everything(), ids=str)
def test_each_damaged_record_is_found_once_and_repaired_if_it_is_derived(table: Table, key: bytes) -> None:
    master = everything()
    before = master.rows()
    master.store.damage(table, key)
    (found,) = findings(master.store)
    assert found.endswith("is damaged: its checksum is wrong")
    repaired = mended(master.store)
    if is_state(table, key):
        assert repaired == Repaired([], [found])
    else:
        assert repaired.left == []
        assert repaired.done[0] == found
        after = master.rows()
        changed = {table for table in Table if after[table] != before[table]}
        assert changed <= {Table.META, Table.ACCOUNTS, Table.PEERS}, "what is derived is what it was"


@given(st.lists(st.sampled_from(records_of_everything()), unique=True, min_size=2, max_size=6))
def test_damage_to_several_records_is_found_and_as_much_as_can_be_is_repaired(
    damaged: list[tuple[Table, bytes]],
) -> None:
    master = everything()
    for table, key in damaged:
        master.store.damage(table, key)
    told = [text for text in findings(master.store) if "checksum" in text]
    assert len(told) == len(damaged)
    repaired = mended(master.store)
    state = [at for at in damaged if is_state(*at)]
    assert len(repaired.left) >= len(state)
    if not state:
        assert repaired.left == []
    for table, key in damaged:
        if is_state(table, key):
            with pytest.raises(StoreError), master.store.snapshot() as snapshot:
                snapshot.get(table, key)


def test_a_damaged_message_is_named_as_an_operator_knows_it() -> None:
    master = everything()
    for table, key in records(master.store):
        if table is Table.MESSAGES and split_key(table, key)[2] == "m5":
            uid = split_key(table, key)[1]
            master.store.damage(table, key)
    assert findings(master.store) == [
        f"{ACCOUNT}, INBOX: message m5 (UID {uid}) is damaged: its checksum is wrong"
    ]


def test_a_node_whose_identity_was_damaged_is_another_replica_afterwards() -> None:
    for key in (b"replica", b"place"):
        master = everything()
        master.store.damage(Table.META, key)
        mended(master.store)
        assert Replica.open(master.store, lambda: ReplicaId(99), lambda: 0).id == ReplicaId(99)


def test_a_head_is_not_made_of_a_log_that_may_have_been_pruned() -> None:
    master = everything()
    master.store.damage(Table.META, b"head")
    (left,) = mended(master.store).left
    assert "the node itself" in left


# What is kept twice ---------------------------------------------------------------------------------------

Wrong = Callable[[WritableTables, int], None]


def message(tables: Tables, number: int, id: str) -> tuple[Uid, MessageId, Modseq, bytes]:
    uid = tables.uid(number, MessageId(id))
    assert uid is not None
    stored = tables.message(number, uid, MessageId(id))
    assert stored is not None
    return uid, MessageId(id), stored.modseq, stored.body


def no_index_entry(tables: WritableTables, number: int) -> None:
    tables.put_uid(number, MessageId("m3"), None)


def wrong_index_entry(tables: WritableTables, number: int) -> None:
    tables.put_uid(number, MessageId("m3"), Uid(77))


def index_entry_of_nothing(tables: WritableTables, number: int) -> None:
    tables.put_uid(number, MessageId("nothing"), Uid(77))


def no_change(tables: WritableTables, number: int) -> None:
    uid, id, modseq, _ = message(tables, number, "m3")
    tables.forget_change(number, Change(modseq, uid, id))


def change_of_nothing(tables: WritableTables, number: int) -> None:
    tables.put_change(number, Change(Modseq(1), Uid(1), MessageId("nothing")))


def change_of_another_time(tables: WritableTables, number: int) -> None:
    uid, id, _, _ = message(tables, number, "m3")
    tables.put_change(number, Change(Modseq(1), uid, id))


def unseen_uid_vanished(tables: WritableTables, number: int) -> None:
    tables.put_vanished(number, Uid(1000), Modseq(1))


def vanished_uid_in_use(tables: WritableTables, number: int) -> None:
    tables.put_vanished(number, message(tables, number, "m3")[0], Modseq(1))


def stale_mark_of_nothing(tables: WritableTables, number: int) -> None:
    tables.put_stale(number, MessageId("nothing"))


def rows_of_a_mailbox_that_is_gone(tables: WritableTables, number: int) -> None:
    tables.put_uid(number + 50, MessageId("m3"), Uid(1))
    tables.put_stale(number + 50, MessageId("m3"))
    tables.put_change(number + 50, Change(Modseq(1), Uid(1), MessageId("m3")))


def no_log_index_entry(tables: WritableTables, number: int) -> None:
    tables.put_lsn(Dot(ReplicaId(1), 1), None)


def wrong_log_index_entry(tables: WritableTables, number: int) -> None:
    tables.put_lsn(Dot(ReplicaId(1), 1), Lsn(3))


def log_index_entry_of_nothing(tables: WritableTables, number: int) -> None:
    tables.put_lsn(Dot(ReplicaId(1), 1000), Lsn(3))


def wrong_digest(tables: WritableTables, number: int) -> None:
    head = tables.head()
    tables.put_head(replace(head, digest=head.digest ^ 1))


def wrong_account(tables: WritableTables, number: int) -> None:
    record = tables.account(ACCOUNT)
    tables.put_account(ACCOUNT, type(record)(record.modseq, record.digest ^ 1, record.clock))


def numbers_that_begin_again(tables: WritableTables, number: int) -> None:
    tables.put_last_mailbox_number(0)


def counter(name: str) -> Wrong:
    def wrong(tables: WritableTables, number: int) -> None:
        ((id, box),) = tables.mailboxes(ACCOUNT)
        setattr(box, name, 0 if name in ("uid_next", "modseq") else getattr(box, name) + 1)
        tables.put_mailbox(ACCOUNT, id, box)

    wrong.__name__ = name
    return wrong


WRONG: list[tuple[Wrong, str]] = [
    (no_index_entry, "m3 .* missing from the index"),
    (wrong_index_entry, "m3 .* has UID 77 in the index"),
    (index_entry_of_nothing, "nothing .* is in the index, but is not there"),
    (no_change, "m3 .* missing among the changes"),
    (change_of_nothing, "change 1 of nothing is of nothing that happened"),
    (change_of_another_time, "change 1 of m3 is of nothing that happened"),
    (unseen_uid_vanished, "UID 1000, which vanished is of nothing"),
    (vanished_uid_in_use, "m3 .* has a UID that has vanished"),
    (stale_mark_of_nothing, "nothing may not be shown is of no message"),
    (rows_of_a_mailbox_that_is_gone, "rows of a mailbox .* that is gone"),
    (no_log_index_entry, "delta 1 of the log is missing from the log's index"),
    (wrong_log_index_entry, "delta 1 of the log is missing from the log's index"),
    (log_index_entry_of_nothing, "leads to a delta that is not there"),
    (wrong_digest, "the node's digest is"),
    (wrong_account, "record does not fit its directory"),
    (numbers_that_begin_again, "given a second time"),
    *[
        (counter(name), f"{name} is ")
        for name in ("total", "unread", "uid_next", "stale", "modseq", "digest")
    ],
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=lambda each: getattr(each, "__name__", ""))
def test_what_does_not_fit_together_is_found_and_repaired(wrong: Wrong, says: str) -> None:
    master = everything()
    with master.store.snapshot() as snapshot:
        ((_, box),) = Tables(snapshot).mailboxes(ACCOUNT)
    master.store.transact(lambda txn: wrong(WritableTables(txn), box.number))
    found = findings(master.store)
    assert any(re.search(says, text) for text in found), found
    assert mended(master.store).left == []


def test_two_messages_under_one_uid_are_both_shown_in_the_end() -> None:
    master = Master(1)
    box = master.create()
    master.add(box, "m1", "m2")
    number = master.record(box).number

    def move_m2_to_the_uid_of_m1(txn: Transaction) -> None:
        tables = WritableTables(txn)
        uid, id, modseq, _ = message(tables, number, "m2")
        stored = tables.message(number, uid, id)
        assert stored is not None
        moved = Message((stored.message.first._replace(uid=Uid(1)),))
        tables.delete_message(number, id, uid, modseq)
        tables.put_message(number, id, Uid(1), modseq, encode_instances(moved))
        tables.put_uid(number, id, Uid(1))

    master.store.transact(move_m2_to_the_uid_of_m1)
    found = findings(master.store)
    assert any("shares its UID with another" in text for text in found), found
    mended(master.store)
    assert [message.id for message in master.read(box)] == ["m1", "m2"]


def test_a_message_that_is_there_twice_is_found_and_left_alone() -> None:
    master = everything()

    def double(txn: Transaction) -> None:
        tables = WritableTables(txn)
        uid, id, modseq, body = message(tables, 1, "m3")
        tables.put_message(1, id, Uid(uid + 50), modseq, body)

    master.store.transact(double)
    left = mended(master.store).left
    assert any("m3 (UID 52) has UID 2 by its own account" in text for text in left), left
    assert any("m3 (UID 52) is there a second time, as UID 2" in text for text in left), left


def test_a_mailbox_that_nothing_keeps_alive_is_found() -> None:
    master = everything()

    def forget(txn: Transaction) -> None:
        ((id, box),) = Tables(txn).mailboxes(ACCOUNT)
        box.alive = Clock()
        WritableTables(txn).put_mailbox(ACCOUNT, id, box)

    master.store.transact(forget)
    assert f"{ACCOUNT}, INBOX: nothing keeps the mailbox alive" in findings(master.store)


def test_a_directory_that_cannot_be_read_is_found_and_left_alone() -> None:
    master = everything()
    master.store.transact(lambda txn: WritableTables(txn).put_directory(ACCOUNT, b"no document"))
    (left,) = mended(master.store).left
    assert left.startswith(f"{ACCOUNT}: its directory cannot be read: ")


# The log --------------------------------------------------------------------------------------------------


def log_entry(txn: Transaction, lsn: int) -> LogEntry:
    entry = Tables(txn).log_entry(Lsn(lsn))
    assert entry is not None
    return entry


def test_a_log_with_a_hole_cannot_be_repaired_and_its_index_entry_goes() -> None:
    master = everything()
    master.store.transact(lambda txn: txn.delete(Table.LOG, (3).to_bytes(8, "big")))
    found = findings(master.store)
    assert any("does not follow on its replica's last one" in text for text in found)
    assert any("leads to a delta that is not there" in text for text in found)
    assert any("does not follow" in text for text in mended(master.store).left)


def test_a_delta_that_says_another_name_than_its_record_is_found() -> None:
    master = everything()

    def swap(txn: Transaction) -> None:
        first, second = log_entry(txn, 1), log_entry(txn, 2)
        WritableTables(txn).append_to_log(first._replace(delta=second.delta))

    master.store.transact(swap)
    assert "delta 1 of the log is another one than its record says" in findings(master.store)


def test_a_delta_that_cannot_be_read_is_found() -> None:
    master = everything()
    master.store.transact(
        lambda txn: WritableTables(txn).append_to_log(log_entry(txn, 1)._replace(delta=b"no delta"))
    )
    assert any(text.startswith("delta 1 of the log cannot be read: ") for text in findings(master.store))


def append(master: Master, seq: int, context: Clock) -> None:
    """A delta of a replica 9 that goes past all tests, with its record."""

    def work(txn: Transaction) -> None:
        tables = WritableTables(txn)
        head, dot = tables.head(), Dot(ReplicaId(9), seq)
        data = encode_delta(Delta(dot, ACCOUNT, (DeleteMailbox(MailboxId(bytes(16)), context),)))
        lsn = Lsn(head.lsn + 1)
        tables.append_to_log(LogEntry(lsn, dot, 0, data))
        tables.put_head(
            replace(head, lsn=lsn, clock=head.clock.with_dot(dot), log_bytes=head.log_bytes + len(data))
        )

    master.store.transact(work)


def test_deltas_out_of_order_are_found() -> None:
    lacking, early = everything(), everything()
    append(lacking, 2, Clock())
    append(early, 1, Clock({ReplicaId(8): 1}))
    (first,), (second,) = mended(lacking.store).left, mended(early.store).left
    assert first.endswith("of the log does not follow on its replica's last one")
    assert second.endswith("of the log comes before what it builds on")


def test_a_clock_that_is_not_the_end_of_the_log_cannot_be_repaired() -> None:
    master = everything()

    def forget(txn: Transaction) -> None:
        head = Tables(txn).head()
        WritableTables(txn).put_head(replace(head, clock=Clock({ReplicaId(1): 1})))

    master.store.transact(forget)
    (left,) = mended(master.store).left
    assert left.startswith("the node stands at ")


def test_a_directory_that_is_missing_cannot_be_repaired() -> None:
    master = everything()
    master.store.transact(lambda txn: txn.delete(Table.DIRECTORIES, ACCOUNT.encode()))
    assert mended(master.store).left == [f"{ACCOUNT}: its directory is missing"]


def test_messages_whose_mailbox_is_missing_are_kept() -> None:
    master = everything()
    before = master.rows()
    master.store.transact(
        lambda txn: [txn.delete(Table.MAILBOXES, key) for key, _ in before[Table.MAILBOXES]]
    )
    (left, *_) = mended(master.store).left
    assert "messages of a mailbox" in left
    for table in (Table.MESSAGES, Table.MESSAGE_IDS, Table.CHANGES, Table.STALE):
        assert master.rows()[table] == before[table]


# The whole ------------------------------------------------------------------------------------------------


def test_a_store_of_another_format_is_not_checked() -> None:
    for number, reason in ((1, "too old"), (FORMAT + 1, "newer crdtmail")):
        master = everything()
        master.store.transact(lambda txn, n=number: txn.put(Table.META, b"format", n.to_bytes(4, "big")))  # type: ignore[misc]
        with pytest.raises(StoreError, match=f"format {number}, .*{reason}"):
            findings(master.store)


def test_a_sound_record_that_says_nothing_ends_the_check_and_nothing_is_repaired() -> None:
    """Such a record is in the wrong place, so the file is not to be written to."""
    master = everything()
    key = master.rows()[Table.MESSAGES][0][0]
    master.store.transact(lambda txn: txn.put(Table.MESSAGES, key, b"12345678no message"))
    master.store.damage(Table.PEERS, master.rows()[Table.PEERS][0][0])
    before = master.store.image()
    *_, last = findings(master.store)
    assert last.startswith("a record with a right checksum cannot be read: ")
    repaired = repair(master.store)
    assert (repaired.done, repaired.left[0]) == ([], last)
    assert master.store.image() == before


class Misleading:
    """A snapshot of a file that is damaged above its records: what is looked up may not be where it is."""

    def __init__(self, rows: Snapshot, table: Table, how: str) -> None:
        self._rows, self._table, self._how = rows, table, how

    def get(self, table: Table, key: bytes) -> bytes | None:
        return None if (table, self._how) == (self._table, "lost") else self._rows.get(table, key)

    def scan(
        self, table: Table, start: bytes, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.scan(table, start, stop, reverse=reverse)

    def records(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        found = list(self._rows.records(table, start, stop))
        return iter(found[::-1] if (table, self._how) == (self._table, "disordered") else found)

    def count(self, table: Table) -> int:
        return self._rows.count(table) + ((table, self._how) == (self._table, "short"))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("disordered", "table message_ids: 3 of its 4 records are out of order"),
        ("lost", "table message_ids: 4 of its 4 records are not found by their keys"),
        ("short", "table message_ids: it should have 5 records, and 4 are there"),
    ],
)
def test_a_table_in_which_nothing_can_be_looked_up_ends_the_check_and_is_not_repaired(
    how: str, says: str
) -> None:
    with everything().store.snapshot() as rows:
        (found,) = check(Misleading(rows, Table.MESSAGE_IDS, how))
    assert (found.text, found.repair, found.is_of_file) == (says, None, True)


def test_what_is_wrong_again_after_its_repair_is_left() -> None:
    """A repair that does not hold is told of, however often it was made."""
    master = everything()
    master.store.damage(Table.PEERS, master.rows()[Table.PEERS][0][0])

    class Forgetful(MemoryStore):
        def transact(self, work: Callable[[Transaction], T]) -> T:
            def forgetful(txn: Transaction) -> T:
                txn.put = lambda table, key, value: None  # type: ignore[method-assign]
                return work(txn)

            return super().transact(forgetful)

    forgetful = Forgetful()
    forgetful.load(master.store.image())
    (wrong,) = findings(forgetful)
    assert repair(forgetful) == Repaired([], [wrong])


@pytest.mark.parametrize("table", [Table.MESSAGES, Table.MESSAGE_IDS, Table.CHANGES, Table.LOG, Table.PEERS])
def test_a_damaged_key_that_says_nothing_is_found_and_forgotten_where_it_is_derived(table: Table) -> None:
    master = everything()
    image = master.store.image()
    key, record = next(iter(image[table].items()))
    del image[table][key]
    image[table][key + b"\xff"] = record
    master.store.load(image)
    found = [text for text in findings(master.store) if f"the record under {key.hex()}ff is damaged" in text]
    assert len(found) == 1
    repaired = repair(master.store)
    assert (found[0] in repaired.left) == (table in STATE or table is Table.PEERS)


def test_an_empty_store_is_clean() -> None:
    assert findings(MemoryStore()) == []


def test_a_check_tells_what_it_reads() -> None:
    master = everything()
    read: list[Table] = []
    with master.store.snapshot() as snapshot:
        assert list(check(snapshot, read.append)) == []
    assert set(read) == set(Table) - {Table.STAGED, Table.GARBAGE}


def test_a_store_on_disk_is_checked_and_repaired_like_any_other(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "node")

    def fill(txn: Transaction) -> None:
        for table, rows in everything().rows().items():
            for key, value in rows:
                txn.put(table, key, value)

    store.transact(fill)
    assert findings(store) == []
    for wrong, _ in WRONG:
        store.transact(lambda txn, wrong=wrong: wrong(WritableTables(txn), 1))  # type: ignore[misc]
        assert findings(store) != []
        assert mended(store).left == []
    store.close()


def test_the_mailbox_of_the_wrong_record_is_named() -> None:
    master = everything()
    master.store.transact(lambda txn: counter("total")(WritableTables(txn), 0))
    assert [text for text in findings(master.store) if "total" in text] == [
        f"{ACCOUNT}, INBOX: total is 5, should be 4"
    ]
