"""A store in memory that can lose what was not synced, for simulations and tests.

Same contract as the LMDB store.  Opened with `sync_on_commit=False` it remembers what each commit replaced
until it is synced, so that a simulation decides when the disk has the data and what a crash takes away.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sortedcontainers import SortedDict

from crdtmail.store.interface import (
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

_Tables = defaultdict[Table, "SortedDict[bytes, bytes]"]
Image = dict[Table, dict[bytes, bytes]]
Changes = dict[Table, dict[bytes, bytes | None]]


class MemoryStore:
    """Tables of one node in memory."""

    def __init__(self, *, sync_on_commit: bool = True, place: bytes = b"memory") -> None:
        self.next_place = place
        self._live: _Tables = defaultdict(SortedDict)
        self._unsynced: list[Changes] = []
        """For each commit that is not durable yet, what it replaced."""
        self._sync_on_commit = sync_on_commit
        self._shared = 0  # snapshots that look at the live tables

    def is_at(self, place: bytes) -> bool:
        return place == self.next_place

    def settle(self) -> None:
        """A store in memory stays where it is."""

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        tables = self._live.copy()
        self._shared += 1
        try:
            yield _View(tables, None)
        finally:
            self._shared -= 1

    def transact(self, work: Callable[[Transaction], T]) -> T:
        result, changes = self.prepare(work)
        self.commit(changes)
        return result

    def prepare(self, work: Callable[[Transaction], T]) -> tuple[T, Changes]:
        """Run `work`; with its result, what it would change: nobody sees that before it is committed."""
        transaction = _View(self._live, None)
        return work(transaction), transaction.overlay

    def commit(self, changes: Changes) -> None:
        """Make visible what the last `prepare` gave."""
        replaced = self._apply(changes)
        if not self._sync_on_commit:
            self._unsynced.append(replaced)

    def sync(self) -> None:
        """Make durable all that was committed."""
        self._unsynced.clear()

    def lose_unsynced(self, keep: int = 0) -> None:
        """Crash: back to the durable state, of the unsynced commits only the first `keep` survive."""
        for replaced in reversed(self._unsynced[keep:]):
            self._apply(replaced)
        self._unsynced.clear()

    def durable(self) -> Snapshot:
        """What a crash would leave now, for reading before anything else is written."""
        view = _View(self._live, None)
        for replaced in reversed(self._unsynced):
            for table, rows in replaced.items():
                view.overlay.setdefault(table, {}).update(rows)
        return view

    def image(self) -> Image:
        """A copy of what is durable; the records as they lie there, damaged or not."""
        image = {table: dict(self._live[table]) for table in Table}
        for replaced in reversed(self._unsynced):
            for table, rows in replaced.items():
                for key, record in rows.items():
                    if record is None:
                        image[table].pop(key, None)
                    else:
                        image[table][key] = record
        return image

    def load(self, image: Image) -> None:
        """Put an image, or an empty one, in the place of everything."""
        self._live = defaultdict(SortedDict)
        for table, rows in image.items():
            self._live[table].update(rows)
        self._unsynced.clear()

    def size(self) -> dict[Table, int]:
        return {t: sum(len(k) + len(v) for k, v in self._live[t].items()) for t in Table}

    def disk(self) -> Room | None:
        return None

    def damage(self, table: Table, key: bytes) -> None:
        """Flip one bit of a record, as a failing disk would."""
        record = self._live[table][key]
        self._live[table][key] = record[:-1] + bytes([record[-1] ^ 1])

    def close(self) -> None:
        """Nothing to let go of."""

    def _apply(self, changes: Changes) -> Changes:
        """Make the changes; what they replaced, in the same form."""
        replaced: Changes = {}
        for table, rows in changes.items():
            if self._shared:
                self._live[table] = SortedDict(self._live[table])
            target = self._live[table]
            replaced[table] = {key: target.get(key) for key in rows}
            for key, record in rows.items():
                if record is None:
                    target.pop(key, None)
                else:
                    target[key] = record
        return replaced


class _View:
    """A transaction or snapshot: what is below, and over it the changes made here."""

    def __init__(self, base: _Tables, parent: _View | None) -> None:
        self._base = base
        self._parent = parent
        self.overlay: Changes = {}

    def get(self, table: Table, key: bytes) -> bytes | None:
        record = self._record(table, key)
        return None if record is None else unseal(table, key, record)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.overlay.setdefault(table, {})[key] = seal(key, value)

    def put_many(self, table: Table, rows: Iterable[tuple[bytes, bytes]]) -> bool:
        are_new = True
        for key, record in seal_all(rows):
            if self._record(table, key) is None:
                self.overlay.setdefault(table, {})[key] = record
            else:
                are_new = False
        return are_new

    def delete(self, table: Table, key: bytes) -> bool:
        existed = self._record(table, key) is not None
        if existed:
            self.overlay.setdefault(table, {})[key] = None
        return existed

    def scan(
        self, table: Table, start: bytes, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, record in self._records(table, start, stop, reverse):
            if record is not None:
                yield key, unseal(table, key, record)

    def records(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        for key, record in self._records(table, start, stop, reverse=False):
            if record is not None:
                yield key, unseal_sound(table, key, record)

    def count(self, table: Table) -> int:
        return sum(record is not None for _, record in self._records(table, b"", None, reverse=False))

    @contextmanager
    def nested(self) -> Iterator[Transaction]:
        child = _View(self._base, self)
        yield child
        for table, rows in child.overlay.items():
            self.overlay.setdefault(table, {}).update(rows)

    def _record(self, table: Table, key: bytes) -> bytes | None:
        view: _View | None = self
        while view is not None:
            rows = view.overlay.get(table)
            if rows is not None and key in rows:
                return rows[key]
            view = view._parent
        record: bytes | None = self._base[table].get(key)
        return record

    def _records(
        self, table: Table, start: bytes, stop: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes | None]]:
        rows = self._base[table]
        keys = rows.irange(start, stop, (True, False), reverse=reverse)
        below: Iterator[tuple[bytes, bytes | None]] = (
            ((key, rows[key]) for key in keys)
            if self._parent is None
            else self._parent._records(table, start, stop, reverse)
        )
        mine = self.overlay.get(table)
        if not mine:
            yield from below
            return
        own = sorted((k for k in mine if k >= start and (stop is None or k < stop)), reverse=reverse)
        yielded = None
        for key, _ in heapq.merge(
            ((key, 0) for key in own),
            ((key, 1) for key, _ in below),
            key=lambda pair: pair[0],
            reverse=reverse,
        ):
            if key != yielded:
                yielded = key
                yield key, self._record(table, key)
