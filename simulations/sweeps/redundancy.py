"""How many times a change is sent for each node that needs it, while changes come in all the time.

One change alone is sent hardly more than once (`scaling`).  With many under way at once, a comparison with a
peer also brings what is just on its way there from somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from simulations.sweeps.cluster import Cluster
from simulations.sweeps.point import Row, Sweep

TOPOLOGIES = ("mesh", "ring", "star", "chain", "hubs 3", "random 4")
_CHANGES_PER_S = 10
_SECONDS = 4.0
_LIMIT_S = 3600.0


class Point(NamedTuple):
    topology: str
    nodes: int
    seed: int


def points(quick: bool) -> Iterator[Point]:
    for nodes in (3, 6) if quick else (3, 5, 10, 20, 50):
        for topology in TOPOLOGIES:
            for seed in range(1 if quick else 2 if topology == "mesh" and nodes > 20 else 5):
                yield Point(topology, nodes, seed)


def measure(point: Point) -> list[Row]:
    cluster = Cluster(point.seed, point.nodes, point.topology)
    sent, applied = cluster.sent_deltas, cluster.checks.received.total()
    cluster.count_anew()
    cluster.deliver_often(_CHANGES_PER_S, _SECONDS)
    cluster.until_equal(_LIMIT_S)
    needed = cluster.checks.received.total() - applied
    changes = needed / (point.nodes - 1)
    return [
        point._asdict()
        | {
            "changes": round(changes),
            "redundancy": (cluster.sent_deltas - sent) / needed,
            "bytes_per_change": cluster.said.bytes.total() / changes,
        }
    ]


def draw(rows: Sequence[Row], file: Path) -> list[Path]:
    from simulations.pictures import plot

    return plot.redundancy_by_topology(rows, file)


SWEEP = Sweep(
    f"Times a change is sent per node that needed it, with {_CHANGES_PER_S} changes a second in the cluster",
    points,
    measure,
    draw,
)
