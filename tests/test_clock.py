"""The laws of clocks: a join semilattice over replicas, in which absent means zero."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import Clock, Dot, ReplicaId

REPLICA = st.integers(1, 4).map(ReplicaId)  # few, so that clocks have replicas in common
SEQ = st.integers(1, 6)
DOT = st.builds(Dot, REPLICA, SEQ)
CLOCK = st.dictionaries(REPLICA, SEQ).map(Clock)
ALL_DOTS = [Dot(ReplicaId(replica), seq) for replica in range(1, 5) for seq in range(1, 7)]


def covered(clock: Clock) -> set[Dot]:
    return {dot for dot in ALL_DOTS if clock.covers(dot)}


@given(CLOCK, CLOCK)
def test_a_join_covers_what_either_covers_and_nothing_else(one: Clock, other: Clock) -> None:
    assert covered(one.join(other)) == covered(one) | covered(other)


@given(CLOCK, CLOCK)
def test_a_clock_includes_another_if_it_covers_all_that_the_other_does(one: Clock, other: Clock) -> None:
    assert one.includes(other) == (covered(one) >= covered(other))


@given(CLOCK, CLOCK)
def test_clocks_that_include_each_other_are_equal(one: Clock, other: Clock) -> None:
    assert (one.includes(other) and other.includes(one)) == (one == other)


@given(CLOCK, CLOCK, CLOCK)
def test_the_order_and_number_of_joins_do_not_matter(a: Clock, b: Clock, c: Clock) -> None:
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a


@given(st.lists(DOT))
def test_the_clock_of_some_dots_is_the_least_that_covers_them(dots: list[Dot]) -> None:
    clock = Clock.of(dots)
    assert covered(clock) >= set(dots)
    for replica, seq in clock.items():
        assert (replica, seq) in dots, "a clock with less in it would not cover this dot"


@given(CLOCK, DOT)
def test_a_clock_with_a_dot_covers_it_and_what_came_before(clock: Clock, dot: Dot) -> None:
    before = {Dot(dot.replica, seq) for seq in range(1, dot.seq + 1)}
    assert covered(clock.with_dot(dot)) == covered(clock) | before


@given(CLOCK, CLOCK)
def test_what_is_left_are_the_entries_that_are_not_covered(clock: Clock, taken: Clock) -> None:
    left = clock.without(taken)
    assert dict(left) == {r: s for r, s in clock.items() if not taken.covers((r, s))}


@given(CLOCK, CLOCK)
def test_the_missing_deltas_are_counted(one: Clock, other: Clock) -> None:
    assert one.count_missing_from(other) == len(covered(one) - covered(other))


@given(CLOCK, CLOCK)
def test_no_operation_changes_a_clock(one: Clock, other: Clock) -> None:
    before = dict(one)
    one.join(other)
    one.with_dot(Dot(ReplicaId(1), 6))
    one.without(other)
    assert dict(one) == before


def test_a_clock_keeps_nothing_of_the_mapping_that_it_was_made_from() -> None:
    entries = {ReplicaId(1): 1}
    clock = Clock(entries)
    entries[ReplicaId(1)] = 2
    assert clock[ReplicaId(1)] == 1


def test_the_clock_of_a_stranger_is_zero_and_no_entry() -> None:
    clock = Clock({ReplicaId(1): 1})
    assert clock[ReplicaId(2)] == 0
    assert list(clock) == [1]
    assert not clock.covers(Dot(ReplicaId(2), 1))
    assert clock.covers(Dot(ReplicaId(1), 1))
    assert repr(Clock({ReplicaId(255): 3})) == "Clock({ff: 3})"
