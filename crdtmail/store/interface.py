"""What a store is: named tables of ordered bytes, snapshots for readers, one durable writer.

The contract is `tests/test_store_contract.py`; both stores pass it.  A store knows no mailboxes: keys
and records belong to `tables`.  Every record carries a checksum over its key and value, made when it
is written and tested whenever it is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from crdtmail.errors import StoreError

T = TypeVar("T")


class Table(Enum):
    """The tables of a node."""

    META = b"meta"
    LOG = b"log"
    LOG_INDEX = b"log_index"
    MAILBOXES = b"mailboxes"
    BURNT = b"burnt"
    MESSAGES = b"messages"
    MESSAGE_IDS = b"message_ids"
    RANGES = b"ranges"
    CHANGES = b"changes"
    STALE = b"stale"
    ACCOUNTS = b"accounts"
    DIRECTORIES = b"directories"
    PEERS = b"peers"
    STAGED = b"staged"
    GARBAGE = b"garbage"

    __hash__ = object.__hash__  # members are single, and every access looks one up


class Room(NamedTuple):
    """Bytes: what the store takes on its disk, and what is free there for it."""

    taken: int
    free: int


class NeedsRoom(StoreError):
    """The store must grow before this transaction fits; `Store.transact` sees to it and no caller does."""


class DamagedRecord(StoreError):
    """A record is not what was written under its key."""

    def __init__(self, table: Table, key: bytes) -> None:
        super().__init__(f"table {table.value.decode()}: the record under {key.hex()} has a wrong checksum")
        self.table = table
        self.key = key


class Snapshot(Protocol):
    """One consistent state, for reading."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value under `key`.  Raises StoreError if its checksum is wrong."""
        ...

    def scan(
        self, table: Table, start: bytes, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Records with `start <= key < stop` in the order of their keys, or in `reverse`.

        Nobody may write to the table before the scan is over.  Raises StoreError on a wrong checksum.
        """
        ...

    def records(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """As `scan`, but a record with a wrong checksum has no value, and the scan goes on behind it.

        It gives what is there as it lies there: in a damaged file the keys may be in no order.
        """
        ...

    def count(self, table: Table) -> int:
        """How many records the table has by its own account."""
        ...


class Transaction(Snapshot, Protocol):
    """A snapshot that takes changes, and sees its own."""

    def put(self, table: Table, key: bytes, value: bytes) -> None: ...

    def put_many(self, table: Table, rows: Iterable[tuple[bytes, bytes]]) -> bool:
        """As `put` for each, but several times as fast, and a key that is there already keeps its value.

        Whether there was none such.
        """
        ...

    def delete(self, table: Table, key: bytes) -> bool:
        """Whether there was something to delete."""
        ...

    def nested(self) -> AbstractContextManager[Transaction]:
        """A transaction inside this one: an exception undoes it alone."""
        ...


class Store(Protocol):
    """A node's tables."""

    def is_at(self, place: bytes) -> bool:
        """Whether the store still lies where it lay when it gave this `next_place`.

        It does not if it is a copy, was restored, or went back in time.
        """
        ...

    @property
    def next_place(self) -> bytes:
        """What to remember in the store, for `is_at` to be asked about when it is opened again."""
        ...

    def settle(self) -> None:
        """`next_place` is durable in the store: from now on no earlier place counts."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """The last committed state, from now to the end of the block, whatever is written meanwhile.

        It may be entered in one thread, and used and left in another.  Raises Overloaded if too many are
        open.
        """
        ...

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` and make all that it wrote durable, or on an exception nothing; then answer.

        `work` runs again from the start if the store has to grow, so it may change nothing but the
        transaction.  Only one thread may write.  Raises StoreFull if there is no room for it, and the store
        is as before and stays fit for use; StoreError if the medium fails.
        """
        ...

    def size(self) -> dict[Table, int]:
        """Bytes that each table takes."""
        ...

    def disk(self) -> Room | None:
        """None if it lies on no disk.  Raises StoreError if its disk does not tell."""
        ...

    def close(self) -> None: ...


_CHECKSUM = 4


def seal(key: bytes, value: bytes) -> bytes:
    """The record for `value`, with its checksum in front."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(_CHECKSUM, "big") + value


def seal_all(rows: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The keys with their records, as `seal` makes them."""
    crc32 = zlib.crc32
    return [(key, crc32(value, crc32(key)).to_bytes(_CHECKSUM, "big") + value) for key, value in rows]


def unseal(table: Table, key: bytes, record: bytes) -> bytes:
    """The value in `record`.  Raises DamagedRecord if it is not what was written under `key`."""
    value = record[_CHECKSUM:]
    if zlib.crc32(value, zlib.crc32(key)) != int.from_bytes(record[:_CHECKSUM], "big"):
        raise DamagedRecord(table, key)
    return value


def unseal_sound(table: Table, key: bytes, record: bytes) -> bytes | None:
    """The value in `record`; None if it is not what was written under `key`."""
    try:
        return unseal(table, key, record)
    except DamagedRecord:
        return None


def after_prefix(prefix: bytes) -> bytes | None:
    """The least key above all that start with `prefix`; None where there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
