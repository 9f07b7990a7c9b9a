"""Some masters under test, whatever they are made of.

The reference and the real replicas stand behind the same `World`. What can be asked of a world and what
it shows is written in `simulations.commands`; how a world is built must never come in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from simulations.commands import Command, View


class World(Protocol):
    """Some masters that exchange changes only when told to."""

    def do(self, replica: str, command: Command) -> None:
        """Perform the command as one atomic change. Where it does not apply at that replica (no such
        mailbox there, no such message there, the name is taken) it changes nothing."""

    def deliver(self, source: str, target: str, at_most: int | None = None) -> None:
        """The target receives, in the source's order, the (first `at_most`) changes that it lacks."""

    def view(self, replica: str) -> View:
        """The living mailboxes at that replica."""


def settle(world: World, replicas: Sequence[str]) -> None:
    """Deliver everything to everybody.

    One round brings every change to every replica. What a replica adds of its own on receiving a
    move is never a move itself, so a second round brings those and causes nothing further.
    """
    for _ in range(2):
        for source in replicas:
            for target in replicas:
                if source != target:
                    world.deliver(source, target)
