"""From a seed to an explicit list of events, which is then replayed as it stands."""

from __future__ import annotations

import msgspec

from simulations.actions import Event
from simulations.chance import generator
from simulations.config import Config
from simulations.faults import FAULTS, ShortLog, switched_on
from simulations.workload import workload

_AROUND_A_SNAPSHOT = 0.065
"""Of the runs of the swarm, those in which two clients clash around a snapshot."""

_SIZES = {0.16: 92, 0.4: 5, 0.75: 3}
"""Parts of the configured time that a run of the swarm takes, and how often of a hundred."""


def schedule(seed: int, config: Config) -> list[Event]:
    """What happens in the run of this seed, in order: the story, what clients do, what goes wrong.

    Each fault draws from a generator of its own, so switching one off leaves the others as they were.
    """
    events = list(config.story)
    events += workload(generator(seed, "workload"), config)
    for fault, level in switched_on(config):
        events += fault.plan(generator(seed, "fault", fault.name), config, level)
    return sorted((event for event in events if event.at <= config.seconds), key=lambda event: event.at)


def swarm(seed: int, config: Config) -> Config:
    """The configuration with each fault off, on or high as the seed has it (Groce et al. 2012).

    Leaving most faults out of a run reaches states that all of them together would mask.  Most runs are
    short, some long: many short ones find more in the same time, but what takes a while needs the long ones.
    """
    chance = generator(seed, "swarm")
    faults = {}
    for name in FAULTS:
        drawn = chance.random()
        if drawn > 0.75:
            faults[name] = "high" if drawn > 0.92 else "on"
    topology = chance.choice(("mesh", "mesh", "mesh", "chain", "star", "one way"))
    late = (config.nodes[-1],) if "join" in faults else ()
    accounts = config.accounts[: 1 if chance.random() < 0.6 else None]
    small = chance.random() < 0.3
    size = chance.choices(list(_SIZES), list(_SIZES.values()))[0]
    interval_s = config.interval_s
    if chance.random() < _AROUND_A_SNAPSHOT:
        # Few other faults, for the clash needs what it says; a log that is cut short within the time.
        faults = {name: level for name, level in faults.items() if chance.random() < 0.3}
        faults[ShortLog.name] = "high" if chance.random() < 0.8 else "on"
        late, size, interval_s = (), min(_SIZES), 1.0
        small = chance.random() < 0.5
    return msgspec.structs.replace(
        config,
        faults=faults,
        cluster="swarm",
        topology=topology,
        late=late,
        accounts=accounts,
        has_small_limits=small,
        seconds=config.seconds * size,
        operations=int(config.operations * size * 0.55),
        interval_s=interval_s,
    )
