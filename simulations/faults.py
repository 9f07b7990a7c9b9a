"""Everything that can go wrong, each a class with a name: what it does to a schedule, or to the weather.

A fault is off, `on` or `high` in a run; `plan` draws when it strikes.  All of them end when it is calm.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from crdtmail.effects import OLDEST_PROTOCOL, PROTOCOL
from crdtmail.replica import Keep
from simulations import actions
from simulations.actions import Event
from simulations.config import Config, links
from simulations.network import Weather

LEVELS = ("on", "high")


class Fault:
    """One way in which things go wrong."""

    name: ClassVar[str]
    often: ClassVar[tuple[float, float]] = (1.0, 3.0)
    """How often it strikes in a run of 20 seconds, on average: `on` and `high`."""

    def plan(self, chance: random.Random, config: Config, level: str) -> Iterator[Event]:
        """When it strikes, and what happens then."""
        mean = self.often[LEVELS.index(level)] * config.seconds / 20
        for _ in range(int(mean + chance.random())):
            at = chance.random() * config.seconds
            yield from self.strike(chance, config, at)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        """One blow.  Faults that only change the weather have none."""
        yield from ()

    def darken(self, weather: Weather, level: str) -> None:
        """Make the network worse."""


def _node(chance: random.Random, config: Config) -> str:
    return chance.choice(config.nodes)


def _link(chance: random.Random, config: Config) -> tuple[str, str]:
    """Two nodes of which one calls the other, in either direction."""
    called = links(config)
    if len(config.nodes) < 2:
        raise ValueError("one node alone has no links that could fail")
    source = chance.choice([name for name in config.nodes if called[name]])
    pair = (source, chance.choice(called[source]))
    return pair if chance.random() < 0.5 else (pair[1], pair[0])


def _down_for(chance: random.Random) -> float:
    """Seconds until somebody starts the node again."""
    return chance.expovariate(0.5)


# Messages -----------------------------------------------------------------------------------------------


class Loss(Fault):
    name = "loss"

    def darken(self, weather: Weather, level: str) -> None:
        weather.loss = {"on": 0.05, "high": 0.3}[level]


class Duplication(Fault):
    name = "duplication"

    def darken(self, weather: Weather, level: str) -> None:
        weather.duplication = {"on": 0.05, "high": 0.3}[level]


class Delay(Fault):
    """Some messages take long, so that later ones overtake them."""

    name = "delay"

    def darken(self, weather: Weather, level: str) -> None:
        weather.delay = {"on": 0.05, "high": 0.4}[level]


class Truncation(Fault):
    name = "truncation"

    def darken(self, weather: Weather, level: str) -> None:
        weather.truncation = {"on": 0.02, "high": 0.15}[level]


class BitFlips(Fault):
    name = "bit flips"

    def darken(self, weather: Weather, level: str) -> None:
        weather.bit_flip = {"on": 0.02, "high": 0.15}[level]


class StaleRequests(Fault):
    """A request of some time ago arrives again, perhaps in another life of either side, or what comes later
    arrives first."""

    name = "stale requests"
    often = (3.0, 15.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        source, target = _link(chance, config)
        back = int(chance.expovariate(0.3))
        if chance.random() < 0.6:
            yield Event(at, actions.Replay(source, target, back))
        else:
            yield Event(at, actions.Overtake(source, target))


class Strangers(Fault):
    """Somebody sends what must be refused."""

    name = "strangers"
    often = (2.0, 10.0)
    KINDS = ("noise", "newer delta", "damaged position", "forged own delta", "broken directory")

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.Stranger(_node(chance, config), chance.choice(self.KINDS)))


# Links --------------------------------------------------------------------------------------------------


class Partition(Fault):
    """The nodes fall into two halves."""

    name = "partition"
    often = (1.0, 3.0)
    both_ways = True

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        nodes = list(config.nodes)
        chance.shuffle(nodes)
        cut = 1 + int(chance.random() * (len(nodes) - 1))
        yield Event(at, actions.Cut(tuple(nodes[:cut]), tuple(nodes[cut:]), self.both_ways))
        yield Event(at + chance.expovariate(0.15), actions.Heal())


class OneWayPartition(Partition):
    """One half hears the other, which does not hear it."""

    name = "one-way partition"
    both_ways = False


class IsolateOne(Fault):
    name = "isolate one"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.Isolate(_node(chance, config)))
        yield Event(at + chance.expovariate(0.15), actions.Heal())


class Clogging(Fault):
    """One link holds everything up for a while, then lets it through."""

    name = "clogging"
    often = (2.0, 8.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        source, target = _link(chance, config)
        yield Event(at, actions.Clog(source, target, chance.expovariate(0.3)))


class SwizzleClogging(Fault):
    """All links of some nodes clog one after the other, and are released in another order (FoundationDB)."""

    name = "swizzle-clogging"
    often = (0.5, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        some = [node for node in config.nodes if chance.random() < 0.6]
        until = at + 1 + chance.expovariate(0.2)
        for node in some:
            for other in config.nodes:
                if other != node:
                    begin, end = at + chance.random(), until + chance.random() * 2
                    yield Event(begin, actions.Clog(other, node, end - begin))


# Nodes --------------------------------------------------------------------------------------------------


class CrashNow(Fault):
    """A node dies in the middle of whatever it does."""

    name = "crash"
    often = (1.0, 4.0)
    when: ClassVar[str] = "now"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at, actions.Crash(node, self.when))
        yield Event(at + _down_for(chance), actions.Start(node))


class CrashBeforePersist(CrashNow):
    name = "crash before persist"
    when = "before persist"


class CrashInPersist(CrashNow):
    """The commit is made but not synced: the disk may have it, or not."""

    name = "crash in persist"
    when = "in persist"


class CrashAfterPersist(CrashNow):
    """It is durable, and nobody was told."""

    name = "crash after persist"
    when = "after persist"


class CrashBeforeSend(CrashNow):
    name = "crash before send"
    when = "before send"


class CrashInRecovery(CrashNow):
    """It dies again while it starts."""

    name = "crash in recovery"
    often = (1.0, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at, actions.Crash(node))
        yield Event(at, actions.Crash(node, "in recovery"))
        yield Event(at + _down_for(chance), actions.Start(node))


class PauseNode(Fault):
    name = "pause"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.Pause(_node(chance, config), chance.expovariate(0.2)))


class SlowNode(Fault):
    name = "slow node"
    often = (0.7, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at, actions.Slow(node, 10 ** (1 + 2 * chance.random())))
        yield Event(at + chance.expovariate(0.2), actions.Slow(node, 1.0))


class Joins(Fault):
    """A node that was not there comes in; one of `config.late`, which `swarm` sees to."""

    name = "join"
    often = (1.0, 1.0)

    def plan(self, chance: random.Random, config: Config, level: str) -> Iterator[Event]:
        for node in config.late:
            yield Event(config.seconds * chance.random(), actions.Start(node))


class Leaves(Fault):
    name = "leave"
    often = (0.3, 1.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.Leave(_node(chance, config)))


class OldVersion(Fault):
    """A node runs the version before for a while, as in the middle of an upgrade, and is upgraded then."""

    name = "old version"
    often = (0.7, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at * chance.random(), actions.Install(node, OLDEST_PROTOCOL))
        yield Event(at, actions.Install(node, PROTOCOL))


class Retires(Fault):
    """A node is told that another one is gone for good, which may be a mistake: then that one comes back."""

    name = "retire"
    often = (0.6, 1.5)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at, actions.Retire(node, _node(chance, config)))
        if chance.random() < 0.4:  # what it was told it knows ever after
            for turn in (1, 2):
                yield Event(at + 0.02 * turn + 0.2 * chance.random(), actions.Crash(node))
                yield Event(at + 0.3 * turn, actions.Start(node))


class ShortLog(Fault):
    """Nodes keep little of their logs for those that are away, or next to nothing: these need a snapshot."""

    name = "short log"
    KEPT: ClassVar[dict[str, Keep]] = {"on": Keep(1000, age_ms=2000), "high": Keep(100, age_ms=10**9)}

    def plan(self, chance: random.Random, config: Config, level: str) -> Iterator[Event]:
        yield from ()


def log_kept(config: Config) -> Keep:
    """How much of its log a node keeps for those that are away."""
    return ShortLog.KEPT.get(config.faults.get(ShortLog.name, ""), Keep(10**9, age_ms=10**9))


# Disks --------------------------------------------------------------------------------------------------


class IoError(Fault):
    """The nth commit fails; the node stops rather than go on."""

    name = "I/O error"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        node = _node(chance, config)
        yield Event(at, actions.FailDisk(node, 1 + int(chance.expovariate(0.3))))


class DiskFull(Fault):
    """From the nth commit on a few fail for lack of room; the node goes on, and writes when there is some."""

    name = "disk full"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        first, lasts = (1 + int(chance.expovariate(rate)) for rate in (0.3, 0.1))
        yield Event(at, actions.FailDisk(_node(chance, config), first, "disk full", lasts))


class WrongChecksum(Fault):
    """A record is damaged on the disk: it must be noticed when it is read, and never be shown."""

    name = "wrong checksum"
    often = (0.5, 1.5)
    TABLES = (
        "MESSAGES",
        "MESSAGE_IDS",
        "MAILBOXES",
        "LOG",
        "LOG_INDEX",
        "DIRECTORIES",
        "ACCOUNTS",
        "META",
        "PEERS",
    )

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        table = chance.choice(self.TABLES)
        yield Event(at, actions.DamageRecord(_node(chance, config), table, chance.random()))


class EmptyDisk(Fault):
    name = "empty disk"
    often = (0.5, 1.5)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.EmptyDisk(_node(chance, config)))


class OldBackup(Fault):
    """A node is started from a copy of its disk that was made some time before."""

    name = "old backup"
    often = (0.7, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        if len(config.nodes) > 2 and chance.random() < 0.5:
            yield from self._across_an_acknowledgement(chance, config, at)
            return
        node = _node(chance, config)
        yield Event(at, actions.Backup(node))
        yield Event(at + chance.expovariate(0.2), actions.RestoreBackup(node))

    def _across_an_acknowledgement(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        """The one node that can acknowledge a write gets it twice, for it loses it in between."""
        here, there, other = chance.sample(config.nodes, 3)
        account = chance.choice(config.accounts)
        yield Event(at, actions.Cut((other,), (here, there)))
        yield Event(at, actions.Backup(there))
        yield Event(at + 0.02, actions.Deliver(here, (f"a{round(at * 1000)}",), account=account, ack=2))
        yield Event(at + 0.4, actions.RestoreBackup(there))
        yield Event(at + 2.5, actions.Heal())


class AnothersDisk(Fault):
    """A node is started on a copy of another one's disk."""

    name = "another's disk"
    often = (0.4, 1.2)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.MountDiskOf(_node(chance, config), _node(chance, config)))


