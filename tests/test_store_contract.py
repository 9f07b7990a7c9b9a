"""What every store keeps to: one suite for the store on disk, the one in memory and the simulated disk."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import ReplicaId
from crdtmail.errors import ConfigError, StoreError, StoreFull
from crdtmail.replica import Replica
from crdtmail.store.interface import Store, Table, Transaction, after_prefix
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.memory_store import MemoryStore
from simulations.disk import Disk
from tests.small_disk import small_disk
from tests.test_semantics import lmdb_stores

T1, T2 = Table.META, Table.CHANGES


MAKES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "lmdb": LmdbStore,
    "simulated": lambda folder: Disk(b"mx1"),
}


@pytest.fixture(params=list(MAKES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MAKES[request.param](tmp_path / "store")
    yield made
    made.close()


FillableDisk = tuple[Store, Callable[[], None], Callable[[], None]]
"""A store, what takes the room away from it, and what gives it back."""


@contextmanager
def simulated_disk_to_fill(folder: Path) -> Iterator[FillableDisk]:
    store = Disk(b"mx1")
    yield store, lambda: store.fail(1, "disk full", lasts=1000), store.fail_no_more


@contextmanager
def lmdb_disk_to_fill(folder: Path) -> Iterator[FillableDisk]:
    with small_disk(folder) as disk, closing(LmdbStore(folder / "node")) as store:
        yield store, disk.fill, disk.empty


def put(store: Store, **rows: bytes) -> None:
    def work(txn: Transaction) -> None:
        for key, value in rows.items():
            txn.put(T1, key.encode(), value)

    store.transact(work)


def content(store: Store, table: Table = T1) -> dict[bytes, bytes]:
    with store.snapshot() as snapshot:
        return dict(snapshot.scan(table, b""))


def replica_in(folder: Path) -> ReplicaId:
    """The id under which a node starts on this folder."""
    store = LmdbStore(folder)
    try:
        return Replica.open(store, lambda: ReplicaId(random.getrandbits(64)), lambda: 0).id
    finally:
        store.close()


def test_a_folder_that_is_opened_again_or_renamed_keeps_its_replica(tmp_path: Path) -> None:
    first = replica_in(tmp_path / "node")
    assert replica_in(tmp_path / "node") == replica_in(tmp_path / "node") == first
    (tmp_path / "node").rename(tmp_path / "renamed")
    assert replica_in(tmp_path / "renamed") == first


def test_a_start_that_dies_before_it_has_settled_keeps_the_replica(tmp_path: Path) -> None:
    first = replica_in(tmp_path / "node")
    for dies in (True, False):
        store = LmdbStore(tmp_path / "node")
        if not dies:
            store.settle = lambda: None  # type: ignore[method-assign]
            Replica.open(store, lambda: ReplicaId(1), lambda: 0)
        store.close()
    assert replica_in(tmp_path / "node") == first


@pytest.mark.parametrize("how", ["copied", "cp over it", "rm and cp", "rm -r and cp -r", "moved back"])
def test_a_folder_that_was_restored_from_a_copy_gets_another_replica(tmp_path: Path, how: str) -> None:
    node, backup = tmp_path / "node", tmp_path / "backup"
    first = replica_in(node)
    shutil.copytree(node, backup)
    replica_in(node)  # it lives on after the backup
    match how:
        case "copied":
            node = backup
        case "cp over it":
            shutil.copyfile(backup / "data.mdb", node / "data.mdb")
        case "rm and cp":
            (node / "data.mdb").unlink()
            shutil.copyfile(backup / "data.mdb", node / "data.mdb")
        case "rm -r and cp -r":
            shutil.rmtree(node)
            shutil.copytree(backup, node)
        case "moved back":
            shutil.rmtree(node)
            backup.rename(node)
    again = replica_in(node)
    assert again != first
    assert replica_in(node) == again


def test_what_is_put_is_got_and_scanned_in_order_both_ways(store: Store) -> None:
    put(store, b=b"2", d=b"4", a=b"1", c=b"")
    with store.snapshot() as snapshot:
        assert snapshot.get(T1, b"c") == b""
        assert snapshot.get(T1, b"x") is None
        assert [key for key, _ in snapshot.scan(T1, b"")] == [b"a", b"b", b"c", b"d"]
        assert [key for key, _ in snapshot.scan(T1, b"b", b"d")] == [b"b", b"c"]
        assert [key for key, _ in snapshot.scan(T1, b"b", b"d", reverse=True)] == [b"c", b"b"]
        assert [key for key, _ in snapshot.scan(T1, b"aa", reverse=True)] == [b"d", b"c", b"b"]
        assert list(snapshot.scan(T1, b"x")) == []
        assert list(snapshot.scan(T2, b"")) == []


def test_a_transaction_sees_its_own_changes(store: Store) -> None:
    put(store, a=b"1", b=b"2")

    def work(txn: Transaction) -> list[bytes]:
        txn.put(T1, b"c", b"3")
        assert txn.delete(T1, b"a")
        assert not txn.delete(T1, b"nothing")
        assert txn.get(T1, b"a") is None
        return [key for key, _ in txn.scan(T1, b"")]

    assert store.transact(work) == [b"b", b"c"]


def test_a_failing_transaction_leaves_nothing(store: Store) -> None:
    def work(txn: Transaction) -> None:
        txn.put(T1, b"a", b"1")
        raise ValueError

    with pytest.raises(ValueError):
        store.transact(work)
    assert content(store) == {}


def test_a_failing_nested_transaction_is_undone_alone(store: Store) -> None:
    def work(txn: Transaction) -> None:
        with txn.nested() as first:
            first.put(T1, b"first", b"1")
        with pytest.raises(ValueError), txn.nested() as second:
            second.put(T1, b"second", b"2")
            second.delete(T1, b"first")
            with second.nested() as inner:
                inner.put(T1, b"inner", b"3")
            raise ValueError
        with txn.nested() as third:
            assert third.get(T1, b"first") == b"1"
            third.put(T1, b"third", b"3")

    store.transact(work)
    assert content(store) == {b"first": b"1", b"third": b"3"}


@pytest.mark.parametrize("make", [simulated_disk_to_fill, lmdb_disk_to_fill])
def test_a_transaction_that_finds_no_room_leaves_nothing_and_the_next_one_is_as_if_it_had_not_been(
    make: Callable[[Path], AbstractContextManager[FillableDisk]], tmp_path: Path
) -> None:
    with make(tmp_path / "disk") as (store, fill, empty):
        put(store, a=b"1")
        fill()
        for _ in range(2):
            with pytest.raises(StoreFull):
                put(store, a=b"2", b=bytes(100_000))
            assert content(store) == {b"a": b"1"}
        empty()
        put(store, b=bytes(100_000))
        assert content(store) == {b"a": b"1", b"b": bytes(100_000)}


def test_a_snapshot_stays_as_it_was_while_others_write(store: Store) -> None:
    put(store, a=b"1")
    with store.snapshot() as before:
        put(store, a=b"2", b=b"2")
        assert dict(before.scan(T1, b"")) == {b"a": b"1"}
        assert before.get(T1, b"a") == b"1"
        with store.snapshot() as after:
            assert dict(after.scan(T1, b"")) == {b"a": b"2", b"b": b"2"}


def test_a_snapshot_may_be_used_and_left_in_another_thread(store: Store) -> None:
    put(store, a=b"1")
    entered = store.snapshot()
    snapshot = entered.__enter__()
    found: list[bytes | None] = []

    def read() -> None:
        found.append(snapshot.get(T1, b"a"))
        entered.__exit__(None, None, None)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == [b"1"]


def test_the_size_grows_with_what_is_stored(store: Store) -> None:
    before = store.size()[T1]
    put(store, **{f"key{n}": b"x" * 1000 for n in range(100)})
    assert store.size()[T1] >= before + 100_000


KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=3))
    | st.tuples(st.just("delete"), KEYS, st.none())
    | st.tuples(st.just("fail"), KEYS, st.binary(max_size=3))
    | st.tuples(st.just("scan"), KEYS, KEYS),
    max_size=25,
)


def behaves_as_a_dict(make: Callable[[], Store], groups: list[list[tuple[str, bytes, bytes | None]]]) -> None:
    store = make()
    model: dict[bytes, bytes] = {}

    def work(txn: Transaction, steps: list[tuple[str, bytes, bytes | None]]) -> None:
        for what, key, value in steps:
            if what == "put" and value is not None:
                txn.put(T1, key, value)
                model[key] = value
            elif what == "delete":
                assert txn.delete(T1, key) == (model.pop(key, None) is not None)
            elif what == "fail" and value is not None:
                with pytest.raises(ValueError), txn.nested() as nested:
                    nested.put(T1, key, value)
                    raise ValueError
            elif value is not None:
                for reverse in (False, True):
                    expected = sorted(((k, v) for k, v in model.items() if key <= k < value), reverse=reverse)
                    assert list(txn.scan(T1, key, value, reverse=reverse)) == expected

    for steps in groups:
        store.transact(lambda txn, s=steps: work(txn, s))  # type: ignore[misc]
    assert content(store) == model


@given(st.lists(STEPS, max_size=4))
def test_the_memory_store_behaves_as_a_dict(groups: list[list[tuple[str, bytes, bytes | None]]]) -> None:
    behaves_as_a_dict(MemoryStore, groups)


@given(st.lists(STEPS, max_size=4))
def test_the_store_on_disk_behaves_as_a_dict(groups: list[list[tuple[str, bytes, bytes | None]]]) -> None:
    with lmdb_stores() as make:
        behaves_as_a_dict(make, groups)


@given(st.lists(STEPS, max_size=4))
def test_the_simulated_disk_behaves_as_a_dict(groups: list[list[tuple[str, bytes, bytes | None]]]) -> None:
    behaves_as_a_dict(lambda: Disk(b"mx1"), groups)


# In memory only --------------------------------------------------------------------------------------------


def test_a_crash_of_the_memory_store_loses_what_was_not_synced() -> None:
    store = MemoryStore(sync_on_commit=False)
    put(store, a=b"1")
    store.sync()
    put(store, a=b"2")
    put(store, b=b"3")
    assert content(store) == {b"a": b"2", b"b": b"3"}
    store.lose_unsynced(keep=1)
    assert content(store) == {b"a": b"2"}
    store.lose_unsynced()
    assert content(store) == {b"a": b"2"}, "what survived a crash is durable"


def test_a_damaged_record_in_memory_is_noticed() -> None:
    store = MemoryStore()
    put(store, a=b"1")
    store.damage(T1, b"a")
    with pytest.raises(StoreError), store.snapshot() as snapshot:
        snapshot.get(T1, b"a")
    with pytest.raises(StoreError):
        content(store)


# On disk only ----------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    put(store, a=b"1")
    store.close()
    store.close()
    again = LmdbStore(tmp_path)
    assert content(again) == {b"a": b"1"}
    again.close()


def test_the_map_grows_by_itself_even_while_somebody_reads(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, first_map=1 << 20)
    reading, may_end = threading.Event(), threading.Event()

    def read() -> None:
        with store.snapshot():
            reading.set()
            may_end.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(30)
    writer = threading.Thread(target=lambda: put(store, **{f"k{n}": b"x" * 100_000 for n in range(100)}))
    writer.start()
    may_end.set()
    writer.join(30)
    reader.join(30)
    assert len(content(store)) == 100
    store.close()


def test_growing_undoes_and_repeats_the_whole_transaction(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, first_map=1 << 20)
    runs = []

    def work(txn: Transaction) -> None:
        runs.append(dict(txn.scan(T1, b"")))
        for n in range(40):
            with txn.nested() as nested:
                nested.put(T1, b"%d" % n, b"x" * 100_000)

    store.transact(work)
    assert len(runs) > 1
    assert all(seen == {} for seen in runs)
    assert len(content(store)) == 40
    store.close()


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    opening = (
        "import sys, pathlib; from crdtmail import LmdbStore, CrdtmailError\n"
        "try: LmdbStore(pathlib.Path(sys.argv[1]))\n"
        "except CrdtmailError as error: print(error); sys.exit(7)"
    )
    command = [sys.executable, "-c", opening, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 7
    assert "in use by another crdtmail process (pid" in refused.stdout
    store.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_what_is_no_folder_and_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError):
        LmdbStore(tmp_path / "file")
    (tmp_path / "data.mdb").write_bytes(b"no LMDB" * 10_000)
    with pytest.raises(StoreError):
        LmdbStore(tmp_path)


def test_the_key_after_a_prefix_bounds_all_that_start_with_it() -> None:
    assert after_prefix(b"ab") == b"ac"
    assert after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None
