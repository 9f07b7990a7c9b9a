"""The two servers of 2008: cut apart, one sets \\Answered, the other \\Seen and not \\Flagged."""

from simulations.actions import Connect, Cut, Deliver, Event, Heal, Look, Mark
from simulations.config import Config

CONFIG = Config(
    nodes=("s1", "s2"),
    accounts=("alice",),
    operations=0,
    seconds=30,
    story=(
        Event(1, Deliver("s1", ("offer",), keywords=("$flagged",))),
        Event(2, Connect("here", "s1")),
        Event(2, Connect("there", "s2")),
        Event(3, Look("here")),
        Event(3, Look("there")),
        Event(5, Cut(("s1",), ("s2",))),
        Event(8, Mark("here", add=("$answered",))),
        Event(9, Mark("there", add=("$seen",), remove=("$flagged",))),
        Event(10, Deliver("s1", ("minutes",))),
        Event(11, Deliver("s2", ("invoice",))),
        Event(20, Heal()),
        Event(25, Look("here")),
        Event(25, Look("there")),
    ),
)
