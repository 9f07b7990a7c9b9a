"""Stores of the format before today's, for tests that migrate: the one place that knows how they are made.

The older format is made up, for no real one changes so many records that a process can be killed among them:
each record of the log, the messages and their index ends with a mark, which the migration takes off again.
So a store that is migrated in part, or twice, cannot be read.  The real steps have `test_migrations`.
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
            for key, value in list(txn.scan(table, b"")):
                txn.put(table, key, value + _MARK)
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
