"""What follows from having seen certain changes of an account, and from nothing else.

Every change is kept with the set of all changes that its origin had *seen*. Any question is answered for a
set of seen changes, by asking of each thing whether a change in the set removed it having seen it. No
clock, no context, no pruning, nothing of `crdtmail` may ever come in here: the model is worth something
only as long as it shares no idea with what it judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from simulations.changes import Arrived, Change, Created, Deleted, Edited, Effect, Left, Renamed
from simulations.commands import DELETED, Mailbox
from simulations.permitted import Permitted, PermittedView


class Edits(NamedTuple):
    """What stands of the keyword changes on one arrival: who added each keyword, who took `$deleted` back."""

    adds: Mapping[str, int]
    undeletes: int


# The index. It holds sets of changes, so that a question costs a few operations on whole numbers.


def _no_changes() -> dict[str, int]:
    return defaultdict(int)


@dataclass(slots=True)
class _Arrival:
    adds: dict[str, int] = field(default_factory=_no_changes)  # By keyword.
    removes: dict[str, int] = field(default_factory=_no_changes)


@dataclass(slots=True)
class _Place:
    """Where one message may lie: in one mailbox."""

    arrivals: dict[int, _Arrival] = field(default_factory=dict)
    arrived: int = 0
    taken: int = 0  # By an expunge, a move, or the deletion of the mailbox.
    touched: int = 0  # All of the above and the edits: nothing else has a say in what is shown here.
    shown: dict[int, frozenset[str] | None] = field(default_factory=dict)  # By how much of `touched` is seen.


@dataclass(slots=True)
class _Box:
    kept_alive: int = 0  # By its creation and by everything that arrived in it.
    deleted: int = 0
    named: int = 0
    names: dict[int, str] = field(default_factory=dict)  # By the change that gave the name.
    places: dict[str, _Place] = field(default_factory=dict)  # By message.


@dataclass(slots=True)
class _Vacated:
    """The changes by which one mailbox gave one name up, and those by which it may have."""

    certainly: int = 0
    possibly: int = 0


def numbers(changes: int) -> Iterator[int]:
    """The members of a set of changes, the latest first."""
    while changes:
        latest = changes.bit_length() - 1
        yield latest
        changes ^= 1 << latest


class Past:
    """The changes of one account, numbered 0, 1, 2, … as they become known here.

    A set of changes is a whole number whose bit i stands for change i. `seen` is such a set everywhere: what
    the replica had seen that is asked. A set from the past is answered as it was then, whatever was appended
    since. A replica may learn a change before another that this one had seen, if it does not build on it:
    `is_whole` tells where that leaves open what is shown.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._boxes: dict[Mailbox, _Box] = {}
        self._ever_named: dict[str, dict[Mailbox, _Box]] = defaultdict(dict)
        self._vacated: dict[str, dict[Mailbox, _Vacated]] = defaultdict(dict)

    def append(self, origin: str, seen: int, effects: tuple[Effect, ...]) -> int:
        """Makes a change known and gives its number. Nobody has seen it yet."""
        number = len(self.changes)
        self.changes.append(Change(origin, seen, effects))
        for effect in effects:
            self._learn(number, effect)
        return number

    def is_whole(self, seen: int, mailbox: Mailbox, message: str) -> bool:
        """Whether the set holds, with every change that has a say in the message there, all others that this
        one had seen."""
        place = self._place(mailbox, message)
        return place is None or not self._seen_by(seen & place.touched) & place.touched & ~seen

    # What is shown.

    def permitted(self, seen: int) -> PermittedView:
        return {
            mailbox: Permitted(names, self.messages(seen, mailbox))
            for mailbox, names in self.mailboxes(seen).items()
        }

    def mailboxes(self, seen: int) -> Mapping[Mailbox, frozenset[str]]:
        """The living mailboxes, each with the names that it may show."""
        return {
            mailbox: names for mailbox, box in self._boxes.items() if (names := self._box_names(seen, box))
        }

    def messages(self, seen: int, mailbox: Mailbox) -> Mapping[str, frozenset[str]]:
        """The messages in the mailbox, each with its keywords; none where it does not live."""
        box = self._boxes.get(mailbox)
        if box is None:
            return {}
        return {
            message: keywords
            for message, place in box.places.items()
            if (keywords := self._shown(seen, place)) is not None
        }

    # What is asked for the next change.

    def names(self, seen: int, mailbox: Mailbox) -> frozenset[str]:
        """The names that the mailbox may show; none where it does not live."""
        box = self._boxes.get(mailbox)
        return self._box_names(seen, box) if box else frozenset()

    def is_taken(self, seen: int, name: str) -> bool | None:
        """Whether a living mailbox shows the name; None where that depends on who won a conflict.

        Of several mailboxes with one name one shows it without a suffix, so which one does not matter.
        """
        taken: bool | None = False
        for box in self._ever_named.get(name, {}).values():
            names = self._box_names(seen, box)
            if name in names:
                if len(names) == 1:
                    return True
                taken = None
        return taken

    def generations(self, seen: int, name: str) -> range:
        """How many mailboxes have vacated the name: several numbers where nobody said which of them did."""
        vacated = self._vacated.get(name, {}).values()
        certainly = sum(seen & changes.certainly != 0 for changes in vacated)
        return range(certainly, sum(seen & changes.possibly != 0 for changes in vacated) + 1)

    def was_ever_deleted(self, mailbox: Mailbox) -> bool:
        """Whether anybody has ever deleted the mailbox, though it may live."""
        box = self._boxes.get(mailbox)
        return box is not None and box.deleted != 0

    def arrivals(self, seen: int, mailbox: Mailbox, message: str) -> int:
        """The living arrivals of the message."""
        place = self._place(mailbox, message)
        return self._living(seen, place) if place else 0

    def edits(self, seen: int, mailbox: Mailbox, message: str, arrival: int) -> Edits:
        return self._edits(seen, self._boxes[mailbox].places[message].arrivals[arrival])

    def keywords(self, seen: int, mailbox: Mailbox, message: str) -> frozenset[str] | None:
        """The keywords that the message shows; None where it is not there."""
        place = self._place(mailbox, message)
        return self._shown(seen, place) if place else None

    # The one judgement of which everything is made.

    def _seen_by(self, changes: int) -> int:
        """Everything that had been seen by at least one of these changes."""
        known = 0
        for number in numbers(changes):
            known |= self.changes[number].seen
        return known

    def _unseen(self, changes: int, by: int) -> int:
        """The changes that none of `by` had seen: whatever survives, survives by this."""
        return changes & ~self._seen_by(by) if changes else 0

    def _box_names(self, seen: int, box: _Box) -> frozenset[str]:
        """The names that no later naming has replaced, several after conflicting renames; none where the
        mailbox does not live."""
        if not self._unseen(seen & box.kept_alive, by=seen & box.deleted):
            return frozenset()
        named = seen & box.named
        return frozenset([box.names[number] for number in numbers(self._unseen(named, by=named))])

    def _living(self, seen: int, place: _Place) -> int:
        """Whoever takes the message away takes every arrival that was seen there."""
        return self._unseen(seen & place.arrived, by=seen & place.taken)

    def _edits(self, seen: int, arrival: _Arrival) -> Edits:
        """A removal takes away only the adds that it had seen. For `$deleted` the same holds of the
        un-deletes: an add takes away only those that it had seen."""
        adds, removes = arrival.adds, arrival.removes
        standing = {
            keyword: survivors
            for keyword, added in adds.items()
            if (survivors := self._unseen(seen & added, by=seen & removes.get(keyword, 0)))
        }
        undeletes = self._unseen(seen & removes.get(DELETED, 0), by=seen & adds.get(DELETED, 0))
        return Edits(standing, undeletes)

    def _shown(self, seen: int, place: _Place) -> frozenset[str] | None:
        relevant = seen & place.touched
        if relevant not in place.shown:
            living = numbers(self._living(seen, place))
            edits = [self._edits(seen, place.arrivals[arrival]) for arrival in living]
            keywords = frozenset(keyword for each in edits for keyword in each.adds)
            if any(each.undeletes for each in edits):
                keywords -= {DELETED}
            place.shown[relevant] = keywords if edits else None
        return place.shown[relevant]

    def _place(self, mailbox: Mailbox, message: str) -> _Place | None:
        box = self._boxes.get(mailbox)
        return box.places.get(message) if box else None

    # Keeping the index.

    def _learn(self, number: int, effect: Effect) -> None:
        bit = 1 << number
        box = self._boxes.setdefault(effect.mailbox, _Box())
        match effect:
            case Created(mailbox):
                box.kept_alive |= bit
                self._learn_name(mailbox, box, number, mailbox.name)
            case Renamed(mailbox, to, vacated):
                self._learn_name(mailbox, box, number, to)
                self._learn_vacated(mailbox, bit, vacated)
            case Deleted(mailbox, vacated):
                box.deleted |= bit
                for place in box.places.values():
                    place.taken |= bit
                    place.touched |= bit
                self._learn_vacated(mailbox, bit, vacated)
            case Arrived(_, message, keywords):
                box.kept_alive |= bit
                place = box.places.setdefault(message, _Place())
                place.arrivals[number] = _Arrival()
                place.arrived |= bit
                place.touched |= bit
                for keyword in keywords:
                    place.arrivals[number].adds[keyword] |= bit
            case Edited(_, message, arrivals, add, remove):
                place = box.places[message]
                place.touched |= bit
                for arrival in numbers(arrivals):
                    for keyword in add:
                        place.arrivals[arrival].adds[keyword] |= bit
                    for keyword in remove:
                        place.arrivals[arrival].removes[keyword] |= bit
            case Left(_, message):
                place = box.places[message]
                place.taken |= bit
                place.touched |= bit

    def _learn_name(self, mailbox: Mailbox, box: _Box, number: int, name: str) -> None:
        box.named |= 1 << number
        box.names[number] = name
        self._ever_named[name][mailbox] = box

    def _learn_vacated(self, mailbox: Mailbox, bit: int, names: frozenset[str]) -> None:
        for name in names:
            changes = self._vacated[name].setdefault(mailbox, _Vacated())
            changes.possibly |= bit
            if len(names) == 1:
                changes.certainly |= bit
