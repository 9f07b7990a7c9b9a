"""A link that goes down and comes up every few seconds."""

from simulations.actions import Cut, Event, Heal
from simulations.config import Config

CONFIG = Config(
    nodes=("mx1", "mx2"),
    seconds=60,
    operations=80,
    story=tuple(
        event
        for at in range(4, 60, 4)
        for event in (Event(at, Cut(("mx1",), ("mx2",))), Event(at + 2, Heal()))
    ),
)
