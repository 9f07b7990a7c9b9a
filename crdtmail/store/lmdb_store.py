"""The store on disk: LMDB, one environment per node.  The only module that knows lmdb.

LMDB is copy-on-write: a commit is whole or absent after a crash, and readers never wait for the
writer (Chu 2011, http://www.lmdb.tech/doc/).  A commit is synced before `transact` returns.  The map
grows by itself: a transaction that does not fit is given up and run again in a larger map.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from crdtmail.errors import ConfigError, Overloaded, StoreError
from crdtmail.limits import MAX_READERS, MIB
from crdtmail.store.interface import NeedsRoom, Snapshot, T, Table, Transaction, seal, unseal

_MACHINE_ID = Path("/etc/machine-id")
_GET_GENERATION = 0x80087601  # FS_IOC_GETVERSION (linux/fs.h)
_NUMBER = 16  # bytes
FIRST_MAP = 256 * 1024 * MIB
"""Address space, not disk: the file is as long as what is in it.  So large that growing, for which all
readers must have ended, is for the very few."""


class LmdbStore:
    """The tables of one node in `folder`, which is made if it is not there.

    Raises ConfigError if another process has the folder open or it cannot be used, StoreError if what
    is in it is no LMDB environment.
    """

    def __init__(self, folder: Path, *, first_map: int = FIRST_MAP) -> None:
        try:
            _make_folder(folder)
            self._lock = _lock(folder)
        except OSError as error:
            raise ConfigError(f"the data folder {folder} cannot be used: {error.strerror}") from error
        try:
            data = folder / "data.mdb"
            if not data.exists():
                _create(data)
            size = max(first_map, 2 * data.stat().st_size if data.exists() else 0)
            # Most reads are of single records: reading ahead makes one flag in a large cold mailbox take
            # twenty times as long (`python -m benchmarks cold-flag`).
            self._env = lmdb.open(
                str(folder), map_size=size, max_dbs=len(Table), max_readers=MAX_READERS, readahead=False
            )
            self._env.reader_check()
            self._tables: dict[Table, Any] = {table: self._env.open_db(table.value) for table in Table}
        except lmdb.Error as error:
            os.close(self._lock)
            raise StoreError(f"the data folder {folder} cannot be opened: {error}") from error
        self._place = _Place(folder)
        self._readers = 0
        self._growing = False
        self._gate = threading.Condition()

    def is_at(self, place: bytes) -> bool:
        return place in self._place.known

    @property
    def next_place(self) -> bytes:
        return self._place.next

    def settle(self) -> None:
        self._place.settle()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._reading() as txn:
            yield _Transaction(self._env, txn, self._tables)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        """A read transaction; none begins while the map grows."""
        with self._gate:
            self._gate.wait_for(lambda: not self._growing)
            self._readers += 1
        try:
            try:
                begun = self._env.begin()
            except lmdb.ReadersFullError as error:
                raise Overloaded("too many snapshots are open already") from error
            with begun as txn:
                yield txn
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    def transact(self, work: Callable[[Transaction], T]) -> T:
        while True:
            try:
                with _medium_errors(), self._env.begin(write=True) as txn:
                    return work(_Transaction(self._env, txn, self._tables))
            except NeedsRoom:
                self._grow()

    def size(self) -> dict[Table, int]:
        with self._reading() as txn:
            stats = {table: txn.stat(handle) for table, handle in self._tables.items()}
        return {
            table: stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
            for table, stat in stats.items()
        }

    def close(self) -> None:
        """Let go of the folder; closing again does nothing."""
        if self._lock >= 0:
            self._env.close()
            os.close(self._lock)
            self._lock = -1

    def _grow(self) -> None:
        """Double the map.  LMDB allows it only while no transaction is open in this process."""
        with self._gate:
            self._growing = True
            try:
                self._gate.wait_for(lambda: self._readers == 0)
                with _medium_errors():
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
            finally:
                self._growing = False
                self._gate.notify_all()


class _Transaction:
    """One LMDB transaction over all tables.  `txn` gives bytes, never buffers."""

    def __init__(self, env: lmdb.Environment, txn: Any, tables: dict[Table, Any]) -> None:
        self._env = env
        self._txn = txn
        self._tables = tables

    def get(self, table: Table, key: bytes) -> bytes | None:
        record = self._txn.get(key, db=self._tables[table])
        return None if record is None else unseal(table, key, record)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._txn.put(key, seal(key, value), db=self._tables[table])

    def delete(self, table: Table, key: bytes) -> bool:
        return bool(self._txn.delete(key, db=self._tables[table]))

    def scan(
        self, table: Table, start: bytes, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._tables[table]) as cursor:
            if not reverse:
                if cursor.set_range(start) if start else cursor.first():
                    for key, record in cursor.iternext():
                        if stop is not None and key >= stop:
                            return
                        yield key, unseal(table, key, record)
                return
            at_stop = cursor.set_range(stop) if stop is not None else False
            if cursor.prev() if at_stop else cursor.last():
                for key, record in cursor.iterprev():
                    if key < start:
                        return
                    yield key, unseal(table, key, record)

    @contextmanager
    def nested(self) -> Iterator[Transaction]:
        with _medium_errors(), lmdb.Transaction(self._env, parent=self._txn, write=True) as child:
            yield _Transaction(self._env, child, self._tables)


@contextmanager
def _medium_errors() -> Iterator[None]:
    """LMDB's errors as ours."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise NeedsRoom("the map is full") from error
    except lmdb.Error as error:
        raise StoreError(f"the store failed: {error}") from error


