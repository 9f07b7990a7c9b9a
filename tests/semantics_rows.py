"""Reads the tables of `docs/semantics.md` and executes their rows against any `World`.

Owns the small language of the cells. It must never hold an expectation of its own: what ought to come
out is written in the tables and nowhere else.

    state     `INBOX: m1 [$seen], m2`   `Work: empty`   `no Work`   `Work or Play: m1`
              `Work or Work+suffix: m1` (the name, or the name with something behind it)
    command   `create Work`   `rename Work to Play`   `delete Work`
              `add m1 to INBOX [$seen]`   `keywords m1 m2 in INBOX +$seen -$flagged`
              `expunge m1 in INBOX`   `expunge $deleted in INBOX`
              `move m1 INBOX → Archive`   `copy m1 m2 INBOX → Archive`

A state lists every living mailbox. A command finds its mailbox by the name shown on its master.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from simulations.commands import (
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
    describe,
)
from tests.worlds import World, settle

SEMANTICS = Path(__file__).parent.parent / "docs" / "semantics.md"

MASTERS = ("mx1", "mx2", "mx3")
RELAY = "relay"  # Passes changes on and makes none of its own: no row writes there.
REPLICAS = (*MASTERS, RELAY)

TITLE, BEFORE, THEN, RESULT = "what", "before", "then, on any one", "result on all"
ON_MASTERS = ("on one master", "at the same time on another", "and on a third")


class RowError(ValueError):
    """A row that cannot be read, or a command in it that does not apply where the row gives it."""


# What a cell says.


@dataclass(frozen=True)
class Name:
    """`Work`, `Work or Play`, `Work or Work+suffix`: the names that a mailbox may show."""

    plain: frozenset[str]
    suffixed: frozenset[str]

    def allows(self, shown: str) -> bool:
        has_suffix = any(shown.startswith(base) and shown != base for base in self.suffixed)
        return shown in self.plain or has_suffix

    def find(self, view: View) -> Mailbox:
        found = [mailbox for mailbox, shown in view.items() if self.allows(shown.name)]
        if len(found) != 1:
            raise RowError(f"a command's mailbox name fits {len(found)} mailboxes of: {describe(view)}")
        return found[0]

    def single(self) -> str:
        if len(self.plain) != 1 or self.suffixed:
            raise RowError("exactly one name is needed here")
        return min(self.plain)


@dataclass(frozen=True)
class ListedMailbox:
    name: Name
    messages: Mapping[str, frozenset[str]]

    def fits(self, shown: Shown) -> bool:
        return self.name.allows(shown.name) and self.messages == shown.messages


@dataclass(frozen=True)
class State:
    listed: tuple[ListedMailbox, ...]
    absent: tuple[Name, ...]

    def problems(self, view: View) -> Iterator[str]:
        mailboxes = list(view.values())
        names = [shown.name for shown in mailboxes]
        is_as_listed = len(mailboxes) == len(self.listed) and any(
            all(listed.fits(shown) for listed, shown in zip(self.listed, order, strict=True))
            for order in permutations(mailboxes)
        )
        if not is_as_listed or any(name.allows(shown) for name in self.absent for shown in names):
            yield f"shows {describe(view)}"
        if len(set(names)) < len(names):
            yield f"shows two mailboxes with one name: {describe(view)}"
        for base in {base for listed in self.listed for base in listed.name.suffixed} - set(names):
            yield f"shows {base} with a suffix, but nothing that it would conflict with: {describe(view)}"

    def commands(self) -> Iterator[Command]:
        """How to bring this state about from nothing."""
        for listed in self.listed:
            mailbox = Mailbox(listed.name.single())
            yield Create(mailbox.name)
            for message, keywords in listed.messages.items():
                yield Add(mailbox, message, keywords)


@dataclass(frozen=True)
class Instruction:
    """A command whose mailboxes are still names; the view of its master tells which they are."""

    text: str
    command: Callable[[View], Command]


@dataclass(frozen=True)
class Row:
    line: int
    title: str
    before: State
    masters: tuple[tuple[Instruction, ...], ...]  # What is done, per master, at the same time.
    then: tuple[Instruction, ...]
    result: State
    text: str

    @property
    def said(self) -> tuple[str, ...]:
        """The commands of each master, as written."""
        return tuple("; ".join(instruction.text for instruction in column) for column in self.masters)


# Reading.


def read_rows(path: Path = SEMANTICS) -> list[Row]:
    """All rows of all tables that have a result column; any that cannot be read raises `RowError`."""
    rows = []
    columns: list[str] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if columns is None:
            columns = cells
        elif RESULT in columns and not all(re.fullmatch(":?-+:?", cell) for cell in cells):
            rows.append(_read_row(number, line, columns, cells))
    return rows


def _read_row(number: int, line: str, columns: list[str], cells: list[str]) -> Row:
    unknown = set(columns) - {TITLE, BEFORE, THEN, RESULT, *ON_MASTERS}
    if unknown or len(cells) != len(columns):
        raise RowError(f"line {number}: {len(cells)} cells for the columns {columns}; unknown: {unknown}")
    cell = dict(zip(columns, cells, strict=True))
    try:
        row = Row(
            line=number,
            title=cell[TITLE],
            before=_read_state(cell[BEFORE]),
            masters=tuple(_read_commands(cell[column]) for column in ON_MASTERS if column in cell),
            then=_read_commands(cell[THEN]) if THEN in cell else (),
            result=_read_state(cell[RESULT]),
            text=line,
        )
    except (RowError, KeyError) as error:
        raise RowError(f"line {number}: {error}: {line}") from error
    if not row.title or not all(row.masters) or (THEN in cell and not row.then):
        raise RowError(f"line {number}: an empty cell: {line}")
    return row


def _phrases(cell: str) -> list[str]:
    """What stands in backticks. Around it only the words that join it may stand, so nothing is overlooked."""
    joints = re.sub("`[^`]*`", "", cell)
    if not re.fullmatch(r"(?:[\s,;]|then|and)*", joints):
        raise RowError(f"cannot execute {joints.strip()!r}")
    return re.findall("`([^`]*)`", cell)


def _read_state(cell: str) -> State:
    listed, absent = [], []
    for phrase in _phrases(cell):
        if found := re.fullmatch("no (.+)", phrase):
            name = _read_name(found[1])
            absent.append(Name(name.plain, name.suffixed | name.plain))
        elif found := re.fullmatch("([^:]+): (.+)", phrase):
            listed.append(ListedMailbox(_read_name(found[1]), _read_messages(found[2])))
        else:
            raise RowError(f"not a state: {phrase!r}")
    if not listed and not absent:
        raise RowError("a state that says nothing")
    return State(tuple(listed), tuple(absent))


def _read_messages(text: str) -> dict[str, frozenset[str]]:
    messages = {}
    for item in [] if text == "empty" else text.split(", "):
        found = re.fullmatch(r"(\w+)(?: (\[.+\]))?", item)
        if not found or found[1] in messages:
            raise RowError(f"not a message with its keywords: {item!r}")
        messages[found[1]] = _read_keywords(found[2])
    return messages


def _read_keywords(text: str | None) -> frozenset[str]:
    keywords = text.strip("[]").split() if text else []
    if not all(re.fullmatch(r"\$?\w+", keyword) for keyword in keywords):
        raise RowError(f"not keywords: {text!r}")
    return frozenset(keywords)


def _read_name(text: str) -> Name:
    options = text.split(" or ")
    if not all(re.fullmatch(r"\w+(?:\+suffix)?", option) for option in options):
        raise RowError(f"not a mailbox name: {text!r}")
    suffixed = frozenset(option.removesuffix("+suffix") for option in options if option.endswith("+suffix"))
    return Name(frozenset(option for option in options if not option.endswith("+suffix")), suffixed)


def _read_commands(cell: str) -> tuple[Instruction, ...]:
    return tuple(Instruction(phrase, _read_command(phrase)) for phrase in _phrases(cell))


def _read_command(phrase: str) -> Callable[[View], Command]:
    for pattern, read in _COMMANDS.items():
        if found := re.fullmatch(pattern, phrase):
            return read(*found.groups())
    raise RowError(f"not a command: {phrase!r}")


def _create(name: str) -> Callable[[View], Command]:
    created = _read_name(name).single()
    return lambda view: Create(created)


def _rename(name: str, to: str) -> Callable[[View], Command]:
    mailbox, new_name = _read_name(name), _read_name(to).single()
    return lambda view: Rename(mailbox.find(view), new_name)


def _delete(name: str) -> Callable[[View], Command]:
    mailbox = _read_name(name)
    return lambda view: Delete(mailbox.find(view))


def _add(message: str, name: str, keywords: str | None) -> Callable[[View], Command]:
    mailbox, initial = _read_name(name), _read_keywords(keywords)
    return lambda view: Add(mailbox.find(view), message, initial)


def _keywords(messages: str, name: str, changes: str) -> Callable[[View], Command]:
    mailbox = _read_name(name)
    added, removed = (
        frozenset(change[1:] for change in changes.split() if change[0] == sign) for sign in "+-"
    )
    return lambda view: Keywords(mailbox.find(view), _present(messages, mailbox, view), added, removed)


def _expunge(messages: str, name: str) -> Callable[[View], Command]:
    mailbox = _read_name(name)
    return lambda view: Expunge(mailbox.find(view), _present(messages, mailbox, view))


def _expunge_deleted(name: str) -> Callable[[View], Command]:
    mailbox = _read_name(name)
    return lambda view: ExpungeDeleted(mailbox.find(view))


def _move(messages: str, source_name: str, target_name: str) -> Callable[[View], Command]:
    source, target = _read_name(source_name), _read_name(target_name)
    return lambda view: Move(source.find(view), target.find(view), _present(messages, source, view))


def _copy(messages: str, source_name: str, target_name: str) -> Callable[[View], Command]:
    source, target = _read_name(source_name), _read_name(target_name)
    return lambda view: Copy(source.find(view), target.find(view), _present(messages, source, view))


def _present(messages: str, mailbox: Name, view: View) -> tuple[str, ...]:
    named = tuple(messages.split())
    absent = set(named) - set(view[mailbox.find(view)].messages)
    if absent:
        raise RowError(f"{sorted(absent)} not in the mailbox of the command: {describe(view)}")
    return named


_NAME = r"(\S+(?: or \S+)*)"
_MESSAGES = r"(\w+(?: \w+)*)"
_COMMANDS: Mapping[str, Callable[..., Callable[[View], Command]]] = {
    r"create (\w+)": _create,
    rf"rename {_NAME} to (\w+)": _rename,
    rf"delete {_NAME}": _delete,
    rf"add (\w+) to {_NAME}(?: (\[.+\]))?": _add,
    rf"keywords {_MESSAGES} in {_NAME}((?: [+-]\$?\w+)+)": _keywords,
    rf"expunge {_MESSAGES} in {_NAME}": _expunge,
    rf"expunge \$deleted in {_NAME}": _expunge_deleted,
    rf"move {_MESSAGES} (\S+) → {_NAME}": _move,
    rf"copy {_MESSAGES} (\S+) → {_NAME}": _copy,
}


# Executing.


@dataclass(frozen=True)
class Exchange:
    """A way in which the masters' changes reach each other; `order` says whose go first."""

    title: str
    order: tuple[str, ...]
    deliver: Callable[[World, Sequence[str]], None]

    def __str__(self) -> str:
        return f"{self.title}, {' before '.join(self.order)}"


