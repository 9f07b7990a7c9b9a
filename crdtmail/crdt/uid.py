"""UIDs without coordination: which number a replica may give next.

Every replica numbers in its own stripe (`uid % stripes == rank`), so two that know each other never
pick the same UID.  A message that arrives with a UID at or below the highest one shown here is
*stale*: it gets a new UID before anybody is shown the old one (RFC 9051 section 2.3.1.1 wants shown
UIDs to ascend).  Which messages are stale is the store's business; the arithmetic is here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import NamedTuple, NewType

from crdtmail.crdt.clock import ReplicaId
from crdtmail.errors import UidsExhausted
from crdtmail.limits import MAX_HEALING_JUMP, MAX_UID

Uid = NewType("Uid", int)
"""1 to 2^32-1, ascending within a mailbox."""


class Stripe(NamedTuple):
    """The residue class in which a replica numbers: `uid % stripes == rank`."""

    rank: int
    stripes: int

    @classmethod
    def of(cls, replica: ReplicaId, members: Collection[ReplicaId]) -> Stripe:
        """The place of `replica` among all known members; alone, it owns every UID."""
        others = sorted(set(members) - {replica})
        return cls(bisect_left(others, replica), len(others) + 1)

    def uids_from(self, at_least: int) -> Iterator[Uid]:
        """The UIDs of this stripe, ascending, none below `at_least`.

        Raises UidsExhausted where IMAP's 32 bits end.
        """
        uid = at_least + (self.rank - at_least) % self.stripes
        uid = uid or self.stripes
        while uid <= MAX_UID:
            yield Uid(uid)
            uid += self.stripes
        raise UidsExhausted(f"no UID from {at_least} on is left in this replica's stripe")

    def healed_uids(self, uid_next: int, stale: int) -> Iterator[Uid]:
        """New UIDs for `stale` messages, none below `uid_next`.

        Each rank starts two whole blocks further up than the one before it, so that masters which
        heal the same messages at the same time do not make each other's new UIDs stale again.
        """
        return self.uids_from(uid_next + min(self.rank * 2 * self.stripes * stale, MAX_HEALING_JUMP))
