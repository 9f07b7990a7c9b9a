"""The store on disk: LMDB, one environment per node.  The only module that knows lmdb.

LMDB is copy-on-write: a commit is whole or absent after a crash, and readers never wait for the
writer (Chu 2011, http://www.lmdb.tech/doc/).  A commit is synced before `transact` returns.  The map
grows by itself: a transaction that does not fit is given up and run again in a larger map.

On a full disk a transaction comes to nothing and the store stays fit for use.  LMDB writes the pages of a
commit to places that no committed state uses, syncs them, and only then writes its meta page, which lies
at the start of the file and needs no new room.  So without room it fails before the meta page, and the last
state stands.  A failing meta page leaves in doubt which state stands; LMDB then refuses every further
transaction, and so do we.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from crdtmail.errors import ConfigError, DamagedStore, Overloaded, StoreError, StoreFull
from crdtmail.limits import LARGEST_WRITE, MAX_READERS, MIB
from crdtmail.store.interface import (
    NeedsRoom,
    Room,
    Snapshot,
    T,
    Table,
    Transaction,
    seal,
    seal_all,
    unseal,
    unseal_sound,
)

_MACHINE_ID = Path("/etc/machine-id")
_GET_GENERATION = 0x80087601  # FS_IOC_GETVERSION (linux/fs.h)
_NUMBER = 16  # bytes
_DATA, _READERS, _LOCK = "data.mdb", "lock.mdb", "lock"
_READER_TABLE = 64 * (MAX_READERS + 2)  # bytes: a cache line for each slot, two for the head (mdb.c)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_OURS = "it and all that is in it must belong to the user that runs crdtmail"
_ADVICE = {
    errno.EBUSY: "a mount point cannot be moved; use a folder inside it",
    errno.EROFS: "mount its file system for writing",
    **dict.fromkeys(_NO_ROOM, "make room on its disk"),
}
_PASSING = (lmdb.MapFullError, lmdb.MapResizedError, lmdb.ReadersFullError, lmdb.TxnFullError, lmdb.LockError)
"""What LMDB says of its own accord that is no word on the file."""
FIRST_MAP = 256 * 1024 * MIB
"""Address space, not disk: the file is as long as what is in it.  So large that growing, for which all
readers must have ended, is for the very few."""


class LmdbStore:
    """The tables of one node in `folder`, which is made if it is not there.

    Raises ConfigError if another process has the folder open or it cannot be used, StoreError if what
    is in it is no LMDB environment or its disk is full.
    """

    def __init__(self, folder: Path, *, first_map: int = FIRST_MAP) -> None:
        self._folder = folder
        self._first_map = first_map
        with _folder_errors(folder):
            _make_folder(folder)
            self._lock = _lock(folder)
        try:
            with _folder_errors(folder):
                _allocate_reader_table(folder)
                data = folder / "data.mdb"
                if not data.exists():
                    _create(data)
                self._env = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._readers = 0
        self._growing = False
        self._gate = threading.Condition()

    def _open(self) -> lmdb.Environment:
        data = self._folder / _DATA
        size = max(self._first_map, 2 * data.stat().st_size if data.exists() else 0)
        # Most reads are of single records: reading ahead makes one flag in a large cold mailbox take
        # twenty times as long (`python -m benchmarks cold-flag`).
        env = lmdb.open(
            str(self._folder),
            mode=0o600,
            map_size=size,
            max_dbs=len(Table),
            max_readers=MAX_READERS,
            readahead=False,
        )
        try:
            env.reader_check()
            self._tables: dict[Table, Any] = {table: env.open_db(table.value) for table in Table}
        except lmdb.Error:
            env.close()
            raise
        return env

    def is_at(self, place: bytes) -> bool:
        return place in self._place.known

    @property
    def next_place(self) -> bytes:
        return self._place.next

    def settle(self) -> None:
        with _folder_errors(self._folder):
            self._place.settle()

    @cached_property
    def _place(self) -> _Place:
        with _folder_errors(self._folder):
            return _Place(self._folder)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._reading() as txn:
            yield _Transaction(txn, self._tables, self._nested)

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
            with self._medium_errors(), begun as txn:
                yield txn
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    def transact(self, work: Callable[[Transaction], T]) -> T:
        while True:
            last = self._env.info()["last_txnid"]
            try:
                with self._medium_errors(), self._env.begin(write=True) as txn:
                    return work(_Transaction(txn, self._tables, self._nested))
            except NeedsRoom:
                self._grow()
            except StoreFull:
                self._assure_that_nothing_was_committed_after(last)
                raise

    def _assure_that_nothing_was_committed_after(self, last: int) -> None:
        """The disk is full, and the last state still stands.  Raises StoreError if LMDB is not sure of it."""
        with self._medium_errors():
            self._env.begin(write=True).abort()  # refused if the meta page could not be written
        if self._env.info()["last_txnid"] != last:
            raise StoreError("the disk is full, and the last commit may or may not be on it")

    def size(self) -> dict[Table, int]:
        with self._reading() as txn:
            stats = {table: txn.stat(handle) for table, handle in self._tables.items()}
        return {
            table: stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
            for table, stat in stats.items()
        }

    def disk(self) -> Room | None:
        try:
            there = os.statvfs(self._folder)
            return Room((self._folder / _DATA).stat().st_size, there.f_bavail * there.f_frsize)
        except OSError as error:
            raise StoreError(f"the disk of {self._folder} tells nothing: {error.strerror}") from error

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
                with self._medium_errors():
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
            finally:
                self._growing = False
                self._gate.notify_all()

    @contextmanager
    def _nested(self, parent: Any) -> Iterator[Transaction]:
        with self._medium_errors(), lmdb.Transaction(self._env, parent=parent, write=True) as child:
            yield _Transaction(child, self._tables, self._nested)

    @contextmanager
    def _medium_errors(self) -> Iterator[None]:
        """LMDB's errors as ours."""
        try:
            yield
        except lmdb.MapFullError as error:
            raise NeedsRoom("the map is full") from error
        except lmdb.Error as error:
            code = getattr(error, "code", None)
            if code in _NO_ROOM or (code == errno.EIO and not _has_room(self._lock)):
                raise StoreFull(f"there is no room left for {self._folder}; make room on its disk") from error
            if _is_of_damage(error):
                raise DamagedStore(f"the store in {self._folder} is damaged: {error}") from error
            raise StoreError(f"the store failed: {error}") from error


