"""The simulated disk: what a crash leaves of it, and what can befall it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.errors import StoreError, StoreFull
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.tables import Head, Lsn, WritableTables
from simulations.disk import Disk, PowerCut

REPLICA = ReplicaId(1)


def write(seq: int) -> Callable[[Transaction], None]:
    """A transaction after which the clock stands at so many deltas."""

    def work(txn: Transaction) -> None:
        WritableTables(txn).put_head(Head(Lsn(seq), Clock({REPLICA: seq})))

    return work


def commit(disk: Disk, seq: int) -> None:
    """Commit it without a sync."""
    _, changes = disk.prepare(write(seq))
    disk.commit(changes)


def seq(disk: Disk) -> int:
    """Where the clock stands for who reads now."""
    return disk.head().clock[REPLICA]


@pytest.fixture
def disk() -> Disk:
    """One commit is synced, two more are not."""
    made = Disk(b"mx1")
    made.transact(write(1))
    commit(made, 2)
    commit(made, 3)
    return made


# Crashes --------------------------------------------------------------------------------------------------


def test_a_commit_is_seen_at_once_and_durable_only_when_it_is_synced(disk: Disk) -> None:
    assert (seq(disk), disk.durable_clock()[REPLICA], disk.synced.clock[REPLICA]) == (3, 1, 1)
    disk.sync()
    assert (seq(disk), disk.durable_clock()[REPLICA], disk.synced.clock[REPLICA]) == (3, 3, 3)


@pytest.mark.parametrize(("keep", "left"), [(0, 1), (1, 2), (2, 3), (5, 3)])
def test_a_crash_leaves_what_was_synced_and_the_first_commits_after_it(
    disk: Disk, keep: int, left: int
) -> None:
    disk.crash(keep)
    assert (seq(disk), disk.durable_clock()[REPLICA], disk.synced.clock[REPLICA]) == (left, left, left)


def test_what_a_crash_took_does_not_come_back_with_the_next_sync(disk: Disk) -> None:
    disk.crash()
    disk.sync()
    assert (seq(disk), disk.durable_clock()[REPLICA]) == (1, 1)


def test_what_was_synced_survives_any_number_of_crashes(disk: Disk) -> None:
    disk.sync()
    disk.crash()
    disk.crash()
    assert seq(disk) == 3


@pytest.mark.parametrize(("keep", "left"), [(0, 1), (1, 4)])
def test_the_power_fails_once_in_the_middle_of_a_transaction(keep: int, left: int) -> None:
    disk = Disk(b"mx1")
    disk.transact(write(1))
    disk.cut_power(keep)
    with pytest.raises(PowerCut):
        disk.transact(write(4))
    assert seq(disk) == left
    disk.transact(write(5))
    assert (seq(disk), disk.durable_clock()[REPLICA]) == (5, 5)


# Failures -------------------------------------------------------------------------------------------------


def test_the_nth_commit_from_now_fails_once_and_leaves_nothing(disk: Disk) -> None:
    disk.fail(2, "I/O error")
    commit(disk, 4)
    with pytest.raises(StoreError, match="I/O error"):
        commit(disk, 5)
    assert seq(disk) == 4
    commit(disk, 6)
    assert seq(disk) == 6


def test_a_full_disk_takes_nothing_until_there_is_room_again(disk: Disk) -> None:
    disk.fail(2, "disk full", lasts=3)
    commit(disk, 4)
    for refused in (5, 6, 7):
        with pytest.raises(StoreFull, match="disk full"):
            commit(disk, refused)
        assert seq(disk) == 4
    commit(disk, 8)
    assert seq(disk) == 8


def test_a_disk_that_fails_no_more_has_forgotten_every_failure(disk: Disk) -> None:
    disk.fail(1, "I/O error")
    disk.cut_power(0)
    disk.fail_no_more()
    disk.transact(write(4))
    assert seq(disk) == 4


# Damage ---------------------------------------------------------------------------------------------------


def test_a_damaged_record_is_noticed_whenever_it_is_read(disk: Disk) -> None:
    disk.sync()
    assert disk.damage(Table.META, 0.5)
    assert disk.is_damaged
    with pytest.raises(StoreError, match="wrong checksum"):
        disk.head()
    with pytest.raises(StoreError, match="wrong checksum"):
        disk.durable().head()
    disk.crash()
    with pytest.raises(StoreError, match="wrong checksum"):
        disk.head()


def test_a_record_that_is_damaged_twice_is_not_sound_again(disk: Disk) -> None:
    disk.sync()
    for _ in range(2):
        assert disk.damage(Table.META, 0.5)
    with pytest.raises(StoreError, match="wrong checksum"):
        disk.head()


def test_there_is_nothing_to_damage_in_an_empty_table(disk: Disk) -> None:
    assert not disk.damage(Table.MESSAGES, 0.5)
    assert not disk.is_damaged


@pytest.mark.parametrize(("where", "damaged"), [(0.0, b"0"), (0.55, b"5"), (0.999, b"9")])
def test_damage_hits_the_record_at_a_fraction_of_the_table(where: float, damaged: bytes) -> None:
    disk = Disk(b"mx1")

    def work(txn: Transaction) -> None:
        for number in range(10):
            txn.put(Table.CHANGES, b"%d" % number, b"value")

    disk.transact(work)
    disk.damage(Table.CHANGES, where)
    with disk.snapshot() as snapshot:
        for number in range(10):
            key = b"%d" % number
            if key == damaged:
                with pytest.raises(StoreError):
                    snapshot.get(Table.CHANGES, key)
            else:
                assert snapshot.get(Table.CHANGES, key) == b"value"


def test_a_damaged_disk_tells_of_what_it_was_known_to_hold(disk: Disk) -> None:
    disk.damage(Table.META, 0.5)
    assert disk.durable_clock() == Clock({REPLICA: 1})


# Other disks ----------------------------------------------------------------------------------------------


def test_an_image_is_a_copy_of_what_is_durable(disk: Disk) -> None:
    image = disk.image()
    disk.sync()
    other = Disk(b"mx2")
    other.swap(image)
    assert (seq(other), other.durable_clock()[REPLICA]) == (1, 1)
    other.transact(write(9))
    assert (seq(disk), image) == (3, image)


def test_another_disk_is_in_another_place_each_time(disk: Disk) -> None:
    places = [disk.next_place]
    for _ in range(3):
        assert [place for place in places if disk.is_at(place)] == places[-1:]
        disk.swap(disk.image())
        places.append(disk.next_place)
    assert all(len(place) <= 64 for place in places)


def test_another_disk_is_sound_and_empty_where_nothing_is_on_it(disk: Disk) -> None:
    disk.damage(Table.META, 0.5)
    disk.fail(1, "I/O error")
    disk.swap({})
    assert not disk.is_damaged
    assert (disk.head(), disk.synced, disk.durable_clock()) == (Head(), Head(), Clock())
    disk.transact(write(7))
    assert seq(disk) == 7
