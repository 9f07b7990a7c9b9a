"""A node's disk: it outlives the node's lives, may lose what was not synced, fail, or be another one.

The store on it is the memory store, which keeps to the contract of the one on LMDB.  A commit is made and
then synced, one after the other, so that a crash can come between them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from crdtmail.crdt.clock import Clock
from crdtmail.errors import StoreError, StoreFull
from crdtmail.store.interface import Room, Snapshot, T, Table, Transaction
from crdtmail.store.memory_store import Changes, Image, MemoryStore
from crdtmail.store.tables import Head, Tables

IO_ERROR, DISK_FULL = "I/O error", "disk full"
DISK_FAILURES = (IO_ERROR, DISK_FULL)


class PowerCut(Exception):
    """The machine went off in the middle of a transaction."""


class Disk:
    """The tables of one node, and what becomes of them.  It is a `Store`."""

    lies_about_sync = False
    """A planted bug: what is committed is taken for durable."""

    def __init__(self, place: bytes) -> None:
        self._store = MemoryStore(sync_on_commit=False, place=place)
        self._swaps = 0
        self._place = place
        self._failing = range(0)
        """The commits that fail, as `commits` counts them."""
        self._how = ""
        self._power_cut: int | None = None
        self.commits = 0
        self._damage: dict[tuple[Table, bytes], bytes] = {}
        self.backup: Image | None = None
        self.synced = Head()
        """The head of the last state that was synced."""
        self._durable_head: Head | None = None

    # What a store offers --------------------------------------------------------------------------------

    def is_at(self, place: bytes) -> bool:
        return self._store.is_at(place)

    @property
    def next_place(self) -> bytes:
        return self._store.next_place

    def settle(self) -> None:
        self._store.settle()

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return self._store.snapshot()

    def transact(self, work: Callable[[Transaction], T]) -> T:
        result, changes = self.prepare(work)
        self.commit(changes)
        if self._power_cut is not None:
            keep, self._power_cut = self._power_cut, None
            self.crash(keep)
            raise PowerCut
        self.sync()
        return result

    def size(self) -> dict[Table, int]:
        return self._store.size()

    def disk(self) -> Room | None:
        return self._store.disk()

    def close(self) -> None:
        """Nothing to let go of."""

    # What a disk does -----------------------------------------------------------------------------------

    def prepare(self, work: Callable[[Transaction], T]) -> tuple[T, Changes]:
        """Run `work` in a transaction of which nobody sees anything yet."""
        return self._store.prepare(work)

    def commit(self, changes: Changes) -> None:
        """Make the changes visible, but not yet durable."""
        self.commits += 1
        self._durable_head = None
        if self.commits in self._failing:
            raise StoreFull(DISK_FULL) if self._how == DISK_FULL else StoreError(self._how)
        self._store.commit(changes)

    def sync(self) -> None:
        self.synced = self.head()
        self._durable_head = None
        if not self.lies_about_sync:
            self._store.sync()
            self._durable_head = self.synced

    def crash(self, keep: int = 0) -> None:
        """What was not synced is lost but for the first `keep` commits."""
        self._store.lose_unsynced(keep)
        self._durable_head = None
        if keep:
            self.synced = self.head()

    def head(self) -> Head:
        """The head of the last committed state."""
        with self._store.snapshot() as snapshot:
            return Tables(snapshot).head()

    def durable(self) -> Tables:
        """What a crash would leave, for reading at once."""
        return Tables(self._store.durable())

    def durable_clock(self) -> Clock:
        """What a crash would leave of the clock."""
        if self.is_damaged:
            return self.synced.clock  # known without reading a record that may be damaged
        if self._durable_head is None:
            self._durable_head = self.durable().head()
        return self._durable_head.clock

    # What befalls it ------------------------------------------------------------------------------------

    def cut_power(self, keep: int) -> None:
        """The next `transact` commits, but is not synced; `keep` commits reach the disk all the same."""
        self._power_cut = keep

    def fail(self, commits: int, how: str, lasts: int = 1) -> None:
        """The nth commit from now fails, and so many with it; on a full disk there is room again then."""
        first = self.commits + commits
        self._failing, self._how = range(first, first + lasts), how

    def fail_no_more(self) -> None:
        self._failing = range(0)
        self._power_cut = None

    def damage(self, table: Table, where: float) -> bool:
        """Flip a bit in the record that lies at this fraction of the table; whether there is any."""
        keys = sorted(self._store.image()[table])
        if not keys:
            return False
        key = keys[int(where * len(keys))]
        if not self.is_damaged or (table, key) not in self._damage:  # the bit would flip back
            self._store.damage(table, key)
            self._damage[table, key] = self._store.image()[table][key]
        return True

    @property
    def is_damaged(self) -> bool:
        """Whether a record is damaged that nobody has written anew since."""
        if not self._damage:
            return False
        image = self._store.image()
        self._damage = {at: bad for at, bad in self._damage.items() if image[at[0]].get(at[1]) == bad}
        return bool(self._damage)

    def scan(self) -> str | None:
        """Read every record, as an operator would who suspects the disk; what is wrong, if anything is."""
        with self._store.snapshot() as snapshot:
            try:
                for table in Table:
                    for _ in snapshot.scan(table, b""):
                        pass
            except StoreError as error:
                return str(error)
        return None

    def may_fail(self, error: Exception) -> bool:
        """Whether this error is of something that was done to this disk."""
        return str(error) in DISK_FAILURES or self.is_damaged

    def image(self) -> Image:
        return self._store.image()

    def swap(self, image: Image) -> None:
        """Another disk, or another file on it, with this content, is in its place now."""
        self._swaps += 1
        self._store.load(image)
        self._durable_head = None
        self._store.next_place = self._place + b" %d" % self._swaps
        self._failing = range(0)
        self._damage.clear()
        self.synced = self.head()