def _directly(world: World, order: Sequence[str]) -> None:
    for source in order:
        for target in order:
            world.deliver(source, target)


def _through_a_relay(world: World, order: Sequence[str]) -> None:
    for source in order:
        world.deliver(source, RELAY)
    for target in order:
        world.deliver(RELAY, target)


def _step_by_step(world: World, order: Sequence[str]) -> None:
    """One change a time, round and round; no row makes more changes than there are rounds."""
    for _ in range(12):
        for source in order:
            for target in order:
                world.deliver(source, target, at_most=1)


def _step_by_step_through_a_relay(world: World, order: Sequence[str]) -> None:
    """The first master hears of each change before the next one reaches the relay, the others later."""
    for _ in range(12):
        for master in order:
            world.deliver(master, RELAY, at_most=1)
            world.deliver(RELAY, order[0], at_most=1)
        for master in order[1:]:
            world.deliver(RELAY, master, at_most=1)


def exchanges(masters: Sequence[str]) -> list[Exchange]:
    """Every order of the masters, directly and through a relay, at once and step by step."""
    ways = {
        "directly": _directly,
        "through a relay": _through_a_relay,
        "step by step": _step_by_step,
        "step by step through a relay": _step_by_step_through_a_relay,
    }
    return [Exchange(title, order, way) for title, way in ways.items() for order in permutations(masters)]


