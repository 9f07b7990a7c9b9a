"""What the masters ought to show, worked out the slow and obvious way.

The whole history is kept: every change with the set of all changes that its origin had seen when it
was made. A view is computed from a set of changes alone, by asking of each thing whether a change in
the set removed it *having seen it*. No clock, no context, no pruning may ever come in here: the
model is worth something only as long as it shares no idea with what it judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NewType

from tests.worlds import (
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
    Shown,
    View,
)

ChangeId = NewType("ChangeId", int)


class Instance(NamedTuple):
    """One arrival of a message in a mailbox; named by the change that brought it."""

    change: ChangeId
    mailbox: Mailbox
    message: str


@dataclass(frozen=True)
class Created:
    mailbox: Mailbox


@dataclass(frozen=True)
class Renamed:
    mailbox: Mailbox
    to: str
    vacated: frozenset[str]  # The name given up; several where the reference cannot tell which.


@dataclass(frozen=True)
class Deleted:
    mailbox: Mailbox
    vacated: frozenset[str]


@dataclass(frozen=True)
class Arrived:
    instance: Instance
    keywords: frozenset[str]


@dataclass(frozen=True)
class KeywordAdded:
    instance: Instance
    keyword: str


@dataclass(frozen=True)
class KeywordRemoved:
    instance: Instance
    keyword: str


@dataclass(frozen=True)
class Left:
    instance: Instance
    moved_to: Instance | None = None


Effect = Created | Renamed | Deleted | Arrived | KeywordAdded | KeywordRemoved | Left


@dataclass(frozen=True)
class Change:
    id: ChangeId
    origin: str
    seen: frozenset[ChangeId]
    effects: tuple[Effect, ...]


_KeywordChanges = dict[Instance, dict[str, list[Change]]]


class UndeterminedError(ValueError):
    """The command's effect depends on which of two conflicting names won, which the semantics leave open."""


def unseen(changes: Iterable[Change], by: Iterable[Change]) -> list[Change]:
    """The changes that none of `by` had seen: whatever survives, survives by this."""
    judges = list(by)
    return [change for change in changes if not any(change.id in judge.seen for judge in judges)]


