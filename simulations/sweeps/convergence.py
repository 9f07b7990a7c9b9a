"""How long until everybody has everything while links lose messages: by loss, nodes and topology.

The loss goes on until all are equal: the question is not how soon a cluster recovers once the network does.
What is lost is a whole request or a whole answer, as when a connection dies; its sender waits for
`GOSSIP_TIMEOUT_S` before it tries again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from simulations.network import Weather
from simulations.sweeps.cluster import Cluster
from simulations.sweeps.point import Row, Sweep

TOPOLOGIES = ("mesh", "ring", "star", "chain", "hubs 3", "random 4")
_DRAWN_ALONE = ("mesh", "ring", "star", "random 4")
_CHANGES_PER_S = 1
_SECONDS = 10.0
_LIMIT_S = 24 * 3600.0


class Point(NamedTuple):
    loss: float
    nodes: int
    topology: str
    seed: int


def points(quick: bool) -> Iterator[Point]:
    for nodes in (2, 5) if quick else (2, 5, 10, 20, 50):
        for topology in TOPOLOGIES:
            for loss in (0.0, 0.3) if quick else (0.0, 0.05, 0.1, 0.2, 0.3, 0.5):
                for seed in range(1 if quick else 2 if topology == "mesh" and nodes > 20 else 5):
                    yield Point(loss, nodes, topology, seed)


def measure(point: Point) -> list[Row]:
    cluster = Cluster(point.seed, point.nodes, point.topology)
    cluster.network.weather = Weather(loss=point.loss)
    cluster.deliver_often(_CHANGES_PER_S, _SECONDS)
    seconds = cluster.until_equal(_LIMIT_S)
    return [point._asdict() | {"seconds": seconds}]


def draw(rows: Sequence[Row], file: Path) -> list[Path]:
    from simulations.pictures import plot

    stem = file.with_suffix("") if file.suffix in (".png", ".svg") else file
    alone = [row for row in rows if row["topology"] in _DRAWN_ALONE]
    some = [row for row in rows if row["loss"] in (0.0, 0.1, 0.3)]
    return [
        *plot.convergence_against_loss(alone, stem.with_name(f"{stem.name}-loss")),
        *plot.convergence_against_nodes(some, stem.with_name(f"{stem.name}-nodes")),
    ]


SWEEP = Sweep(
    "Seconds from the last write until all nodes are equal, while messages are lost", points, measure, draw
)
