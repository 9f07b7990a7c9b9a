"""Everything that can go wrong does go wrong when it is switched on, and breaks no promise."""

from __future__ import annotations

from collections import Counter

import pytest

from simulations.actions import Replay
from simulations.config import Config
from simulations.faults import FAULTS, LEVELS, Fault, weather
from simulations.incidents import apply
from simulations.machine import Machine
from simulations.schedule import schedule, swarm
from simulations.trace import Record
from simulations.world import World
from tests.simulated import run_seed

STRIKES: dict[str, set[str]] = {
    "loss": {"message lost"},
    "old version": {"older version installed", "node upgraded", "older version spoken"},
    "retire": {"node retired", "another id taken"},
    "short log": {"snapshot merged"},
    "duplication": {"message doubled"},
    "delay": {"message delayed"},
    "truncation": {"message cut short", "peer refused"},
    "bit flips": {"bit flipped", "peer refused"},
    "stale requests": {"stale request replayed", "change out of turn"},
    "strangers": {
        "stranger: noise",
        "stranger: newer delta",
        "stranger: damaged position",
        "stranger: forged own delta",
        "stranger: broken directory",
    },
    "partition": {"partition", "message into a cut", "partition healed"},
    "one-way partition": {"one-way partition", "message into a cut", "partition healed"},
    "isolate one": {"node isolated", "message into a cut", "partition healed"},
    "clogging": {"message held up", "clogged link released"},
    "swizzle-clogging": {"message held up", "clogged link released"},
    "crash": {"crash now", "connection refused"},
    "crash before persist": {"crash before persist"},
    "crash in persist": {"crash in persist", "commit kept by a crash", "commit lost by a crash"},
    "crash after persist": {"crash after persist"},
    "crash before send": {"crash before send"},
    "crash in recovery": {"crash in recovery"},
    "pause": {"node paused"},
    "slow node": {"node slow"},
    "join": {"node joined late"},
    "leave": {"node left"},
    "I/O error": {"I/O error"},
    "disk full": {"disk full"},
    "wrong checksum": {"record damaged", "wrong checksum noticed", "disk replaced: damaged"},
    "empty disk": {"disk replaced: lost"},
    "old backup": {"disk replaced: an old backup"},
    "another's disk": {"disk replaced: another's"},
    "wall clock": {"wall clock jumped"},
    "frozen clock": {"wall clock frozen"},
    "clock drift": {"clock drifted"},
}
"""What each fault is seen by."""
FEWEST_SEEDS, MOST_SEEDS = 2, 40


def alone(name: str, level: str = "high") -> Config:
    """This fault, and what it takes to see it: a short log shows where somebody was away."""
    away = {"isolate one": "high"} if name == "short log" else {}
    return Config(faults={name: level, **away}, late=("mx3",) if name == "join" else ())


def all_kinds(of: type[Fault]) -> set[type[Fault]]:
    return {of}.union(*map(all_kinds, of.__subclasses__()))


def test_every_fault_has_a_name_of_its_own() -> None:
    kinds = all_kinds(Fault) - {Fault}
    assert {type(fault) for fault in FAULTS.values()} == kinds
    assert len({kind.name for kind in kinds}) == len(kinds)


def test_it_is_known_how_each_fault_is_seen() -> None:
    assert STRIKES.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone_strikes_and_breaks_nothing(name: str) -> None:
    reached: Counter[str] = Counter()
    for seed in range(MOST_SEEDS):
        result = run_seed(seed, alone(name), records=False)
        assert result.violation is None, f"seed {seed}"
        reached += result.reached
        if seed + 1 >= FEWEST_SEEDS and STRIKES[name] <= reached.keys():
            return
    pytest.fail(f"never came upon {sorted(STRIKES[name] - reached.keys())} in {MOST_SEEDS} seeds")


def test_nothing_strikes_where_no_fault_is_switched_on() -> None:
    reached: Counter[str] = Counter()
    for seed in range(5):
        reached += run_seed(seed, Config(), records=False).reached
    assert not set.union(*STRIKES.values()) & reached.keys()


WEATHER = {
    "loss": "loss",
    "duplication": "duplication",
    "delay": "delay",
    "truncation": "truncation",
    "bit flips": "bit_flip",
}


