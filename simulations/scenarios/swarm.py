"""The standard campaign: three nodes, each fault off, on or high as the seed has it."""

from simulations.config import Config
from simulations.schedule import swarm


def configure(seed: int) -> Config:
    return swarm(seed, Config())
