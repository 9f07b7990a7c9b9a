"""Backups of a node that runs, what is restored from them, and what the commands say."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crdtmail import backups
from crdtmail.checking import check
from crdtmail.cli import main
from crdtmail.client import Client
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.lmdb_store import LmdbStore, data_file, reading
from crdtmail.store.tables import FORMAT, Tables, WritableTables
from crdtmail.verify import verify
from simulations.recount import recount
from tests.nodes import PATIENCE_S, NodeProcess, node_process, write_timing
from tests.small_disk import KIB, small_disk
from tests.test_checking import everything
from tests.test_cli import crdtmail
from tests.test_migrations import load_format_2

ALICE = "alice"
NOBODY = 65534


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


def damage_key(folder: Path) -> None:
    """Flip a bit of a key in the index of messages: m3 becomes -3, which belongs before m1."""
    data = data_file(folder).read_bytes()
    key = bytes([0, 0, 0, 1]) + b"m3"
    assert data.count(key) >= 1
    data_file(folder).write_bytes(data.replace(key, bytes([0, 0, 0, 1]) + b"-3"))


def rows_of(folder: Path) -> dict[Table, list[tuple[bytes, bytes]]]:
    """All but where it lies."""
    with reading(data_file(folder)) as rows:
        return {table: [row for row in rows.scan(table, b"") if row[0] != b"place"] for table in Table}


# Making one -----------------------------------------------------------------------------------------------


@contextmanager
def written_to(it: NodeProcess, at_once: int = 1) -> Iterator[list[str]]:
    """Mail comes in all the time, so many messages at once; what was answered so far."""
    answered: list[str] = []
    is_over = threading.Event()

    def write() -> None:
        client = it.client()
        while not is_over.is_set():
            some = [f"m{len(answered) + n}" for n in range(at_once)]
            add(client, *some)
            answered.extend(some)

    it.client().create_mailbox(ALICE, "INBOX")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield answered
    finally:
        is_over.set()
        writer.join()


def test_a_backup_of_a_busy_node_is_one_state_of_it_and_no_copy_of_its_identity(tmp_path: Path) -> None:
    with node_process(tmp_path / "node") as it:
        with written_to(it) as answered:
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
        assert held(it.client()) == set(answered)
        replica = it.client().status()["replica"]
        assert {path.name for path in (tmp_path / "one").iterdir()} == {"data.mdb"}
        with node_process(tmp_path / "one") as copy:
            assert copy.client().status()["replica"] != replica
            assert held(copy.client()) <= set(answered)


def test_a_backup_that_is_put_over_the_nodes_own_file_is_noticed_at_the_start(tmp_path: Path) -> None:
    data, copy = tmp_path / "node", tmp_path / "copy.mdb"
    with node_process(data) as it:
        replica = it.client().status()["replica"]
        assert crdtmail("backup", "--data", str(data), str(copy)).returncode == 0
        it.client().create_mailbox(ALICE, "INBOX")
    data_file(data).write_bytes(copy.read_bytes())
    with node_process(data) as it:
        assert it.client().status()["replica"] != replica


def test_a_backup_has_room_for_nothing_that_was_deleted(tmp_path: Path) -> None:
    made = LmdbStore(tmp_path / "node")
    made.transact(lambda txn: txn.put(Table.PEERS, b"12345678", bytes(10**6)))
    made.transact(lambda txn: txn.delete(Table.PEERS, b"12345678"))
    made.transact(lambda txn: WritableTables(txn).put_identity(everything().replica.id, b""))
    made.close()
    assert crdtmail("backup", "--data", str(tmp_path / "node"), str(tmp_path / "copy")).returncode == 0
    assert data_file(tmp_path / "copy").stat().st_size < data_file(tmp_path / "node").stat().st_size / 4


def test_a_backup_makes_no_folder_but_its_own(store: Path, tmp_path: Path) -> None:
    """Where the disk for backups is not mounted, it would fill the one below."""
    for target in ("backup/new", "backup/deep/er.mdb"):
        result = crdtmail("backup", "--data", str(store), str(tmp_path / target))
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert f"there is no folder {(tmp_path / target).parent}: make it, or mount the disk" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["node"]


@pytest.mark.parametrize("target", ["new", "new.mdb"])
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


@pytest.mark.parametrize(
    ("target", "says"),
    [("x" * 300, "File name too long"), ("node/data.mdb/new", "Not a directory"), ("", "exists already")],
)
def test_a_place_that_cannot_take_a_backup_is_named(
    store: Path, tmp_path: Path, target: str, says: str
) -> None:
    result = crdtmail("backup", "--data", str(store), str(tmp_path / target))
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert f"{tmp_path / target}" in result.stderr
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["node"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users get to; pytest's own they do not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_read_or_write_is_told_what_to_do(store: Path, open_folder: Path) -> None:
    """The name that is told is the one that was given, not one that a file had meanwhile."""
    node, backup = open_folder / "node", open_folder / "backup.mdb"
    shutil.copytree(store, node)
    node.chmod(0o700)
    assert crdtmail("backup", "--data", str(node), str(backup)).returncode == 0
    mine = open_folder / "mine"
    mine.mkdir()
    shutil.chown(mine, NOBODY)
    new = str(mine / "new")
    not_theirs = f"the data folder {node} cannot be used: Permission denied: it and all"
    not_readable = f"the backup {backup} cannot be used: Permission denied: this user may not read it"
    assert_nobody_is_told(not_theirs, "check", "--data", str(node))
    assert_nobody_is_told(not_theirs, "backup", "--data", str(node), new)
    assert_nobody_is_told(not_readable, "restore", "--data", new, str(backup))
    for path in (backup, node, *node.iterdir()):
        shutil.chown(path, NOBODY)
    theirs = str(open_folder / "new")
    not_writable = f"{theirs} cannot be used: Permission denied: this user may not write there"
    assert_nobody_is_told(not_writable, "backup", "--data", str(node), theirs)
    assert_nobody_is_told(not_writable, "restore", "--data", theirs, str(backup))
    assert {path.name for path in open_folder.iterdir()} == {"node", "backup.mdb", "mine"}


def assert_nobody_is_told(what: str, *arguments: str) -> None:
    result = as_nobody(*arguments)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert what in result.stderr


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """That user may not be able to import anything, so root does."""
    code = (
        "import os, sys, crdtmail.backups, crdtmail.daemon\n"
        "from crdtmail.cli import main\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_backup_without_room_says_so_of_the_name_that_was_given(store: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32 * KIB) as disk:
        for command in (["backup", "--data", str(store)], ["restore", "--data"]):
            target = str(disk.folder / "new")
            if command[0] == "restore":
                assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
                command, target = [*command, target], str(tmp_path / "backup")
            result = crdtmail(*command, target)
            assert (result.returncode, len(result.stderr.splitlines())) == (4, 1), result.stderr
            assert f"{disk.folder}/new cannot be used: No space left on device: make room" in result.stderr
            assert list(disk.folder.iterdir()) == []


def test_where_a_file_system_can_rename_only_the_old_way_all_is_the_same(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backups, "rename_to_new", lambda old, new: False)
    monkeypatch.setattr(backups, "exchange", lambda one, other: False)
    before = rows_of(store)
    for target in ("backup", "backup.mdb"):
        for code in (0, 2):
            assert main(["backup", "--data", str(store), str(tmp_path / target)]) == code
        assert main(["restore", "--data", str(store), "--replace", str(tmp_path / target)]) == 0
        assert rows_of(store) == rows_of(tmp_path / target) == before
    assert rows_of(tmp_path / "node.replaced-2") == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


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
        assert restored.returncode == 0, f"nothing is lost, and the node knows: {restored.stderr}"
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


def test_changes_that_no_other_node_has_are_replaced_only_if_that_is_said(tmp_path: Path) -> None:
    data, target = str(tmp_path / "node"), str(tmp_path / "backup")
    config = ("--config", str(write_timing(tmp_path)))
    with (
        node_process(tmp_path / "peer", "--name", "mx2", *config) as peer,
        node_process(tmp_path / "node", "--peer", peer.address, *config) as it,
    ):
        it.client().create_mailbox(ALICE, "INBOX")
        until_equal(it, peer)
        assert crdtmail("backup", "--data", data, target).returncode == 0
        peer.kill()
        add(it.client(), "precious")
    refused = crdtmail("restore", "--data", data, "--replace", target)
    assert refused.returncode == 2
    assert "may hold 1 change(s) of this node that neither the backup nor any peer has" in refused.stderr
    assert "wait until `crdtmail status` says" in refused.stderr
    with node_process(tmp_path / "node") as it:
        assert held(it.client()) == {"precious"}
    restored = crdtmail("restore", "--data", data, "--replace", "--lose-changes", target)
    assert restored.returncode == 0, restored.stderr
    with node_process(tmp_path / "node.replaced-1") as it:
        assert held(it.client()) == {"precious"}


def test_what_cannot_be_read_any_more_is_replaced_only_if_that_is_said(store: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "backup")
    assert crdtmail("backup", "--data", str(store), target).returncode == 0
    data_file(store).write_bytes(b"no store" * 1000)
    refused = crdtmail("restore", "--data", str(store), "--replace", target)
    assert refused.returncode == 2
    assert "nobody knows whether it holds changes that no peer has" in refused.stderr
    assert crdtmail("restore", "--data", str(store), "--replace", "--lose-changes", target).returncode == 0
    assert rows_of(store) == rows_of(tmp_path / "backup")


def test_a_restored_node_has_the_tokens_that_it_had(store: Path, tmp_path: Path) -> None:
    made = crdtmail("token", "create", "x", "--scope", "read", "--account", "*", "--data", str(store))
    assert made.returncode == 0
    if os.geteuid() == 0:
        shutil.chown(store / "tokens.json", 1234, 1234)
    before = (store / "tokens.json").read_bytes(), (store / "tokens.json").stat()
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    result = crdtmail("restore", "--data", str(store), "--replace", str(tmp_path / "backup"))
    assert result.returncode == 0
    assert "tokens" not in result.stdout
    after = (store / "tokens.json").read_bytes(), (store / "tokens.json").stat()
    assert after[0] == before[0]
    for name in ("st_mode", "st_uid", "st_gid"):
        assert getattr(after[1], name) == getattr(before[1], name)
    assert (tmp_path / "node.replaced-1" / "tokens.json").read_bytes() == before[0]


def test_a_restore_into_a_new_folder_says_that_there_are_no_tokens_in_it(store: Path, tmp_path: Path) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    result = crdtmail("restore", "--data", str(tmp_path / "new"), str(tmp_path / "backup"))
    assert "There are no tokens in it, for a backup has none." in result.stdout
    assert "crdtmail token create" in result.stdout


def test_what_a_node_runs_on_is_not_replaced_however_it_is_asked(tmp_path: Path) -> None:
    with node_process(tmp_path / "node") as it:
        it.client().create_mailbox(ALICE, "INBOX")
        assert crdtmail("backup", "--data", str(tmp_path / "node"), str(tmp_path / "backup")).returncode == 0
        for flags in ([], ["--replace"], ["--replace", "--lose-changes"]):
            result = crdtmail("restore", *flags, "--data", str(tmp_path / "node"), str(tmp_path / "backup"))
            assert result.returncode == 2
            assert "in use by another crdtmail process" in result.stderr


def test_the_folder_of_a_busy_node_is_no_backup_until_the_node_is_stopped(tmp_path: Path) -> None:
    """Its file changes while it is read: what is sound looks damaged, and a copy would be of no one state."""
    (tmp_path / "link.mdb").symlink_to(tmp_path / "node" / "data.mdb")
    sources = [tmp_path / "node", tmp_path / "node" / "data.mdb", tmp_path / "link.mdb"]
    with node_process(tmp_path / "node") as it, written_to(it, at_once=100) as answered:
        for source in sources:
            refused = crdtmail("restore", "--data", str(tmp_path / "new"), str(source))
            assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
            assert "in use by another crdtmail process" in refused.stderr
            assert "`crdtmail backup`" in refused.stderr
    assert not (tmp_path / "new").exists()
    for number, source in enumerate(sources):
        taken = crdtmail("restore", "--data", str(tmp_path / f"new{number}"), str(source))
        assert taken.returncode == 0, taken.stderr
        assert f"1 mailboxes with {len(answered):,} messages" in taken.stdout


def test_a_folder_that_no_node_runs_on_can_be_restored_over_itself(store: Path) -> None:
    before = rows_of(store)
    (store / "lock").touch()
    result = crdtmail("restore", "--data", str(store), "--replace", str(store))
    assert result.returncode == 0, result.stderr
    assert rows_of(store) == before


def test_there_is_a_data_folder_at_every_moment_of_a_restore(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash without one, the node would begin with nothing, under a new id."""
    assert main(["backup", "--data", str(store), str(tmp_path / "backup")]) == 0
    seen = []

    def watched(self: Path, target: Path) -> Path:
        os.rename(self, target)
        seen.append(data_file(store).is_file())
        return target

    monkeypatch.setattr(Path, "rename", watched)
    assert main(["restore", "--data", str(store), "--replace", str(tmp_path / "backup")]) == 0
    assert seen
    assert all(seen)


