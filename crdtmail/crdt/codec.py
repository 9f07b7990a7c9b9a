"""The bytes of deltas and clocks: deterministic CBOR (RFC 8949 section 4.2), checked in both directions.

A delta is encoded once, by its origin; those bytes are stored, forwarded and verified ever after.
Decoding refuses whatever encoding would not have produced, so one delta has one encoding.  Raises
PeerError and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import cbor2

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import (
    Add,
    Create,
    DeleteMailbox,
    Delta,
    DirectoryUpdate,
    Expunge,
    Keywords,
    MailboxId,
    Move,
    Operation,
    Renumber,
)
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.names import check_account, check_keyword, check_message_id
from crdtmail.crdt.uid import Uid
from crdtmail.errors import PeerError, Refusal
from crdtmail.limits import (
    MAX_DELTA,
    MAX_DIRECTORY_UPDATE,
    MAX_KEYWORDS_PER_MESSAGE,
    MAX_MESSAGES_PER_OPERATION,
    MAX_OPERATIONS,
    MAX_REPLICAS,
    MAX_SEQ,
    MAX_SIZE,
    MAX_TIME,
    MAX_UID,
)

VERSION = 2
_MAX_DEPTH = 8
_NO_DANGER = 4096  # bytes of which nothing can be made that takes long
_CHECKSUM_HEAD = b"\x44"  # a byte string of four
_MAX_REPLICA = 2**64 - 1

CREATE, ADD, MOVE, KEYWORDS, EXPUNGE, RENUMBER, DIRECTORY, DELETE = range(8)


def encode_delta(delta: Delta) -> bytes:
    """`[version, replica, seq, account, [operation ...], crc32]`; the checksum covers all before it.

    Raises ValueError for what no replica would read: once in a log, it would stop its origin's deltas there.
    """
    operations = [_plain(operation) for operation in delta.operations]
    _delta(delta.dot.replica, delta.dot.seq, delta.account, operations)
    return _sealed(delta, operations)


def _sealed(delta: Delta, operations: list[list[Any]]) -> bytes:
    body = [VERSION, delta.dot.replica, delta.dot.seq, delta.account, operations]
    return with_checksum(b"\x86" + dump(body)[1:])


def decode_delta(data: bytes) -> Delta:
    """The delta in `data`.  Raises PeerError if these are not the bytes that `encode_delta` makes of it."""
    if len(data) > MAX_DELTA:
        raise PeerError(f"a delta of {len(data)} bytes is over the limit of {MAX_DELTA}", Refusal.OVER_LIMIT)
    without_checksum(data)
    fields = read(data)
    try:
        version, replica, seq, account, operations, _ = _list(fields, 6)
        if version != VERSION:
            raise PeerError(
                f"a delta has version {version!r}; this node reads version {VERSION}", Refusal.VERSION
            )
        delta = _delta(replica, seq, account, operations)
    except ValueError as error:
        raise PeerError(f"a delta is not well formed: {error}") from error
    if _sealed(delta, [_plain(operation) for operation in delta.operations]) != data:
        raise PeerError("a delta is not in its deterministic encoding")
    return delta


def with_checksum(payload: bytes) -> bytes:
    """The bytes, and behind them their CRC-32 as a CBOR byte string of four."""
    return payload + _CHECKSUM_HEAD + zlib.crc32(payload).to_bytes(4, "big")


def without_checksum(data: bytes) -> bytes:
    """The bytes that stand before the checksum.  Raises PeerError if it is not theirs."""
    payload = data[:-5]
    if with_checksum(payload) != data:
        raise PeerError("a checksum is wrong: the message was damaged on its way", Refusal.CHECKSUM)
    return payload


def _delta(replica: object, seq: object, account: object, operations: object) -> Delta:
    """The delta of these plain values, every one checked.  Raises ValueError."""
    dot = Dot(ReplicaId(_int(replica, 0, _MAX_REPLICA)), _int(seq, 1, MAX_SEQ))
    if not 0 < len(_list(operations)) <= MAX_OPERATIONS:
        raise ValueError(f"a delta has 1-{MAX_OPERATIONS} operations")
    return Delta(dot, check_account(account), tuple(_operation(op) for op in _list(operations)))


def plain_clock(clock: Clock) -> dict[int, int]:
    return dict(clock.entries.items())


def clock_from_plain(value: object) -> Clock:
    """The clock in a decoded map.  Raises ValueError."""
    if type(value) is not dict or len(value) > MAX_REPLICAS:
        raise ValueError(f"a clock is a map of at most {MAX_REPLICAS} entries")
    return Clock({ReplicaId(_int(r, 0, _MAX_REPLICA)): _int(s, 1, MAX_SEQ) for r, s in value.items()})


def dump(value: Any) -> bytes:
    """Deterministic CBOR of plain values."""
    return cbor2.dumps(value, canonical=True)


class _NoTags(dict[int, Any]):
    """Decoders for no tag: to reduce a fraction of two long numbers alone can take hours."""

    def __missing__(self, tag: int) -> Any:
        raise ValueError(f"tag {tag} is not in use here")


def load(data: bytes) -> Any:
    """The plain value in `data`, which `dump` must have made.  Raises PeerError."""
    value = read(data)
    try:
        is_ours = dump(value) == data
    except Exception as error:  # what is no plain value fails in its own way
        raise PeerError(f"not a plain value: {error}") from error
    if not is_ours:
        raise PeerError("CBOR that is not in its deterministic encoding")
    return value


def read(data: bytes) -> Any:
    """The value that `data` begins with, whoever encoded it and however."""
    if len(data) > _NO_DANGER:
        _check_maps(data)
    try:
        value = cbor2.loads(
            data,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NoTags(),
        )
    except Exception as error:  # a decoder's errors are whatever its input made of it
        raise PeerError(f"not CBOR that this node reads: {error}") from error
    return value


def _check_maps(data: bytes) -> None:
    """Refuse a map that cannot be a clock before anything is made of it.  Raises PeerError.

    Some megabytes of a map take minutes to decode if their keys collide (lists, whose hashes are no secret),
    and a gigabyte of memory if they do not.  One pass over the heads of all values, whatever is in what.
    """
    at, end = 0, len(data)
    unsigned = 0  # so many numbers must follow, because a clock has begun
    while at < end:
        kind, argument = data[at] >> 5, data[at] & 31
        at += 1
        if argument >= 24:
            if argument > 27:
                raise PeerError("not CBOR that this node reads: a length is left open")
            width = 1 << (argument - 24)
            argument = int.from_bytes(data[at : at + width], "big")
            at += width
        if unsigned:
            if kind != 0:
                raise PeerError("not CBOR that this node reads: a map is no clock")
            unsigned -= 1
        elif kind == 2 or kind == 3:
            at += argument
        elif kind == 5:
            if argument > MAX_REPLICAS:
                raise PeerError(f"a clock is a map of at most {MAX_REPLICAS} entries")
            unsigned = 2 * argument


def _plain(operation: Operation) -> list[Any]:
    match operation:
        case Create(mailbox):
            return [CREATE, mailbox]
        case Add(mailbox, messages, context):
            return [ADD, mailbox, _plain_messages(messages), plain_clock(context)]
        case Move(source, target, messages, context):
            return [MOVE, source, target, _plain_messages(messages), plain_clock(context)]
        case Keywords(mailbox, ids, add, remove, context):
            return [KEYWORDS, mailbox, list(ids), list(add), list(remove), plain_clock(context)]
        case Expunge(mailbox, ids, context):
            return [EXPUNGE, mailbox, list(ids), plain_clock(context)]
        case Renumber(mailbox, uids, context):
            return [RENUMBER, mailbox, [list(pair) for pair in uids], plain_clock(context)]
        case DirectoryUpdate(update, context):
            return [DIRECTORY, update, plain_clock(context)]
        case DeleteMailbox(mailbox, context):
            return [DELETE, mailbox, plain_clock(context)]


def _plain_messages(messages: tuple[NewMessage, ...]) -> list[list[Any]]:
    return [[m.id, m.uid, m.size, m.received_at, list(m.keywords)] for m in messages]


def _operation(value: object) -> Operation:
    fields = _list(value)
    kind = _int(fields[0] if fields else None, CREATE, DELETE)
    return _READERS[kind](*_list(fields, _LENGTHS[kind])[1:])


_READERS: list[Callable[..., Operation]] = [
    lambda mailbox: Create(_mailbox(mailbox)),
    lambda mailbox, messages, context: Add(_mailbox(mailbox), _messages(messages), clock_from_plain(context)),
    lambda source, target, messages, context: Move(
        *_two_mailboxes(source, target), _messages(messages), clock_from_plain(context)
    ),
    lambda mailbox, ids, add, remove, context: Keywords(
        _mailbox(mailbox), _ids(ids), *_changes(add, remove), clock_from_plain(context)
    ),
    lambda mailbox, ids, context: Expunge(_mailbox(mailbox), _ids(ids), clock_from_plain(context)),
    lambda mailbox, uids, context: Renumber(_mailbox(mailbox), _uids(uids), clock_from_plain(context)),
    lambda update, context: DirectoryUpdate(_update(update), clock_from_plain(context)),
    lambda mailbox, context: DeleteMailbox(_mailbox(mailbox), clock_from_plain(context)),
]
_LENGTHS = [2, 4, 5, 6, 4, 4, 3, 3]


def _list(value: object, length: int | None = None) -> list[Any]:
    if type(value) is not list or (length is not None and len(value) != length):
        raise ValueError("a list of " + (f"{length} fields" if length else "fields") + " was expected")
    return value


def _int(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"a whole number from {least} to {most} was expected")
    return value


def _mailbox(value: object) -> MailboxId:
    if type(value) is not bytes or len(value) != 16:
        raise ValueError("a mailbox id is 16 bytes")
    return MailboxId(value)


def _two_mailboxes(source: object, target: object) -> tuple[MailboxId, MailboxId]:
    if source == target:
        raise ValueError("a move goes from one mailbox to another")
    return _mailbox(source), _mailbox(target)


def _update(value: object) -> bytes:
    if type(value) is not bytes or len(value) > MAX_DIRECTORY_UPDATE:
        raise ValueError(f"a directory update is at most {MAX_DIRECTORY_UPDATE} bytes")
    return value


def _keywords(value: object) -> tuple[str, ...]:
    keywords = tuple(check_keyword(keyword) for keyword in _list(value))
    if len(keywords) > MAX_KEYWORDS_PER_MESSAGE or list(keywords) != sorted(set(keywords)):
        raise ValueError(f"at most {MAX_KEYWORDS_PER_MESSAGE} keywords, in order, each once")
    return keywords


def _changes(add: object, remove: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    adds, removes = _keywords(add), _keywords(remove)
    if (not adds and not removes) or set(adds) & set(removes):
        raise ValueError("a keyword change adds or removes something, and nothing both ways")
    return adds, removes


def _ids(value: object) -> tuple[MessageId, ...]:
    ids = tuple(check_message_id(id) for id in _list(value))
    _each_once(ids)
    return ids


def _messages(value: object) -> tuple[NewMessage, ...]:
    messages = []
    for item in _list(value):
        id, uid, size, received_at, keywords = _list(item, 5)
        messages.append(
            NewMessage(
                check_message_id(id),
                Uid(_int(uid, 1, MAX_UID)),
                _int(size, 0, MAX_SIZE),
                _int(received_at, 0, MAX_TIME),
                _keywords(keywords),
            )
        )
    _each_once(tuple(message.id for message in messages))
    return tuple(messages)


def _uids(value: object) -> tuple[tuple[MessageId, Uid], ...]:
    pairs = [_list(item, 2) for item in _list(value)]
    uids = tuple((check_message_id(id), Uid(_int(uid, 1, MAX_UID))) for id, uid in pairs)
    _each_once(tuple(id for id, _ in uids))
    return uids


def _each_once(ids: tuple[MessageId, ...]) -> None:
    if not 0 < len(ids) <= MAX_MESSAGES_PER_OPERATION or len(set(ids)) != len(ids):
        raise ValueError(f"1-{MAX_MESSAGES_PER_OPERATION} messages, each once")
