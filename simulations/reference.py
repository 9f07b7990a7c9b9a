"""What a command changes in an account, by the semantics, and whether the real system did just that.

The past answers what is so (`simulations.past`); here it is decided what comes next. The real system's
word is taken only where the semantics leave the outcome open. How it came to its outcome must never come
in here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from simulations.changes import Arrived, Created, Deleted, Edited, Effect, Left, Renamed
from simulations.commands import (
    DELETED,
    Add,
    Command,
    Copy,
    Create,
    Delete,
    Expunge,
    ExpungeDeleted,
    Keywords,
    Mailbox,
    Move,
    Rename,
)
from simulations.past import Past, _Place, numbers

_UNDELETED = "un-deleted"
"""Stands among keywords for what taking `$deleted` away leaves."""


class Disagreement(Exception):
    """The real system did what the semantics do not permit; the text says what, for a person to read."""


class UndeterminedError(ValueError):
    """The command's effect depends on which of two conflicting names won, and nobody said which."""


class History(Past):
    """One account's past, and the changes that commands add to it."""

    def __init__(self) -> None:
        super().__init__()
        self._by_origin: dict[str, int] = defaultdict(int)

    def record(
        self,
        origin: str,
        seen: int,
        command: Command,
        *,
        refused: bool = False,
        made: Mailbox | None = None,
        vacated: str | None = None,
    ) -> int | None:
        """The number of the change that the command makes, or None where it changes nothing.

        The keywords are what the real system said, as far as it was asked: it refused the command, because
        the name was taken or because there was nothing to apply it to; it made this mailbox; the mailbox
        renamed or deleted gave this name up (without a suffix). That settles what the semantics leave open.
        What they do not permit is a `Disagreement`.
        """
        match command:
            case Create(name):
                effects = self._creation(origin, seen, name, refused, made)
            case Rename():
                effects = self._renaming(origin, seen, command, refused, vacated)
            case Delete(mailbox):
                effects = self._deletion(origin, seen, mailbox, vacated)
            case _:
                effects = tuple(self._effects(seen, command))
        if refused and effects:
            raise Disagreement(f"{origin} refused {command}, which applies there")
        return self._append_own(origin, seen, effects)

    def follow_up(self, origin: str, seen: int, change: int) -> int | None:
        """What the replica must say again because the change that is just arriving moves a message away from
        under its own edits; recorded as a change of its own. None where there is nothing to say.

        `seen` is what it had seen before. Each edit has exactly one origin, so each is said again once.
        """
        effects = tuple(self._said_again(origin, seen, change))
        return self._append_own(origin, seen | 1 << change, effects)

    def left_behind(self, seen: int, theirs: int) -> Iterator[Edited]:
        """What one who had seen this much must say again on taking over all that another one had seen.

        Where one of the two took a message away without having seen a keyword that the other had put on it,
        that keyword follows the message to wherever it was moved; and so whoever the keyword is of, for he
        will be told that this one has seen both.  But `$deleted` does only where the message has left one
        mailbox and no more, for what was moved may be a copy.
        """
        both = seen | theirs
        for box in self._boxes.values():
            for message, place in box.places.items():
                for mine, other in ((seen, theirs), (theirs, seen)):
                    unseen = self._unseen_keywords(mine, other, place)
                    kept = self._raw_keywords(both, place) if unseen else {}
                    lost = {k for k, by in unseen.items() if by & ~kept.get(k, 0)}
                    if DELETED in lost and self._left_from(seen, theirs, message) > 1:
                        lost -= {DELETED}
                    if lost:
                        removed = frozenset({DELETED} if _UNDELETED in lost else ())
                        added = frozenset(lost - removed - {_UNDELETED})
                        for target, arrival in self.moved(both, message):
                            if not mine >> arrival & 1:
                                yield Edited(target, message, 1 << arrival, added, removed)

    def put_after(self, origin: str, edit: Edited) -> int:
        """Record that a replica puts keywords after a message that was moved; its number.

        Who set them had seen nothing of what was done to the message since the move.
        """
        moved = edit.arrivals.bit_length() - 1
        number = self._append_own(origin, self.changes[moved].seen | edit.arrivals, (edit,))
        assert number is not None
        return number

    def _unseen_keywords(self, mine: int, other: int, place: _Place) -> dict[str, int]:
        """The keywords that one sees on arrivals which the other, who had not seen them, has taken away; and
        who set them."""
        gone = self._living(mine, place) & other & ~self._living(other, place)
        return {k: by & ~other for k, by in self._set_by(mine, place, gone).items() if by & ~other}

    def _raw_keywords(self, seen: int, place: _Place) -> dict[str, int]:
        """All keywords that stand on the living arrivals, shown or not, and who set them."""
        return self._set_by(seen, place, self._living(seen, place))

    def _left_from(self, seen: int, theirs: int, message: str) -> int:
        """How many mailboxes the message was taken out of, by one of the two or the other."""
        places = [place for box in self._boxes.values() if (place := box.places.get(message)) is not None]
        return sum(
            bool(
                (self._living(seen, place) | self._living(theirs, place))
                & ~self._living(seen | theirs, place)
            )
            for place in places
        )

    def _set_by(self, seen: int, place: _Place, arrivals: int) -> dict[str, int]:
        by: dict[str, int] = defaultdict(int)
        for arrival in numbers(arrivals):
            adds, undeletes = self._edits(seen, place.arrivals[arrival])
            for keyword, edits in (*adds.items(), (_UNDELETED, undeletes)):
                by[keyword] |= self._last(edits)
        return by

    def moved(self, seen: int, message: str) -> Iterator[tuple[Mailbox, int]]:
        """The living arrivals of the message, in whatever mailbox, that a move has made."""
        for mailbox, box in self._boxes.items():
            if (place := box.places.get(message)) is not None:
                for arrival in numbers(self._living(seen, place)):
                    left = (e for e in self.changes[arrival].effects if isinstance(e, Left))
                    if any((e.message, e.moved_to) == (message, mailbox) for e in left):
                        yield mailbox, arrival

    def is_determined(self, seen: int, command: Command) -> bool:
        """Whether the semantics say what the command does. They do not where it matters which of two
        conflicting names a mailbox shows, or showed when it gave that name up."""
        match command:
            case Create(name):
                taken = self.is_taken(seen, name)
                return taken is True or (taken is False and len(self.generations(seen, name)) == 1)
            case Rename(mailbox, to) if self.names(seen, mailbox):
                return self.is_taken(seen, to) is not None
        return True

    def _append_own(self, origin: str, seen: int, effects: tuple[Effect, ...]) -> int | None:
        if not effects:
            return None
        number = self.append(origin, seen, effects)
        self._by_origin[origin] |= 1 << number
        return number

    # The commands whose outcome the semantics may leave open.

    def _creation(
        self, origin: str, seen: int, name: str, refused: bool, made: Mailbox | None
    ) -> tuple[Effect, ...]:
        taken, generations = self.is_taken(seen, name), self.generations(seen, name)
        if refused:
            if taken is False:
                raise Disagreement(f"{origin} refused to create {name!r}, which is certainly free there")
            return ()
        if made is None:
            if taken is True:
                return ()
            if taken is None or len(generations) > 1:
                raise UndeterminedError(f"{origin} creates {name!r}")
            made = Mailbox(name, generations[0])
        if made.name != name:
            raise Disagreement(f"{origin} was to create {name!r} and made {made}")
        if taken is True:
            raise Disagreement(f"{origin} created {made}, but another living mailbox shows that name there")
        if made.generation not in generations:
            count = " or ".join(map(str, generations))
            raise Disagreement(f"{origin} created {made}; the mailboxes that gave that name up are {count}")
        return (Created(made),)

    def _renaming(
        self, origin: str, seen: int, command: Rename, refused: bool, vacated: str | None
    ) -> tuple[Effect, ...]:
        mailbox, to = command.mailbox, command.to
        names = self.names(seen, mailbox)
        if not names:
            return ()
        taken = self.is_taken(seen, to)
        if refused:
            if taken is False:
                raise Disagreement(f"{origin} refused {mailbox} the name {to!r}, certainly free there")
            return ()
        given_up = self._given_up(origin, mailbox, names, vacated)
        if given_up == {to}:
            return ()  # It has that name already.
        if vacated is None:
            if taken is True:
                return ()
            if taken is None:
                raise UndeterminedError(f"{origin} renames {mailbox} to {to!r}")
        if taken is True:
            raise Disagreement(f"{origin} renamed {mailbox} to {to!r}, but another living mailbox shows it")
        return (Renamed(mailbox, to, given_up),)

    def _deletion(self, origin: str, seen: int, mailbox: Mailbox, vacated: str | None) -> tuple[Effect, ...]:
        names = self.names(seen, mailbox)
        return (Deleted(mailbox, self._given_up(origin, mailbox, names, vacated)),) if names else ()

    def _given_up(
        self, origin: str, mailbox: Mailbox, names: frozenset[str], vacated: str | None
    ) -> frozenset[str]:
        if vacated is None:
            return names
        if vacated not in names:
            permitted = " or ".join(map(repr, sorted(names)))
            raise Disagreement(f"on {origin} {mailbox} gave up the name {vacated!r}, but it had {permitted}")
        return frozenset({vacated})

    # The commands on messages, as their origin sees things.

    def _effects(self, seen: int, command: Command) -> Iterator[Effect]:
        match command:
            case Add(mailbox, message, keywords):
                if self.names(seen, mailbox):
                    yield Arrived(mailbox, message, keywords)
            case Keywords(mailbox, messages):
                for message, shown in self._present(seen, mailbox, messages):
                    # To take away what is not shown is nothing, but to take `$deleted` away is to keep.
                    remove = command.remove & (shown | {DELETED})
                    if command.add or remove:
                        arrivals = self.arrivals(seen, mailbox, message)
                        yield Edited(mailbox, message, arrivals, command.add, remove)
            case Expunge(mailbox, messages):
                for message, _ in self._present(seen, mailbox, messages):
                    yield Left(mailbox, message)
            case ExpungeDeleted(mailbox):
                for message, shown in self.messages(seen, mailbox).items():
                    if DELETED in shown:
                        yield Left(mailbox, message)
            case Move(source, target, messages) | Copy(source, target, messages):
                if source == target or not self.names(seen, target):
                    return
                for message, shown in self._present(seen, source, messages):
                    yield Arrived(target, message, shown)
                    if isinstance(command, Move):
                        yield Left(source, message, moved_to=target)

    def _present(
        self, seen: int, mailbox: Mailbox, messages: tuple[str, ...]
    ) -> Iterator[tuple[str, frozenset[str]]]:
        """Those of the messages that are there, each once, with their keywords."""
        for message in dict.fromkeys(messages):
            keywords = self.keywords(seen, mailbox, message)
            if keywords is not None:
                yield message, keywords

    def _last(self, edits: int) -> int:
        """Those of the edits that none of the others had seen."""
        return self._unseen(edits, by=edits)

    def _said_again(self, origin: str, seen: int, change: int) -> Iterator[Effect]:
        move = self.changes[change]
        own_unknown = self._by_origin[origin] & ~move.seen
        for effect in move.effects:
            if not isinstance(effect, Left) or effect.moved_to is None:
                continue
            mailbox, message, target = effect.mailbox, effect.message, effect.moved_to
            # The move takes the arrivals that its origin had seen, of which some may have gone already.
            taken = self.arrivals(seen, mailbox, message) & move.seen
            edits = [self.edits(seen, mailbox, message, arrival) for arrival in numbers(taken)]
            # An edit that somebody made again, having seen it, is that one's to say.
            added = {k for each in edits for k, by in each.adds.items() if self._last(by) & own_unknown}
            removed = {DELETED for each in edits if self._last(each.undeletes) & own_unknown}
            # Un-delete beats delete here too, should two arrivals of one message disagree.
            if added or removed:
                yield Edited(target, message, 1 << change, frozenset(added - removed), frozenset(removed))
