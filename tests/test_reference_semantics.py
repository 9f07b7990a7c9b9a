"""Holds the table of `docs/semantics.md` and the reference model against each other.

The table says what operators are promised; the reference says the same as a program. The design's own
rows are named here so that none can quietly leave the table; their results stand in the table alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from simulations.changes import Arrived, Change, Deleted
from simulations.commands import (
    DELETED,
    Add,
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
from simulations.past import numbers
from simulations.permitted import Permitted, PermittedView, agrees
from simulations.reference import UndeterminedError
from tests.programs import Deliver, Do, Program, programs
from tests.reference_world import Reference
from tests.semantics_rows import Row, RowError, problems, read_rows
from tests.worlds import settle

ROWS = read_rows()

DESIGN_ROWS = [
    ("keywords m1 in INBOX +$answered", "keywords m1 in INBOX +$seen -$flagged"),
    ("keywords m1 in INBOX +$flagged", "keywords m1 in INBOX -$flagged"),
    ("keywords m1 in INBOX +$deleted", "keywords m1 in INBOX -$deleted"),
    ("expunge m1 in INBOX", "keywords m1 in INBOX +$flagged"),
    ("expunge m1 in INBOX", "add m1 to INBOX [$seen]"),
    ("expunge m1 in INBOX", "move m1 Archive → INBOX"),
    ("expunge $deleted in INBOX", "keywords m2 in INBOX +$deleted"),
    ("move m1 INBOX → Archive", "move m1 INBOX → Work"),
    ("move m1 INBOX → Archive", "move m1 INBOX → Archive"),
    ("move m1 INBOX → Archive", "keywords m1 in INBOX +$flagged"),
    ("delete Work", "add m2 to Work"),
    ("delete Work", "keywords m1 in Work +$flagged"),
    ("delete Work", "expunge m1 in Work"),
    ("rename Work to Play", "add m2 to Work"),
    ("rename Work to Play", "rename Work to Taxes"),
    ("create Work", "create Work"),
    ("create Work", "rename Play to Work"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line {row.line}")
def test_the_reference_does_what_the_row_says(row: Row) -> None:
    found = problems(row, Reference)
    assert not found, "\n".join([row.text, *found])


@pytest.mark.parametrize("said", DESIGN_ROWS, ids=" and ".join)
def test_no_row_of_the_design_is_missing(said: tuple[str, ...]) -> None:
    assert said in [row.said for row in ROWS]


def test_no_row_stands_twice() -> None:
    keys = [(row.before, row.said, [instruction.text for instruction in row.then]) for row in ROWS]
    assert all(key not in keys[:position] for position, key in enumerate(keys))


@pytest.mark.parametrize(
    "cells",
    [
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | `expunge m1` | `INBOX: empty` |",
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | expunge m1 in INBOX | `INBOX: empty` |",
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | `expunge m1 in INBOX` | `INBOX is empty` |",
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | `expunge m1 in INBOX` | |",
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | | `INBOX: empty` |",
        "| row | `INBOX: m1` | `expunge m1 in INBOX` | `INBOX: empty` |",
    ],
)
def test_a_row_that_cannot_be_read_is_refused(tmp_path: Path, cells: str) -> None:
    table = tmp_path / "semantics.md"
    head = "| what | before | on one master | at the same time on another | result on all |"
    table.write_text(f"{head}\n|---|---|---|---|---|\n{cells}\n", encoding="utf-8")
    with pytest.raises(RowError):
        read_rows(table)


def test_a_row_whose_command_does_not_apply_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "semantics.md"
    table.write_text(
        "| what | before | on one master | result on all |\n|---|---|---|---|\n"
        "| row | `INBOX: m1` | `expunge m2 in INBOX` | `INBOX: m1` |\n",
        encoding="utf-8",
    )
    [row] = read_rows(table)
    with pytest.raises(RowError):
        problems(row, Reference)


# The reference itself.


def run(program: Program) -> Reference:
    reference = Reference()
    program.run(reference)
    return reference


@given(programs())
def test_after_everything_is_delivered_all_replicas_permit_the_same(program: Program) -> None:
    reference = run(program)
    settle(reference, program.replicas)
    first, *others = program.replicas
    for other in others:
        assert reference.seen(other) == reference.seen(first)
        assert reference.permitted(other) == reference.permitted(first)


@given(programs())
def test_replicas_that_have_seen_the_same_permit_the_same(program: Program) -> None:
    reference = Reference()
    permitted: dict[int, object] = {}
    for step in program.steps:
        step.run(reference)
        for replica in program.replicas:
            now = reference.permitted(replica)
            assert permitted.setdefault(reference.seen(replica), now) == now


@given(programs())
def test_every_replica_sees_a_change_after_those_that_it_had_seen(program: Program) -> None:
    reference = run(program)
    for replica in program.replicas:
        seen: set[int] = set()
        for number, change in zip(reference.order(replica), reference.changes(replica), strict=True):
            assert set(numbers(change.seen)) <= seen
            seen.add(number)


@given(programs())
def test_the_reference_agrees_with_itself(program: Program) -> None:
    reference = run(program)
    for replica in program.replicas:
        assert agrees(reference.permitted(replica), reference.view(replica))


@given(programs())
def test_no_message_is_lost_that_nobody_took_away(program: Program) -> None:
    """Without expunges and deletes, every message that arrived anywhere is somewhere in the end."""
    reference = Reference()
    for step in program.steps:
        if isinstance(step, Do) and isinstance(step.command, Expunge | ExpungeDeleted | Delete):
            continue
        # Leaving steps out can make the outcome of a later one depend on a conflict.
        with suppress(UndeterminedError):
            step.run(reference)
    settle(reference, program.replicas)
    for replica in program.replicas:
        effects = [effect for change in reference.changes(replica) for effect in change.effects]
        arrived = {effect.message for effect in effects if isinstance(effect, Arrived)}
        shown = {message for mailbox in reference.permitted(replica).values() for message in mailbox.messages}
        assert shown == arrived


def repeats_an_edit_after_a_move(program: Program) -> bool:
    reference = Reference()
    for step in program.steps:
        if isinstance(step, Deliver):
            before = _own_changes(reference, step.target)
            step.run(reference)
            if _own_changes(reference, step.target) > before:
                return True
        else:
            step.run(reference)
    return False


def _own_changes(reference: Reference, replica: str) -> int:
    return sum(change.origin == replica for change in reference.changes(replica))


def resurrects_a_mailbox(program: Program) -> bool:
    changes, permitted = _end(program)
    effects = [effect for change in changes for effect in change.effects]
    deleted = {effect.mailbox for effect in effects if isinstance(effect, Deleted)}
    return bool(deleted & permitted.keys())


def reuses_a_name(program: Program) -> bool:
    return any(mailbox.generation > 0 for mailbox in _end(program)[1])


def names_two_mailboxes_alike(program: Program) -> bool:
    names = [mailbox.names for mailbox in _end(program)[1].values()]
    return len(set(names)) < len(names)


def gives_a_mailbox_two_names(program: Program) -> bool:
    return any(len(mailbox.names) > 1 for mailbox in _end(program)[1].values())


def undeletes_a_deleted_message(program: Program) -> bool:
    """In the end both a `+$deleted` and an un-delete survive on one arrival: they were concurrent."""
    reference = run(program)
    settle(reference, program.replicas)
    history, seen = reference.history, reference.seen(program.replicas[0])
    edits = [
        history.edits(seen, mailbox, message, arrival)
        for mailbox in history.mailboxes(seen)
        for message in history.messages(seen, mailbox)
        for arrival in numbers(history.arrivals(seen, mailbox, message))
    ]
    return any(DELETED in each.adds and each.undeletes for each in edits)


def _end(program: Program) -> tuple[tuple[Change, ...], PermittedView]:
    reference = run(program)
    settle(reference, program.replicas)
    return reference.changes(program.replicas[0]), reference.permitted(program.replicas[0])


@pytest.mark.parametrize(
    "conflict",
    [
        repeats_an_edit_after_a_move,
        resurrects_a_mailbox,
        reuses_a_name,
        names_two_mailboxes_alike,
        gives_a_mailbox_two_names,
        undeletes_a_deleted_message,
    ],
)
def test_random_programs_come_upon_every_kind_of_conflict(conflict: Callable[[Program], bool]) -> None:
    """`find` raises where no program does: then the random tests would be green without having tried it."""
    unhurried = settings(max_examples=2000, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    find(programs(), conflict, settings=unhurried, random=Random(1))


WORK, PLAY = Mailbox("Work"), Mailbox("Play")


def test_an_own_edit_follows_the_move_that_takes_it_away_as_a_change_of_its_own() -> None:
    reference = Reference()
    for command in (Create("Work"), Create("Play"), Add(WORK, "m1")):
        reference.do("mx1", command)
    reference.deliver("mx1", "mx2")
    reference.do("mx1", Move(WORK, PLAY, ("m1",)))
    reference.do("mx2", Keywords(WORK, ("m1",), add=frozenset({"$seen"})))
    reference.deliver("mx1", "mx2")
    move, follow_up = reference.changes("mx2")[-2:]
    assert (move.origin, follow_up.origin) == ("mx1", "mx2")
    assert reference.permitted("mx2")[PLAY].messages == {"m1": {"$seen"}}


def test_an_edit_does_not_follow_a_move_of_what_was_already_gone() -> None:
    reference = Reference()
    for command in (Create("Work"), Create("Play"), Add(WORK, "m1")):
        reference.do("mx1", command)
    for other in ("mx2", "mx3"):
        reference.deliver("mx1", other)
    reference.do("mx1", Move(WORK, PLAY, ("m1",)))
    reference.do("mx2", Keywords(WORK, ("m1",), add=frozenset({"$seen"})))
    reference.do("mx3", Expunge(WORK, ("m1",)))
    reference.deliver("mx3", "mx2")
    reference.deliver("mx1", "mx2")
    assert reference.permitted("mx2")[PLAY].messages == {"m1": frozenset()}


def test_a_name_that_was_vacated_names_another_mailbox_the_next_time() -> None:
    reference = Reference()
    second, third = Mailbox("Work", 1), Mailbox("Work", 2)
    for command in (Create("Work"), Delete(WORK), Create("Work"), Rename(second, "Play"), Create("Work")):
        reference.do("mx1", command)
    assert set(reference.view("mx1")) == {second, third}


def test_what_depends_on_the_winner_of_a_conflict_is_refused() -> None:
    reference = Reference()
    reference.do("mx1", Create("Work"))
    reference.deliver("mx1", "mx2")
    reference.do("mx1", Rename(WORK, "Play"))
    reference.do("mx2", Rename(WORK, "Taxes"))
    settle(reference, ("mx1", "mx2"))
    assert reference.permitted("mx1")[WORK].names == {"Play", "Taxes"}
    for command in (Create("Play"), Rename(WORK, "Taxes")):
        with pytest.raises(UndeterminedError):
            reference.do("mx1", command)
    reference.do("mx1", Rename(WORK, "Attic"))
    assert reference.permitted("mx1")[WORK].names == {"Attic"}


PERMITTED = {
    WORK: Permitted(frozenset({"Work"}), {"m1": frozenset({"$seen"})}),
    PLAY: Permitted(frozenset({"Play", "Work"}), {}),
}
M1_SEEN = {"m1": frozenset({"$seen"})}


@pytest.mark.parametrize(
    "real_view",
    [
        {WORK: Shown("Work", M1_SEEN), PLAY: Shown("Play", {})},
        {WORK: Shown("Work", M1_SEEN), PLAY: Shown("Work (2)", {})},
        {WORK: Shown("Work (2)", M1_SEEN), PLAY: Shown("Work", {})},
    ],
)
def test_every_permitted_view_agrees(real_view: View) -> None:
    agreement = agrees(PERMITTED, real_view)
    assert agreement, str(agreement)


@pytest.mark.parametrize(
    ("real_view", "difference"),
    [
        ({WORK: Shown("Work", M1_SEEN)}, "Play#0 is missing; it should live, named Play or Work"),
        (
            {WORK: Shown("Work", M1_SEEN), PLAY: Shown("Play", {}), Mailbox("INBOX"): Shown("INBOX", {})},
            "INBOX#0 should not live, but is shown as 'INBOX'",
        ),
        (
            {WORK: Shown("Work", {"m1": frozenset()}), PLAY: Shown("Play", {})},
            "m1 in Work#0 shows [] instead of [$seen]",
        ),
        ({WORK: Shown("Work", {}), PLAY: Shown("Play", {})}, "m1 is missing from Work#0"),
        ({WORK: Shown("Work", M1_SEEN), PLAY: Shown("Play", M1_SEEN)}, "m1 should not be in Play#0"),
        (
            {WORK: Shown("Taxes", M1_SEEN), PLAY: Shown("Play", {})},
            "Work#0 is shown as 'Taxes' instead of Work",
        ),
        (
            {WORK: Shown("Work (2)", M1_SEEN), PLAY: Shown("Play", {})},
            "Work#0 is shown as 'Work (2)' although no other mailbox is shown as Work",
        ),
    ],
)
def test_a_difference_is_said_in_words(real_view: View, difference: str) -> None:
    assert agrees(PERMITTED, real_view).differences == (difference,)


def test_two_mailboxes_may_not_show_one_name() -> None:
    assert not agrees(PERMITTED, {WORK: Shown("Work", M1_SEEN), PLAY: Shown("Work", {})})
