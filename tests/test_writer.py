"""The single writer: group commit, and who hears of what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crdtmail.errors import Overloaded, StoreError
from crdtmail.limits import MAX_WRITES_WAITING
from crdtmail.store.interface import T, Table, Transaction
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.writer import Writer

META = Table.META


class Gated(MemoryStore):
    """A store whose commits wait at a gate, so that a test decides what gathers meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.arrived = threading.Event()
        self.commits = 0
        self.broken: Exception | None = None

    def transact(self, work: Callable[[Transaction], T]) -> T:
        self.arrived.set()
        assert self.gate.wait(30)
        if self.broken is not None:
            raise self.broken
        result = super().transact(work)
        self.commits += 1
        return result


def put(key: str) -> Callable[[Transaction], str]:
    def work(txn: Transaction) -> str:
        txn.put(META, key.encode(), b"")
        return key

    return work


@pytest.fixture
def store() -> Gated:
    return Gated()


@pytest.fixture
def writer(store: Gated) -> Iterator[Writer]:
    made = Writer(store, lambda: None)
    yield made
    store.gate.set()
    made.stop()


def keys(store: MemoryStore) -> set[bytes]:
    with store.snapshot() as snapshot:
        return {key for key, _ in snapshot.scan(META, b"")}


def test_writes_that_wait_share_one_commit(store: Gated, writer: Writer) -> None:
    first = writer.submit(put("first"))
    assert store.arrived.wait(30)
    others = [writer.submit(put(str(n))) for n in range(50)]
    store.gate.set()
    assert first.result(30) == "first"
    assert [other.result(30) for other in others] == [str(n) for n in range(50)]
    assert store.commits == 2
    assert len(keys(store)) == 51


def test_nobody_is_answered_before_the_commit(store: Gated, writer: Writer) -> None:
    future = writer.submit(put("a"))
    assert store.arrived.wait(30)
    assert not future.done()
    store.gate.set()
    assert future.result(30) == "a"


def test_a_write_that_fails_spoils_no_other(store: Gated, writer: Writer) -> None:
    def fail(txn: Transaction) -> None:
        txn.put(META, b"bad", b"")
        raise ValueError("its own fault")

    writer.submit(put("first"))
    assert store.arrived.wait(30)
    good, bad, late = writer.submit(put("good")), writer.submit(fail), writer.submit(put("late"))
    store.gate.set()
    assert (good.result(30), late.result(30)) == ("good", "late")
    with pytest.raises(ValueError, match="its own fault"):
        bad.result(30)
    assert keys(store) == {b"first", b"good", b"late"}


def test_a_snapshot_holds_all_of_its_group_and_its_own_write_came_last(store: Gated, writer: Writer) -> None:
    writer.submit(put("first"))
    assert store.arrived.wait(30)
    seen: list[bool] = []

    def look(txn: Transaction) -> None:
        seen.append(txn.get(META, b"after") is not None)

    shown = writer.submit_and_snapshot(look)
    after = writer.submit(put("after"))
    store.gate.set()
    after.result(30)
    given = shown.result(30)
    writer.submit(put("later")).result(30)
    assert seen == [True]
    assert given.snapshot.get(META, b"after") == b""
    assert given.snapshot.get(META, b"later") is None
    given.close()


def test_a_write_that_was_given_up_in_time_is_not_done(store: Gated, writer: Writer) -> None:
    writer.submit(put("first"))
    assert store.arrived.wait(30)
    unwanted, wanted = writer.submit(put("unwanted")), writer.submit(put("wanted"))
    assert unwanted.cancel()
    store.gate.set()
    wanted.result(30)
    assert keys(store) == {b"first", b"wanted"}


def test_too_many_waiting_writes_are_refused(store: Gated, writer: Writer) -> None:
    writer.submit(put("first"))
    assert store.arrived.wait(30)
    for n in range(MAX_WRITES_WAITING):
        writer.submit(put(str(n)))
    with pytest.raises(Overloaded):
        writer.submit(put("one more"))


def test_stopping_commits_what_waits_and_takes_no_more(store: Gated, writer: Writer) -> None:
    future = writer.submit(put("a"))
    store.gate.set()
    writer.stop()
    assert future.result(0) == "a"
    with pytest.raises(Overloaded):
        writer.submit(put("b"))


def test_a_failing_medium_ends_the_writer_for_good(store: Gated) -> None:
    told: list[Any] = []
    writer = Writer(store, lambda: told.append(None))
    store.broken = OSError("the disk has gone")
    first = writer.submit(put("a"))
    store.gate.set()
    with pytest.raises(StoreError, match="the disk has gone"):
        first.result(30)
    assert writer.failure is not None
    with pytest.raises(StoreError):
        writer.submit(put("b"))
    writer.stop()
    assert told, "the node is told, so that it can stop"
