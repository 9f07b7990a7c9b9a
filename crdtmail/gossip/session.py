"""One session a peer: what do I send now, and this came in.

A session never waits for another one, so a dead or slow peer delays nobody.  It keeps a lower bound of
what its peer has applied and acts on it: own deltas go out at once; those of others only when they have
been here for a grace period and an exchange shows that the peer still lacks them; from time to time an
exchange finds whatever was missed (push with anti-entropy: Demers et al. 1987).  The runtime performs
one action at a time and reports what came of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.effects import PROTOCOL
from crdtmail.gossip.messages import Position
from crdtmail.limits import MAX_REPLICAS

_TAKES_NONE = "it takes no changes just now: it may be taking over a snapshot"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.  Each value's comment says what goes wrong where it is wrong."""

    interval_s: float = 5.0
    """Mean time between two exchanges, over all peers.  Short: idle traffic.  Long: what a push lost
    (a peer that was down) is noticed late; nothing is ever lost by it."""

    grace_s: float = 0.5
    """How long a delta of another replica rests before it is offered on.  Short: in a full mesh deltas
    are sent more than once.  Long: a chain of nodes takes that much longer a link."""

    first_retry_s: float = 0.2
    """The pause after a first failure; it doubles with each further one."""

    last_retry_s: float = 5.0
    """The longest pause.  Long: a peer that comes back is noticed late if it does not call first."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Tell the peer our position; it answers with its own and with what we lack."""


@dataclass(frozen=True, slots=True)
class Push:
    """Send what `after` does not cover, in LSN order; with `only` just that replica's deltas."""

    after: Clock
    only: ReplicaId | None


Action = Exchange | Push


