"""What replicas say to one another.  `codec` knows the bytes, `docs/protocol.md` the whole conversation."""

from __future__ import annotations

from dataclasses import dataclass

from crdtmail.crdt.clock import Clock, ReplicaId


@dataclass(frozen=True, slots=True)
class Position:
    """Where a replica stands: who it is, what it has applied, and the digest of the state that this gave."""

    replica: ReplicaId
    name: str
    clock: Clock
    digest: int


@dataclass(frozen=True, slots=True)
class ExchangeAnswer:
    """The position of the replica that was asked, and the first deltas that the asker lacks, in LSN order."""

    position: Position
    deltas: tuple[bytes, ...]
