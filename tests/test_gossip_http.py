"""Whole nodes that gossip over HTTP: topologies, cuts, restarts, peers that are dead, slow or hostile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import encode_delta
from crdtmail.crdt.delta import Create, Delta, DirectoryUpdate, MailboxId
from crdtmail.effects import Kind
from crdtmail.errors import Refusal
from crdtmail.gossip.codec import decode_answer, encode_position, encode_push
from crdtmail.gossip.filling import Filling
from crdtmail.gossip.messages import Position
from crdtmail.limits import MAX_NEW_IDS
from crdtmail.web.gossip_server import SENDER, path
from tests.filling import lose_a_message
from tests.nodes import CHAIN, MESH, STAR, Cluster, Running, cluster, run, single, until
from tests.test_api import ALICE, CHANGES, INBOX, add, prepared, shown

EXCHANGE, PUSH = path(Kind.EXCHANGE), path(Kind.PUSH)
STRANGER = {SENDER: "00000000000000ff"}


async def uids(it: Running) -> list[tuple[int, str]]:
    return [(m["uid"], m["id"]) for m in (await it.ask("GET", INBOX)).body["messages"]]


async def same_everywhere(nodes: Cluster) -> None:
    """Read on all nodes until all show the same, UIDs included."""

    async def same() -> bool:
        first, *others = [await uids(it) for it in nodes.nodes.values()]
        return all(it == first for it in others)

    await nodes.converged()
    await until(same, "all nodes show the same messages under the same UIDs")


@pytest.mark.parametrize(
    ("kind", "protocol", "status", "reason"),
    [
        (Kind.OFFER, 2, 400, Refusal.FILLING),
        (Kind.PUSH, 2, 400, Refusal.MALFORMED),
        (Kind.PUSH, 99, 404, Refusal.PROTOCOL),
    ],
)
def test_a_peer_is_told_why_it_is_refused(
    tmp_path: Path, kind: Kind, protocol: int, status: int, reason: Refusal
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            it.node.gossip.filling = Filling("http://mx3:7420", it.node.now())
            refused = await it.ask("POST", path(kind, protocol), data=b"", headers=STRANGER)
            assert (refused.status, refused.body["reason"]) == (status, reason.value)

    run(test())


@pytest.mark.parametrize("topology", [MESH, CHAIN, STAR], ids=["mesh", "chain", "star"])
def test_nodes_converge_whatever_their_topology(
    tmp_path: Path, topology: Mapping[str, Sequence[str]]
) -> None:
    async def test() -> None:
        async with cluster(tmp_path, topology) as nodes:
            await prepared(nodes.nodes["mx1"])
            await nodes.converged()
            for name, it in nodes.nodes.items():
                await add(it, f"from-{name}", "from-all")
            await same_everywhere(nodes)
            assert len(await shown(nodes.nodes["mx1"])) == len(topology) + 1

    run(test())


def test_five_nodes_converge_whatever_is_done_to_them_and_whatever_is_cut(tmp_path: Path) -> None:
    names = [f"mx{n}" for n in range(1, 6)]
    chance = random.Random(2008)

    async def test() -> None:
        async with cluster(tmp_path, {name: [n for n in names if n != name] for name in names}) as nodes:
            await prepared(nodes.nodes["mx1"], *(f"m{n}" for n in range(10)))
            await nodes.converged()
            for turn in range(6):
                nodes.cut(*chance.sample(names, turn % 3))
                for _ in range(15):
                    it = nodes.nodes[chance.choice(names)]
                    method, path, body = chance.choice(CHANGES)
                    answer = await it.ask(method, path, body)
                    assert answer.status < 300 or answer.problem in {"not-found", "already-exists"}
                    if chance.random() < 0.3:
                        await it.ask("GET", INBOX)
                if turn == 3:
                    await nodes.stop("mx5")
                    names.remove("mx5")
                if turn == 4:
                    await nodes.start("mx5")
                    names.append("mx5")
                nodes.heal()
            await same_everywhere(nodes)

    run(test())


def test_both_sides_of_a_cut_go_on_and_come_together_when_it_is_healed(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            first, second = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(first, "seed")
            await first.ask(
                "PATCH", f"{INBOX}/messages", {"ids": ["seed"], "patch": {"keywords/$flagged": True}}
            )
            await nodes.converged()
            nodes.cut("mx1")
            patch = {"ids": ["seed"], "patch": {"keywords/$answered": True}}
            await first.ask("PATCH", f"{INBOX}/messages", patch)
            patch = {"ids": ["seed"], "patch": {"keywords/$seen": True, "keywords/$flagged": None}}
            await second.ask("PATCH", f"{INBOX}/messages", patch)
            await add(first, "here")
            await add(second, "there")
            assert await shown(first) == {"seed": {"$answered", "$flagged"}, "here": set()}
            nodes.heal()
            await same_everywhere(nodes)
            assert await shown(first) == {"seed": {"$answered", "$seen"}, "here": set(), "there": set()}

    run(test())


def test_nodes_may_start_in_any_order_and_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, CHAIN, start=False) as nodes:
            await prepared(await nodes.start("mx3"), "m1")
            await nodes.start("mx1")
            await nodes.start("mx2")
            await nodes.converged()
            replica = nodes.nodes["mx2"].node.replica.id
            await nodes.stop("mx2")
            await add(nodes.nodes["mx1"], "m2")
            await add(nodes.nodes["mx3"], "m3")
            assert (await nodes.start("mx2")).node.replica.id == replica
            await same_everywhere(nodes)
            assert set(await shown(nodes.nodes["mx1"])) == {"m1", "m2", "m3"}

    run(test())


def test_a_peer_that_swallows_everything_delays_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        hung = asyncio.Event()

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            hung.set()
            await reader.read(-1)
            writer.close()

        async with cluster(tmp_path, MESH, start=False) as nodes:
            server = await asyncio.start_server(swallow, "127.0.0.1", 0)
            nodes.links["mx1", "mx3"].target = server.sockets[0].getsockname()[1]
            first, second = await nodes.start("mx1"), await nodes.start("mx2")
            await prepared(first)
            await asyncio.wait_for(hung.wait(), 20)
            for n in range(20):
                token = (await add(first, f"m{n}"))["token"]
                answer = await second.ask("GET", f"{INBOX}?tokenWait=5&token={token}")
                assert answer.status == 200
            server.close()

    run(test())


def test_a_peer_that_is_not_there_delays_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH, start=False) as nodes:
            nodes.links["mx1", "mx3"].address = "http://127.0.0.1:1"
            first, second = await nodes.start("mx1"), await nodes.start("mx2")
            await prepared(first)

            async def refused() -> bool:
                peers = (await first.ask("GET", "/v1/status")).body["peers"]
                return peers[1]["error"] is not None and not peers[1]["reachable"]

            await until(refused, "the dead peer is noticed")
            for n in range(20):
                token = (await add(first, f"m{n}"))["token"]
                assert (await second.ask("GET", f"{INBOX}?tokenWait=5&token={token}")).status == 200

    run(test())


def test_in_a_mesh_each_delta_goes_about_once_to_each_peer(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            await prepared(nodes.nodes["mx1"])
            await nodes.converged()
            received: Counter[str] = Counter()
            for name, it in nodes.nodes.items():
                original = it.node.replica.receive

                def counted(txn, delta, data, original=original, name=name):  # type: ignore[no-untyped-def]
                    received[name] += 1
                    return original(txn, delta, data)

                it.node.replica.receive = counted  # type: ignore[method-assign]
            for n in range(60):
                await add(nodes.nodes[f"mx{n % 3 + 1}"], f"m{n}")
            await nodes.converged()
            assert sum(received.values()) <= 1.5 * 60 * 2

    run(test())


def test_a_gap_is_answered_with_the_clock_and_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            before = it.state
            late = Delta(Dot(ReplicaId(255), 2), "alice", (Create(MailboxId(b"x" * 16)),))
            early = Delta(
                Dot(ReplicaId(255), 1), "alice", (DirectoryUpdate(b"\0\0", Clock({ReplicaId(9): 1})),)
            )
            for delta in (late, early):
                answer = await it.ask("POST", PUSH, data=encode_push([encode_delta(delta)]), headers=STRANGER)
                assert answer.status == 409
                assert it.state == before

    run(test())


def test_what_a_faulty_peer_sends_is_refused_and_counted_and_stops_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            before = it.state
            good = encode_delta(Delta(Dot(ReplicaId(255), 1), "alice", (Create(MailboxId(b"x" * 16)),)))
            own = encode_delta(Delta(Dot(it.node.replica.id, 99), "alice", (Create(MailboxId(b"x" * 16)),)))
            broken_update = encode_delta(
                Delta(Dot(ReplicaId(255), 1), "alice", (DirectoryUpdate(b"nonsense", Clock()),))
            )
            half_broken = encode_delta(
                Delta(
                    Dot(ReplicaId(255), 1),
                    "alice",
                    (Create(MailboxId(b"x" * 16)), DirectoryUpdate(b"nonsense", Clock())),
                )
            )
            bad = [good[:-1] + bytes([good[-1] ^ 1]), own, broken_update, half_broken, b"", good + b"\0"]
            for delta in bad:
                answer = await it.ask("POST", PUSH, data=encode_push([delta]), headers=STRANGER)
                assert (answer.status, answer.problem) == (400, "peer-error")
                assert it.state == before
                assert [box["name"] for box in (await it.ask("GET", ALICE)).body["mailboxes"]] == ["INBOX"]
            assert (await it.ask("GET", "/v1/status")).body["refusedFromPeers"] == len(bad)
            answer = await it.ask("POST", PUSH, data=encode_push([good, bad[0]]), headers=STRANGER)
            assert answer.status == 400
            assert it.node.head.clock[ReplicaId(255)] == 1, "what came before the bad one is taken"
            answer = await it.ask("POST", PUSH, data=encode_push([good]), headers=STRANGER)
            assert answer.status == 204, "a delta that is known already is no fault"

    run(test())


def test_a_node_whose_own_writes_were_lost_takes_another_id_before_it_writes(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            old = it.node.replica.id
            seen = Position(ReplicaId(255), "mx2", Clock({old: 99}), 0)
            assert (
                await it.ask("POST", EXCHANGE, data=encode_position(seen), headers=STRANGER)
            ).status == 200
            written = it.node.head.clock[old]
            assert (await it.ask("POST", ALICE, {"name": "Work"})).status == 201
            assert it.node.replica.id != old
            assert it.node.head.clock[old] == written, "nothing more is written under the old id"
            assert it.node.head.clock[it.node.replica.id] > 0

    run(test())


def test_a_node_does_not_take_new_ids_without_end_because_somebody_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            statuses, ids = [], set()
            for _ in range(MAX_NEW_IDS + 2):
                seen = Position(ReplicaId(255), "mx2", Clock({it.node.replica.id: 99}), 0)
                answer = await it.ask("POST", EXCHANGE, data=encode_position(seen), headers=STRANGER)
                statuses.append(answer.status)
                ids.add(it.node.replica.id)
            assert statuses == [200] * MAX_NEW_IDS + [400] * 2
            assert len(ids) == MAX_NEW_IDS

    run(test())


def test_equal_clocks_with_unequal_digests_raise_an_alarm_and_are_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with cluster(tmp_path, {"mx1": ["mx2"], "mx2": ["mx1"]}) as nodes:
            first, second = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(first)
            await first.ask("POST", f"{ALICE}/name:INBOX/messages", {"messages": [{"id": "m1", "size": 1}]})
            await nodes.converged()
            whole = first.digest()
            await second.node.write(lambda _, txn: lose_a_message(txn, "alice"))
            assert second.digest() != whole
            await until(lambda: "one of the stores is damaged" in caplog.text, "the damage is reported")
            await until(lambda: first.digest() == second.digest() == whole, "both have what either had")

    run(test())


@pytest.mark.parametrize("damaged", ["mx1", "mx2"])
def test_two_states_with_one_clock_are_repaired_whichever_of_the_two_nodes_cannot_call_the_other(
    tmp_path: Path, damaged: str
) -> None:
    async def test() -> None:
        async with cluster(tmp_path, {"mx1": ["mx2"], "mx2": []}) as nodes:
            first, second = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(first, "m1", "m2")
            await nodes.converged()
            whole = first.digest()
            await nodes.nodes[damaged].node.write(lambda _, txn: lose_a_message(txn, "alice"))
            await until(lambda: first.digest() == second.digest() == whole, "both have what either had")

            async def is_calm() -> bool:
                return not (await first.ask("GET", "/v1/status")).body["alarms"]

            await until(is_calm, "the alarm is over")

    run(test())


def test_an_answer_never_claims_more_than_it_brings(tmp_path: Path) -> None:
    """While it is made, this node may commit; the asker must not think that it was refused the rest."""

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            for number in range(20):
                asker = Position(ReplicaId(1000 + number), "new", it.node.head.clock, it.node.head.digest)
                name = f"Work {number}"
                writing = it.node.write(lambda replica, txn, n=name: replica.create_mailbox(txn, "alice", n))  # type: ignore[misc]
                _, reply = await asyncio.gather(
                    writing, it.node.answer(Kind.EXCHANGE, asker.replica, encode_position(asker))
                )
                answer = decode_answer(reply.body)
                assert answer.deltas or asker.clock.includes(answer.position.clock)

    run(test())


def test_sound_gossip_with_a_flaw_is_refused_without_a_change(tmp_path: Path) -> None:
    """Bits turned over, ends cut off, bytes added: what a checksum and a strict decoder are there for."""
    delta = encode_delta(Delta(Dot(ReplicaId(255), 1), "alice", (Create(MailboxId(b"x" * 16)),)))
    sound = {
        PUSH: encode_push([delta]),
        EXCHANGE: encode_position(Position(ReplicaId(255), "mx2", Clock({ReplicaId(255): 7}), 1)),
    }

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            before = it.state
            flawed = [sound[PUSH][:n] for n in range(len(sound[PUSH]))]
            flawed += [sound[PUSH] + b"\0"]
            for n in range(len(sound[PUSH])):
                for bit in (1, 16, 128):
                    turned = bytearray(sound[PUSH])
                    turned[n] ^= bit
                    flawed.append(bytes(turned))
            for body in flawed:
                answer = await it.ask("POST", PUSH, data=body, headers=STRANGER)
                assert (answer.status, answer.problem) == (400, "peer-error"), body
                assert it.state == before
            for n in range(len(sound[EXCHANGE])):
                answer = await it.ask("POST", EXCHANGE, data=sound[EXCHANGE][:n], headers=STRANGER)
                assert (answer.status, answer.problem) == (400, "peer-error")
            for headers in ({}, {SENDER: "ff"}, {SENDER: "00000000000000FF"}, {SENDER: "é" * 16}):
                answer = await it.ask("POST", PUSH, data=sound[PUSH], headers=headers)
                assert (answer.status, answer.problem) == (400, "peer-error"), headers
            assert it.state == before
            assert not it.node.gossip.peers.heard, "no stranger is remembered for what was refused"
            answer = await it.ask("POST", PUSH, data=sound[PUSH], headers=STRANGER)
            assert answer.status == 204
            assert it.node.head.clock[ReplicaId(255)] == 1

    run(test())


def test_whatever_bytes_a_peer_sends_are_refused_without_a_change(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    @given(st.binary(max_size=80))
    def collect(body: bytes) -> None:
        bodies.append(body)

    collect()

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            before = it.state
            for body in bodies:
                for where in (EXCHANGE, PUSH):
                    answer = await it.ask("POST", where, data=body, headers=STRANGER)
                    assert answer.status in (204, 400), (where, body)
            assert it.state == before

    run(test())
