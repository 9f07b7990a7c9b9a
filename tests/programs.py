"""Random programs for a `World`: what is done where, and what is delivered when.

Owns the choice of programs, not their judgement. Few replicas, mailboxes, messages and keywords, so that
conflicts are the rule. Every program is one whose outcome the semantics determine: commands whose effect
would depend on which of two conflicting names won are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

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
from simulations.permitted import PermittedView
from tests.reference_world import Reference
from tests.worlds import World

REPLICAS = ("mx1", "mx2", "mx3", "mx4")
NAMES = ("Work", "Play", "Taxes", "Attic")  # None begins another: it would look like a suffix.
MESSAGES = ("m1", "m2", "m3")
KEYWORDS = (DELETED, "$seen", "$flagged")


@dataclass(frozen=True)
class Do:
    replica: str
    command: Command

    def run(self, world: World) -> None:
        world.do(self.replica, self.command)


@dataclass(frozen=True)
class Deliver:
    source: str
    target: str
    at_most: int | None = None

    def run(self, world: World) -> None:
        world.deliver(self.source, self.target, self.at_most)


Step = Do | Deliver


@dataclass(frozen=True)
class Program:
    replicas: tuple[str, ...]
    steps: tuple[Step, ...]

    def run(self, world: World) -> None:
        for step in self.steps:
            step.run(world)


def _common_past(replicas: tuple[str, ...]) -> list[Step]:
    """Two mailboxes and a message that everybody knows: without them most conflicts need many steps."""
    first, *others = replicas
    work, play = Mailbox("Work"), Mailbox("Play")
    flagged = Add(work, "m1", frozenset({"$flagged"}))
    commands = (Create(work.name), Create(play.name), flagged)
    return [*(Do(first, command) for command in commands), *(Deliver(first, other) for other in others)]


def _some_keywords() -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(KEYWORDS), max_size=2)


def _signs() -> st.SearchStrategy[dict[str, bool]]:
    return st.dictionaries(st.sampled_from(KEYWORDS), st.booleans(), min_size=1, max_size=2)


# Keyword changes and moves stand more than once: they have the most to say to each other.
_ON_MESSAGES = (Keywords, Move, Keywords, Add, Move, Expunge, Keywords, Copy, ExpungeDeleted)
_ON_MAILBOXES = (Create, Rename, Delete)


def _draw_command(
    draw: st.DrawFn, here: PermittedView, ever_seen: list[Mailbox], without: type[Command] | None
) -> Command:
    """A command that probably applies here: most name what this replica shows, some what it does not."""
    if not ever_seen:
        return Create(draw(st.sampled_from(NAMES)))
    mailboxes = sorted(here) * 4 + ever_seen
    if draw(st.integers(0, 3)) == 0:
        return _draw_mailbox_command(draw, mailboxes)
    kind = draw(st.sampled_from([kind for kind in _ON_MESSAGES if kind is not without]))
    if kind is Add:
        message = draw(st.sampled_from(MESSAGES))
        return Add(draw(st.sampled_from(mailboxes)), message, draw(_some_keywords()))
    filled = [mailbox for mailbox in sorted(here) if here[mailbox].messages]
    mailbox = draw(st.sampled_from(filled * 4 + ever_seen))
    if kind is ExpungeDeleted:
        return ExpungeDeleted(mailbox)
    shown = sorted(here[mailbox].messages) if mailbox in here else []
    some_messages = st.sampled_from([*shown * 4, *MESSAGES])
    messages = tuple(draw(st.lists(some_messages, min_size=1, max_size=2, unique=True)))
    if kind is Expunge:
        return Expunge(mailbox, messages)
    if kind is Keywords:
        signs = draw(_signs())
        added = frozenset(keyword for keyword, is_added in signs.items() if is_added)
        return Keywords(mailbox, messages, added, frozenset(signs) - added)
    others = [other for other in mailboxes if other != mailbox]
    target = draw(st.sampled_from([*others * 4, mailbox]))
    return Move(mailbox, target, messages) if kind is Move else Copy(mailbox, target, messages)


def _draw_mailbox_command(draw: st.DrawFn, mailboxes: list[Mailbox]) -> Command:
    kind, name = draw(st.sampled_from(_ON_MAILBOXES)), draw(st.sampled_from(NAMES))
    if kind is Create:
        return Create(name)
    mailbox = draw(st.sampled_from(mailboxes))
    return Rename(mailbox, name) if kind is Rename else Delete(mailbox)


def _draw_delivery(draw: st.DrawFn, replicas: tuple[str, ...], *, whole: bool) -> Deliver:
    source, target = draw(st.lists(st.sampled_from(replicas), min_size=2, max_size=2, unique=True))
    return Deliver(source, target, None if whole else draw(st.one_of(st.none(), st.integers(1, 3))))


def _draw_step(
    draw: st.DrawFn,
    replicas: tuple[str, ...],
    reference: Reference,
    ever_seen: set[Mailbox],
    without: type[Command] | None,
    *,
    whole: bool,
) -> Step:
    if draw(st.integers(0, 2)) == 0:
        return _draw_delivery(draw, replicas, whole=whole)
    replica = draw(st.sampled_from(replicas))
    here = reference.permitted(replica)
    ever_seen.update(here)
    return Do(replica, _draw_command(draw, here, sorted(ever_seen), without))


@st.composite
def programs(
    draw: st.DrawFn,
    max_replicas: int = 4,
    max_steps: int = 40,
    without: type[Command] | None = None,
    *,
    whole: bool = False,
) -> Program:
    """Programs for two or more replicas; `max_steps` counts commands and deliveries; `without` a command on
    messages; `whole` delivers all that there is each time, as a snapshot does.

    A reference model runs along, so that commands name what exists.
    """
    replicas = REPLICAS[: draw(st.integers(2, max_replicas))]
    reference = Reference()
    steps = _common_past(replicas) if draw(st.integers(0, 4)) else []
    for step in steps:
        step.run(reference)
    ever_seen: set[Mailbox] = set()
    for _ in range(draw(st.integers(1, max_steps))):
        step = _draw_step(draw, replicas, reference, ever_seen, without, whole=whole)
        if isinstance(step, Do) and not reference.is_determined(step.replica, step.command):
            continue
        step.run(reference)
        steps.append(step)
    return Program(replicas, tuple(steps))
