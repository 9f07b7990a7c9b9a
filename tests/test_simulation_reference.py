"""The history that judges the simulations: what it takes from the real system, and what it does not.

What concurrent changes give is held against `docs/semantics.md` in `test_reference_semantics`; here the
history is driven as a simulator drives it, with seen sets and with what the real system said it did.
"""

from __future__ import annotations

import pytest
from hypothesis import given

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
from simulations.reference import Disagreement, History, UndeterminedError
from tests.programs import Program, programs
from tests.reference_world import Reference

WORK, PLAY = Mailbox("Work"), Mailbox("Play")
SEEN, FLAGGED = frozenset({"$seen"}), frozenset({"$flagged"})
NO_KEYWORDS: frozenset[str] = frozenset()


def changed(number: int | None) -> int:
    assert number is not None
    return number


def set_of(*changes: int) -> int:
    return sum(1 << change for change in changes)


def everything(history: History) -> int:
    return (1 << len(history.changes)) - 1


def history_of(*commands: Command) -> History:
    """One master's commands, one after the other."""
    history = History()
    for command in commands:
        history.record("mx1", everything(history), command)
    return history


def names(*of: str) -> frozenset[str]:
    return frozenset(of)


def two_new_names() -> History:
    """Work, renamed to Play on mx1 and at the same time to Taxes on mx2. Which name won is left open."""
    history = history_of(Create("Work"), Rename(WORK, "Play"))
    history.record("mx2", set_of(0), Rename(WORK, "Taxes"))
    return history


# Seen sets.


def test_a_replica_is_shown_what_it_has_seen_and_nothing_else() -> None:
    history = history_of(Create("Work"), Add(WORK, "m1"), Add(WORK, "m2", SEEN), Expunge(WORK, ("m1",)))
    assert history.messages(set_of(0), WORK) == {}
    assert history.messages(set_of(0, 1), WORK) == {"m1": NO_KEYWORDS}
    assert history.messages(set_of(0, 1, 2), WORK) == {"m1": NO_KEYWORDS, "m2": SEEN}
    assert history.messages(set_of(0, 1, 2, 3), WORK) == {"m2": SEEN}


def test_a_set_from_the_past_is_answered_as_it_was_then() -> None:
    history = history_of(Create("Work"), Add(WORK, "m1"))
    then = everything(history)
    before = history.permitted(then)
    later = (Keywords(WORK, ("m1",), SEEN), Rename(WORK, "Play"), Create("Work"), Delete(WORK))
    for command in later:
        history.record("mx1", everything(history), command)
    assert history.permitted(then) == before == history_of(Create("Work"), Add(WORK, "m1")).permitted(then)


@given(programs())
def test_the_past_is_the_same_whether_it_was_asked_at_once_or_at_last(program: Program) -> None:
    asked_at_once, asked_at_last = Reference(), Reference()
    views: list[tuple[int, PermittedView]] = []
    for step in program.steps:
        step.run(asked_at_once)
        step.run(asked_at_last)
        for replica in program.replicas:
            views.append((asked_at_once.seen(replica), asked_at_once.permitted(replica)))
    for seen, view in views:
        assert asked_at_last.history.permitted(seen) == view


def test_what_is_shown_is_left_open_where_a_change_came_before_another_that_it_had_seen() -> None:
    history = history_of(Create("Work"), Add(WORK, "m1"), Add(WORK, "m2"))
    history.record("mx1", set_of(0, 1, 2), Keywords(WORK, ("m1",), SEEN))
    history.record("mx1", set_of(0, 1, 2, 3), Keywords(WORK, ("m1",), remove=SEEN))
    assert history.is_whole(set_of(0, 1, 2, 3, 4), WORK, "m1")
    assert not history.is_whole(set_of(0, 1, 2, 4), WORK, "m1"), "the flag was cleared before it was set"
    assert history.is_whole(set_of(0, 2, 4), WORK, "m2"), "that has no say in another message"
    assert history.is_whole(set_of(0, 1, 2, 3), WORK, "m1"), "what is yet to come is not lacking"


