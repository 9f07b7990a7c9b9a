"""A busy INBOX: its server dies, the clients turn to the other one with their tokens and go on."""

from simulations.actions import Connect, Crash, Deliver, Event, Follow, Look, Mark, Start
from simulations.config import Config

CLIENTS = ("phone", "laptop", "webmail")


def _turn_to(node: str, at: float) -> list[Event]:
    return [Event(at, Connect(client, node)) for client in CLIENTS]


def _use(at: float) -> list[Event]:
    """Each client looks, marks what it read, and asks what has changed."""
    return [
        event
        for n, client in enumerate(CLIENTS)
        for event in (
            Event(at + n * 0.1, Look(client)),
            Event(at + n * 0.1 + 0.3, Mark(client, add=("$seen",), part=(0.5, 1.0))),
            Event(at + n * 0.1 + 0.6, Follow(client)),
        )
    ]


def _mail(node: str, first: int, at: float) -> list[Event]:
    return [Event(at + n * 0.2, Deliver(node, (f"mail{first + n}",))) for n in range(20)]


CONFIG = Config(
    nodes=("mx1", "mx2"),
    accounts=("alice",),
    operations=0,
    seconds=40,
    story=(
        *_turn_to("mx1", 0.5),
        *_mail("mx1", 1, 1),
        *(event for at in range(2, 10, 2) for event in _use(at)),
        Event(10, Crash("mx1")),
        *_turn_to("mx2", 10.5),
        *_mail("mx2", 21, 11),
        *(event for at in range(12, 20, 2) for event in _use(at)),
        Event(20, Start("mx1")),
        *_turn_to("mx1", 25),
        *(event for at in range(26, 34, 2) for event in _use(at)),
    ),
)
