"""How many new UIDs a message gets because masters number at the same time, by the length of a partition.

Each master is cut off from all others, takes mail in, and has a client that waits for changes (IMAP's IDLE)
and so looks at once at whatever comes.  Only what was shown to somebody makes a later message stale: where
nobody looks, nothing is renumbered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Renumber
from crdtmail.store.tables import Lsn
from simulations import clients
from simulations.actions import Cut, Heal
from simulations.clients import Client
from simulations.incidents import apply
from simulations.machine import Machine
from simulations.sweeps.cluster import ACCOUNT, Cluster
from simulations.sweeps.point import Row, Sweep

MAILBOX = "INBOX"
_HEARS_WITHIN_US = 50_000
"""When a waiting client looks after something was committed on its node."""
_BEFORE = 5
"""Messages that each master takes in before the partition, so that the mailbox is not empty."""
_EVERY_S = 120.0
"""A message in so many seconds on each master; in a short partition more often, so that `_LEAST` come."""
_LEAST = 10
_UNCUT_S = 60.0
"""Without a partition, the same goes on for so long while all can reach each other."""
_LIMIT_S = 3600.0


class Point(NamedTuple):
    partition_s: float
    masters: int
    seed: int


def points(quick: bool) -> Iterator[Point]:
    for partition_s in (0.0, 60.0) if quick else (0.0, 1.0, 10.0, 60.0, 600.0, 3600.0, 3 * 3600.0):
        for masters in (2, 3) if quick else (2, 3, 5):
            for seed in range(1 if quick else 5 if partition_s > 3600 else 15):
                yield Point(partition_s, masters, seed)


class _Mailbox(Cluster):
    """Masters with a client each that looks whenever something changed; their logs keep everything."""

    keeps_house = False

    def __init__(self, seed: int, masters: int) -> None:
        self._looking: set[str] = set()
        super().__init__(seed, masters, "mesh")

    def changed(self, machine: Machine) -> None:
        super().changed(machine)
        if machine.name in self._looking or not self.delivered:
            return
        self._looking.add(machine.name)

        def look() -> None:
            self._looking.remove(machine.name)
            reader = Client("reader", ACCOUNT, machine.name)
            self.perform_for(machine, clients.look(machine, reader, MAILBOX), None)

        self.after(int(self.chance.random() * _HEARS_WITHIN_US), look)

    def deliver_everywhere(self, each: int, seconds: float) -> None:
        """Each master takes in so many messages, at random times."""
        start_us, chance = self.now_us, self.chance
        times = [(chance.uniform(0, seconds), node) for node in self.config.nodes for _ in range(each)]
        for at, node in sorted(times):
            self.run_until(start_us + int(at * 1e6))
            self.deliver(node, MAILBOX)
        self.until_answered()
        self.run_until(start_us + int(seconds * 1e6))

    def come_to_rest(self) -> None:
        """Until all are equal and no look makes any difference any more."""
        before = None
        while before != (now := self.members[0].disk.synced.clock):
            before = now
            self.run(1.0)
            self.until_equal(_LIMIT_S)

    def renumbered(self) -> int:
        """New UIDs that were ever given to messages which had one, by any master."""
        entries = self.members[0].disk.durable().log_from(Lsn(0))
        operations = (operation for entry in entries for operation in decode_delta(entry.delta).operations)
        return sum(len(operation.uids) for operation in operations if isinstance(operation, Renumber))


def measure(point: Point) -> list[Row]:
    cluster = _Mailbox(point.seed, point.masters)
    cluster.deliver_everywhere(_BEFORE, 5.0)
    cluster.come_to_rest()
    delivered, renumbered = cluster.delivered, cluster.renumbered()
    if point.partition_s:
        for node in cluster.config.nodes:
            apply(cluster, Cut((node,), tuple(other for other in cluster.config.nodes if other != node)))
    seconds = point.partition_s or _UNCUT_S
    cluster.deliver_everywhere(max(_LEAST, round(seconds / _EVERY_S)), seconds)
    apply(cluster, Heal())
    cluster.come_to_rest()
    messages = cluster.delivered - delivered
    return [
        point._asdict()
        | {"messages": messages, "renumberings": (cluster.renumbered() - renumbered) / messages}
    ]


def draw(rows: Sequence[Row], file: Path) -> list[Path]:
    from simulations.pictures import plot

    return plot.renumberings_against_partition(rows, file)


SWEEP = Sweep("New UIDs per message that came in during a partition, by its length", points, measure, draw)