# Commands that change nothing.


@pytest.mark.parametrize(
    "command",
    [
        Create("Work"),
        Rename(WORK, "Play"),
        Rename(WORK, "Work"),
        Rename(Mailbox("Taxes"), "Attic"),
        Delete(Mailbox("Taxes")),
        Add(Mailbox("Taxes"), "m1"),
        Keywords(WORK, ("m2",), SEEN),
        Keywords(WORK, ("m1",), remove=FLAGGED),
        Keywords(WORK, ("m1",)),
        Expunge(WORK, ("m2",)),
        Expunge(PLAY, ("m1",)),
        ExpungeDeleted(WORK),
        Move(WORK, WORK, ("m1",)),
        Move(WORK, Mailbox("Taxes"), ("m1",)),
        Copy(WORK, PLAY, ("m2",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("refused", [False, True])
def test_a_command_that_does_not_apply_is_no_change(command: Command, refused: bool) -> None:
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1", SEEN))
    before = history.permitted(everything(history))
    assert history.record("mx1", everything(history), command, refused=refused) is None
    assert len(history.changes) == 3
    assert history.permitted(everything(history)) == before


def test_a_command_on_several_messages_changes_those_that_are_there_as_one_change() -> None:
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1"), Add(WORK, "m2"))
    number = changed(history.record("mx1", everything(history), Move(WORK, PLAY, ("m1", "m3", "m2", "m1"))))
    assert number == 4
    assert history.messages(everything(history), PLAY).keys() == {"m1", "m2"}
    assert history.messages(everything(history), WORK) == {}


@pytest.mark.parametrize(
    "command",
    [
        Delete(WORK),
        Add(WORK, "m2"),
        Keywords(WORK, ("m1",), SEEN),
        Keywords(WORK, ("m1",), remove=frozenset({DELETED})),
        Expunge(WORK, ("m1",)),
        Move(WORK, PLAY, ("m2", "m1")),
        Copy(WORK, PLAY, ("m1",)),
    ],
    ids=str,
)
def test_to_refuse_what_applies_is_a_disagreement(command: Command) -> None:
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1"))
    with pytest.raises(Disagreement, match=r"mx1 refused .* which applies there"):
        history.record("mx1", everything(history), command, refused=True)


def test_a_disagreement_leaves_the_history_as_it_was() -> None:
    history = history_of(Create("Work"), Add(WORK, "m1"))
    before = history.permitted(everything(history))
    with pytest.raises(Disagreement):
        history.record("mx1", everything(history), Expunge(WORK, ("m1",)), refused=True)
    assert history.permitted(everything(history)) == before
    assert history.record("mx1", everything(history), Add(WORK, "m2")) == 2
    assert history.messages(everything(history), WORK).keys() == {"m1", "m2"}


# Names: what the real system may do where the winner is left open.


@pytest.mark.parametrize("name", ["Play", "Taxes"])
def test_of_two_conflicting_names_either_may_be_free(name: str) -> None:
    history = two_new_names()
    assert history.mailboxes(everything(history)) == {WORK: names("Play", "Taxes")}
    assert history.record("mx1", everything(history), Create(name), refused=True) is None
    made = Mailbox(name)
    history.record("mx1", everything(history), Create(name), made=made)
    assert history.mailboxes(everything(history))[made] == names(name)


def test_what_is_left_open_and_was_not_said_is_undetermined() -> None:
    history = two_new_names()
    for command in (Create("Play"), Rename(WORK, "Play")):
        with pytest.raises(UndeterminedError):
            history.record("mx1", everything(history), command)


def test_a_mailbox_renamed_to_one_of_its_conflicting_names_gives_up_the_other_or_nothing() -> None:
    history = two_new_names()
    to_play = Rename(WORK, "Play")
    assert history.record("mx1", everything(history), to_play, refused=True) is None
    assert history.record("mx1", everything(history), to_play, vacated="Play") is None
    assert history.record("mx1", everything(history), to_play, vacated="Taxes") == 3
    assert history.mailboxes(everything(history)) == {WORK: names("Play")}


def test_another_mailbox_may_be_given_a_name_that_may_be_free_or_be_refused_it() -> None:
    history = two_new_names()
    history.record("mx1", everything(history), Create("Attic"))
    rename = Rename(Mailbox("Attic"), "Play")
    assert history.record("mx1", everything(history), rename, refused=True) is None
    assert history.record("mx1", everything(history), rename, vacated="Attic") == 4


def test_where_the_name_given_up_was_said_the_next_generation_follows_from_it() -> None:
    history = two_new_names()
    history.record("mx1", everything(history), Delete(WORK), vacated="Taxes")
    with pytest.raises(Disagreement, match="mx1 created Taxes#0; the mailboxes that gave that name up are 1"):
        history.record("mx1", everything(history), Create("Taxes"), made=Mailbox("Taxes"))
    with pytest.raises(Disagreement, match="mx1 created Play#1; the mailboxes that gave that name up are 0"):
        history.record("mx1", everything(history), Create("Play"), made=Mailbox("Play", 1))
    history.record("mx1", everything(history), Create("Taxes"))
    history.record("mx1", everything(history), Create("Play"))
    assert history.mailboxes(everything(history)).keys() == {Mailbox("Taxes", 1), Mailbox("Play")}


@pytest.mark.parametrize("generation", [0, 1])
def test_where_it_was_not_said_every_possible_generation_is_permitted(generation: int) -> None:
    history = two_new_names()
    history.record("mx1", everything(history), Delete(WORK))
    made = Mailbox("Taxes", generation)
    assert not history.is_determined(everything(history), Create("Taxes"))
    with pytest.raises(UndeterminedError):
        history.record("mx1", everything(history), Create("Taxes"))
    assert history.record("mx1", everything(history), Create("Taxes"), made=made) == 4


def test_a_generation_beyond_the_possible_is_a_disagreement() -> None:
    history = two_new_names()
    history.record("mx1", everything(history), Delete(WORK))
    with pytest.raises(Disagreement, match="Taxes#2; the mailboxes that gave that name up are 0 or 1"):
        history.record("mx1", everything(history), Create("Taxes"), made=Mailbox("Taxes", 2))


def test_a_mailbox_that_gives_a_name_up_twice_counts_once() -> None:
    history = history_of(Create("Work"), Rename(WORK, "Play"), Rename(WORK, "Work"), Rename(WORK, "Play"))
    assert history.record("mx1", everything(history), Create("Work"), made=Mailbox("Work", 1)) == 4


def test_only_who_had_seen_the_name_given_up_counts_it() -> None:
    history = history_of(Create("Work"), Delete(WORK))
    seen_nothing = set_of()
    assert history.record("mx2", seen_nothing, Create("Work"), made=Mailbox("Work", 0)) == 2


@pytest.mark.parametrize(
    ("command", "said", "sentence"),
    [
        (Create("Work"), {"made": Mailbox("Work", 1)}, "created Work#1, but another living mailbox shows"),
        (Create("Attic"), {"made": Mailbox("Taxes")}, "was to create 'Attic' and made Taxes#0"),
        (Create("Attic"), {"refused": True}, "refused to create 'Attic', which is certainly free there"),
        (Rename(WORK, "Play"), {"vacated": "Work"}, "to 'Play', but another living mailbox shows it"),
        (Rename(WORK, "Attic"), {"refused": True}, "refused Work#0 the name 'Attic', certainly free there"),
        (Rename(WORK, "Attic"), {"vacated": "Play"}, "gave up the name 'Play', but it had 'Work'"),
        (Delete(WORK), {"vacated": "Attic"}, "gave up the name 'Attic', but it had 'Work'"),
    ],
)
def test_what_no_winner_explains_is_a_disagreement(
    command: Command, said: dict[str, object], sentence: str
) -> None:
    history = history_of(Create("Work"), Create("Play"))
    with pytest.raises(Disagreement, match=sentence):
        history.record("mx1", everything(history), command, **said)  # type: ignore[arg-type]
    assert len(history.changes) == 2


def test_a_name_given_up_must_be_one_of_the_conflicting_ones() -> None:
    history = two_new_names()
    with pytest.raises(Disagreement, match="gave up the name 'Work', but it had 'Play' or 'Taxes'"):
        history.record("mx1", everything(history), Delete(WORK), vacated="Work")


# Follow-ups.


def moved_while_edited(*edits: Command) -> tuple[History, int, int]:
    """m1 and m2 lie in Work; mx1 moves them to Play, while mx2 edits them. Also what mx2 has seen then, and
    the move."""
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1"), Add(WORK, "m2"))
    common = everything(history)
    move = changed(history.record("mx1", common, Move(WORK, PLAY, ("m1", "m2"))))
    at_mx2 = common
    for edit in edits:
        at_mx2 |= set_of(changed(history.record("mx2", at_mx2, edit)))
    return history, at_mx2, move


def test_the_follow_up_is_a_change_of_its_own_that_has_seen_the_move() -> None:
    history, at_mx2, move = moved_while_edited(Keywords(WORK, ("m1",), FLAGGED))
    number = changed(history.follow_up("mx2", at_mx2, move))
    assert history.changes[number].origin == "mx2"
    assert history.changes[number].seen == at_mx2 | set_of(move)
    assert history.messages(at_mx2 | set_of(move), PLAY)["m1"] == NO_KEYWORDS
    assert history.messages(at_mx2 | set_of(move, number), PLAY)["m1"] == FLAGGED


def test_all_messages_of_a_move_are_followed_up_by_one_change() -> None:
    edits = Keywords(WORK, ("m1",), FLAGGED), Keywords(WORK, ("m2",), SEEN)
    history, at_mx2, move = moved_while_edited(*edits)
    number = changed(history.follow_up("mx2", at_mx2, move))
    assert history.messages(at_mx2 | set_of(move, number), PLAY) == {"m1": FLAGGED, "m2": SEEN}


def test_taking_deleted_back_is_said_again_and_beats_a_delete() -> None:
    history, at_mx2, move = moved_while_edited(Keywords(WORK, ("m1",), remove=frozenset({DELETED})))
    number = changed(history.follow_up("mx2", at_mx2, move))
    mark = Keywords(PLAY, ("m1",), frozenset({DELETED}))
    marked = changed(history.record("mx1", set_of(0, 1, 2, 3, move), mark))
    seen = at_mx2 | set_of(move, number, marked)
    assert history.messages(seen, PLAY)["m1"] == NO_KEYWORDS


@pytest.mark.parametrize(
    "edit", [Keywords(WORK, ("m1",), FLAGGED), Keywords(WORK, ("m1",), remove=frozenset({DELETED}))], ids=str
)
def test_nobody_says_again_what_another_said(edit: Keywords) -> None:
    history, at_mx2, move = moved_while_edited(edit)
    assert history.follow_up("mx3", at_mx2, move) is None


@pytest.mark.parametrize(
    "edits",
    [
        (),
        (Keywords(WORK, ("m1",), FLAGGED), Keywords(WORK, ("m1",), remove=FLAGGED)),
        (Keywords(WORK, ("m1",), FLAGGED), Expunge(WORK, ("m1",))),
        (Keywords(WORK, ("m1",), FLAGGED), Delete(WORK)),
        (Keywords(WORK, ("m1",), FLAGGED), Move(WORK, PLAY, ("m1",))),
        (Add(WORK, "m1", FLAGGED),),
    ],
    ids=["nothing", "taken back", "expunged", "mailbox deleted", "moved", "added again, which stays"],
)
def test_there_is_nothing_to_say_where_no_edit_is_lost(edits: tuple[Command, ...]) -> None:
    history, at_mx2, move = moved_while_edited(*edits)
    before = len(history.changes)
    assert history.follow_up("mx2", at_mx2, move) is None
    assert len(history.changes) == before


def test_an_edit_that_the_move_had_seen_is_not_said_again() -> None:
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1"))
    history.record("mx2", set_of(0, 1, 2), Keywords(WORK, ("m1",), FLAGGED))
    at_mx2 = everything(history)
    move = changed(history.record("mx1", at_mx2, Move(WORK, PLAY, ("m1",))))
    assert history.follow_up("mx2", at_mx2, move) is None


@pytest.mark.parametrize("command", [Copy(WORK, PLAY, ("m1",)), Expunge(WORK, ("m1",)), Add(WORK, "m1")])
def test_only_a_move_is_followed_up(command: Command) -> None:
    history = history_of(Create("Work"), Create("Play"), Add(WORK, "m1"))
    common = everything(history)
    arriving = changed(history.record("mx1", common, command))
    edit = changed(history.record("mx2", common, Keywords(WORK, ("m1",), FLAGGED)))
    assert history.follow_up("mx2", common | set_of(edit), arriving) is None


def test_of_two_moves_the_one_that_arrives_first_is_followed_up() -> None:
    attic, common = Mailbox("Attic"), set_of(0, 1, 2, 3)
    history, at_mx2, to_play = moved_while_edited(Keywords(WORK, ("m1",), FLAGGED))
    creation = changed(history.record("mx3", common, Create("Attic")))
    to_attic = changed(history.record("mx3", common | set_of(creation), Move(WORK, attic, ("m1",))))
    at_mx2 |= set_of(creation)
    said_again = changed(history.follow_up("mx2", at_mx2, to_attic))
    at_mx2 |= set_of(to_attic, said_again)
    assert history.follow_up("mx2", at_mx2, to_play) is None
    at_mx2 |= set_of(to_play)
    assert history.messages(at_mx2, attic)["m1"] == FLAGGED
    assert history.messages(at_mx2, PLAY)["m1"] == NO_KEYWORDS


def test_what_is_said_again_is_on_the_moved_message_and_goes_with_it() -> None:
    """Not on the same message as it arrived there by another way, which an expunge may spare."""
    history, at_mx2, move = moved_while_edited(Keywords(WORK, ("m1",), FLAGGED))
    at_mx2 |= set_of(changed(history.record("mx2", at_mx2, Add(PLAY, "m1"))))
    said_again = changed(history.follow_up("mx2", at_mx2, move))
    expunge = changed(history.record("mx1", set_of(0, 1, 2, 3, move), Expunge(PLAY, ("m1",))))
    seen = at_mx2 | set_of(move, said_again)
    assert history.messages(seen, PLAY)["m1"] == FLAGGED
    assert history.messages(seen | set_of(expunge), PLAY)["m1"] == NO_KEYWORDS


def test_where_two_arrivals_of_the_message_disagree_only_the_undelete_is_said_again() -> None:
    """m1 lies in Work and in Attic. mx2 marks it in Attic and un-deletes it in Work; mx1 moves it from Attic
    to Work, where it has then arrived twice, and both arrivals on to Play."""
    attic, delete = Mailbox("Attic"), frozenset({DELETED})
    history = history_of(Create("Work"), Create("Play"), Create("Attic"), Add(WORK, "m1"), Add(attic, "m1"))
    at_mx1 = at_mx2 = everything(history)
    at_mx2 |= set_of(changed(history.record("mx2", at_mx2, Keywords(attic, ("m1",), delete))))
    at_mx2 |= set_of(changed(history.record("mx2", at_mx2, Keywords(WORK, ("m1",), remove=delete))))
    to_work = changed(history.record("mx1", at_mx1, Move(attic, WORK, ("m1",))))
    at_mx1 |= set_of(to_work)
    to_play = changed(history.record("mx1", at_mx1, Move(WORK, PLAY, ("m1",))))
    at_mx2 |= set_of(to_work, changed(history.follow_up("mx2", at_mx2, to_work)))
    at_mx2 |= set_of(to_play, changed(history.follow_up("mx2", at_mx2, to_play)))
    edits = history.edits(at_mx2, PLAY, "m1", arrival=to_play)
    assert edits.undeletes
    assert not edits.adds
