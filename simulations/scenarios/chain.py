"""Three in a chain: the ends never meet, and what one writes reaches the other through the middle."""

from simulations.config import Config

CONFIG = Config(topology="chain", seconds=40, operations=60, faults={"loss": "on", "crash": "on"})
