"""The bytes of gossip messages.  Decoding raises PeerError and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.codec import clock_from_plain, dump, load, plain_clock
from crdtmail.errors import PeerError
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.limits import MAX_PEER_NAME


def encode_position(position: Position) -> bytes:
    """`[replica, name, clock, digest]`"""
    return dump(_plain(position))


def decode_position(data: bytes) -> Position:
    return _position(load(data))


def encode_answer(answer: ExchangeAnswer) -> bytes:
    """`[position, [delta ...]]`"""
    return dump([_plain(answer.position), list(answer.deltas)])


def decode_answer(data: bytes) -> ExchangeAnswer:
    match load(data):
        case [position, list(deltas)]:
            return ExchangeAnswer(_position(position), _deltas(deltas))
    raise PeerError("an answer to an exchange is a position and a list of deltas")


def encode_push(deltas: Sequence[bytes]) -> bytes:
    """`[delta ...]`"""
    return dump(list(deltas))


def decode_push(data: bytes) -> tuple[bytes, ...]:
    value = load(data)
    if type(value) is not list:
        raise PeerError("a push is a list of deltas")
    return _deltas(value)


def encode_clock(clock: Clock) -> bytes:
    return dump(plain_clock(clock))


def decode_clock(data: bytes) -> Clock:
    try:
        return clock_from_plain(load(data))
    except ValueError as error:
        raise PeerError(str(error)) from error


def _plain(position: Position) -> list[Any]:
    return [position.replica, position.name, plain_clock(position.clock), position.digest]


def _position(value: object) -> Position:
    try:
        match value:
            case [int(replica), str(name), dict(clock), int(digest)] if (
                0 <= replica < 2**64 and 0 <= digest < 2**64 and len(name) <= MAX_PEER_NAME
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
