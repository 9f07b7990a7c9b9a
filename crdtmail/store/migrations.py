"""Stores of older formats brought up to date: one step for each format, all of them in one transaction.

A step turns the records of its format into those of the next, knows nothing of any other, and never changes
again: old records are read and written as bytes here, for `tables` knows only today's.
"""

from __future__ import annotations

from collections.abc import Callable

from crdtmail.errors import StoreError
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import FORMAT, Tables

MIGRATIONS: dict[int, Callable[[Transaction], None]] = {}
"""From each older format that can still be read to the next one.  Format 1 was never released."""


def check_format(found: int) -> None:
    """Raises StoreError, saying what to do, if a store of this format is of no use to this version."""
    if found > FORMAT:
        raise StoreError(
            f"the store has format {found}, made by a newer crdtmail; this version reads format {FORMAT} at "
            "most: install the newer version again, or start with an empty data folder"
        )
    if any(step not in MIGRATIONS for step in range(found, FORMAT)):
        raise StoreError(
            f"the store has format {found}, which is too old for this version, whose own is {FORMAT}: start "
            "with an empty data folder, and the peers send everything"
        )


def migrate(txn: Transaction) -> None:
    """Bring a store up to date; whoever calls writes today's format in the same transaction.

    Raises StoreError for a format that this version does not know.
    """
    found = Tables(txn).format()
    if found is not None:
        check_format(found)
        for step in range(found, FORMAT):
            MIGRATIONS[step](txn)
