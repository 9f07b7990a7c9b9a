"""What this node knows of the others: a session for each that it calls, and what each was heard to have."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.gossip.messages import Position
from crdtmail.gossip.session import Session, Timing, lower_bound


@dataclass(slots=True)
class Heard:
    """The last that was heard of a replica, whoever called; `clock` is a lower bound of what it has."""

    name: str
    clock: Clock
    at: float


class Peers:
    """The sessions by address, and every replica that was ever heard of."""

    def __init__(
        self,
        replica: ReplicaId,
        name: str,
        addresses: Iterable[str],
        timing: Timing,
        chance: random.Random,
        now: float,
    ) -> None:
        self._replica = replica
        self._name = name
        self._timing = timing
        self._chance = chance
        self.sessions: dict[str, Session] = {}
        self.heard: dict[ReplicaId, Heard] = {}
        self.change(addresses, now)

    def change(self, addresses: Iterable[str], now: float) -> None:
        """Call these from now on, and no others; with those that stay all goes on as it was."""
        wanted = list(addresses)
        self.sessions = {
            address: self.sessions.get(address)
            or Session(self._replica, self._timing, self._chance, peers=len(wanted), now=now)
            for address in wanted
        }
        for session in self.sessions.values():
            session.share_with(len(wanted))

    def be(self, replica: ReplicaId) -> None:
        """This node has another id now."""
        self._replica = replica
        for session in self.sessions.values():
            session.be(replica)

    def members(self, retired: frozenset[ReplicaId]) -> dict[ReplicaId, Heard]:
        """The other replicas that count: not retired, and the last that was heard under its name.

        A node that has taken another id keeps its name; nobody waits for what it was before, it least of all.
        """
        last: dict[str, ReplicaId] = {}
        for replica, heard in sorted(self.heard.items(), key=lambda pair: pair[1].at):
            if replica != self._replica and heard.name != self._name:
                last[heard.name] = replica
        return {replica: self.heard[replica] for replica in last.values() if replica not in retired}

    def stable(self, clock: Clock, retired: frozenset[ReplicaId]) -> Clock:
        """What of `clock` every member is known to have: nothing, while somebody may be missing among them.

        Somebody is as long as an address is called at which nobody has answered since the start.  Those who
        were heard of may be others: who lives at an address is known by what answers there, and by nothing
        else.
        """
        if any(session.peer is None for session in self.sessions.values()):
            return Clock()
        entries = dict(clock)
        for heard in self.members(retired).values():
            entries = {r: min(seq, heard.clock[r]) for r, seq in entries.items()}
        return Clock({r: seq for r, seq in entries.items() if seq})

    def session_of(self, replica: ReplicaId) -> Session | None:
        for session in self.sessions.values():
            if session.peer is not None and session.peer.replica == replica:
                return session
        return None

    def name_of(self, peer: str) -> str | None:
        """What a peer that is known by its address, or by its replica in 16 hexadecimal digits, is called."""
        if (session := self.sessions.get(peer)) is not None:
            return None if session.peer is None else session.peer.name
        return next((heard.name for replica, heard in self.heard.items() if f"{replica:016x}" == peer), None)

    def hear(self, now: float, position: Position) -> None:
        """A replica has told its position, asked or not."""
        known = self.heard.get(position.replica)
        clock = position.clock if known is None else lower_bound(known.clock, position.clock)
        self.heard[position.replica] = Heard(position.name, clock, now)

    def hear_dots(self, now: float, replica: ReplicaId, dots: Iterable[Dot]) -> None:
        """A replica was seen to have these deltas, and all before them."""
        known = self.heard.get(replica)
        if known is not None:
            known.clock = known.clock.join(Clock.of(dots))
            known.at = now

    def count_covering(self, dot: Dot) -> int:
        """How many other nodes are known to have the delta.

        A node that has taken another id is one disk, however many ids it had: it keeps its name.
        """
        return len(
            {
                heard.name
                for replica, heard in self.heard.items()
                if replica != self._replica and heard.name != self._name and heard.clock.covers(dot)
            }
        )
