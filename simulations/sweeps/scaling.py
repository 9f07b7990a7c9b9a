"""What it costs to bring one change to every node, and what a quiet cluster says, by topology and size.

The real gossip is measured as far as that takes seconds; a model says what to expect of up to a thousand
nodes, and each measured row says how far the model is off there.

The model: the nodes in levels, by how many links they are away from the origin of the change.

- A level takes a grace and `_HOP_S`; the first one no grace.
- On a link from one level to the next the upper node asks once, and then sends the change; only the origin
  sends it unasked.  Of several upper nodes the first sends; each further one may ask late enough to hear
  that it is there, and else sends it too: with a chance of `_SENDS_TOO` where the upper nodes got it
  from the origin itself and so nearly at the same time, of `_SENDS_TOO_FURTHER_DOWN` elsewhere.
- On a link inside a level both ends have the same to tell, and both may ask before either has heard of the
  other: `_ASKED_INSIDE` requests.
- Sizes are those of the real messages, with a clock that names every node.
- A quiet node asks once an interval.

The four numbers were fitted to 20 and 50 nodes with latencies of 0.5 to 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.effects import Kind
from crdtmail.gossip.codec import encode_answer, encode_position, encode_push
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.session import Timing
from simulations.chance import generator
from simulations.config import links
from simulations.sweeps.cluster import Cluster, config_of
from simulations.sweeps.point import Row, Sweep

_HOP_S = 0.02
_SENDS_TOO = 0.7
_SENDS_TOO_FURTHER_DOWN = 0.5
_ASKED_INSIDE = 1.4

_STRETCHED_S = 3600.0
"""The interval while a change is measured, so that no exchange comes in between that is not because of it."""
_CHANGES = 5
_LIMIT_S = 3600.0
_DELTA = bytes(59)
"""As large as the addition of one message to a mailbox of one server, to be encoded into a push."""

TOPOLOGIES = ("mesh", "ring", "star", "hubs 3", "random 4", "random 8")


class Point(NamedTuple):
    topology: str
    nodes: int
    seed: int
    is_model: bool


def points(quick: bool) -> Iterator[Point]:
    measured = (5, 10) if quick else (5, 10, 20, 50, 100)
    modelled = (10, 100) if quick else (10, 20, 50, 100, 200, 500, 1000)
    for nodes in modelled:
        for topology in TOPOLOGIES:
            yield Point(topology, nodes, 0, True)
    for nodes in measured:
        for topology in TOPOLOGIES:
            # 4,950 links of a mesh of 100 would take longer than all others together.
            if topology != "mesh" or nodes <= 50:
                for seed in range(1 if quick or nodes >= 50 else 3):
                    yield Point(topology, nodes, seed, False)
    if not quick:
        for topology in ("ring", "hubs 3", "random 4"):
            yield Point(topology, 200, 0, False)


def measure(point: Point) -> list[Row]:
    return [_modelled(point)] if point.is_model else [_measured(point)]


def draw(rows: Sequence[Row], file: Path) -> list[Path]:
    from simulations.pictures import plot

    return plot.growth(rows, file)


# Measured -----------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of one change: until all have it, and then until all know that the nodes that they call have it."""

    rounds: float
    seconds: float
    copies: float
    exchanges: float
    bytes: float
    busiest: float
    """Bytes that the node sends which sends most."""


def _measured(point: Point) -> Row:
    cluster = Cluster(point.seed, point.nodes, point.topology, interval_s=_STRETCHED_S)
    # Every node is the origin of something, so that the clocks are as long as they get.
    for node in cluster.config.nodes:
        cluster.deliver(node, f"box of {node}")
    cluster.until_answered()
    cluster.until_equal(_LIMIT_S)
    cluster.until(cluster.is_quiet, _LIMIT_S)
    called = links(cluster.config)
    costs, expected = [], []
    for _ in range(_CHANGES):
        origin = cluster.chance.choice(cluster.config.nodes)
        cost = _cost_of_a_change(cluster, origin)
        costs.append(cost)
        expected.append(_expected_cost(called, origin))
    mean, model, idle = _mean(costs), _mean(expected), _idle_bytes(cluster)
    return _row(point, called, mean, idle) | {
        "model_seconds_off": model.seconds / mean.seconds - 1,
        "model_redundancy_off": model.copies / mean.copies - 1,
        "model_bytes_off": model.bytes / mean.bytes - 1,
        "model_idle_off": _expected_idle_bytes(point.nodes) / idle - 1,
    }


