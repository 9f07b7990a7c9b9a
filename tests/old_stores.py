"""Stores of the format before today's, for tests that migrate: the one place that knows how they are made.

As long as no format has gone out of use, the older one is made up: each record of the log, the messages and
their index ends with a mark, which the migration takes off again.  So a store that is migrated in part, or
twice, cannot be read.  When `store/migrations.py` has a real step from `OLD` on, `make_old` becomes whatever
makes a store of that format, and `migration` that step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from crdtmail import LmdbStore
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.tables import FORMAT

OLD = FORMAT - 1
_MARKED = (Table.LOG, Table.MESSAGES, Table.MESSAGE_IDS)
_MARK = b"old"


def make_old(folder: Path) -> None:
    """Give the store of a stopped node the older format, content and place as they are."""

    def work(txn: Transaction) -> None:
        for table in _MARKED:
            txn.put_many(table, [(key, value + _MARK) for key, value in list(txn.scan(table, b""))])
        txn.put(Table.META, b"format", OLD.to_bytes(4, "big"))

    with closing(LmdbStore(folder)) as store:
        store.transact(work)


def migration() -> Callable[[Transaction], None]:
    """The step from `OLD` to the next format."""
    return _take_marks_off


def _take_marks_off(txn: Transaction) -> None:
    for table in _MARKED:
        for key, value in list(txn.scan(table, b"")):
            assert value.endswith(_MARK), "every record is migrated once"
            txn.put(table, key, value.removesuffix(_MARK))
