"""Stores of other formats: brought up to date whole or not at all, or refused with the reason."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crdtmail.checking import check
from crdtmail.crdt.clock import ReplicaId
from crdtmail.errors import StoreError
from crdtmail.replica import Replica
from crdtmail.store import migrations
from crdtmail.store.interface import Store, Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import FORMAT, Lsn, Tables
from tests.masters import Master
from tests.test_store_contract import content

OLDEST = FORMAT - 2
"""A format that the tests make up, as they do the one after it."""


def in_format(store: Store, number: int) -> None:
    """Make it a store of this format, with a name in it that later formats spell otherwise."""

    def work(txn: Transaction) -> None:
        txn.put(Table.META, b"format", number.to_bytes(4, "big"))
        txn.put(Table.META, b"spelling", b"old")

    open_replica(store)
    store.transact(work)


def open_replica(store: Store) -> Replica:
    return Replica.open(store, lambda: ReplicaId(7), lambda: 0)


def spell(new: bytes, old: bytes = b"old") -> Callable[[Transaction], None]:
    def step(txn: Transaction) -> None:
        assert txn.get(Table.META, b"spelling") == old
        txn.put(Table.META, b"spelling", new)

    return step


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "node")
    yield made
    made.close()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[Transaction], None]]:
    made = {OLDEST: spell(b"newer"), OLDEST + 1: spell(b"newest", old=b"newer")}
    monkeypatch.setattr(migrations, "MIGRATIONS", made)
    return made


def state(store: Store) -> tuple[int | None, bytes | None]:
    with store.snapshot() as snapshot:
        return Tables(snapshot).format(), snapshot.get(Table.META, b"spelling")


@pytest.mark.usefixtures("steps")
def test_a_store_of_an_older_format_is_brought_up_to_date_step_by_step(store: Store) -> None:
    in_format(store, OLDEST)
    assert open_replica(store).id == ReplicaId(7)
    assert state(store) == (FORMAT, b"newest")
    open_replica(store)
    assert state(store) == (FORMAT, b"newest")


def test_a_step_that_fails_leaves_the_old_format_whole(
    store: Store, steps: dict[int, Callable[[Transaction], None]]
) -> None:
    in_format(store, OLDEST)
    before = content(store)
    steps[OLDEST + 1] = spell(b"newest", old=b"something else")
    with pytest.raises(AssertionError):
        open_replica(store)
    assert content(store) == before


def test_a_process_that_is_killed_in_the_middle_leaves_the_old_format_whole(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "node")
    in_format(store, OLDEST)
    before = content(store)
    store.close()
    code = (
        "import os, pathlib, signal, sys\n"
        "from crdtmail.store import migrations\n"
        "from tests.test_migrations import LmdbStore, OLDEST, open_replica, spell\n"
        "migrations.MIGRATIONS[OLDEST] = spell(b'newer')\n"
        "migrations.MIGRATIONS[OLDEST + 1] = lambda txn: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_replica(LmdbStore(pathlib.Path(sys.argv[1])))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "node")], check=False)
    assert killed.returncode == -signal.SIGKILL
    again = LmdbStore(tmp_path / "node")
    assert content(again) == before
    again.close()


OF_FORMAT_2 = Path(__file__).parent / "data" / "store_of_format_2.json"
"""Tables of a replica 1 as the last version that wrote format 2 left them: `{table: [[key, value] ...]}`, in
hexadecimal digits."""


def load_format_2(store: Store) -> None:
    def work(txn: Transaction) -> None:
        for name, rows in json.loads(OF_FORMAT_2.read_text()).items():
            for key, value in rows:
                txn.put(Table[name], bytes.fromhex(key), bytes.fromhex(value))

    store.transact(work)


def test_a_store_of_format_2_is_sound_when_it_has_been_brought_up_to_date(store: Store) -> None:
    load_format_2(store)
    open_replica(store)
    with store.snapshot() as snapshot:
        assert [finding.text for finding in check(snapshot)] == []


def test_a_store_of_format_2_comes_to_hold_what_its_deltas_make_today(store: Store) -> None:
    """So it has the digest of a replica that never had another format."""
    load_format_2(store)
    open_replica(store)
    with store.snapshot() as snapshot:
        tables = Tables(snapshot)
        today = Master(3)
        for entry in tables.log_from(Lsn(0)):
            today.receive(entry.delta)
        head = tables.head()
        assert (head.clock, head.digest) == (today.clock, today.digest)
        assert head.messages == today.ask(lambda tables: tables.head().messages)
        made = [
            instance.is_moved
            for _, _, box in tables.every_mailbox()
            for _, _, stored in tables.messages(box.number)
            for instance in stored.message.instances
        ]
        assert set(made) == {True, False}


def test_a_store_of_format_2_keeps_its_log_and_its_peers(store: Store) -> None:
    load_format_2(store)
    before = {table: content(store, table) for table in (Table.LOG, Table.LOG_INDEX, Table.CHANGES)}
    open_replica(store)
    assert {table: content(store, table) for table in before} == before
    with store.snapshot() as snapshot:
        (peer,) = Tables(snapshot).peers().values()
        assert (peer.name, peer.is_retired) == ("mx2", False)
        assert not Tables(snapshot).head().floor


def test_a_store_from_the_future_is_refused_and_both_versions_are_named(store: Store) -> None:
    in_format(store, FORMAT + 1)
    before = content(store)
    with pytest.raises(StoreError, match=f"format {FORMAT + 1}.*newer crdtmail.* format {FORMAT} at most"):
        open_replica(store)
    assert content(store) == before


def test_format_1_which_was_never_released_is_refused(store: Store) -> None:
    in_format(store, 1)
    with pytest.raises(StoreError, match=f"format 1, .*too old.* is {FORMAT}"):
        open_replica(store)


def test_a_new_store_needs_no_migration(store: Store) -> None:
    open_replica(store)
    with store.snapshot() as snapshot:
        assert Tables(snapshot).format() == FORMAT