@pytest.mark.parametrize(("name", "field"), WEATHER.items())
def test_the_weather_is_worse_when_a_fault_is_high(name: str, field: str) -> None:
    dark, darker = (getattr(weather(alone(name, level)), field) for level in LEVELS)
    calm = getattr(weather(None), field)
    assert 0 == calm < dark < darker < 1


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - WEATHER.keys() - {"join", "short log"}))
def test_a_fault_strikes_more_often_when_it_is_high(name: str) -> None:
    seeds = range(50)
    without = sum(len(schedule(seed, Config())) for seed in seeds)
    low, high = (sum(len(schedule(seed, alone(name, level))) for seed in seeds) for level in LEVELS)
    assert without < low < high


def test_the_swarm_switches_each_fault_off_on_and_high() -> None:
    levels = [swarm(seed, Config()).faults for seed in range(300)]
    for name in FAULTS:
        times = Counter(faults.get(name, "off") for faults in levels)
        assert times["off"] > times["on"] > 0 < times["high"], name
        # A clash around a snapshot wants a log that is cut short at once.
        assert times["on"] > times["high"] or name == "short log", name


def test_faults_end_when_it_is_calm() -> None:
    config = Config(faults=dict.fromkeys(FAULTS, "high"), late=("mx3",))
    trace = run_seed(1, config).trace
    calm = next(at for at, record in enumerate(trace) if record.kind == "calm")
    assert {"cut", "lost", "damaged", "pause"} <= {record.kind for record in trace[:calm]}
    assert not {"cut", "lost", "damaged", "pause"} & {record.kind for record in trace[calm:]}


# Nodes that do nothing ------------------------------------------------------------------------------------


def while_away(begin: str, ends: set[str], config: Config) -> list[Record]:
    """What nodes did between the record that begins their absence and the one that ends it."""
    done = []
    for seed in range(15):
        away: set[str] = set()
        for record in run_seed(seed, config).trace:
            if record.kind == begin:
                away.add(record.node)
            elif record.kind in ends:
                away.discard(record.node)
            elif record.node in away and record.kind in ("send", "sync", "answer", "up"):
                done.append(record)
    return done


def test_a_node_that_stands_still_does_nothing() -> None:
    faults = dict.fromkeys(("pause", "crash", "stale requests", "strangers"), "high")
    assert while_away("pause", {"resume"}, Config(faults=faults)) == []


def calling(*, somebody_is_there: bool) -> tuple[World, Machine, Machine]:
    """Two nodes, of which the first has just called the second."""
    world = World(1, Config(nodes=("mx1", "mx2"), latency_s=(0.1, 0.1)), records=True, strict=False)
    caller, called = world.machines.values()
    world.at(0, caller.start)
    if somebody_is_there:
        world.at(1000, called.start)
    assert world.run_until(10_000_000, lambda: world.network.messages > 0)
    assert caller.gossip.wait_s("mx2") is None
    return world, caller, called


def test_an_answer_waits_for_a_caller_that_stands_still() -> None:
    world, caller, _ = calling(somebody_is_there=False)
    caller.pause(5)
    world.run_until(world.now_us + 1_000_000)
    assert world.network.under_way == 0
    assert caller.gossip.wait_s("mx2") is None
    world.run_until(world.now_us + 5_000_000)
    assert caller.gossip.wait_s("mx2") is not None


def test_a_request_waits_for_a_node_that_stands_still() -> None:
    world, caller, called = calling(somebody_is_there=True)
    called.pause(5)
    world.run_until(world.now_us + 1_000_000)
    apply(world, Replay("mx1", "mx2"))
    assert not called.serving
    assert caller.gossip.wait_s("mx2") is None
    world.run_until(world.now_us + 5_000_000)
    assert caller.gossip.wait_s("mx2") is not None


def test_a_node_that_is_down_does_nothing_but_refuse_connections() -> None:
    faults = dict.fromkeys(("pause", "crash", "crash in persist", "empty disk", "stale requests"), "high")
    done = while_away("down", {"up"}, Config(faults=faults))
    assert done
    assert {(record.kind, *record.details[2:]) for record in done} == {("send", "answer", 0)}