class Session:
    """What this node knows of one peer and is about to tell it."""

    def __init__(
        self, replica: ReplicaId, timing: Timing, chance: random.Random, *, peers: int, now: float
    ) -> None:
        self._replica = replica
        self._timing = timing
        self._chance = chance
        self.share_with(peers)
        self._busy: Action | None = None
        self._next_exchange_at = now
        self._retry_at = now
        self._hold_until = now
        self._unrelayed: tuple[Clock, float] | None = None
        self._relaying = False
        self._takes_nothing = False
        self._told = Clock()
        self.protocol = PROTOCOL
        """The version of the protocol in which it has answered last."""
        self.peer: Position | None = None
        self.known = Clock()
        self.failures = 0
        self.last_error: str | None = None
        self.failing_since: float | None = None
        self.heard_at: float | None = None
        self.diverged = False
        self.divergences = 0
        """How often it has come to differ from this node with an equal clock; it may be repaired at once."""

    def be(self, replica: ReplicaId) -> None:
        """This node has another id now."""
        self._replica = replica

    def share_with(self, peers: int) -> None:
        """So many peers share the exchanges now."""
        self._interval_s = self._timing.interval_s * max(1, peers)

    # What do I send now? --------------------------------------------------------------------------------

    def next(self, now: float, clock: Clock) -> Action | None:
        """The action to perform now, if any; `clock` is what is durable here."""
        if self._busy is None and now >= self._retry_at:
            self._busy = self._choose(now, clock)
            return self._busy
        return None

    def wait_s(self, now: float, clock: Clock) -> float | None:
        """How long `next` has nothing to say unless something happens; None while an action is under way."""
        if self._busy is not None:
            return None
        times = [self._next_exchange_at]
        if self._lacks_ours(clock) or self._relaying:
            times.append(self._hold_until)
        if self._unrelayed is not None:
            times.append(self._unrelayed[1])
        return max(0.0, max(min(times), self._retry_at) - now)

    def _choose(self, now: float, clock: Clock) -> Action | None:
        if self.peer is None or now >= self._next_exchange_at:
            return Exchange()
        if now >= self._hold_until:
            if self._relaying and not self.known.includes(clock):
                return Push(self.known, None)
            if self._lacks_ours(clock):
                return Push(self.known, self._replica)
        self._relaying = False
        if self.known.includes(clock):
            self._unrelayed = None
        elif self._unrelayed is None or self.known.includes(self._unrelayed[0]):
            self._unrelayed = (clock, now + self._timing.grace_s)
        elif now >= self._unrelayed[1]:
            return Exchange()
        return None

    def _lacks_ours(self, clock: Clock) -> bool:
        return self.known[self._replica] < clock[self._replica]

    # This came in ---------------------------------------------------------------------------------------

    def pushed(self, now: float, by: ReplicaId, sent: Iterable[tuple[ReplicaId, int]]) -> None:
        """The replica `by`, which answers at this address, has made these durable, and all before them."""
        self._succeeded(now)
        if self.peer is None or self.peer.replica != by:
            self.peer, self.known = None, Clock()  # somebody else lives there now: an exchange says who
            return
        self.known = self.known.join(Clock.of(sent))

    def filled(self, now: float, by: ReplicaId, clock: Clock) -> None:
        """The replica `by`, which answers at this address, has merged a snapshot of ours at this clock."""
        self.pushed(now, by, clock.items())

    @property
    def waits(self) -> str | None:
        """What the peer seems to wait for, where nobody is at fault that it takes nothing."""
        return _TAKES_NONE if self.last_error == _TAKES_NONE else None

    def missed(self, now: float, clock: Clock, sent: Iterable[Dot]) -> None:
        """The peer found a gap in a push of these and told us its clock: go on from there with everything it
        lacks.

        Where it was just sent that, there is no gap: it has to have taken some, and to keep what it had.
        """
        if self._relaying:
            if not any(map(clock.covers, sent)):
                self.failed(now, _TAKES_NONE)
                return
            if not clock.includes(self._told):
                self.failed(now, "the peer lacks what it had a moment ago")
                return
        self._told = clock
        self._busy = None  # no success yet: a peer that never takes anything is tried ever more rarely
        self.heard_at = now
        self.known = clock
        self._relaying = True

    def exchanged(self, now: float, ours: Position, theirs: Position, after: Clock) -> None:
        """The peer told its position; `ours` is what we had told it, `after` our clock now that what it sent
        along is applied.  If it still has more, ask again at once."""
        pulled = not ours.clock.includes(theirs.clock)
        if pulled and all(after[replica] == ours.clock[replica] for replica in theirs.clock):
            self.failed(now, "the peer has changes that this node lacks, but could not send them yet")
            return
        self._succeeded(now, has_all=theirs.clock.includes(ours.clock))
        self.known = theirs.clock
        self.met(ours, theirs)
        if self._unrelayed is not None and now >= self._unrelayed[1]:
            self._relaying = not theirs.clock.includes(self._unrelayed[0])
            self._unrelayed = None
        if after.includes(theirs.clock):
            self._next_exchange_at = now + self._interval_s * self._chance.uniform(0.5, 1.5)
        else:
            self._next_exchange_at = now

    def has_no_room(self, now: float, ours: Position, theirs: Position, reason: str) -> None:
        """The peer told its position, but what it sent finds no room here: ask again later, and meanwhile
        tell it what we have."""
        self.failed(now, reason)
        self._next_exchange_at, self._retry_at = self._retry_at, now
        self.known = theirs.clock
        self.met(ours, theirs)

    def failed(self, now: float, reason: str) -> None:
        """The action came to nothing: back off, with jitter, up to the longest pause."""
        self._takes_nothing |= isinstance(self._busy, Push)
        self._busy = None
        self._relaying = False
        pause = min(self._timing.last_retry_s, self._timing.first_retry_s * 2.0 ** min(self.failures, 30))
        self._retry_at = now + pause * self._chance.uniform(0.5, 1.0)
        self.failures += 1
        self.last_error = reason
        self.failing_since = now if self.failing_since is None else self.failing_since

    def heard_position(self, now: float, ours: Position, theirs: Position, *, answered: bool) -> None:
        """The peer asked for an exchange; `answered` with deltas, it will ask again and needs no push yet."""
        self.heard_at = now
        self._retry_at = min(self._retry_at, now)
        self.known = lower_bound(self.known, theirs.clock)
        self.met(ours, theirs)
        self._hold_until = now + self._timing.grace_s if answered else now

    def heard_push(self, now: float, sent: Iterable[Dot]) -> None:
        """The peer sent these, so it has them, and all before them."""
        self.heard_at = now
        self.known = self.known.join(Clock.of(sent))

    def _succeeded(self, now: float, *, has_all: bool = True) -> None:
        """A peer that answers, but took nothing when it was sent something, fails until it has it."""
        self._busy = None
        self._told = Clock()
        self.heard_at = now
        self.failures = 0
        if has_all or not self._takes_nothing:
            self._takes_nothing = False
            self.last_error = None
            self.failing_since = None

    def met(self, ours: Position, theirs: Position) -> None:
        """Equal clocks must mean equal digests; unequal clocks say nothing about them."""
        self.peer = theirs
        if ours.clock == theirs.clock and theirs.digest is not None:
            before, self.diverged = self.diverged, ours.digest != theirs.digest
            self.divergences += self.diverged and not before


def lower_bound(known: Clock, told: Clock) -> Clock:
    """What a replica has that once told `known`, and now this.

    Both, but no more entries than a clock can have: else who makes up others each time fills memory.
    """
    both = known.join(told)
    return both if len(both) <= MAX_REPLICAS else told
