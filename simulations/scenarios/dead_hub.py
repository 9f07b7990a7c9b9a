"""A star of five; its hub dies, and comes back with an empty disk."""

from simulations.actions import Crash, EmptyDisk, Event
from simulations.config import Config

CONFIG = Config(
    nodes=("hub", "mx1", "mx2", "mx3", "mx4"),
    topology="star",
    seconds=60,
    operations=60,
    clients=6,
    story=(
        Event(20, Crash("hub")),
        Event(40, EmptyDisk("hub")),
    ),
)
