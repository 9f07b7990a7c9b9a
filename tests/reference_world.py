"""The reference model as a `World`: some masters of one account, made of nothing but what each has seen.

It adds to the history only who has seen what, and in which order. What follows from that is worked out in
`simulations.reference` and must never be decided here.
"""

from __future__ import annotations

from collections import defaultdict

from simulations.changes import Change
from simulations.commands import Command, Mailbox, Shown, View
from simulations.permitted import PermittedView
from simulations.reference import History


class Reference:
    """A `World` whose replicas come into being when first mentioned."""

    def __init__(self) -> None:
        self.history = History()
        self._orders: dict[str, list[int]] = defaultdict(list)
        self._seen: dict[str, int] = defaultdict(int)

    def do(self, replica: str, command: Command) -> None:
        self._see(replica, self.history.record(replica, self._seen[replica], command))

    def deliver(self, source: str, target: str, at_most: int | None = None) -> None:
        lacking = [number for number in self._orders[source] if not self._seen[target] >> number & 1]
        for number in lacking[:at_most]:
            follow_up = self.history.follow_up(target, self._seen[target], number)
            self._see(target, number)
            self._see(target, follow_up)

    def view(self, replica: str) -> View:
        """A permitted view with concrete names: of several names the first, the suffix the identity."""
        view: dict[Mailbox, Shown] = {}
        for mailbox, permitted in sorted(self.permitted(replica).items()):
            name = min(permitted.names)
            if any(name == shown.name for shown in view.values()):
                name = f"{name} ({mailbox})"
            view[mailbox] = Shown(name, permitted.messages)
        return view

    def permitted(self, replica: str) -> PermittedView:
        return self.history.permitted(self._seen[replica])

    def is_determined(self, replica: str, command: Command) -> bool:
        return self.history.is_determined(self._seen[replica], command)

    def seen(self, replica: str) -> int:
        """The set of the changes that the replica has seen."""
        return self._seen[replica]

    def order(self, replica: str) -> tuple[int, ...]:
        """The numbers of the changes that the replica has seen, in its order."""
        return tuple(self._orders[replica])

    def changes(self, replica: str) -> tuple[Change, ...]:
        """The changes that the replica has seen, in its order."""
        return tuple(self.history.changes[number] for number in self._orders[replica])

    def _see(self, replica: str, number: int | None) -> None:
        if number is not None:
            self._orders[replica].append(number)
            self._seen[replica] |= 1 << number
