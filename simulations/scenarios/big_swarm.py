"""The swarm with five nodes and twice as much to do: slower, and more of everything at once."""

from simulations.config import Config
from simulations.schedule import swarm

NODES = ("mx1", "mx2", "mx3", "mx4", "mx5")


def configure(seed: int) -> Config:
    return swarm(seed, Config(nodes=NODES, operations=80, clients=8, seconds=40))