class _Place:
    """Which file this is, and since when: what tells a copy from the original, and a restored file too.

    A place is made of the machine, the file's inode and its generation (a freed inode is given out again,
    with another generation), and a random number that is new at every start.  The number is remembered inside
    the environment and beside it, so a `data.mdb` that is overwritten with an old one is noticed as well.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "place"
        try:
            self._machine = _MACHINE_ID.read_bytes().strip()
        except OSError:  # not every container has one
            self._machine = b""
        with (folder / "data.mdb").open("rb") as data:
            self._inode = os.fstat(data.fileno()).st_ino
            try:
                self._generation = fcntl.ioctl(data.fileno(), _GET_GENERATION, bytes(8))
            except OSError:  # not every file system keeps one
                self._generation = b""
        numbers = self._file.read_bytes() if self._file.exists() else b""
        before = [numbers[n : n + _NUMBER] for n in range(0, len(numbers), _NUMBER)]
        self._number = os.urandom(_NUMBER)
        self.known = {self._of(number) for number in before}
        self.next = self._of(self._number)
        self._write(b"".join([*before, self._number]))  # whichever is durable in the store, it is known here

    def settle(self) -> None:
        self._write(self._number)

    def _of(self, number: bytes) -> bytes:
        where = repr((self._machine, self._inode, self._generation, number)).encode()
        return hashlib.blake2b(where, digest_size=16).digest()

    def _write(self, numbers: bytes) -> None:
        new = self._file.with_suffix(".new")
        with new.open("wb") as file:
            file.write(numbers)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)
        _sync_folder(self._file.parent)


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, so that they outlast a loss of power."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        _sync_folder(each.parent)


def _create(data: Path) -> None:
    """Make an empty environment, whole or not at all.

    LMDB writes the first pages of a new one without a sync, and does not open a file that has half of them.
    """
    new = data.with_suffix(".new")
    new.unlink(missing_ok=True)
    with lmdb.open(str(new), subdir=False, lock=False) as env:
        env.sync(True)
    new.replace(data)
    _sync_folder(data.parent)


def _sync_folder(folder: Path) -> None:
    """Make durable what stands in the folder, not what is in it."""
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def _lock(folder: Path) -> int:
    """Hold the folder for this process.  The kernel lets go of it however the process ends."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        raise ConfigError(
            f"the data folder {folder} is in use by another crdtmail process"
            + (f" ({owner})" if owner else "")
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)
    return lock
