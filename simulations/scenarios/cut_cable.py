"""Two sites of two servers each; a digger cuts the cable between them for a minute."""

from simulations.actions import Cut, Event, Heal
from simulations.config import Config

BERLIN = ("berlin1", "berlin2")
PARIS = ("paris1", "paris2")

CONFIG = Config(
    nodes=BERLIN + PARIS,
    seconds=120,
    operations=120,
    clients=8,
    faults={"delay": "on"},
    story=(
        Event(30, Cut(BERLIN, PARIS)),
        Event(90, Heal()),
    ),
)
