"""Backups of a node that runs, what is restored from them, and what the commands say."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from crdtmail.checking import check
from crdtmail.client import Client
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore, data_file, reading
from crdtmail.store.tables import FORMAT, Tables, WritableTables
from crdtmail.verify import verify
from simulations.recount import recount
from tests.nodes import PATIENCE_S, NodeProcess, node_process
from tests.small_disk import KIB, small_disk
from tests.test_checking import everything
from tests.test_cli import crdtmail

ALICE = "alice"


def add(client: Client, *ids: str) -> None:
    client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1} for id in ids]})


def held(client: Client) -> set[str]:
    return {message["id"] for message in client.mailbox(ALICE, "INBOX", limit=100_000)["messages"]}


def until_equal(one: NodeProcess, other: NodeProcess) -> None:
    """Wait until both hold the same."""
    deadline = time.monotonic() + PATIENCE_S
    while not verify([one.address, other.address], timeout_s=PATIENCE_S).agrees or (
        one.client().status()["clock"] != other.client().status()["clock"]
    ):
        assert time.monotonic() < deadline, "the nodes do not become equal"
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that no node runs on, with something in every table."""
    made = LmdbStore(tmp_path / "node")

    def fill(txn: Transaction) -> None:
        for table, rows in everything().rows().items():
            for key, value in rows:
                txn.put(table, key, value)

    made.transact(fill)
    made.close()
    return tmp_path / "node"


def damage(folder: Path, table: Table) -> None:
    """Flip a bit of a record where it lies on the disk."""
    with reading(data_file(folder)) as rows:
        _, value = next(rows.scan(table, b""))
    data = data_file(folder).read_bytes()
    assert data.count(value) >= 1
    data_file(folder).write_bytes(data.replace(value, value[:-1] + bytes([value[-1] ^ 1])))


def rows_of(folder: Path) -> dict[Table, list[tuple[bytes, bytes]]]:
    with reading(data_file(folder)) as rows:
        return {table: list(rows.scan(table, b"")) for table in Table}


# Making one -----------------------------------------------------------------------------------------------


def test_a_backup_of_a_busy_node_is_one_state_of_it_and_no_copy_of_its_identity(tmp_path: Path) -> None:
    answered: list[str] = []
    is_over = threading.Event()

    def write(it: NodeProcess) -> None:
        client = it.client()
        while not is_over.is_set():
            add(client, f"m{len(answered)}")
            answered.append(f"m{len(answered)}")

    with node_process(tmp_path / "node") as it:
        it.client().create_mailbox(ALICE, "INBOX")
        writer = threading.Thread(target=write, args=(it,))
        writer.start()
        try:
            for target in (tmp_path / "one", tmp_path / "two.mdb"):
                before = list(answered)
                result = crdtmail("backup", "--data", str(tmp_path / "node"), str(target))
                assert result.returncode == 0, result.stderr
                with reading(data_file(target)) as rows:
                    recount(Tables(rows))
                    assert list(check(rows)) == []
                    ((_, box),) = Tables(rows).mailboxes(ALICE)
                    found = {id for _, id, _ in Tables(rows).messages(box.number)}
                assert found >= set(before)
                assert f"1 mailboxes with {len(found):,} messages" in result.stdout
        finally:
            is_over.set()
            writer.join()
        assert held(it.client()) == set(answered)
        replica = it.client().status()["replica"]
        assert {path.name for path in (tmp_path / "one").iterdir()} == {"data.mdb"}
        with node_process(tmp_path / "one") as copy:
            assert copy.client().status()["replica"] != replica
            assert held(copy.client()) <= set(answered)


def test_a_backup_has_room_for_nothing_that_was_deleted(tmp_path: Path) -> None:
    made = LmdbStore(tmp_path / "node")
    made.transact(lambda txn: txn.put(Table.PEERS, b"12345678", bytes(10**6)))
    made.transact(lambda txn: txn.delete(Table.PEERS, b"12345678"))
    made.transact(lambda txn: WritableTables(txn).put_identity(everything().replica.id, b""))
    made.close()
    assert crdtmail("backup", "--data", str(tmp_path / "node"), str(tmp_path / "copy")).returncode == 0
    assert data_file(tmp_path / "copy").stat().st_size < data_file(tmp_path / "node").stat().st_size / 4


