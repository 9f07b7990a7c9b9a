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
from crdtmail.effects import PROTOCOL
from crdtmail.errors import PeerError
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.limits import MAX_PEER_NAME, MAX_REPLICAS


def encode_position(position: Position, protocol: int = PROTOCOL) -> bytes:
    """`[replica, name, clock, digest, [retired ...], cluster]`, in version 1 without the last two"""
    return sealed(plain_position(position, protocol))


def decode_position(data: bytes, protocol: int = PROTOCOL) -> Position:
    return position_from_plain(_opened(data), protocol)


def encode_answer(answer: ExchangeAnswer, protocol: int = PROTOCOL) -> bytes:
    """`[position, [delta ...], floor]`, in version 1 without the last"""
    plain = [plain_position(answer.position, protocol), list(answer.deltas)]
    return sealed(plain if protocol == 1 else [*plain, plain_clock(answer.floor)])


def decode_answer(data: bytes, protocol: int = PROTOCOL) -> ExchangeAnswer:
    match _opened(data), protocol:
        case [position, list(deltas)], 1:
            return ExchangeAnswer(position_from_plain(position, 1), _deltas(deltas))
        case [position, list(deltas), floor], 2:
            return ExchangeAnswer(position_from_plain(position), _deltas(deltas), clock_of(floor))
    raise PeerError("an answer to an exchange is a position, a list of deltas and a floor")


def encode_push(deltas: Sequence[bytes]) -> bytes:
    """`[delta ...]`, without a checksum: each delta has its own."""
    return dump(list(deltas))


def decode_push(data: bytes) -> tuple[bytes, ...]:
    value = load(data)
    if type(value) is not list:
        raise PeerError("a push is a list of deltas")
    return _deltas(value)


def encode_clock(clock: Clock) -> bytes:
    return sealed(plain_clock(clock))


def decode_clock(data: bytes) -> Clock:
    return clock_of(_opened(data))


def sealed(value: Any) -> bytes:
    """One CBOR value, and behind it the checksum of its bytes."""
    return with_checksum(dump(value))


def _opened(data: bytes) -> Any:
    return load(without_checksum(data))


def clock_of(value: object) -> Clock:
    """Raises PeerError if the plain value is none."""
    try:
        return clock_from_plain(value)
    except ValueError as error:
        raise PeerError(str(error)) from error


def plain_position(position: Position, protocol: int = PROTOCOL) -> list[Any]:
    plain = [position.replica, position.name, plain_clock(position.clock), position.digest]
    return plain if protocol == 1 else [*plain, sorted(position.retired), position.cluster]


def position_from_plain(value: object, protocol: int = PROTOCOL) -> Position:
    try:
        match value:
            case [int(replica), str(name), dict(clock), int(digest), *rest] if (
                type(replica) is type(digest) is int
                and 0 <= replica < 2**64
                and 0 <= digest < 2**64
                and len(name) <= MAX_PEER_NAME
                and name.isprintable()
            ):
                who = ReplicaId(replica), name, clock_from_plain(clock)
                match rest, protocol:
                    case [], 1:
                        return Position(*who, None)
                    case [list(retired), str(cluster)], 2 if len(cluster) <= MAX_PEER_NAME:
                        return Position(*who, digest, _replicas(retired), cluster)
    except ValueError as error:
        raise PeerError(str(error)) from error
    raise PeerError(
        "a position is a replica, a name, a clock, a digest, a list of retired replicas and a cluster"
    )


def _replicas(value: list[Any]) -> frozenset[ReplicaId]:
    is_listed = len(value) <= MAX_REPLICAS and all(type(id) is int and 0 <= id < 2**64 for id in value)
    if not is_listed or value != sorted(set(value)):
        raise ValueError(f"replicas are told in a list of at most {MAX_REPLICAS}, ascending, each once")
    return frozenset(value)


def _deltas(value: list[object]) -> tuple[bytes, ...]:
    deltas = tuple(delta for delta in value if isinstance(delta, bytes))
    if len(deltas) != len(value):
        raise PeerError("a delta is a byte string")
    return deltas