# Clocks -------------------------------------------------------------------------------------------------


class WallClock(Fault):
    """A wall clock jumps, back as often as forth, by up to years."""

    name = "wall clock"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        sign = 1 if chance.random() < 0.5 else -1
        yield Event(at, actions.SetClock(_node(chance, config), sign * 10 ** (8 * chance.random())))


class FrozenClock(Fault):
    name = "frozen clock"
    often = (0.5, 2.0)

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.SetClock(_node(chance, config), frozen=True))


class ClockDrift(Fault):
    """A monotonic clock runs at half to twice its pace."""

    name = "clock drift"

    def strike(self, chance: random.Random, config: Config, at: float) -> Iterator[Event]:
        yield Event(at, actions.Drift(_node(chance, config), 2 ** (2 * chance.random() - 1)))


def _all(of: type[Fault]) -> Iterator[type[Fault]]:
    for fault in of.__subclasses__():
        yield fault
        yield from _all(fault)


FAULTS: dict[str, Fault] = {fault.name: fault() for fault in _all(Fault)}
"""All faults by name."""


def switched_on(config: Config) -> Iterator[tuple[Fault, str]]:
    """The faults of this run and their levels.  Raises ValueError for one that does not exist."""
    for name, level in sorted(config.faults.items()):
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
        if level not in LEVELS:
            raise ValueError(f"the fault {name!r} is {' or '.join(LEVELS)}, not {level!r}")
        yield FAULTS[name], level


def weather(config: Config | None) -> Weather:
    """What the faults of this run make of the network; without a configuration, calm."""
    found = Weather()
    for fault, level in () if config is None else switched_on(config):
        fault.darken(found, level)
    return found