def problems(row: Row, make_world: Callable[[], World]) -> list[str]:
    """What goes wrong with the row, in words: under every exchange, with the masters in both roles.

    The world must know the replicas named in `REPLICAS`.
    """
    masters = MASTERS[: len(row.masters)]
    found = []
    for roles in (masters, masters[::-1]):
        for exchange in exchanges(masters):
            world = make_world()
            _perform(row, world, roles, exchange)
            for replica in (*masters, RELAY):
                for problem in row.result.problems(world.view(replica)):
                    found.append(f"{exchange}, the columns on {', '.join(roles)}: {replica} {problem}")
    return found


def _perform(row: Row, world: World, roles: Sequence[str], exchange: Exchange) -> None:
    replicas = (*roles, RELAY)
    for command in row.before.commands():
        world.do(roles[0], command)
    settle(world, replicas)
    for master, instructions in zip(roles, row.masters, strict=True):
        _instruct(world, master, instructions)
    exchange.deliver(world, exchange.order)
    settle(world, replicas)
    _instruct(world, exchange.order[0], row.then)
    settle(world, replicas)


def _instruct(world: World, master: str, instructions: Sequence[Instruction]) -> None:
    for instruction in instructions:
        try:
            command = instruction.command(world.view(master))
        except RowError as error:
            raise RowError(f"{instruction.text!r} on {master}: {error}") from error
        world.do(master, command)