class Knowledge:
    """Everything that follows from having seen exactly these changes, in whatever order."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._keeps_alive: dict[Mailbox, list[Change]] = defaultdict(list)
        self._deletes: dict[Mailbox, list[Change]] = defaultdict(list)
        self._named: dict[Mailbox, list[tuple[Change, str]]] = defaultdict(list)
        self._vacated: list[tuple[Mailbox, frozenset[str]]] = []
        self._arrived: dict[Instance, Change] = {}
        self._left: set[Instance] = set()
        self._keyword_adds: _KeywordChanges = defaultdict(lambda: defaultdict(list))
        self._keyword_removes: _KeywordChanges = defaultdict(lambda: defaultdict(list))
        for change in changes:
            for effect in change.effects:
                self._learn(change, effect)
        self.mailboxes = {
            mailbox: self._names(mailbox)
            for mailbox, reasons in self._keeps_alive.items()
            if unseen(reasons, by=self._deletes[mailbox])
        }
        self._living: dict[Mailbox, dict[str, list[Instance]]] = defaultdict(lambda: defaultdict(list))
        for instance in self._arrived:
            if self.lives(instance):
                self._living[instance.mailbox][instance.message].append(instance)

    def _learn(self, change: Change, effect: Effect) -> None:
        match effect:
            case Created(mailbox):
                self._keeps_alive[mailbox].append(change)
                self._named[mailbox].append((change, mailbox.name))
            case Renamed(mailbox, to, vacated):
                self._named[mailbox].append((change, to))
                self._vacated.append((mailbox, vacated))
            case Deleted(mailbox, vacated):
                self._deletes[mailbox].append(change)
                self._vacated.append((mailbox, vacated))
            case Arrived(instance, keywords):
                self._keeps_alive[instance.mailbox].append(change)
                self._arrived[instance] = change
                for keyword in keywords:
                    self._keyword_adds[instance][keyword].append(change)
            case KeywordAdded(instance, keyword):
                self._keyword_adds[instance][keyword].append(change)
            case KeywordRemoved(instance, keyword):
                self._keyword_removes[instance][keyword].append(change)
            case Left(instance):
                self._left.add(instance)

    def _names(self, mailbox: Mailbox) -> frozenset[str]:
        """The names that no later naming has replaced; several after conflicting renames."""
        named = self._named[mailbox]
        last = unseen((change for change, _ in named), by=(change for change, _ in named))
        return frozenset(name for change, name in named if change in last)

    def lives(self, instance: Instance) -> bool:
        if instance not in self._arrived or instance in self._left:
            return False
        return bool(unseen([self._arrived[instance]], by=self._deletes[instance.mailbox]))

    def messages(self, mailbox: Mailbox) -> dict[str, frozenset[str]]:
        return {message: self.keywords(mailbox, message) for message in self._living[mailbox]}

    def instances(self, mailbox: Mailbox, message: str) -> list[Instance]:
        return list(self._living[mailbox][message]) if message in self._living[mailbox] else []

    def keywords(self, mailbox: Mailbox, message: str) -> frozenset[str]:
        instances = self.instances(mailbox, message)
        shown = {keyword for instance in instances for keyword in self.surviving_adds(instance)}
        if any(self.surviving_undeletes(instance) for instance in instances):
            shown.discard(DELETED)
        return frozenset(shown)

    def surviving_adds(self, instance: Instance) -> dict[str, list[Change]]:
        """Add wins: a removal takes away only the adds that it had seen."""
        adds = {
            keyword: unseen(adds, by=self._keyword_removes[instance][keyword])
            for keyword, adds in self._keyword_adds[instance].items()
        }
        return {keyword: survivors for keyword, survivors in adds.items() if survivors}

    def surviving_undeletes(self, instance: Instance) -> list[Change]:
        """The un-deletes that no `+$deleted` on this instance had seen."""
        return unseen(self._keyword_removes[instance][DELETED], by=self._keyword_adds[instance][DELETED])

    def is_taken(self, name: str, apart_from: Mailbox | None = None) -> bool | None:
        """Whether another living mailbox shows the name; None where that depends on who won a conflict.

        Of several mailboxes with the same name one shows it without a suffix, so which one does not matter.
        """
        others = [names for mailbox, names in self.mailboxes.items() if mailbox != apart_from]
        if frozenset({name}) in others:
            return True
        return None if any(name in names for names in others) else False

    def generation(self, name: str) -> int | None:
        """How many mailboxes have vacated the name; None where that depends on who won a conflict."""
        certainly = {mailbox for mailbox, vacated in self._vacated if vacated == {name}}
        possibly = {mailbox for mailbox, vacated in self._vacated if name in vacated}
        return len(certainly) if certainly == possibly else None


@dataclass(frozen=True)
class Permitted:
    """A living mailbox as the semantics have it: any of these names, exactly these messages."""

    names: frozenset[str]
    messages: Mapping[str, frozenset[str]]


PermittedView = Mapping[Mailbox, Permitted]


class Reference:
    """A `World` made of nothing but histories. Replicas come into being when first mentioned."""

    def __init__(self) -> None:
        self._history: list[Change] = []
        self._orders: dict[str, list[Change]] = defaultdict(list)
        self._seen: dict[str, frozenset[ChangeId]] = defaultdict(frozenset)
        self._known: dict[frozenset[ChangeId], Knowledge] = {}

    def do(self, replica: str, command: Command) -> None:
        if not self.is_determined(replica, command):
            raise UndeterminedError(f"{command} at {replica}")
        effects = self._effects(replica, command)
        if effects:
            self._record(replica, effects)

    def deliver(self, source: str, target: str, at_most: int | None = None) -> None:
        lacking = [change for change in self._orders[source] if change.id not in self._seen[target]]
        for change in lacking[:at_most]:
            follow_up = self._follow_up(target, change)
            self._apply(target, change)
            if follow_up:
                self._record(target, follow_up)

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
        known = self.knowledge(replica)
        return {
            mailbox: Permitted(names, known.messages(mailbox)) for mailbox, names in known.mailboxes.items()
        }

    def is_determined(self, replica: str, command: Command) -> bool:
        """Whether the semantics say what the command does here. They do not where it matters which of
        two conflicting names a mailbox shows, or showed when it gave that name up."""
        known = self.knowledge(replica)
        match command:
            case Create(name):
                taken = known.is_taken(name)
                return taken is True or (taken is False and known.generation(name) is not None)
            case Rename(mailbox, to) if mailbox in known.mailboxes:
                taken = known.is_taken(to, apart_from=mailbox)
                names = known.mailboxes[mailbox]
                return taken is True or names == {to} or (taken is False and to not in names)
        return True

    def changes(self, replica: str) -> tuple[Change, ...]:
        """What the replica has seen, in its order."""
        return tuple(self._orders[replica])

    def knowledge(self, replica: str) -> Knowledge:
        seen = self._seen[replica]
        if seen not in self._known:
            self._known[seen] = Knowledge(self._history[change_id] for change_id in sorted(seen))
        return self._known[seen]

    def _next_id(self) -> ChangeId:
        return ChangeId(len(self._history))

    def _record(self, replica: str, effects: tuple[Effect, ...]) -> None:
        change = Change(self._next_id(), replica, self._seen[replica], effects)
        self._history.append(change)
        self._apply(replica, change)

    def _apply(self, replica: str, change: Change) -> None:
        assert change.seen <= self._seen[replica], "a change came before one that it had seen"
        self._orders[replica].append(change)
        self._seen[replica] |= {change.id}

    def _effects(self, replica: str, command: Command) -> tuple[Effect, ...]:
        """What the command changes, as its origin sees things now; nothing where it does not apply."""
        known = self.knowledge(replica)
        match command:
            case Create(name):
                generation = known.generation(name)
                if known.is_taken(name) or generation is None:
                    return ()
                return (Created(Mailbox(name, generation)),)
            case Rename(mailbox, to):
                names = known.mailboxes.get(mailbox)
                if names is None or names == {to} or known.is_taken(to, apart_from=mailbox):
                    return ()
                return (Renamed(mailbox, to, vacated=names),)
            case Delete(mailbox):
                names = known.mailboxes.get(mailbox)
                return () if names is None else (Deleted(mailbox, vacated=names),)
            case Add(mailbox, message, keywords):
                if mailbox not in known.mailboxes:
                    return ()
                return (Arrived(Instance(self._next_id(), mailbox, message), keywords),)
            case Keywords():
                return tuple(self._keyword_effects(known, command))
            case Expunge(mailbox, messages):
                return tuple(
                    Left(instance)
                    for message in dict.fromkeys(messages)
                    for instance in known.instances(mailbox, message)
                )
            case ExpungeDeleted(mailbox):
                shown = known.messages(mailbox)
                marked = tuple(message for message in shown if DELETED in shown[message])
                return self._effects(replica, Expunge(mailbox, marked))
            case Move(source, target, messages):
                return tuple(self._transfer(known, source, target, messages, leave=True))
            case Copy(source, target, messages):
                return tuple(self._transfer(known, source, target, messages, leave=False))

    def _keyword_effects(self, known: Knowledge, command: Keywords) -> Iterable[Effect]:
        for message in dict.fromkeys(command.messages):
            shown = known.keywords(command.mailbox, message)
            for instance in known.instances(command.mailbox, message):
                for keyword in sorted(command.add):
                    yield KeywordAdded(instance, keyword)
                for keyword in sorted(command.remove):
                    if keyword in shown or keyword == DELETED:
                        yield KeywordRemoved(instance, keyword)

    def _transfer(
        self, known: Knowledge, source: Mailbox, target: Mailbox, messages: tuple[str, ...], leave: bool
    ) -> Iterable[Effect]:
        if source == target or target not in known.mailboxes:
            return
        for message in dict.fromkeys(messages):
            instances = known.instances(source, message)
            if not instances:
                continue
            arrival = Instance(self._next_id(), target, message)
            yield Arrived(arrival, known.keywords(source, message))
            if leave:
                for instance in instances:
                    yield Left(instance, moved_to=arrival)

    def _follow_up(self, replica: str, change: Change) -> tuple[Effect, ...]:
        """What the replica must say again because the move just arriving takes its own edits away.

        Each edit has exactly one origin, so each is said again once.
        """
        known = self.knowledge(replica)
        added: set[tuple[Instance, str]] = set()
        undeleted: set[Instance] = set()

        def is_lost(edit: Change) -> bool:
            return edit.origin == replica and edit.id not in change.seen

        for effect in change.effects:
            if not isinstance(effect, Left) or effect.moved_to is None or not known.lives(effect.instance):
                continue
            for keyword, edits in known.surviving_adds(effect.instance).items():
                if any(is_lost(edit) for edit in edits):
                    added.add((effect.moved_to, keyword))
            if any(is_lost(edit) for edit in known.surviving_undeletes(effect.instance)):
                undeleted.add(effect.moved_to)
        # Un-delete beats delete here too, should two instances of one message disagree.
        added -= {(instance, DELETED) for instance in undeleted}
        return (
            *(KeywordAdded(instance, keyword) for instance, keyword in sorted(added)),
            *(KeywordRemoved(instance, DELETED) for instance in sorted(undeleted)),
        )


@dataclass(frozen=True)
class Agreement:
    """True when nothing differs; otherwise says in words what does."""

    differences: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        return "\n".join(self.differences) or "no difference"


def agrees(reference_view: PermittedView, real_view: View) -> Agreement:
    """Whether the real view is one that the reference permits."""
    return Agreement(tuple(_differences(reference_view, real_view)))


def _differences(reference_view: PermittedView, real_view: View) -> Iterable[str]:
    for mailbox in sorted(reference_view.keys() - real_view.keys()):
        names = " or ".join(sorted(reference_view[mailbox].names))
        yield f"{mailbox} is missing; it should live, named {names}"
    for mailbox in sorted(real_view.keys() - reference_view.keys()):
        yield f"{mailbox} should not live, but is shown as {real_view[mailbox].name!r}"
    for mailbox in sorted(reference_view.keys() & real_view.keys()):
        yield from _name_differences(mailbox, reference_view[mailbox].names, real_view)
        expected, real = reference_view[mailbox].messages, real_view[mailbox].messages
        yield from _message_differences(mailbox, expected, real)


def _name_differences(mailbox: Mailbox, names: frozenset[str], real_view: View) -> Iterable[str]:
    name = real_view[mailbox].name
    others = {shown.name: other for other, shown in real_view.items() if other != mailbox}
    if name in others:
        yield f"{mailbox} and {others[name]} are both shown as {name!r}"
    if name in names:
        return
    bases = sorted(base for base in names if name.startswith(base))
    if not bases:
        yield f"{mailbox} is shown as {name!r} instead of {' or '.join(sorted(names))}"
    elif not any(base in others for base in bases):
        yield f"{mailbox} is shown as {name!r} although no other mailbox is shown as {' or '.join(bases)}"


def _message_differences(
    mailbox: Mailbox, expected: Mapping[str, frozenset[str]], real: Mapping[str, frozenset[str]]
) -> Iterable[str]:
    for message in sorted(expected.keys() - real.keys()):
        yield f"{message} is missing from {mailbox}"
    for message in sorted(real.keys() - expected.keys()):
        yield f"{message} should not be in {mailbox}"
    for message in sorted(expected.keys() & real.keys()):
        if expected[message] != real[message]:
            shown, wanted = (" ".join(sorted(keywords)) for keywords in (real[message], expected[message]))
            yield f"{message} in {mailbox} shows [{shown}] instead of [{wanted}]"