def test_a_file_is_no_data_folder(store: Path, tmp_path: Path) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    result = crdtmail("restore", "--data", str(data_file(store)), str(tmp_path / "backup"))
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "is no folder" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_new_folder_belongs_to_whom_the_one_above_does_and_if_that_is_root_it_is_said(
    store: Path, tmp_path: Path
) -> None:
    assert crdtmail("backup", "--data", str(store), str(tmp_path / "backup")).returncode == 0
    (tmp_path / "theirs").mkdir()
    shutil.chown(tmp_path / "theirs", 1234, 1234)
    result = crdtmail("restore", "--data", str(tmp_path / "theirs" / "new"), str(tmp_path / "backup"))
    for path in (tmp_path / "theirs" / "new", tmp_path / "theirs" / "new" / "data.mdb"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234)
    assert "chown" not in result.stdout
    result = crdtmail("restore", "--data", str(tmp_path / "new"), str(tmp_path / "backup"))
    assert f"chown -R USER: {tmp_path}/new" in result.stdout


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


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_store_of_a_format_that_only_a_node_can_read_is_not_called_damaged(
    tmp_path: Path, command: str
) -> None:
    made = LmdbStore(tmp_path / "node")
    load_format_2(made)
    made.close()
    arguments = {
        "backup": ("--data", str(tmp_path / "node"), str(tmp_path / "backup")),
        "restore": ("--data", str(tmp_path / "new"), str(tmp_path / "node")),
    }
    result = crdtmail(command, *arguments[command])
    assert (result.returncode, "damaged" in result.stderr) == (4, False)
    assert "has format 2, which only a node that starts on it brings up to date" in result.stderr
    with node_process(tmp_path / "node") as it:
        assert it.client().accounts()
    assert crdtmail(command, *arguments[command]).returncode == 0


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
        assert "restore a backup" in result.stdout
        assert "tokens.json" in result.stdout
        assert "--repair" not in result.stdout, "where it can do nothing"


