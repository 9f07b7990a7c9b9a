"""What the core asks for and never does itself: to read, to persist, to call a peer, to wait.

Work that needs the world is a generator, `Steps`: it yields an effect and is resumed with what came of it, or
with the exception that came instead.  Whoever performs it (`node` in service, the simulations on a machine
that is not there) keeps one rule: a `Persist` is durable before the steps go on.  So nothing is ever said or
sent that could still be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, NamedTuple, Protocol

from crdtmail.crdt.clock import ReplicaId
from crdtmail.store.interface import T, Transaction
from crdtmail.store.tables import Tables


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """Run `query` on the last committed state; gives its result."""

    query: Callable[[Tables], T]


@dataclass(frozen=True, slots=True)
class Persist(Generic[T]):
    """Run `work` in a transaction; gives its result when all that it wrote is durable."""

    work: Callable[[Transaction], T]


@dataclass(frozen=True, slots=True)
class PersistThenRead(Generic[T]):
    """Run `work`, and when it is durable `query` on the very state that its commit left; gives the query's
    result.  So whatever `work` made sure of is true of what is read, however much is being written."""

    work: Callable[[Transaction], None]
    query: Callable[[Tables], T]


class Held(Protocol):
    """A state that is kept for reading while the world goes on.  Whoever has it releases it in the end."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the last committed state; gives a `Held`.  Raises Overloaded if too many are kept."""


@dataclass(frozen=True, slots=True)
class ReadHeld(Generic[T]):
    """Run `query` on a state that was kept; gives its result.  Raises PeerError if it was released."""

    held: Held
    query: Callable[[Tables], T]


@dataclass(frozen=True, slots=True)
class Compute(Generic[T]):
    """Run `work`, which is pure but may take long, where it holds nobody up; gives its result."""

    work: Callable[[], T]


PROTOCOL = 2
"""The version of the protocol that a node speaks wherever it can."""

OLDEST_PROTOCOL = 1
"""The one before, for peers that have not been upgraded yet: it has no snapshots."""


class Kind(Enum):
    """What one node can ask of another."""

    EXCHANGE = "exchange"
    PUSH = "push"
    SNAPSHOT = "snapshot"
    OFFER = "offer"

    @property
    def since(self) -> int:
        """The version of the protocol from which on it can be asked."""
        return 1 if self in (Kind.EXCHANGE, Kind.PUSH) else 2


class Reply(NamedTuple):
    """How a peer answers, in HTTP's terms, and which replica it is.  A refusal is a PeerError instead."""

    status: int
    replica: ReplicaId
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """Ask the peer at `address` in one version of the protocol; gives its `Reply`.

    Raises PeerError with the peer's reason if it refuses, UnknownProtocol if it does not speak that version,
    PeerUnreachable if it does not answer.
    """

    address: str
    kind: Kind
    body: bytes
    protocol: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Until `condition` holds, `timeout_s` are over or the node stops; gives whether it holds.

    It is looked at after every commit and whenever something was heard of a peer.
    """

    condition: Callable[[], bool]
    timeout_s: float


Effect = Hold | ReadHeld[Any] | Read[Any] | Persist[Any] | PersistThenRead[Any] | Compute[Any] | Call | Wait
Steps = Generator[Effect, Any, T]


# The same as typed steps, for `yield from`.


def read(query: Callable[[Tables], T]) -> Steps[T]:
    result: T = yield Read(query)
    return result


def persist(work: Callable[[Transaction], T]) -> Steps[T]:
    result: T = yield Persist(work)
    return result


def persist_then_read(work: Callable[[Transaction], None], query: Callable[[Tables], T]) -> Steps[T]:
    result: T = yield PersistThenRead(work, query)
    return result


def hold() -> Steps[Held]:
    held: Held = yield Hold()
    return held


def read_held(held: Held, query: Callable[[Tables], T]) -> Steps[T]:
    result: T = yield ReadHeld(held, query)
    return result


def compute(work: Callable[[], T]) -> Steps[T]:
    result: T = yield Compute(work)
    return result


def call(address: str, kind: Kind, body: bytes, protocol: int = PROTOCOL) -> Steps[Reply]:
    reply: Reply = yield Call(address, kind, body, protocol)
    return reply


def wait(condition: Callable[[], bool], timeout_s: float) -> Steps[bool]:
    holds: bool = yield Wait(condition, timeout_s)
    return holds
