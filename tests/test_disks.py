"""Disks that are full, read-only or somebody else's, and a node that has too few file descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.message import MessageId
from crdtmail.errors import Overloaded, StoreFull
from crdtmail.limits import LEAST_FREE, MAX_READERS
from crdtmail.replica import IncomingMessage, Replica
from crdtmail.store.interface import Store, Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.tables import Tables
from crdtmail.store.writer import Writer
from simulations.recount import recount
from tests.nodes import Answer, Running, cluster, node_process, run, single, until
from tests.small_disk import KIB, SmallDisk, small_disk
from tests.test_cli import crdtmail

ALICE = "alice@example.org"
BOXES = f"/v1/accounts/{ALICE}/mailboxes"
INBOX = f"{BOXES}/name:INBOX"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def store(disk: SmallDisk) -> Iterator[LmdbStore]:
    made = LmdbStore(disk.folder / "node")
    yield made
    made.close()


def put(store: Store, key: str, size: int = 10) -> None:
    store.transact(lambda txn: txn.put(Table.META, key.encode(), bytes(size)))


def keys(store: Store) -> set[str]:
    with store.snapshot() as snapshot:
        return {key.decode() for key, _ in snapshot.scan(Table.META, b"")}


# The store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", [0, 4 * KIB, 8 * KIB, 12 * KIB, 40 * KIB, 200 * KIB])
def test_a_commit_that_finds_no_room_comes_to_nothing(
    disk: SmallDisk, store: LmdbStore, leaving: int
) -> None:
    """However much of it still finds some: that much LMDB writes, and calls the rest an I/O error."""
    put(store, "before")
    disk.fill(leaving)
    for _ in range(3):
        with pytest.raises(StoreFull, match="make room"):
            put(store, "too much", 300 * KIB)
    assert keys(store) == {"before"}
    disk.empty()
    put(store, "after", 300 * KIB)
    assert keys(store) == {"before", "after"}
    store.close()
    again = LmdbStore(disk.folder / "node")
    assert keys(again) == {"before", "after"}
    again.close()


def test_what_a_commit_freed_is_used_while_the_disk_is_full(disk: SmallDisk, store: LmdbStore) -> None:
    for number in range(10):
        put(store, str(number), 100 * KIB)
    for number in range(5):
        store.transact(lambda txn, n=number: txn.delete(Table.META, b"%d" % n))  # type: ignore[misc]
    disk.fill()
    for number in range(3):
        put(store, f"more {number}", 50 * KIB)
    assert len(keys(store)) == 8


def test_every_reader_that_there_may_be_reads_from_a_full_disk(disk: SmallDisk, store: LmdbStore) -> None:
    """LMDB keeps the list of readers in a file, and whoever writes where a file has no room is killed."""
    put(store, "before")
    disk.fill()
    entered = []
    with pytest.raises(Overloaded):
        for _ in range(MAX_READERS + 1):
            entered.append(store.snapshot())
            entered[-1].__enter__()
    with pytest.raises(StoreFull):
        put(store, "too much", 300 * KIB)
    for snapshot in entered[:-1]:
        snapshot.__exit__(None, None, None)
    assert len(entered) > MAX_READERS - 10


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import pathlib, resource, sys\n"
        "from crdtmail import LmdbStore\n"
        "from crdtmail.errors import StoreFull\n"
        "from tests.test_disks import keys, put\n"
        "store = LmdbStore(pathlib.Path(sys.argv[1]))\n"
        "put(store, 'before')\n"
        "unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))\n"
        "refused = 0\n"
        "for size in (100_000, 150_000, 300_000):\n"
        "    try: put(store, 'too much', size)\n"
        "    except StoreFull: refused += 1\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)\n"
        "put(store, 'after', 500_000)\n"
        "print(refused, sorted(keys(store)))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "node")], capture_output=True, text=True, check=True
    )
    assert said.stdout == "2 ['after', 'before', 'too much']\n"


def test_a_full_disk_ends_no_writer(disk: SmallDisk, store: LmdbStore) -> None:
    told: list[None] = []
    writer = Writer(store, lambda: told.append(None))

    def work(txn: Transaction) -> None:
        for number in range(100):
            txn.put(Table.META, b"%d" % number, bytes(KIB))

    try:
        disk.fill()
        for _ in range(3):
            with pytest.raises(StoreFull):
                writer.submit(work).result(30)
            with pytest.raises(StoreFull):
                writer.submit_and_snapshot(work).result(30)
        assert writer.is_full
        assert writer.failure is None
        assert (keys(store), told) == (set(), [])
        disk.empty()
        writer.submit(work).result(30)
        assert not writer.is_full
        assert len(keys(store)) == 100
    finally:
        writer.stop()


# A node ---------------------------------------------------------------------------------------------------


async def add(it: Running, *ids: str) -> Answer:
    return await it.ask("POST", f"{INBOX}/messages", {"messages": [{"id": id, "size": 1} for id in ids]})


def ids(blocks: int) -> list[str]:
    return [f"{block}-{'x' * 200}" for block in range(blocks)]


async def shown(it: Running) -> set[str]:
    answer = await it.ask("GET", f"{INBOX}")
    assert answer.status == 200, answer.body
    return {message["id"] for message in answer.body["messages"]}


def test_a_node_on_a_full_disk_reads_on_and_writes_again_when_there_is_room(disk: SmallDisk) -> None:
    async def story() -> None:
        async with single(disk.folder / "node") as it:
            assert (await it.ask("POST", BOXES, {"name": "INBOX"})).status == 201
            assert (await add(it, "before")).status == 201
            assert await shown(it) == {"before"}
            disk.fill()
            for _ in range(3):
                refused = await add(it, *ids(2000))
                assert (refused.status, refused.problem) == (507, "store-full")
                assert refused.headers["Retry-After"] == "1"
                assert await shown(it) == {"before"}
            status = (await it.ask("GET", "/v1/status")).body
            (alarm,) = status["alarms"]
            assert alarm["kind"] == "store-full"
            assert "no room" in alarm["text"]
            assert status["writes"] == {"answered": 2, "withoutRoom": 3}
            figures = (await it.ask("GET", "/metrics")).body.decode()
            assert 'crdtmail_alarms{kind="store-full"} 1.0' in figures
            assert 'crdtmail_writes_total{result="store-full"} 3.0' in figures
            assert status["disk"]["freeBytes"] < status["disk"]["storeBytes"]
            for room in (0, LEAST_FREE - 4 * KIB):
                it.node._writer._is_full = False  # as after a write that found room in the file
                assert disk.room() == room
                (alarm,) = (await it.ask("GET", "/v1/status")).body["alarms"]
                assert (alarm["kind"], f": {room:,} bytes are free" in alarm["text"]) == ("store-full", True)
                disk.empty()
                disk.fill(LEAST_FREE - 4 * KIB)
            disk.empty()
            assert (await add(it, "after")).status == 201
            assert await shown(it) == {"before", "after"}
            assert (await it.ask("GET", "/v1/status")).body["alarms"] == []

    run(story())


def test_a_node_on_a_full_disk_tells_its_peers_all_that_it_has_and_takes_theirs_later(tmp_path: Path) -> None:
    """Only the full one calls: what it has must go out although nothing comes in."""

    async def story() -> None:
        with small_disk(tmp_path / "mx1") as disk:
            async with cluster(tmp_path, {"mx1": ["mx2"], "mx2": []}) as nodes:
                one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
                assert (await two.ask("POST", BOXES, {"name": "INBOX"})).status == 201
                await nodes.converged()
                nodes.cut("mx1")
                assert (await add(one, "from one")).status == 201
                assert (await add(two, *ids(4000))).status == 201
                disk.fill()
                nodes.heal()
                await until(lambda: one.node.is_full, "mx1 has no room for what mx2 has")
                await until(lambda: two.node.head.clock.includes(one.node.head.clock), "mx2 has all of mx1's")
                (session,) = one.node.gossip.peers.sessions.values()
                await until(lambda: "no room" in (session.last_error or ""), "its status says so")
                disk.remount("size=64m")
                await nodes.converged()
                assert len(await shown(one)) == 1000
                assert one.node.failure is None

    run(story())


def test_a_push_to_a_full_disk_is_refused_and_sent_again(tmp_path: Path) -> None:
    async def story() -> None:
        with small_disk(tmp_path / "mx2") as disk:
            async with cluster(tmp_path, {"mx1": ["mx2"], "mx2": []}) as nodes:
                one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
                assert (await one.ask("POST", BOXES, {"name": "INBOX"})).status == 201
                await nodes.converged()
                disk.fill()
                assert (await add(one, *ids(4000))).status == 201
                await until(lambda: two.node.is_full, "mx2 has no room for what it is sent")
                (session,) = one.node.gossip.peers.sessions.values()
                await until(lambda: "507" in (session.last_error or ""), "mx1 is told")
                disk.remount("size=64m")
                await nodes.converged()

    run(story())


# At the start ---------------------------------------------------------------------------------------------


def start(folder: Path, *, user: int = os.geteuid()) -> subprocess.CompletedProcess[str]:
    """Start a node that is expected to give up; another user may not be able to import it, so root does."""
    code = (
        "import os, sys, crdtmail.daemon\n"
        "from crdtmail.cli import main\n"
        "if os.geteuid() == 0: os.setuid(int(sys.argv.pop(1)))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(user),
        "node",
        "--data",
        folder.name,
        "--listen",
        "127.0.0.1:0",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder.parent)


def assert_says(result: subprocess.CompletedProcess[str], code: int, *what: str) -> None:
    assert result.returncode == code, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for each in what:
        assert each in result.stderr


@pytest.mark.parametrize("leaving", range(0, 100 * KIB, 20 * KIB))
def test_a_start_without_room_says_so(disk: SmallDisk, leaving: int) -> None:
    disk.fill(leaving)
    assert_says(start(disk.folder / "node"), 4, "the data folder node", "make room on its disk")
    disk.empty()
    LmdbStore(disk.folder / "node").close()


def test_a_start_of_a_store_that_has_no_room_left_says_so(disk: SmallDisk, store: LmdbStore) -> None:
    Replica.open(store, lambda: ReplicaId(1), lambda: 0)
    store.close()
    disk.fill()
    assert_says(start(disk.folder / "node"), 4, "make room on its disk")


def test_a_read_only_folder_is_called_so(disk: SmallDisk, store: LmdbStore) -> None:
    store.close()
    disk.remount("ro")
    assert_says(start(disk.folder / "node"), 2, "Read-only file system", "mount its file system for writing")
    assert_says(start(disk.folder / "new"), 2, "Read-only file system")


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_store_on_a_read_only_file_system_is_checked_and_not_repaired(
    disk: SmallDisk, store: LmdbStore, has_lock: bool
) -> None:
    """As an error of the disk leaves it."""
    Replica.open(store, lambda: ReplicaId(1), lambda: 0)
    store.close()
    folder = disk.folder / "node"
    if not has_lock:
        (folder / "lock").unlink()
    disk.remount("ro")
    result = crdtmail("check", "--data", str(folder))
    assert (result.returncode, result.stdout) == (0, f"{folder}: nothing is wrong\n"), result.stderr
    repaired = crdtmail("check", "--repair", "--data", str(folder))
    assert repaired.returncode == 2
    assert "mount its file system for writing" in repaired.stderr


def test_what_a_node_holds_is_not_checked_on_a_read_only_file_system_either(tmp_path: Path) -> None:
    with node_process(tmp_path / "node"):
        seen = tmp_path / "seen"
        seen.mkdir()
        mounted = subprocess.run(["mount", "--bind", "-o", "ro", tmp_path / "node", seen], check=False)
        if mounted.returncode != 0:
            pytest.skip("nothing can be mounted here")
        try:
            refused = crdtmail("check", "--data", str(seen))
        finally:
            subprocess.run(["umount", "-l", seen], check=True)
    assert refused.returncode == 2
    assert "in use by another crdtmail process (pid" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_folder_of_another_user_is_called_so(tmp_path: Path) -> None:
    LmdbStore(tmp_path / "node").close()
    tmp_path.chmod(0o755)
    assert_says(start(tmp_path / "node", user=65534), 2, "must belong to the user that runs crdtmail")
    (tmp_path / "node" / "lock").chmod(0o666)
    assert_says(start(tmp_path / "node", user=65534), 2, "must belong to the user that runs crdtmail")


# Clocks ---------------------------------------------------------------------------------------------------


def test_nothing_depends_on_what_the_wall_clock_says(tmp_path: Path) -> None:
    """Not even the order of the log: it is 2200, then 1970, then 2026."""
    for turn, now_ms in enumerate((7_258_118_400_000, 0, 1_795_000_000_000)):
        store = LmdbStore(tmp_path)
        replica = Replica.open(store, lambda: ReplicaId(1), lambda now_ms=now_ms: now_ms)  # type: ignore[misc]
        if turn == 0:
            box = store.transact(lambda txn: replica.create_mailbox(txn, ALICE, "INBOX"))  # noqa: B023
        new = IncomingMessage(MessageId(str(turn)), 1, 1, frozenset())
        store.transact(lambda txn: replica.add(txn, ALICE, box, [new]))  # noqa: B023
        store.transact(lambda txn: replica.show(txn, ALICE, box))  # noqa: B023
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            recount(tables)
            record = tables.mailbox(ALICE, box)
            assert record is not None
            assert [id for _, id, _ in tables.messages(record.number)] == [str(n) for n in range(turn + 1)]
        store.close()
