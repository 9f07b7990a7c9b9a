"""What a run is made of: nodes and links, how much clients do, what may go wrong, when it is calm again."""

from __future__ import annotations

import msgspec

from simulations.actions import Event
from simulations.chance import generator


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Everything about a run but its seed.  Times in seconds."""

    nodes: tuple[str, ...] = ("mx1", "mx2", "mx3")
    late: tuple[str, ...] = ()
    """Nodes that are not there at the start; a `Start` brings them in."""
    topology: str = "mesh"
    """`mesh` (each calls all others), `chain`, `ring`, `star` (the first node is the hub), `hubs 3` (so many
    first nodes call everybody, the others call just these), `random 4` (each calls so many others, or fewer,
    and these call it; the names and their order decide), or `one way` (each node calls those after it, and
    learns of the others only when it is called)."""

    cluster: str = ""
    """The name that all nodes give to the cluster that they belong to."""

    seconds: float = 20.0
    """How long clients work and things go wrong.  Then it is calm: all is healed, and all must agree."""
    operations: int = 30
    """What the clients do in that time, drawn from the seed; the story comes on top."""
    accounts: tuple[str, ...] = ("alice", "alice2")
    clients: int = 4

    faults: dict[str, str] = {}
    """Name of a fault (`simulations/faults.py`) -> `on` or `high`; what is not named is off."""
    story: tuple[Event, ...] = ()
    """What happens in every run of this scenario, whatever the seed."""

    interval_s: float = 5.0
    grace_s: float = 0.5
    last_retry_s: float = 5.0
    latency_s: tuple[float, float] = (0.0005, 0.02)
    """What a message takes, from the least to what is usual; a few take longer."""
    fsync_s: tuple[float, float] = (0.0002, 0.005)
    """What a commit takes."""

    has_small_limits: bool = False
    """Whether batches and groups are cut off after a few deltas and writes, as large ones would be."""

    planted: tuple[str, ...] = ()
    """Bugs that are switched on, by name (`simulations/planted.py`): the simulator must find them."""


TOPOLOGIES = ("mesh", "chain", "ring", "star", "one way", "hubs N (1 or more)", "random N (2 or more)")


def links(config: Config) -> dict[str, tuple[str, ...]]:
    """Whom each node calls.  Raises ValueError for a topology that does not exist."""
    names = config.nodes
    match config.topology:
        case "mesh":
            return {name: tuple(n for n in names if n != name) for name in names}
        case "chain":
            return {
                name: tuple(names[max(0, i - 1) : i] + names[i + 1 : i + 2]) for i, name in enumerate(names)
            }
        case "ring":
            around = {name: (names[i - 1], names[(i + 1) % len(names)]) for i, name in enumerate(names)}
            return {
                name: tuple(dict.fromkeys(n for n in others if n != name)) for name, others in around.items()
            }
        case "star":
            hub, *leaves = names
            return {hub: tuple(leaves), **dict.fromkeys(leaves, (hub,))}
        case "one way":
            return {name: tuple(names[i + 1 :]) for i, name in enumerate(names)}
    kind, _, number = config.topology.partition(" ")
    if kind == "hubs" and number.isdecimal() and int(number) > 0:
        return _hubs(names, int(number))
    if kind == "random" and number.isdecimal() and int(number) > 1:
        return _random(names, int(number))
    raise ValueError(f"there is no topology {config.topology!r}; there are {', '.join(TOPOLOGIES)}")


def _hubs(names: tuple[str, ...], hubs: int) -> dict[str, tuple[str, ...]]:
    first = names[:hubs]
    return {name: tuple(n for n in (names if name in first else first) if n != name) for name in names}


def _random(names: tuple[str, ...], peers: int) -> dict[str, tuple[str, ...]]:
    """Rings through all nodes, each in a random order, and for an odd number of peers random pairs: all nodes
    hang together, and where two lines coincide a node has a peer less."""
    chance = generator(peers, "links", *names)
    called: dict[str, set[str]] = {name: set() for name in names}
    for turn in range(0, peers, 2):
        order = list(names)
        chance.shuffle(order)
        step = 1 if turn + 1 < peers else 2
        for one, other in zip(order[::step], (order[1:] + order[:1])[::step], strict=True):
            if one != other:
                called[one].add(other)
                called[other].add(one)
    return {name: tuple(n for n in names if n in called[name]) for name in names}