@pytest.mark.parametrize("target", ["new", "new.mdb", "deep/er/new"])
def test_a_backup_never_overwrites_anything(store: Path, tmp_path: Path, target: str) -> None:
    for code in (0, 2):
        result = crdtmail("backup", "--data", str(store), str(tmp_path / target))
        assert result.returncode == code
        assert ("exists already" in result.stderr) == (code == 2)
        assert rows_of(tmp_path / target) == rows_of(store)


def test_a_backup_that_fails_leaves_nothing(store: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32 * KIB) as disk:
        result = crdtmail("backup", "--data", str(store), str(disk.folder / "backup"))
        assert (result.returncode, len(result.stderr.splitlines())) == (4, 1)
        assert list(disk.folder.iterdir()) == []


def test_what_is_no_store_cannot_be_backed_up(tmp_path: Path) -> None:
    result = crdtmail("backup", "--data", str(tmp_path / "nothing"), str(tmp_path / "backup"))
    assert (result.returncode, result.stderr) == (2, f"crdtmail: there is no store in {tmp_path}/nothing\n")
    assert list(tmp_path.iterdir()) == []


def test_the_store_can_be_named_by_the_nodes_configuration(store: Path, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(f'data = "{store}"\n')
    result = crdtmail("backup", "--config", str(tmp_path / "node.toml"), str(tmp_path / "backup"))
    assert result.returncode == 0
    assert rows_of(tmp_path / "backup") == rows_of(store)


# Putting it back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backup", "backup.mdb"])
def test_a_node_that_was_restored_gets_its_later_changes_back_from_its_peer(
    tmp_path: Path, name: str
) -> None:
    data, target = str(tmp_path / "node"), str(tmp_path / name)
    with node_process(tmp_path / "peer", "--name", "mx2") as peer:
        with node_process(tmp_path / "node", "--peer", peer.address) as it:
            client = it.client()
            client.create_mailbox(ALICE, "INBOX")
            add(client, "before")
            assert crdtmail("backup", "--data", data, target).returncode == 0
            add(client, "after")
            until_equal(it, peer)
            first = client.status()["replica"]
            refused = crdtmail("restore", "--data", data, "--replace", target)
            assert refused.returncode == 2
            assert "in use by another crdtmail process" in refused.stderr
        assert "--replace" in crdtmail("restore", "--data", data, target).stderr
        restored = crdtmail("restore", "--data", data, "--replace", target)
        assert restored.returncode == 0, restored.stderr
        assert "1 mailboxes with 1 messages" in restored.stdout
        assert "takes a new replica id" in restored.stdout
        with node_process(tmp_path / "node", "--peer", peer.address) as it:
            assert it.client().status()["replica"] != first
            until_equal(it, peer)
            assert held(it.client()) == held(peer.client()) == {"before", "after"}
            assert it.client().status()["alarms"] == peer.client().status()["alarms"] == []


def test_what_is_replaced_is_moved_aside_and_whole(store: Path, tmp_path: Path) -> None:
    before = rows_of(store)
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    for number in (1, 2):
        result = crdtmail("restore", "--data", str(store), "--replace", str(tmp_path / "backup"))
        aside = tmp_path / f"node.replaced-{number}"
        assert f"what was there before is in {aside}" in result.stdout
        assert rows_of(aside) == rows_of(store) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_restored_folder_belongs_to_whom_the_old_one_did(store: Path, tmp_path: Path) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    shutil.chown(store, 1234, 1234)
    assert crdtmail("restore", "--data", str(store), "--replace", str(tmp_path / "backup")).returncode == 0
    for path in (store, data_file(store)):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_looks_at_can_still_be_used_by_its_owner(store: Path, tmp_path: Path) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    for command in (["check"], ["backup", str(tmp_path / "again")]):
        for path in store.glob("lock*"):
            path.unlink()
        shutil.chown(store, 1234, 1234)
        shutil.chown(data_file(store), 1234, 1234)
        assert crdtmail(*command, "--data", str(store)).returncode == 0
        assert {path.name: path.stat().st_uid for path in store.iterdir() if path.stat().st_uid != 1234} == {}


def test_a_restore_into_an_empty_folder_or_none_needs_no_flag(store: Path, tmp_path: Path) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        result = crdtmail("restore", "--data", str(tmp_path / name), str(tmp_path / "backup"))
        assert result.returncode == 0, result.stderr
        assert rows_of(tmp_path / name) == rows_of(store)


@pytest.mark.parametrize(
    "how", ["a flipped bit", "no format", "cut off", "another file", "the future", "nothing"]
)
def test_a_backup_that_is_none_is_refused_and_nothing_is_changed(
    store: Path, tmp_path: Path, how: str
) -> None:
    target = tmp_path / "backup.mdb"
    if how == "the future":
        made = LmdbStore(store)
        made.transact(lambda txn: txn.put(Table.META, b"format", (FORMAT + 1).to_bytes(4, "big")))
        made.close()
        shutil.copyfile(data_file(store), target)
    elif how != "nothing":
        assert crdtmail("backup", "--data", str(store), str(target)).returncode == 0
    match how:
        case "a flipped bit":
            damage(target, Table.MAILBOXES)
        case "no format":
            damage(target, Table.META)
        case "cut off":
            target.write_bytes(target.read_bytes()[: 20 * KIB])
        case "another file":
            target.write_bytes(b"no store" * 1000)
    before = rows_of(store)
    result = crdtmail("restore", "--data", str(store), "--replace", str(target))
    assert result.returncode == (2 if how == "nothing" else 4)
    assert str(target) in result.stderr or "newer crdtmail" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert rows_of(store) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"node", "backup.mdb"}


