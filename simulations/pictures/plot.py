"""Pictures of simulated runs: plain data in, a PNG and an SVG out.

What `python -m simulations` imports, and only when pictures are asked for: matplotlib is an optional extra.
"""

from __future__ import annotations

from simulations.pictures.sweeps import (
    convergence_against_loss,
    convergence_against_nodes,
    growth,
    redundancy_by_topology,
    renumberings_against_partition,
)
from simulations.pictures.timeline import timeline

__all__ = [
    "convergence_against_loss",
    "convergence_against_nodes",
    "growth",
    "redundancy_by_topology",
    "renumberings_against_partition",
    "timeline",
]
