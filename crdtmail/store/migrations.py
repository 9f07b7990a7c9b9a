"""Stores of older formats brought up to date: one step for each format, all of them in one transaction.

A step turns the records of its format into those of the next and knows nothing of any other.  It has its own
encoding of every record that has changed since, for `tables` knows only today's; what it takes from there is
what no later format has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from struct import Struct

import msgspec

from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Add, Move
from crdtmail.errors import StoreError
from crdtmail.store.interface import Table, Transaction, after_prefix
from crdtmail.store.tables import BLOCK, FORMAT, Tables, element_digest, mailbox_salt, split_key

_U32 = Struct(">I")
_U64 = Struct(">Q")
_BOX_UID = Struct(">II")
_RANGE = Struct(">QI")
_BURNT = Struct(">QQ")
_LOG_HEAD = Struct(">QQQ")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_ROWS_AT_ONCE = 10_000  # a scan must be over before its table is written to


def check_format(found: int) -> None:
    """Raises StoreError, saying what to do, if a store of this format is of no use to this version."""
    if found > FORMAT:
        raise StoreError(
            f"the store has format {found}, made by a newer crdtmail; this version reads format {FORMAT} at "
            "most: install the newer version again, or start with a data folder that has nothing in it but "
            "tokens.json"
        )
    if any(step not in MIGRATIONS for step in range(found, FORMAT)):
        raise StoreError(
            f"the store has format {found}, which is too old for this version, whose own is {FORMAT}: start "
            "with a data folder that has nothing in it but tokens.json, and the peers send everything"
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


def _from_2(txn: Transaction) -> None:
    """Format 3 has digests of blocks, the log's floor and size, a count of all messages, retired peers, and
    tells of each instance whether a move made it.

    The log has the answer to that last question: nothing was ever pruned from one of format 2.
    """
    moved = _Moved(txn)
    total = changed = 0
    for key, record in list(txn.scan(Table.MAILBOXES, b"")):
        fields = _unpack(record)
        digest = _messages_from_2(txn, key, fields[0], moved)
        total += fields[2]
        fields[-1] ^= digest
        changed ^= digest
        txn.put(Table.MAILBOXES, key, _pack(fields))
    for key, record in list(txn.scan(Table.PEERS, b"")):
        txn.put(Table.PEERS, key, _pack([*_unpack(record), False]))
    head = txn.get(Table.META, b"head")
    if head is not None:
        lsn, digest, clock = _unpack(head)
        log_bytes = sum(len(record) - _LOG_HEAD.size for _, record in txn.scan(Table.LOG, b""))
        txn.put(Table.META, b"head", _pack([lsn, digest ^ changed, clock, {}, log_bytes, total]))


def _messages_from_2(txn: Transaction, mailbox: bytes, number: int, moved: _Moved) -> int:
    """By what the digest of the mailbox has changed."""
    salt = mailbox_salt(*split_key(Table.MAILBOXES, mailbox))
    start, end = _U32.pack(number), after_prefix(_U32.pack(number))
    ranges: dict[int, tuple[int, int]] = {}
    changed = 0
    while rows := list(islice(txn.scan(Table.MESSAGES, start, end), _ROWS_AT_ONCE)):
        for key, record in rows:
            id, before = key[_BOX_UID.size :], record[_U64.size :]
            after = _pack(
                [
                    [*instance, moved.has_made(mailbox, id.decode(), *instance[0])]
                    for instance in _unpack(before)
                ]
            )
            digest = element_digest(salt, id, after)
            block = _BOX_UID.unpack_from(key)[1] // BLOCK
            of_block, count = ranges.get(block, (0, 0))
            ranges[block] = of_block ^ digest, count + 1
            changed ^= digest ^ element_digest(salt, id, before)
            txn.put(Table.MESSAGES, key, record[: _U64.size] + after)
        start = rows[-1][0] + b"\0"
    for block, of_block_and_count in ranges.items():
        txn.put(Table.RANGES, _BOX_UID.pack(number, block), _RANGE.pack(*of_block_and_count))
    return changed


def _from_3(txn: Transaction) -> None:
    """Format 4 keeps of a deleted mailbox the next UID, too, and more of a directory that is staged."""
    for key, record in list(txn.scan(Table.BURNT, b"")):
        (shown,) = _U32.unpack(record)
        txn.put(Table.BURNT, key, _BURNT.pack(shown, shown + 1))
    for key, record in list(txn.scan(Table.STAGED, b"")):
        if not key.endswith(b"\0"):  # a mailbox: its rows are taken away bit by bit
            txn.put(Table.GARBAGE, _U32.pack(_unpack(record)[0]), b"")
        txn.delete(Table.STAGED, key)


class _Moved:
    """Which instances a move has made."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._by_delta = lru_cache(maxsize=8)(self._made)

    def has_made(self, mailbox: bytes, id: str, replica: int, seq: int) -> bool:
        return self._by_delta(mailbox, replica, seq).get(id, False)

    def _made(self, mailbox: bytes, replica: int, seq: int) -> dict[str, bool]:
        """The messages that one delta has brought into a mailbox, and whether by a move."""
        lsn = self._txn.get(Table.LOG_INDEX, _U64.pack(replica) + _U64.pack(seq))
        record = None if lsn is None else self._txn.get(Table.LOG, lsn)
        if record is None:
            return {}
        made: dict[str, bool] = {}
        for operation in decode_delta(record[_LOG_HEAD.size :]).operations:
            match operation:
                case Add(target, messages) | Move(_, target, messages):
                    if target == split_key(Table.MAILBOXES, mailbox)[1]:
                        for message in messages:
                            made.setdefault(message.id, isinstance(operation, Move))
        return made


MIGRATIONS: dict[int, Callable[[Transaction], None]] = {2: _from_2, 3: _from_3}
"""From each older format that can still be read to the next one.  Format 1 was never released."""
