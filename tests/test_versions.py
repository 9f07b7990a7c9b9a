"""Nodes of two versions speak to each other; what neither knows is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.effects import OLDEST_PROTOCOL, PROTOCOL, Call, Kind, Reply
from crdtmail.errors import PeerError, UnknownProtocol
from crdtmail.gossip.codec import decode_answer, decode_position, encode_answer, encode_position
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.replica import Keep
from tests.nodes import CHAIN, cluster, run, single, until
from tests.test_api import add, prepared
from tests.test_conversation import ADDRESS, PEER, Talker
from tests.test_gossip_http import STRANGER


def old_answer(talker: Talker, call: Call, clock: Clock, digest: int = 1) -> Reply:
    """What a peer that speaks the oldest version only answers.  Raises UnknownProtocol as it would."""
    if call.protocol > OLDEST_PROTOCOL:
        raise UnknownProtocol("404")
    assert decode_position(call.body, OLDEST_PROTOCOL).clock == talker.gossip.head.clock
    answer = ExchangeAnswer(Position(PEER, "old", clock, digest), ())
    return Reply(200, PEER, encode_answer(answer, OLDEST_PROTOCOL))


def meet_old(talker: Talker, clock: Clock | None = None) -> list[Call]:
    return talker.perform(
        talker.gossip.converse(ADDRESS), lambda call: old_answer(talker, call, clock or Clock())
    )


def test_a_peer_that_knows_only_the_version_before_is_asked_in_that_one() -> None:
    talker = Talker()
    talker.write()
    assert [(call.kind, call.protocol) for call in meet_old(talker)] == [
        (Kind.EXCHANGE, PROTOCOL),
        (Kind.EXCHANGE, OLDEST_PROTOCOL),
    ]
    (push,) = talker.perform(talker.gossip.converse(ADDRESS), Reply(204, PEER, b""))
    assert (push.kind, push.protocol) == (Kind.PUSH, OLDEST_PROTOCOL)


def test_a_peer_that_was_upgraded_is_asked_in_the_new_version_at_the_next_exchange() -> None:
    talker = Talker()
    meet_old(talker)
    talker.now = 1000.0
    talker.meet(PEER)
    assert talker.gossip.peers.sessions[ADDRESS].protocol == PROTOCOL


def test_a_node_that_takes_another_id_meanwhile_asks_an_older_peer_under_that() -> None:
    talker = Talker()
    talker.new_id = ReplicaId(77)
    asked: list[tuple[int, ReplicaId]] = []

    def answer(call: Call) -> Reply:
        asked.append((call.protocol, decode_position(call.body, call.protocol).replica))
        if call.protocol == PROTOCOL:
            talker.perform(talker.gossip._renew(ReplicaId(1), is_ambiguous=True))
        return old_answer(talker, call, Clock())

    talker.perform(talker.gossip.converse(ADDRESS), answer)
    assert asked == [(PROTOCOL, ReplicaId(1)), (OLDEST_PROTOCOL, ReplicaId(77))]


def test_digests_of_two_versions_are_not_compared() -> None:
    talker = Talker()
    talker.write()
    clock = talker.gossip.head.clock
    calls = meet_old(talker, clock)
    assert {call.kind for call in calls} == {Kind.EXCHANGE}, "nothing is repaired"
    session = talker.gossip.peers.sessions[ADDRESS]
    assert not session.diverged
    asked = encode_position(Position(PEER, "old", clock, 1), OLDEST_PROTOCOL)
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, asked, OLDEST_PROTOCOL))
    assert not session.diverged


def test_an_older_peer_is_not_told_what_its_version_does_not_know() -> None:
    talker = Talker()
    talker.write()
    talker.perform(talker.gossip.retire([ReplicaId(9)]))
    asked = encode_position(Position(PEER, "old", Clock(), 1), OLDEST_PROTOCOL)
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, asked, OLDEST_PROTOCOL))
    answer = decode_answer(talker.result.body, OLDEST_PROTOCOL)
    assert len(answer.deltas) == 2
    assert answer.position.retired == frozenset()


def test_an_older_peer_that_lacks_what_was_pruned_is_told_to_be_upgraded() -> None:
    talker = Talker()
    talker.write()
    talker.perform(talker.gossip.keep_house(Keep(bytes=0, age_ms=0)))
    assert talker.gossip.head.floor, "the log is cut"
    asked = encode_position(Position(PEER, "old", Clock(), 1), OLDEST_PROTOCOL)
    with pytest.raises(PeerError, match="your version takes no snapshot"):
        talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, asked, OLDEST_PROTOCOL))
    meet_old(talker)
    talker.perform(talker.gossip.converse(ADDRESS))
    assert "it must be upgraded" in str(talker.gossip.peers.sessions[ADDRESS].last_error)


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (Kind.EXCHANGE, PROTOCOL + 1),
        (Kind.PUSH, OLDEST_PROTOCOL - 1),
        (Kind.SNAPSHOT, OLDEST_PROTOCOL),
        (Kind.OFFER, OLDEST_PROTOCOL),
    ],
)
def test_what_a_version_does_not_know_is_refused_and_counted(kind: Kind, protocol: int) -> None:
    talker = Talker()
    with pytest.raises(UnknownProtocol, match=f"not version {protocol}, this node speaks 1 to 2"):
        talker.perform(talker.gossip.answer(kind, PEER, b"", protocol))
    assert sum(refused.count for _, _, refused in talker.gossip.refusals) == 1


def test_a_newer_peer_is_told_by_http_that_its_version_is_not_spoken_here(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            for path in ("/gossip/v3/exchange", "/gossip/v0/push", "/gossip/v1/snapshot"):
                answer = await it.ask("POST", path, data=b"x", headers=STRANGER)
                assert (answer.status, answer.problem) == (404, "unknown-protocol")
            body = encode_position(Position(ReplicaId(255), "old", Clock(), 0), OLDEST_PROTOCOL)
            answer = await it.ask("POST", "/gossip/v1/exchange", data=body, headers=STRANGER)
            assert decode_answer(answer.body, OLDEST_PROTOCOL).position.name == it.name

    run(test())


def test_nodes_of_both_versions_converge_in_a_chain_and_after_the_upgrade(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, CHAIN) as nodes:
            old = nodes.nodes["mx2"]
            old.node.gossip.protocol = OLDEST_PROTOCOL
            await prepared(nodes.nodes["mx1"])
            for name, it in nodes.nodes.items():
                await nodes.converged()
                await add(it, f"from-{name}")
            await nodes.converged()
            assert not any(session.diverged for session in old.node.gossip.peers.sessions.values())
            old.node.gossip.protocol = PROTOCOL
            sessions = [s for it in nodes.nodes.values() for s in it.node.gossip.peers.sessions.values()]
            await until(lambda: {s.protocol for s in sessions} == {PROTOCOL}, "all speak the new version")
            await add(old, "after")
            await nodes.converged()

    run(test())
