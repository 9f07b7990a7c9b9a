"""The simulator is worth what it finds: bugs that are planted in the code are found, and found small."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from simulations.actions import (
    Backup,
    Connect,
    Crash,
    CreateMailbox,
    Cut,
    Deliver,
    Event,
    Expunge,
    Heal,
    List,
    Look,
    Mark,
    Move,
    RestoreBackup,
    Retire,
    Start,
    Stranger,
)
from simulations.failure import Failure
from simulations.planted import PLANTED, planted
from simulations.schedule import schedule
from simulations.shrink import shrink
from simulations.world import run
from tests.simulated import first_failure, swarm

SEEDS = 200
"""Of the swarm, in which a planted bug is found at the latest.  docs/testing.md says how many it takes."""


def opposites(keyword: str) -> tuple[Event, ...]:
    """A keyword is cleared and set again on one node, and cleared on another, while they are cut apart."""
    return (
        Event(0, Connect("here", "mx1")),
        Event(0, Connect("there", "mx2")),
        Event(1, Deliver("mx1", ("mail",), keywords=(keyword,))),
        Event(4, Look("here")),
        Event(4, Look("there")),
        Event(5, Cut(("mx1",), ("mx2", "mx3"))),
        Event(6, Mark("here", remove=(keyword,))),
        Event(6.5, Mark("here", add=(keyword,))),
        Event(7, Mark("there", remove=(keyword,))),
        Event(8, Heal()),
    )


STORIES: dict[str, tuple[Event, ...]] = {
    "gap-not-noticed": (
        Event(1, Deliver("mx1", ("first",))),
        Event(4, Backup("mx2")),
        Event(5, Deliver("mx1", ("second",))),
        Event(8, Cut(("mx2",), ("mx1", "mx3"), both_ways=False)),
        Event(8, RestoreBackup("mx2")),
        Event(9, Deliver("mx1", ("third",))),
        Event(15, Heal()),
    ),
    "addition-overtakes-its-mailbox": (
        Event(0, Connect("reader", "mx3")),
        Event(0.5, Cut(("mx2",), ("mx3",))),
        Event(1, Deliver("mx2", ("first",), "Work")),
        Event(1.2, Deliver("mx1", ("second",), "Work")),
        Event(1.4, List("reader")),
        Event(3, Heal()),
    ),
    "token-not-awaited": (
        Event(0, Connect("client", "mx1")),
        Event(1, Deliver("mx1", ("mail",))),
        Event(4, Look("client")),
        Event(5, Cut(("mx1",), ("mx2", "mx3"))),
        Event(6, Mark("client", add=("$seen",))),
        Event(7, Connect("client", "mx2")),
        Event(7.1, Look("client")),
        Event(8, Heal()),
    ),
    "flags-do-not-follow-a-move": (
        Event(0, Connect("here", "mx1")),
        Event(0, Connect("there", "mx2")),
        Event(1, Deliver("mx1", ("mail",))),
        Event(1, CreateMailbox("here", "Archive")),
        Event(4, Look("here")),
        Event(4, Look("there")),
        Event(5, Cut(("mx1",), ("mx2", "mx3"))),
        Event(6, Move("here", "Archive")),
        Event(6, Mark("there", add=("$flagged",))),
        Event(8, Heal()),
    ),
    "merge-brings-back-what-we-removed": (
        Event(0, Connect("here", "mx1")),
        Event(0, Connect("there", "mx2")),
        Event(1, Deliver("mx1", ("a", "b"))),
        Event(4, Look("here")),
        Event(4, Look("there")),
        Event(5, Cut(("mx2",), ("mx1", "mx3"))),
        Event(6, Expunge("there", (0.0, 0.0))),
        Event(6, Mark("here", add=("$flagged",))),
        Event(7, Mark("here", add=("$seen",))),
        Event(16, Heal()),
    ),
    "retired-forgotten-on-meeting": (
        Event(3, Retire("mx1", "mx3")),
        Event(3.01, Crash("mx1")),
        Event(3.2, Start("mx1")),
        Event(3.6, Crash("mx1")),
        Event(4, Start("mx1")),
    ),
    "an-acknowledgement-counts-ids": (
        Event(1, Deliver("mx1", ("first",))),
        Event(6, Cut(("mx3",), ("mx1", "mx2"))),
        Event(6, Backup("mx2")),
        Event(6.02, Deliver("mx1", ("second",), ack=2)),
        Event(6.4, RestoreBackup("mx2")),
        Event(10, Heal()),
    ),
    "remove-wins": opposites("$flagged"),
    "undelete-forgotten": opposites("$deleted"),
}
"""What brings out a bug for which the swarm needs more seeds than that, or nearly."""


def found(bug: str) -> Failure:
    changes: dict[str, Any] = {}
    if bug in STORIES:
        changes = {"faults": {}, "late": (), "topology": "mesh", "operations": 0, "seconds": 20.0}
        changes["story"] = STORIES[bug]
    if "merge" in bug:
        changes["faults"] = {"short log": "high"}
    failure = first_failure(bug, range(SEEDS), **changes)
    assert failure is not None, f"{bug} was not found in {SEEDS} seeds"
    return failure


# Planted bugs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_and_without_it_nothing_is(bug: str) -> None:
    failure = found(bug)
    mended = msgspec.structs.replace(failure.config, planted=())
    assert run(failure.seed, mended, failure.events, records=False).violation is None


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_is_in_the_code_only_while_it_is_planted(bug: str) -> None:
    places = [(where, what) for where, what, _ in PLANTED[bug]()]
    before = [inspect.getattr_static(*place) for place in places]
    with planted([bug]):
        within = [inspect.getattr_static(*place) for place in places]
    after = [inspect.getattr_static(*place) for place in places]
    assert places
    assert all(one is not other for one, other in zip(before, within, strict=True))
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_bug_that_does_not_exist_cannot_be_planted() -> None:
    with pytest.raises(ValueError, match="there is no planted bug 'a-wasp'"), planted(["a-wasp"]):
        pass


# Shrinking ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["half-a-delta-stays", "remove-wins"])
def failure(request: pytest.FixtureRequest) -> Failure:
    """A run with four nodes, many faults and clients, in which the bug shows sooner or later."""
    story = (*STORIES["remove-wins"], Event(9, Stranger("mx2", "broken directory")))
    failure = first_failure(
        request.param,
        range(SEEDS),
        nodes=("mx1", "mx2", "mx3", "mx4"),
        topology="mesh",
        late=(),
        operations=15,
        faults={"delay": "on", "duplication": "high", "wall clock": "high", "clogging": "on"},
        story=story,
    )
    assert failure is not None
    return failure


@pytest.fixture(scope="module")
def small(failure: Failure) -> Failure:
    return shrink(failure, most_runs=400)


def test_a_failure_shrinks_to_a_few_of_its_events_in_their_order(failure: Failure, small: Failure) -> None:
    assert len(small.events) <= 12
    kept = iter(failure.events)
    assert all(event in kept for event in small.events)


def test_no_event_of_a_shrunk_failure_can_be_left_out(small: Failure) -> None:
    for place in range(len(small.events)):
        without = small.events[:place] + small.events[place + 1 :]
        assert run(small.seed, small.config, without, records=False).promise != small.promise


def test_a_shrunk_failure_takes_no_more_nodes_and_fewer_faults(failure: Failure, small: Failure) -> None:
    assert set(small.config.nodes) <= set(failure.config.nodes)
    assert len(small.config.nodes) >= 2
    assert small.config.faults.items() < failure.config.faults.items()
    assert len(small.config.accounts) <= len(failure.config.accounts)


def test_what_every_run_breaks_shrinks_to_two_nodes_and_nothing_else() -> None:
    nodes = ("mx1", "mx2", "mx3", "mx4")
    large = first_failure("no-fsync-before-answer", range(SEEDS), nodes=nodes, faults={"loss": "on"})
    assert large is not None
    small = shrink(large)
    assert (small.events, len(small.config.nodes), small.config.faults) == ([], 2, {})


def test_a_shrunk_failure_breaks_the_same_promise_when_it_is_replayed(
    failure: Failure, small: Failure
) -> None:
    result = small.replay()
    assert (result.promise, result.violation) == (small.promise, small.violation)
    assert small.promise == failure.promise


@pytest.mark.parametrize("most_runs", [0, 1, 3, 20])
def test_a_shrinking_that_is_stopped_early_still_gives_a_failure(failure: Failure, most_runs: int) -> None:
    runs = []
    stopped = shrink(failure, most_runs=most_runs, progress=lambda done, left: runs.append((done, left)))
    result = stopped.replay()
    assert (result.promise, result.violation) == (failure.promise, stopped.violation)
    assert all(done <= most_runs for done, _ in runs)
    assert len(stopped.events) == (runs[-1][1] if runs else len(failure.events))


def test_what_does_not_fail_does_not_shrink() -> None:
    config = swarm(0)
    sound = Failure(
        scenario="swarm",
        seed=0,
        promise="no answered write is lost",
        violation="",
        config=config,
        events=schedule(0, config),
    )
    assert shrink(sound, most_runs=10) == sound


def test_a_failure_that_breaks_another_promise_is_no_smaller_form_of_it(failure: Failure) -> None:
    other = msgspec.structs.replace(failure, promise="no answered write is lost")
    assert shrink(other, most_runs=10) == other