class _Transaction:
    """One LMDB transaction over all tables.  `txn` gives bytes, never buffers."""

    def __init__(
        self,
        txn: Any,
        tables: dict[Table, Any],
        nest: Callable[[Any], AbstractContextManager[Transaction]] | None = None,
    ) -> None:
        self._txn = txn
        self._tables = tables
        self._nest = nest

    def get(self, table: Table, key: bytes) -> bytes | None:
        record = self._txn.get(key, db=self._tables[table])
        return None if record is None else unseal(table, key, record)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._txn.put(key, seal(key, value), db=self._tables[table])

    def put_many(self, table: Table, rows: Iterable[tuple[bytes, bytes]]) -> bool:
        with self._txn.cursor(self._tables[table]) as cursor:
            consumed, added = cursor.putmulti(seal_all(rows), overwrite=False)
            return bool(consumed == added)

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

    def records(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        with self._txn.cursor(self._tables[table]) as cursor:
            if cursor.set_range(start) if start else cursor.first():
                for key, record in cursor.iternext():
                    if stop is not None and key >= stop:
                        return
                    yield key, unseal_sound(table, key, record)

    def count(self, table: Table) -> int:
        return int(self._txn.stat(self._tables[table])["entries"])

    def nested(self) -> AbstractContextManager[Transaction]:
        assert self._nest is not None, "a store that is only read has no nested transactions"
        return self._nest(self._txn)


# Copies ---------------------------------------------------------------------------------------------------


class _Handles(dict[Table, Any]):
    """The tables of a file that is only read."""

    def __missing__(self, table: Table) -> NoReturn:
        raise DamagedStore(f"the table {table.value.decode()} is missing")


def copy_store(folder: Path, target: Path) -> None:
    """Write the last committed state of the store in `folder` to the new file `target`, durably.

    A node that has the store open goes on meanwhile.  Raises ConfigError, StoreError.
    """
    data = store_in(folder)
    with _folder_errors(folder):
        if not (folder / _READERS).exists():
            _allocate_reader_table(folder)
        size = max(FIRST_MAP, 2 * data.stat().st_size)
        env = lmdb.open(
            str(folder),
            readonly=True,
            create=False,
            map_size=size,
            max_dbs=len(Table),
            max_readers=MAX_READERS,
        )
    with env, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        try:
            env.copyfd(copy.fileno(), compact=True)
        except lmdb.Error as error:
            if error.code == errno.EIO and not _has_room(copy.fileno()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            if error.code > 0:
                raise OSError(error.code, os.strerror(error.code)) from error
            raise DamagedStore(f"the store in {folder} is damaged: {error}") from error
        os.fsync(copy.fileno())


def assure_pages(file: Path) -> None:
    """Read every page of a store that nobody writes meanwhile, used and free, as a copy would.

    Raises DamagedStore if they do not add up.  Where they lead astray the process may die of it.
    """
    with _opened(file) as env, open(os.devnull, "wb") as nowhere:
        env.copyfd(nowhere.fileno(), compact=True)


@contextmanager
def reading(file: Path) -> Iterator[Snapshot]:
    """The state in a copy of a store, which nobody writes meanwhile.  Raises StoreError if it is none."""
    with _opened(file) as env, env.begin() as txn:
        yield _Transaction(txn, _tables_of(env, txn))


@contextmanager
def changing(copy: Path) -> Iterator[Transaction]:
    """One small change of a sound copy that nobody else has open; durable when the block is over.

    Raises StoreError, OSError.
    """
    with _opened(copy, room=MIB) as env, env.begin(write=True) as txn:
        yield _Transaction(txn, _tables_of(env, txn))


def _tables_of(env: lmdb.Environment, txn: lmdb.Transaction) -> _Handles:
    tables = _Handles()
    for table in Table:
        with suppress(lmdb.NotFoundError):  # an older format has fewer
            tables[table] = env.open_db(table.value, txn=txn, create=False)
    return tables


@contextmanager
def _opened(file: Path, *, room: int = 0) -> Iterator[lmdb.Environment]:
    """While nobody else writes; for reading only, unless there is to be room for so many bytes more.  Raises
    DamagedStore if LMDB can make nothing of it.

    One that is cut off cannot be told by its length: pages that were never used need not have been written.
    """
    options = {"map_size": file.stat().st_size + room} if room else {"readonly": True}
    try:
        with lmdb.open(
            str(file), subdir=False, create=False, lock=False, max_dbs=len(Table), **options
        ) as env:
            yield env
    except lmdb.Error as error:
        if _is_of_damage(error) or error.code == errno.ENOMEM:  # a size in it is beyond all memory
            raise DamagedStore(f"{file} cannot be read as a store: {error}") from error
        raise OSError(error.code, os.strerror(error.code), str(file)) from error


def store_in(folder: Path) -> Path:
    """The file with the state of the store in a data folder.  Raises ConfigError if there is none."""
    with _folder_errors(folder):
        if not (folder / _DATA).is_file():
            raise ConfigError(f"there is no store in {folder}")
    return folder / _DATA


def data_file(path: Path) -> Path:
    """The file that holds the state, of a folder or of a copy in a file of its own."""
    return path / _DATA if path.is_dir() else path


def has_lock(folder: Path) -> bool:
    """Whether the folder is, or was, a node's: then `holding` tells whether one runs on it."""
    return (folder / _LOCK).exists()


@contextmanager
def holding(folder: Path, *, only_to_read: bool = False) -> Iterator[None]:
    """No other process can use the folder as long as the block lasts.  Raises ConfigError if one does.

    Only to read, it may lie on a read-only file system, as a disk error leaves it.
    """
    with _folder_errors(folder):
        lock = _lock(folder, only_to_read=only_to_read)
    try:
        yield
    finally:
        os.close(lock)


# The folder -----------------------------------------------------------------------------------------------


def _folder_errors(folder: Path) -> AbstractContextManager[None]:
    return disk_errors(f"the data folder {folder}", _NOT_OURS)


@contextmanager
def disk_errors(what: str, not_ours: str) -> Iterator[None]:
    """What keeps a file or folder from being used, as our errors, with what to do about it.

    `not_ours` is what to do where the user may not.
    """
    try:
        yield
    except (OSError, lmdb.Error) as error:
        code = error.errno if isinstance(error, OSError) else error.code
        advice = not_ours if code in (errno.EACCES, errno.EPERM) else _ADVICE.get(code or 0)
        if isinstance(error, lmdb.Error) and advice is None:
            kind = DamagedStore if _is_of_damage(error) else StoreError
            raise kind(f"{what} cannot be used: {error}") from error
        reason = os.strerror(code or 0) + (f": {advice}" if advice else "")
        raise (StoreError if code in _NO_ROOM else ConfigError)(f"{what} cannot be used: {reason}") from error


def _is_of_damage(error: lmdb.Error) -> bool:
    """Whether it is LMDB's own word on what it reads, not that of the system below it."""
    return error.code < 0 and not isinstance(error, _PASSING)


def _allocate_reader_table(folder: Path) -> None:
    """LMDB maps this file and leaves it sparse: on a full disk the next reader would be killed by SIGBUS.

    Only before LMDB has it open: to close a file takes away the process's locks on it.
    """
    table = _open_in(folder, _READERS)
    try:
        os.posix_fallocate(table, 0, _READER_TABLE)
    finally:
        os.close(table)


def _open_in(folder: Path, name: str) -> int:
    """A file of the folder; one that root makes belongs to whoever the folder belongs to."""
    file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def _has_room(file: int) -> bool:
    """Whether the file can take as much as LMDB ever writes at once: a write that was cut short, which is how
    most disks fill up, it calls an I/O error."""
    size = os.fstat(file).st_size
    try:
        os.posix_fallocate(file, size, LARGEST_WRITE)
    except OSError as error:
        return error.errno not in _NO_ROOM
    finally:
        os.ftruncate(file, size)
    return True


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
        with (folder / _DATA).open("rb") as data:
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
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whose mail it is, is no business of others
    for each in made:
        _sync_folder(each.parent)


def _create(data: Path) -> None:
    """Make an empty environment, whole or not at all.

    LMDB writes the first pages of a new one without a sync, and does not open a file that has half of them.
    """
    new = data.with_suffix(".new")
    new.unlink(missing_ok=True)
    with lmdb.open(str(new), subdir=False, lock=False, mode=0o600) as env:
        env.sync(True)
    new.replace(data)
    _sync_folder(data.parent)


def _sync_folder(folder: Path) -> None:
    """Make durable what stands in the folder, not what is in it."""
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def _lock(folder: Path, *, only_to_read: bool = False) -> int:
    """Hold the folder for this process.  The kernel lets go of it however the process ends.

    A node whose file system has become read-only still holds its own, and one may write there by another
    mount; so it is locked there, too.
    """
    is_written = True
    try:
        lock = _open_in(folder, _LOCK)
    except OSError as error:
        if error.errno != errno.EROFS or not only_to_read:
            raise
        is_written = False
        there = folder / _LOCK if has_lock(folder) else folder
        lock = os.open(there, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip() if has_lock(folder) else ""
        os.close(lock)
        raise ConfigError(
            f"the data folder {folder} is in use by another crdtmail process"
            + (f" ({owner})" if owner else "")
        ) from None
    if is_written:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)
    return lock
