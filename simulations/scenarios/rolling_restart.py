"""Every node is restarted, one after the other, while mail comes in."""

from simulations.actions import Crash, Event, Start
from simulations.config import Config

NODES = ("mx1", "mx2", "mx3", "mx4")

CONFIG = Config(
    nodes=NODES,
    seconds=60,
    operations=120,
    clients=8,
    story=tuple(
        event
        for n, node in enumerate(NODES)
        for event in (Event(10 + 10 * n, Crash(node)), Event(14 + 10 * n, Start(node)))
    ),
)
