"""Dots and clocks: who has seen which delta.

A dot names one delta; a clock says, for each replica, that every delta up to a sequence number is
known (version vectors: Parker et al. 1983; prefix property: Bayou, Petersen et al. 1997; one clock a
node instead of one a key: DottedDB, Goncalves et al. 2017).  Nothing here knows what a delta holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, NewType

ReplicaId = NewType("ReplicaId", int)
"""A random 64-bit number: one node's identity in the causal history."""


class Dot(NamedTuple):
    """The name of one delta: its origin and its place (1, 2, 3 ...) among all deltas of that origin."""

    replica: ReplicaId
    seq: int


class Clock(Mapping[ReplicaId, int]):
    """`{replica: seq}`: all deltas up to and including `seq` are covered.  Immutable; absent means 0.

    The same shape serves as the *context* of an operation, where it covers the dots that the
    operation replaces or removes.
    """

    __slots__ = ("entries",)

    entries: dict[ReplicaId, int]

    def __init__(self, entries: Mapping[ReplicaId, int] | None = None) -> None:
        self.entries = {} if entries is None else dict(entries)

    @classmethod
    def of(cls, dots: Iterable[tuple[ReplicaId, int]]) -> Clock:
        """The least clock that covers all `dots`."""
        entries: dict[ReplicaId, int] = {}
        for replica, seq in dots:
            if seq > entries.get(replica, 0):
                entries[replica] = seq
        return cls._own(entries)

    @classmethod
    def _own(cls, entries: dict[ReplicaId, int]) -> Clock:
        """A clock that keeps this dictionary, which nobody else may change."""
        clock = cls.__new__(cls)
        clock.entries = entries
        return clock

    def __getitem__(self, replica: ReplicaId) -> int:
        return self.entries.get(replica, 0)

    def __iter__(self) -> Iterator[ReplicaId]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return "Clock({" + ", ".join(f"{r:x}: {s}" for r, s in sorted(self.entries.items())) + "})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clock) and self.entries == other.entries

    __hash__ = None  # type: ignore[assignment]

    def covers(self, dot: tuple[ReplicaId, int]) -> bool:
        return self.entries.get(dot[0], 0) >= dot[1]

    def includes(self, other: Clock) -> bool:
        """Whether everything that `other` covers is covered here too."""
        mine = self.entries
        if mine == other.entries:
            return True  # mostly
        return all(mine.get(replica, 0) >= seq for replica, seq in other.entries.items())

    def join(self, other: Clock) -> Clock:
        """The least clock that includes both."""
        entries = dict(self.entries)
        for replica, seq in other.entries.items():
            if seq > entries.get(replica, 0):
                entries[replica] = seq
        return Clock._own(entries)

    def with_dot(self, dot: Dot) -> Clock:
        """This clock after the delta `dot`, too."""
        replica, seq = dot
        entries = dict(self.entries)
        if seq > entries.get(replica, 0):
            entries[replica] = seq
        return Clock._own(entries)

    def without(self, covered: Clock) -> Clock:
        """Only the entries, each taken as one dot, that `covered` does not cover."""
        return Clock._own({r: s for r, s in self.entries.items() if covered.entries.get(r, 0) < s})

    def limited(self, bounds: Mapping[ReplicaId, int]) -> Clock:
        """This clock, but of each of these replicas up to a sequence number only."""
        if not bounds:
            return self
        limited = {r: min(s, bounds.get(r, s)) for r, s in self.entries.items()}
        return Clock._own({r: s for r, s in limited.items() if s})

    def count_missing_from(self, other: Clock) -> int:
        """How many deltas this clock covers that `other` does not."""
        return sum(max(0, seq - other[replica]) for replica, seq in self.entries.items())