def _cost_of_a_change(cluster: Cluster, origin: str) -> Cost:
    said = cluster.count_anew()
    path = cluster.deliver_and_follow(origin, f"box of {origin}")
    seconds = cluster.until_equal(_LIMIT_S)
    cluster.until(cluster.is_quiet, _LIMIT_S)
    return Cost(
        max(path.hops.values()),
        seconds,
        path.copies,
        said.requests[Kind.EXCHANGE],
        said.bytes.total(),
        max(said.bytes.values()),
    )


def _idle_bytes(cluster: Cluster) -> float:
    """Bytes that a node of the quiet cluster sends a second, as if the interval were the usual one."""
    stretched = cluster.config.interval_s
    period = stretched * median(len(machine.addresses) for machine in cluster.machines.values())
    # All sessions began together; at half a period the second exchange of none of them is over.
    cluster.run(max(0.0, period / 2 - cluster.now_us / 1e6))
    said = cluster.count_anew()
    cluster.run(2 * period)
    return said.bytes.total() / (2 * period) / len(cluster.machines) * stretched / Timing().interval_s


# Modelled -----------------------------------------------------------------------------------------------


def _modelled(point: Point) -> Row:
    config = config_of(point.seed, point.nodes, point.topology)
    called, chance = links(config), generator(point.seed, "origins", *point.topology, point.nodes)
    origins = chance.sample(config.nodes, _CHANGES)
    cost = _mean([_expected_cost(called, origin) for origin in origins])
    off = ("model_seconds_off", "model_redundancy_off", "model_bytes_off", "model_idle_off")
    return _row(point, called, cost, _expected_idle_bytes(point.nodes)) | dict.fromkeys(off)


def _expected_cost(called: Mapping[str, Sequence[str]], origin: str) -> Cost:
    """What the model says of a change made there."""
    asked, answered, pushed = _sizes(len(called))
    level = _levels(called, origin)
    sent = dict.fromkeys(called, 0.0)
    copies = exchanges = 0.0
    for node, peers in called.items():
        uppers = [peer for peer in peers if level[peer] < level[node]]
        for upper in uppers:
            sends_too = _SENDS_TOO if level[upper] == 1 else _SENDS_TOO_FURTHER_DOWN
            times = (1 + sends_too * (len(uppers) - 1)) / len(uppers)
            copies += times
            sent[upper] += times * pushed
            if upper != origin:
                exchanges += 1
                sent[upper] += asked
                sent[node] += answered
        inside = sum(level[peer] == level[node] for peer in peers)
        exchanges += inside * _ASKED_INSIDE / 2
        sent[node] += inside * _ASKED_INSIDE / 2 * (asked + answered)
    rounds = max(level.values())
    seconds = rounds * _HOP_S + (rounds - 1) * Timing().grace_s
    return Cost(rounds, seconds, copies, exchanges, sum(sent.values()), max(sent.values()))


def _expected_idle_bytes(nodes: int) -> float:
    asked, answered, _ = _sizes(nodes)
    return (asked + answered) / Timing().interval_s


def _levels(called: Mapping[str, Sequence[str]], origin: str) -> dict[str, int]:
    level, reached = {origin: 0}, [origin]
    for node in reached:
        for peer in called[node]:
            if peer not in level:
                level[peer] = level[node] + 1
                reached.append(peer)
    return level


def _sizes(nodes: int) -> tuple[int, int, int]:
    """Bytes of an exchange's request and answer, and of a push of one delta."""
    chance = generator(nodes, "replicas")
    clock = Clock({ReplicaId(chance.getrandbits(64)): 2 for _ in range(nodes)})
    position = Position(ReplicaId(chance.getrandbits(64)), "mx100", clock, chance.getrandbits(64))
    return (
        len(encode_position(position)),
        len(encode_answer(ExchangeAnswer(position, ()))),
        len(encode_push([_DELTA])),
    )


# Both ---------------------------------------------------------------------------------------------------


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(*(fmean(values) for values in zip(*costs, strict=True)))


def _row(point: Point, called: Mapping[str, Sequence[str]], cost: Cost, idle: float) -> Row:
    return {
        "topology": point.topology,
        "fanout": int(median(map(len, called.values()))),
        "nodes": point.nodes,
        "seed": point.seed,
        "is_model": point.is_model,
        "rounds": cost.rounds,
        "seconds": cost.seconds,
        "redundancy": cost.copies / (point.nodes - 1),
        "exchanges": cost.exchanges,
        "bytes": cost.bytes,
        "busiest_bytes": cost.busiest,
        "idle_bytes_per_node_and_s": idle,
    }


SWEEP = Sweep("The cost of one change, and of none, against nodes and topology", points, measure, draw)
