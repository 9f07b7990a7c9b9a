"""A cluster to measure: the simulated world with nothing going wrong but what the measurement asks for.

It counts what is said, and can follow one delta on its way.  All promises are kept an eye on as in any run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from crdtmail.crdt.clock import Dot
from crdtmail.effects import Kind, Reply, Steps
from crdtmail.errors import PeerError
from simulations import clients
from simulations.actions import Deliver
from simulations.chance import generator
from simulations.config import Config
from simulations.machine import Machine
from simulations.network import Request
from simulations.violation import Violation
from simulations.world import World

ACCOUNT = "alice"
_POLL_US = 20_000


def config_of(seed: int, nodes: int, topology: str) -> Config:
    """So many nodes, called mx1 and so on; where each stands is chance, and with it the links."""
    names = [f"mx{number}" for number in range(1, nodes + 1)]
    generator(seed, "places").shuffle(names)
    return Config(nodes=tuple(names), topology=topology, accounts=(ACCOUNT,))


@dataclass
class Path:
    """The way of one delta: how many times it was sent, and over how many links each node first got it."""

    delta: bytes
    hops: dict[str, int]
    copies: int = 0


@dataclass
class Said:
    """What was said since the counting began."""

    requests: Counter[Kind] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    """By the node that sent them, requests and answers alike."""


class Cluster(World):
    """Nodes that know each other and have nothing to say.  What is delivered goes to one account."""

    def __init__(
        self, seed: int, nodes: int, topology: str, *, interval_s: float = 5.0, grace_s: float = 0.5
    ) -> None:
        config = msgspec.structs.replace(
            config_of(seed, nodes, topology), interval_s=interval_s, grace_s=grace_s
        )
        super().__init__(seed, config, records=False, strict=False)
        self.chance = generator(seed, "measurement")
        self.said = Said()
        self.path: Path | None = None
        self.delivered = 0
        """Messages, in all."""
        self._unanswered = 0
        for machine in self.machines.values():
            machine.start()
        self.until(self.is_quiet, 600.0)

    # Time -----------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.run_until(self.now_us + int(seconds * 1e6))

    def until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Let time pass until it is so, to some milliseconds; the seconds that it took."""
        start = self.now_us
        while not condition():
            if self.now_us - start > limit_s * 1e6:
                raise Violation("a sweep comes to an end", f"not within {limit_s:.0f} s: {condition}")
            self.run_until(self.now_us + _POLL_US)
        return (self.now_us - start) / 1e6

    def until_equal(self, limit_s: float) -> float:
        """Let time pass until all nodes hold the same, to the microsecond; the seconds since the last write
        was answered."""
        if not self.are_equal() and not self.run_until(self.now_us + int(limit_s * 1e6), self.are_equal):
            raise Violation("all nodes come to have everything", f"not within {limit_s:.0f} s")
        return (self.now_us - self.last_write_us) / 1e6

    def is_quiet(self) -> bool:
        """Nothing is under way, and every node knows of each that it calls that it has everything."""
        return self.network.under_way == 0 and all(
            machine.is_up
            and not machine.serving
            and session.known.includes(machine.gossip.head.clock)
            and session.peer is not None
            for machine in self.machines.values()
            for session in machine.gossip.peers.sessions.values()
        )

    # Writing --------------------------------------------------------------------------------------------

    def deliver(self, node: str, mailbox: str) -> None:
        """New mail at a node.  It is answered a little later."""
        self.delivered += 1
        action = Deliver(node, (f"m{self.delivered}",), mailbox, account=ACCOUNT)

        def steps() -> Steps[None]:
            yield from clients.deliver(machine, action)
            self._unanswered -= 1

        machine = self.machines[node]
        self._unanswered += 1
        self.perform_for(machine, steps(), None)

    def deliver_often(self, per_s: float, seconds: float) -> None:
        """New mail at random times at random nodes, for so long; all of it is answered."""
        start_us, chance = self.now_us, self.chance
        for at in sorted(chance.uniform(0, seconds) for _ in range(round(per_s * seconds))):
            self.run_until(start_us + int(at * 1e6))
            node = chance.choice(self.config.nodes)
            self.deliver(node, f"box of {node}")
        self.until_answered()

    def until_answered(self) -> None:
        """Let time pass until all that was delivered is answered, and no longer."""
        if self._unanswered:
            self.run_until(self.now_us + 10_000_000, lambda: self._unanswered == 0)

    def deliver_and_follow(self, node: str, mailbox: str) -> Path:
        """New mail at a node, answered; its delta is followed from now on."""
        self.deliver(node, mailbox)
        self.until_answered()
        replica, tables = self.machines[node].replica, self.machines[node].disk.durable()
        lsn = tables.lsn_of(Dot(replica.id, tables.head().clock[replica.id]))
        entry = None if lsn is None else tables.log_entry(lsn)
        assert entry is not None, "an answered write is in the log"
        self.path = Path(entry.delta, {node: 0})
        return self.path

    # What is said ---------------------------------------------------------------------------------------

    def count_anew(self) -> Said:
        """Begin to count again."""
        self.said = Said()
        return self.said

    def carry(
        self, source: Machine, target: str, request: Request, answered: Callable[[Reply | PeerError], None]
    ) -> None:
        self.said.requests[request.kind] += 1
        self._sent(source.name, target, request.body)

        def heard(reply: Reply | PeerError) -> None:
            if isinstance(reply, Reply):
                self._sent(target, source.name, reply.body)
            answered(reply)

        super().carry(source, target, request, heard)

    def _sent(self, source: str, target: str, body: bytes) -> None:
        self.said.bytes[source] += len(body)
        if self.path is not None and self.path.delta in body:
            self.path.copies += 1
            self.path.hops.setdefault(target, self.path.hops[source] + 1)
