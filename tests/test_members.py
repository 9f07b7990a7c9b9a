"""Who else there is: nodes of one name, and members that are said to be gone for good."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.gossip.messages import Position
from crdtmail.gossip.peers import Heard
from crdtmail.limits import ALIVE_S, GOSSIP_TIMEOUT_S, NAMESAKE_S
from crdtmail.namesakes import Namesakes
from crdtmail.verify import Verdict, _not_compared
from tests.nodes import Running, run, single

OLD, NEW = ReplicaId(0x8E09), ReplicaId(0x3A96)


def heard(**at: float) -> dict[ReplicaId, Heard]:
    ids = {"old": OLD, "new": NEW}
    return {ids[which]: Heard("mx2", Clock(), when) for which, when in at.items()}


def test_two_replicas_of_one_name_that_are_both_heard_are_two_nodes() -> None:
    watch = Namesakes()
    assert watch.look(heard(old=0), 0) == {}
    assert watch.look(heard(old=1, new=1), 1) == {}
    later = 2 + GOSSIP_TIMEOUT_S
    assert watch.look(heard(old=later, new=later), later) == {"mx2": [NEW, OLD]}
    assert watch.look(heard(old=later, new=later + NAMESAKE_S), later + NAMESAKE_S) == {}


def test_a_node_that_took_a_new_id_is_one_node_however_often_it_is_heard() -> None:
    watch = Namesakes()
    assert watch.look(heard(old=0), 0) == {}
    for now in range(1, 200):
        assert watch.look(heard(old=1, new=now), now) == {}


def hear(it: Running, replica: ReplicaId, name: str, *, ago_s: float = 0.0) -> None:
    it.node.gossip.peers.hear(it.node.now() - ago_s, Position(replica, name, Clock(), 0))


async def alarms(it: Running) -> str:
    return "\n".join(a["text"] for a in (await it.ask("GET", "/v1/status")).body["alarms"])


def test_a_node_that_hears_two_nodes_of_one_name_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            for ago_s in (0.0, -1.0 - GOSSIP_TIMEOUT_S):
                assert "call themselves" not in await alarms(it)
                hear(it, OLD, "mx2", ago_s=ago_s)
                hear(it, NEW, "mx2", ago_s=ago_s)
            (said,) = (await it.ask("GET", "/v1/status")).body["alarms"]
            assert said["text"].startswith(
                "2 nodes call themselves mx2 (0000000000003a96, 0000000000008e09): "
            )
            shown = await it.ask("GET", "/v1/status")
            assert {m["replica"]: m["isTwin"] for m in shown.body["members"]} == {
                "0000000000003a96": True,
                "0000000000008e09": True,
            }
            asked = Verdict([{"replica": "0000000000008e09", "peers": [], "members": []}, shown.body])
            assert _not_compared(asked) == ["mx2"], "the other one is not forgotten"

    run(test())


def test_a_node_whose_own_name_another_one_has_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, OLD, "mx1")
            await alarms(it)
            hear(it, OLD, "mx1", ago_s=-1.0 - GOSSIP_TIMEOUT_S)
            it.node._namesakes._since[it.node.replica.id] -= 2 * GOSSIP_TIMEOUT_S
            it.node._namesakes._since[OLD] -= 2 * GOSSIP_TIMEOUT_S
            assert "2 nodes call themselves mx1" in await alarms(it)

    run(test())


def test_a_member_that_is_alive_is_retired_by_force_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, OLD, "mx2", ago_s=2)
            refused = await it.ask("POST", "/v1/members/mx2/retire")
            assert (refused.status, refused.problem) == (409, "still-heard")
            assert "mx2 (0000000000008e09) was heard of 2 s ago" in refused.body["detail"]
            assert it.node.gossip.retired == frozenset()
            forced = await it.ask("POST", "/v1/members/mx2/retire", {"force": True})
            who = [{"replica": "0000000000008e09", "name": "mx2"}]
            assert forced.body == {"retired": who, "wasAlready": False}
            assert "mx2 (0000000000008e09) is retired by an operator, here" in caplog.text
            again = await it.ask("POST", "/v1/members/mx2/retire")
            assert (again.status, again.body) == (200, {"retired": who, "wasAlready": True})
            wrong = await it.ask("POST", "/v1/members/mx2/retire", {"force": 1})
            assert (wrong.status, wrong.problem) == (400, "invalid-request")

    run(test())


def test_a_member_that_is_silent_is_retired_without_force(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, OLD, "mx2", ago_s=ALIVE_S + 1)
            assert (await it.ask("POST", "/v1/members/mx2/retire")).status == 200
            assert it.node.gossip.retired == {OLD}

    run(test())


def test_a_name_means_the_server_that_bears_it_with_all_that_it_was_before(tmp_path: Path) -> None:
    retired, older, old, new = (ReplicaId(each) for each in (1, 2, 3, 4))

    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, retired, "mx2", ago_s=4000)
            await it.node.retire(f"{retired:016x}", force=False)
            hear(it, older, "mx2", ago_s=3000)
            hear(it, old, "mx2", ago_s=2000)
            hear(it, new, "mx2", ago_s=2)
            hear(it, NEW, "mx3", ago_s=2000)
            refused = await it.ask("POST", "/v1/members/mx2/retire")
            assert (refused.status, refused.problem) == (409, "still-heard")
            assert it.node.gossip.retired == {retired}
            hear(it, new, "mx2", ago_s=ALIVE_S + 1)
            answer = await it.ask("POST", "/v1/members/mx2/retire")
            assert [each["replica"][-1] for each in answer.body["retired"]] == ["4", "3", "2"]
            assert not answer.body["wasAlready"]
            assert it.node.gossip.retired == {retired, older, old, new}

    run(test())


def test_a_replica_that_is_named_by_its_id_is_retired_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, OLD, "mx2", ago_s=1000)
            hear(it, NEW, "mx2", ago_s=1)
            assert (await it.ask("POST", "/v1/members/0000000000008e09/retire")).status == 200
            assert it.node.gossip.retired == {OLD}

    run(test())


def test_a_name_under_which_two_replicas_live_is_no_name_of_one_to_retire(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            hear(it, OLD, "mx2", ago_s=ALIVE_S - 20)
            hear(it, NEW, "mx2", ago_s=1)
            refused = await it.ask("POST", "/v1/members/mx2/retire", {"force": True})
            assert (refused.status, refused.problem) == (409, "ambiguous")
            assert "0000000000008e09 (heard of 40 s ago)" in refused.body["detail"]
            assert it.node.gossip.retired == frozenset()

    run(test())


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_node_is_never_told_to_retire_itself(tmp_path: Path, by: str) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            member = it.name if by == "name" else f"{it.node.replica.id:016x}"
            refused = await it.ask("POST", f"/v1/members/{member}/retire", {"force": True})
            assert (refused.status, refused.problem) == (403, "forbidden")

    run(test())
