"""The bytes of gossip messages: one CBOR value, and behind it (but for a push) the checksum of its bytes.

A flipped bit in a clock would make a node believe what nobody said, so nothing is read whose checksum is
wrong.  Decoding raises PeerError and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.codec import (
    clock_from_plain,
    dump,
    load,
    plain_clock,
    with_checksum,
    without_checksum,
)
from crdtmail.errors import PeerError
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.limits import MAX_PEER_NAME


def encode_position(position: Position) -> bytes:
    """`[replica, name, clock, digest]`"""
    return _sealed(_plain(position))


def decode_position(data: bytes) -> Position:
    return _position(_opened(data))


def encode_answer(answer: ExchangeAnswer) -> bytes:
    """`[position, [delta ...]]`"""
    return _sealed([_plain(answer.position), list(answer.deltas)])


def decode_answer(data: bytes) -> ExchangeAnswer:
    match _opened(data):
        case [position, list(deltas)]:
            return ExchangeAnswer(_position(position), _deltas(deltas))
    raise PeerError("an answer to an exchange is a position and a list of deltas")


def encode_push(deltas: Sequence[bytes]) -> bytes:
    """`[delta ...]`, without a checksum: each delta has its own."""
    return dump(list(deltas))


def decode_push(data: bytes) -> tuple[bytes, ...]:
    value = load(data)
    if type(value) is not list:
        raise PeerError("a push is a list of deltas")
    return _deltas(value)


def encode_clock(clock: Clock) -> bytes:
    return _sealed(plain_clock(clock))


def decode_clock(data: bytes) -> Clock:
    try:
        return clock_from_plain(_opened(data))
    except ValueError as error:
        raise PeerError(str(error)) from error


def _sealed(value: Any) -> bytes:
    return with_checksum(dump(value))


def _opened(data: bytes) -> Any:
    return load(without_checksum(data))


def _plain(position: Position) -> list[Any]:
    return [position.replica, position.name, plain_clock(position.clock), position.digest]


def _position(value: object) -> Position:
    try:
        match value:
            case [int(replica), str(name), dict(clock), int(digest)] if (
                type(replica) is type(digest) is int
                and 0 <= replica < 2**64
                and 0 <= digest < 2**64
                and len(name) <= MAX_PEER_NAME
            ):
                return Position(ReplicaId(replica), name, clock_from_plain(clock), digest)
    except ValueError as error:
        raise PeerError(str(error)) from error
    raise PeerError("a position is a replica, a name, a clock and a digest")


def _deltas(value: list[object]) -> tuple[bytes, ...]:
    deltas = tuple(delta for delta in value if isinstance(delta, bytes))
    if len(deltas) != len(value):
        raise PeerError("a delta is a byte string")
    return deltas
