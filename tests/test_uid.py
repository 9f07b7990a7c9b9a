"""Stripes: which UIDs a replica may give, and that nobody else gives the same."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.uid import Stripe
from crdtmail.errors import UidsExhausted
from crdtmail.limits import MAX_UID

MEMBERS = st.sets(st.integers(0, 2**64 - 1).map(ReplicaId), min_size=1, max_size=6)
STARTS = st.integers(0, 1000)


@given(MEMBERS, st.data())
def test_stripes_of_one_membership_are_disjoint_and_leave_no_uid_out(
    members: set[ReplicaId], data: st.DataObject
) -> None:
    first = data.draw(STARTS)
    given = [set(islice(Stripe.of(replica, members).uids_from(first), 40)) for replica in members]
    assert len(set().union(*given)) == 40 * len(members), "no UID is in two stripes"
    everything = set(range(max(1, first), max(1, first) + 40))
    assert everything <= set().union(*given)


@given(MEMBERS, STARTS)
def test_uids_ascend_from_where_they_may_begin(members: set[ReplicaId], first: int) -> None:
    for replica in members:
        uids = list(islice(Stripe.of(replica, members).uids_from(first), 20))
        assert uids == sorted(set(uids))
        assert uids[0] >= max(1, first)
        assert uids[0] < max(1, first) + len(members), "no UID of the stripe is passed over"
        assert {later - earlier for earlier, later in pairwise(uids)} == {len(members)}


@given(MEMBERS, st.integers(0, 2**64 - 1).map(ReplicaId))
def test_a_replica_counts_itself_whether_it_is_named_or_not(
    members: set[ReplicaId], replica: ReplicaId
) -> None:
    assert Stripe.of(replica, members) == Stripe.of(replica, members | {replica})


def test_a_replica_alone_owns_every_uid() -> None:
    alone = Stripe.of(ReplicaId(9), [])
    assert alone == Stripe(0, 1)
    assert list(islice(alone.uids_from(0), 3)) == [1, 2, 3]


@given(MEMBERS, st.integers(1, 10_000), st.integers(1, 50))
def test_masters_that_heal_the_same_messages_at_once_give_blocks_one_above_the_other(
    members: set[ReplicaId], uid_next: int, stale: int
) -> None:
    blocks = [
        list(islice(Stripe.of(replica, members).healed_uids(uid_next, stale), stale))
        for replica in sorted(members)
    ]
    assert all(min(block) >= uid_next for block in blocks)
    for lower, higher in pairwise(blocks):
        assert max(lower) < min(higher)


@given(MEMBERS, st.integers(0, 20))
def test_where_32_bits_end_the_uids_do(members: set[ReplicaId], before: int) -> None:
    replica = min(members)
    given = []
    with pytest.raises(UidsExhausted):
        for uid in Stripe.of(replica, members).uids_from(MAX_UID - before):
            given.append(uid)
    assert all(MAX_UID - before <= uid <= MAX_UID for uid in given)
    assert len(given) >= (before + 1) // len(members)
