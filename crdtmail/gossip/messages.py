"""What replicas say to one another.  `codec` knows the bytes, `docs/protocol.md` the whole conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

from crdtmail.crdt.clock import Clock, ReplicaId


@dataclass(frozen=True, slots=True)
class Position:
    """Where a replica stands: who it is, what it has applied, and the digest of the state that this gave."""

    replica: ReplicaId
    name: str
    clock: Clock
    digest: int | None
    """None if it is not to be compared, because the replica speaks an older version of the protocol."""
    retired: frozenset[ReplicaId] = frozenset()
    """The replicas that are gone for good, as far as it has heard."""
    cluster: str = ""
    """The name of the cluster that it belongs to, as its operator has it."""

    def contradicts(self, clock: Clock, digest: int | None) -> bool:
        """Whether this is another state with the same clock: one of the two is damaged."""
        return self.clock == clock and self.digest not in (None, digest)


@dataclass(frozen=True, slots=True)
class ExchangeAnswer:
    """The position of the replica that was asked, and the first deltas that the asker lacks, in LSN order.

    The log no longer holds what `floor` covers: an asker who lacks any of that needs a snapshot.
    """

    position: Position
    deltas: tuple[bytes, ...]
    floor: Clock = field(default_factory=Clock)