# Checking one ---------------------------------------------------------------------------------------------


def test_a_check_of_a_sound_store_changes_nothing_and_its_node_keeps_its_replica(tmp_path: Path) -> None:
    with node_process(tmp_path / "node") as it:
        replica = it.client().status()["replica"]
        refused = crdtmail("check", "--data", str(tmp_path / "node"))
        assert refused.returncode == 2
        assert "in use by another crdtmail process" in refused.stderr
    before = data_file(tmp_path / "node").read_bytes()
    for _ in range(2):
        result = crdtmail("check", "--data", str(tmp_path / "node"))
        assert (result.returncode, result.stdout) == (0, f"{tmp_path}/node: nothing is wrong\n")
    assert data_file(tmp_path / "node").read_bytes() == before
    with node_process(tmp_path / "node") as it:
        assert it.client().status()["replica"] == replica


def test_a_check_says_what_is_wrong_and_a_repair_what_it_did(store: Path) -> None:
    damage(store, Table.PEERS)
    found = crdtmail("check", "--data", str(store))
    assert found.returncode == 1
    assert "WRONG: what is remembered of peer 0000000000000002 is damaged" in found.stdout
    assert "1 problem(s).  `crdtmail check --repair`" in found.stdout
    repaired = crdtmail("check", "--data", str(store), "--repair")
    assert repaired.returncode == 0, repaired.stdout
    assert "REPAIRED: what is remembered of peer 0000000000000002 is damaged" in repaired.stdout
    assert crdtmail("check", "--data", str(store)).returncode == 0


def test_a_check_says_what_cannot_be_repaired_and_what_to_do(store: Path) -> None:
    damage(store, Table.MESSAGES)
    for repair in ([], ["--repair"], []):
        result = crdtmail("check", "--data", str(store), *repair)
        assert result.returncode == 1
        assert "WRONG: alice, INBOX: message m" in result.stdout
        assert ("restore a backup" in result.stdout) == bool(repair)


def test_what_cannot_be_checked_is_told_apart(store: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"no store" * 1000)
    for folder, reason in (("other", "cannot be"), ("nothing", "no store in")):
        result = crdtmail("check", "--data", str(tmp_path / folder))
        assert result.returncode == 2
        assert reason in result.stderr
    assert not (tmp_path / "nothing").exists()