def test_what_cannot_be_checked_is_told_apart(store: Path, tmp_path: Path) -> None:
    result = crdtmail("check", "--data", str(tmp_path / "nothing"))
    assert (result.returncode, result.stderr) == (2, f"crdtmail: there is no store in {tmp_path}/nothing\n")
    assert not (tmp_path / "nothing").exists()
    made = LmdbStore(store)
    made.transact(lambda txn: txn.put(Table.META, b"format", (FORMAT + 1).to_bytes(4, "big")))
    made.close()
    result = crdtmail("check", "--data", str(store))
    assert result.returncode == 2
    assert "newer crdtmail" in result.stderr


def test_a_backup_in_a_file_of_its_own_is_checked_and_not_repaired(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.mdb"
    assert crdtmail("backup", "--data", str(store), str(file)).returncode == 0
    result = crdtmail("check", "--data", str(file))
    assert (result.returncode, result.stdout) == (0, f"{file}: nothing is wrong\n"), result.stderr
    repaired = crdtmail("check", "--repair", "--data", str(file))
    assert (repaired.returncode, "checked, and not repaired" in repaired.stderr) == (2, True)
    with reading(file) as rows:
        _, value = next(rows.scan(Table.MESSAGES, b""))
    file.write_bytes(file.read_bytes().replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    wrong = crdtmail("check", "--data", str(file))
    assert (wrong.returncode, "take another backup" in wrong.stdout) == (1, True), wrong.stdout
    file.write_text("no store at all")
    assert crdtmail("check", "--data", str(file)).returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"node", "one.mdb"}


def test_the_file_of_a_node_that_runs_is_not_taken_for_a_backup(tmp_path: Path) -> None:
    with node_process(tmp_path / "node"):
        refused = crdtmail("check", "--data", str(tmp_path / "node" / "data.mdb"))
        assert (refused.returncode, "in use by another" in refused.stderr) == (2, True)


@pytest.mark.parametrize("how", ["another file", "cut off", "a damaged key"])
def test_a_file_that_is_damaged_itself_is_wrong_and_not_repaired(
    store: Path, tmp_path: Path, how: str
) -> None:
    data = data_file(store)
    match how:
        case "another file":
            data.write_bytes(b"no store" * 1000)
        case "cut off":
            data.write_bytes(data.read_bytes()[: 20 * KIB])
        case _:
            damage_key(store)
    before = data.read_bytes()
    for flags in ([], ["--repair"]):
        result = crdtmail("check", *flags, "--data", str(store))
        assert (result.returncode, result.stderr) == (1, "")
        wrong, _, advice = result.stdout.partition("problem(s).")
        assert wrong.startswith("WRONG: ")
        assert "copy its tokens.json into a new one" in advice
        assert "restore a backup" in advice
        assert data.read_bytes() == before
    result = crdtmail("restore", "--data", str(tmp_path / "new"), str(data))
    assert (result.returncode, len(result.stderr.splitlines())) == (4, 1)


def test_however_a_file_is_damaged_each_command_ends_and_says_so(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No signal, no traceback, no end that does not come; what one has called sound is not changed."""
    target = tmp_path / "backup.mdb"
    assert main(["backup", "--data", str(store), str(target)]) == 0
    good, chance = target.read_bytes(), random.Random(4)
    shutil.rmtree(store)
    for turn in range(30):
        bad = damaged(good, chance)
        target.write_bytes(bad)
        store.mkdir()
        data_file(store).write_bytes(bad)
        signal.alarm(60)
        codes = [
            main(["restore", "--data", str(tmp_path / "new"), str(target)]),
            *(main(["check", *flags, "--data", str(store)]) for flags in ([], ["--repair"], [])),
        ]
        signal.alarm(0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err, (turn, err)
        assert codes[0] in (0, 4), (turn, out, err)
        assert set(codes[1:]) <= {0, 1}, (turn, out, err)
        assert (codes[0] == 0) == (codes[1] == 0), (turn, codes, out, err)
        assert codes[2] == codes[3], (turn, codes, out, err)
        shutil.rmtree(store)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)


def damaged(good: bytes, chance: random.Random) -> bytes:
    """What a disk, or a hand, makes of a file."""
    bad, page = bytearray(good), 4096
    at = chance.randrange(2, len(good) // page) * page
    match chance.choice(["bits", "bits", "header", "head", "zeros", "another page", "cut off"]):
        case "bits":
            for _ in range(chance.choice([1, 5])):
                bad[chance.randrange(2 * page, len(bad))] ^= 1 << chance.randrange(8)
        case "header":
            bad[at + chance.randrange(64)] = chance.randrange(256)
        case "head":
            bad[chance.randrange(2) * page + chance.randrange(160)] = chance.randrange(256)
        case "zeros":
            bad[at : at + page] = bytes(page)
        case "another page":
            other = chance.randrange(2, len(good) // page) * page
            bad[at : at + page] = good[other : other + page]
        case _:
            del bad[at:]
    return bytes(bad)
