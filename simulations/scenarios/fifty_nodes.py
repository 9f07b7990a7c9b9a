"""Fifty nodes in a ring, some of which crash, on links that lose a message now and then."""

from simulations.config import Config

CONFIG = Config(
    nodes=tuple(f"mx{n:02}" for n in range(1, 51)),
    topology="ring",
    seconds=60,
    operations=100,
    clients=20,
    faults={"loss": "on", "crash": "high"},
)
