"""Whatever is refused is counted, by who sent it and by why, and changes and stops nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from crdtmail.crdt import codec
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import VERSION, dump, encode_delta, with_checksum
from crdtmail.crdt.delta import Add, Create, Delta, DirectoryUpdate, MailboxId
from crdtmail.crdt.message import NewMessage
from crdtmail.crdt.uid import Uid
from crdtmail.effects import Kind, Reply
from crdtmail.errors import Overloaded, PeerError, PeerUnreachable, Refusal
from crdtmail.gossip import refusals
from crdtmail.gossip.codec import encode_answer, encode_position, encode_push
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.refusals import ORDINARY, OTHERS, Refusals
from crdtmail.gossip.snapshot import Begin, encode_numbered, encode_request
from crdtmail.limits import MAX_NEW_IDS, MAX_PEERS_NAMED, MAX_REFUSAL_TEXT
from crdtmail.web.gossip_server import SENDER
from simulations import scenarios
from simulations.schedule import schedule
from simulations.world import run as simulate
from tests.masters import ACCOUNT, mail
from tests.nodes import node_process, run, until
from tests.secured import (
    EXCHANGE,
    POSITION,
    STRANGER,
    ask,
    bearer,
    certified,
    in_the_middle,
    same,
    secret_file,
    serving,
    signed,
    time_of,
    token,
)
from tests.test_cli import crdtmail
from tests.test_conversation import ADDRESS, PEER, Talker
from tests.test_docs import first_cells, section

ANOTHER = "a secret of another cluster, far away"
BOX = MailboxId(b"x" * 16)
CALLER = f"{PEER:016x}"


def counted(found: Refusals) -> list[tuple[str | None, Refusal, int]]:
    return [(peer, reason, refused.count) for peer, reason, refused in found]


def delta(replica: ReplicaId = PEER, seq: int = 1) -> bytes:
    return encode_delta(Delta(Dot(replica, seq), ACCOUNT, (Create(BOX),)))


def of_another_version() -> bytes:
    made = bytearray(delta()[:-5])
    made[1] = VERSION + 1
    return with_checksum(bytes(made))


def with_a_uid_at_the_end() -> bytes:
    message = NewMessage(mail("m").id, Uid(2**32 - 2), 1, 0, ())
    return encode_delta(Delta(Dot(PEER, 1), ACCOUNT, (Create(BOX), Add(BOX, (message,), Clock()))))


FAULTY: dict[str, tuple[Callable[[], bytes], Refusal]] = {
    "damaged": (lambda: delta()[:-1] + b"\0", Refusal.CHECKSUM),
    "newer": (of_another_version, Refusal.VERSION),
    "noise": (lambda: with_checksum(dump(["noise"])), Refusal.MALFORMED),
    "ours": (lambda: delta(ReplicaId(1), 99), Refusal.OWN_DELTA),
    "no directory": (
        lambda: encode_delta(Delta(Dot(PEER, 1), ACCOUNT, (DirectoryUpdate(b"nonsense", Clock()),))),
        Refusal.IMPOSSIBLE,
    ),
    "last UID": (with_a_uid_at_the_end, Refusal.IMPOSSIBLE),
    "gap": (lambda: delta(seq=7), Refusal.GAP),
    "too large": (lambda: delta(replica=ReplicaId(2**63)) + bytes(100), Refusal.OVER_LIMIT),
}


@pytest.fixture(params=FAULTY)
def faulty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, Refusal]:
    if request.param == "too large":
        monkeypatch.setattr(codec, "MAX_DELTA", 100)
    make, reason = FAULTY[request.param]
    return make(), reason


def assert_it_goes_on(talker: Talker) -> None:
    assert talker.gossip.head.clock == Clock(), "what is refused changes nothing"
    talker.perform(talker.gossip.answer(Kind.PUSH, PEER, encode_push([delta()])))
    assert talker.gossip.head.clock == Clock({PEER: 1}), "what is sound is taken afterwards"


# Of peers -------------------------------------------------------------------------------------------------


def test_what_a_peer_pushes_is_counted_by_its_replica_and_the_reason(faulty: tuple[bytes, Refusal]) -> None:
    data, reason = faulty
    talker = Talker()
    with suppress(PeerError):  # a gap is answered
        talker.perform(talker.gossip.answer(Kind.PUSH, PEER, encode_push([data])))
    assert counted(talker.gossip.refusals) == [(CALLER, reason, 1)]
    assert_it_goes_on(talker)


def test_what_a_peer_answers_is_counted_by_its_address_and_the_reason(faulty: tuple[bytes, Refusal]) -> None:
    data, reason = faulty
    talker = Talker()
    answer = ExchangeAnswer(Position(PEER, "peer", Clock({PEER: 7}), 0), (data,))
    talker.perform(talker.gossip.converse(ADDRESS), Reply(200, PEER, encode_answer(answer)))
    assert counted(talker.gossip.refusals) == [(ADDRESS, reason, 1)]
    assert_it_goes_on(talker)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (Kind.EXCHANGE, encode_position(Position(PEER, "peer", Clock({PEER: 1}), 0))[:-1], Refusal.CHECKSUM),
        (Kind.EXCHANGE, with_checksum(dump([1])), Refusal.MALFORMED),
        (Kind.PUSH, b"noise", Refusal.MALFORMED),
        (Kind.SNAPSHOT, with_checksum(dump([99])), Refusal.MALFORMED),
        (Kind.SNAPSHOT, with_checksum(dump([5, 1])), Refusal.NOT_NOW),
        (Kind.OFFER, encode_numbered(1, encode_request(Begin())), Refusal.NOT_NOW),
    ],
)
def test_a_request_that_is_refused_is_counted_once(kind: Kind, body: bytes, reason: Refusal) -> None:
    talker = Talker()
    with pytest.raises(PeerError):
        talker.perform(talker.gossip.answer(kind, PEER, body))
    assert counted(talker.gossip.refusals) == [(CALLER, reason, 1)]
    assert_it_goes_on(talker)


def test_a_peer_that_wants_this_node_to_change_its_id_once_too_often_is_counted() -> None:
    talker = Talker()
    for number in range(MAX_NEW_IDS + 1):
        talker.new_id = ReplicaId(100 + number)
        ahead = Position(PEER, "peer", Clock({talker.master.replica.id: 99}), 0)
        try:
            talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, encode_position(ahead)))
        except PeerError:
            assert number == MAX_NEW_IDS
    assert counted(talker.gossip.refusals) == [(CALLER, Refusal.OWN_ID, 1)]


def test_a_peer_whose_clock_has_gone_back_is_counted_and_gets_back_what_it_lost() -> None:
    talker = Talker()
    before = Position(PEER, "peer", Clock({PEER: 1}), 0)
    answer = ExchangeAnswer(before, (delta(),))
    talker.perform(talker.gossip.converse(ADDRESS), Reply(200, PEER, encode_answer(answer)))
    session = talker.gossip.peers.sessions[ADDRESS]
    session._next_exchange_at = 0.0
    assert counted(talker.gossip.refusals) == []
    talker.meet(PEER)
    assert counted(talker.gossip.refusals) == [(ADDRESS, Refusal.CLOCK_WENT_BACK, 1)]
    assert session.known == Clock(), "what it lost is sent again"
    assert session.last_error is None


def test_an_answer_that_was_overtaken_by_what_the_peer_sent_since_is_no_clock_that_went_back() -> None:
    talker = Talker()
    steps = talker.gossip.converse(ADDRESS)
    assert steps is not None
    steps.send(None)
    first = Position(PEER, "peer", Clock({PEER: 1}), 0)
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, encode_position(first)))
    answer = encode_answer(ExchangeAnswer(Position(PEER, "peer", Clock(), 0), ()))
    with pytest.raises(StopIteration):
        steps.send(Reply(200, PEER, answer))
    assert counted(talker.gossip.refusals) == []


@pytest.mark.parametrize(
    "error", [PeerError("the peer answered 400: no", None), PeerUnreachable("gone"), Overloaded("later")]
)
def test_a_peer_that_refuses_or_is_not_there_is_no_refusal_of_ours(error: Exception) -> None:
    talker = Talker()
    steps = talker.gossip.converse(ADDRESS)
    assert steps is not None
    steps.send(None)
    with pytest.raises(StopIteration):
        steps.throw(error)
    assert counted(talker.gossip.refusals) == []
    assert talker.gossip.peers.sessions[ADDRESS].last_error == str(error)


def test_what_befalls_sound_peers_too_is_counted_and_is_no_fault() -> None:
    found = Refusals(lambda: 0.0)
    for reason in Refusal:
        found.count("peer", reason, "")
        found.count(None, reason, "")
    assert found.faults == len(Refusal) - len(ORDINARY)


@pytest.mark.parametrize("name", ["flapping-link", "rolling-restart", "chain"])
def test_nodes_that_are_cut_off_and_crash_refuse_each_other_nothing_but_what_is_ordinary(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only seemed to go back would be counted here, too."""
    found: list[tuple[Refusal, str]] = []
    monkeypatch.setattr(Refusals, "count", lambda _, __, reason, text: found.append((reason, text)))
    config = scenarios.load(name).configure(1)
    assert simulate(1, config, schedule(1, config)).violation is None
    assert [each for each in found if each[0] not in ORDINARY] == []


# Bounds ---------------------------------------------------------------------------------------------------


def test_peers_beyond_the_most_that_are_named_are_counted_together() -> None:
    found = Refusals(lambda: 0.0)
    found.count(None, Refusal.NO_TOKEN, "nobody")
    for number in range(10 * MAX_PEERS_NAMED):
        found.count(f"{number:016x}", Refusal.CHECKSUM, "damaged")
    peers = [peer for peer, _, _ in found]
    assert len(peers) <= MAX_PEERS_NAMED + 1
    assert sum(refused.count for _, _, refused in found) == 1 + 10 * MAX_PEERS_NAMED
    before = {peer: refused.count for peer, _, refused in found}
    found.count("0" * 16, Refusal.CHECKSUM, "damaged")
    assert {peer: refused.count for peer, _, refused in found} == {**before, "0" * 16: 2}
    assert before[OTHERS] > 1


def test_strangers_that_fill_the_table_do_not_hide_who_shows_nothing() -> None:
    found = Refusals(lambda: 0.0)
    for number in range(10 * MAX_PEERS_NAMED):
        found.count(f"{number:016x}", Refusal.CHECKSUM, "damaged")
    found.count(None, Refusal.REPLAY, "again")
    assert found.unauthenticated is not None
    assert found.unauthenticated.count == 1


def test_of_a_text_only_the_beginning_is_kept_and_nothing_that_a_terminal_obeys() -> None:
    found = Refusals(lambda: 0.0)
    found.count("peer", Refusal.VERSION, "\x1b[2J" + "x" * 1_000_000)
    ((_, _, refused),) = found
    assert refused.text.startswith("?[2J")
    assert len(refused.text) == MAX_REFUSAL_TEXT


def test_the_last_refusal_has_its_time_and_its_text() -> None:
    now = [5.0]
    found = Refusals(lambda: now[0])
    found.count("peer", Refusal.CHECKSUM, "first")
    now[0] = 9.0
    found.count("peer", Refusal.CHECKSUM, "second")
    ((_, _, refused),) = found
    assert refused == refusals.Refused(2, 9.0, "second")


def test_every_reason_is_explained() -> None:
    assert first_cells(section("protocol.md", "## Refusals")) == [reason.value for reason in Refusal]


# Over HTTP ------------------------------------------------------------------------------------------------


def test_who_does_not_show_the_secret_is_counted_by_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path)) as (service, http):
            time = await time_of(http, service.port)
            good = signed(time)
            attempts = [
                ({SENDER: good[SENDER]}, POSITION, Refusal.NOT_SIGNED),
                (signed(time, secret=ANOTHER), POSITION, Refusal.FALSE_SIGNATURE),
                (good, POSITION[:-1] + b"\0", Refusal.FALSE_SIGNATURE),
                (good, POSITION, Refusal.REPLAY),
                (signed(time.replace("-", "-9999")), POSITION, Refusal.OLD_SIGNATURE),
            ]  # fmt: skip
            for headers, body, reason in attempts:
                before = {each: n for _, each, n in counted(service.node.gossip.refusals)}
                assert (await ask(http, service.port, headers, body))[0] == 401
                after = {each: n for _, each, n in counted(service.node.gossip.refusals)}
                assert after == {**before, reason: before.get(reason, 0) + 1}
            assert {peer for peer, _, _ in service.node.gossip.refusals} == {None}
            assert service.node.gossip.refusals.faults == 0
            assert (await ask(http, service.port, signed(time)))[0] == 200

    run(story())


def test_a_client_without_a_good_token_is_counted_by_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        token(tmp_path / "mx1", "read")
        async with serving(tmp_path / "mx1") as (service, http):
            for headers in ({}, bearer("guessed"), bearer("guessed again")):
                url = f"http://127.0.0.1:{service.port}/v1/status"
                async with http.get(url, headers=headers) as response:
                    assert response.status == 401
            found = counted(service.node.gossip.refusals)
            assert found == [(None, Refusal.NO_TOKEN, 1), (None, Refusal.FALSE_TOKEN, 2)]

    run(story())


def test_who_shows_no_certificate_or_one_of_another_authority_is_counted(tmp_path: Path) -> None:
    async def story() -> None:
        ours, foreign = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "another ca", "mx2")
        without = ssl.create_default_context(cafile=str(ours.ca))
        of_another = ssl.create_default_context(cafile=str(ours.ca))
        of_another.load_cert_chain(foreign.certificate, foreign.key)
        async with serving(tmp_path / "mx1", tls=ours) as (service, http):
            url = f"https://127.0.0.1:{service.port}{EXCHANGE}"
            headers = {SENDER: f"{STRANGER:016x}"}
            async with http.post(url, data=POSITION, headers=headers, ssl=without) as response:
                assert response.status == 401
            with pytest.raises(aiohttp.ClientError):
                await http.post(url, data=POSITION, headers=headers, ssl=of_another)
            found = service.node.gossip.refusals
            expected = [(None, Refusal.NO_CERTIFICATE, 1), (None, Refusal.FALSE_CERTIFICATE, 1)]
            await until(lambda: counted(found) == expected, "both are counted")

    run(story())


def test_a_peer_that_answers_with_a_certificate_of_another_authority_is_counted(tmp_path: Path) -> None:
    async def story() -> None:
        mx1, mx2 = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "another ca", "mx2")
        async with serving(tmp_path / "mx1", tls=mx1) as (first, _):
            address = f"https://127.0.0.1:{first.port}"
            async with serving(tmp_path / "mx2", tls=mx2, peers=(address,)) as (second, _):
                found = second.node.gossip.refusals
                await until(lambda: found.faults > 0, "it is noticed")
                assert {each[:2] for each in counted(found)} == {(address, Refusal.FALSE_CERTIFICATE)}

    run(story())


def test_a_peer_whose_answer_is_signed_with_another_secret_is_counted(tmp_path: Path) -> None:
    async def story() -> None:
        here = secret_file(tmp_path)
        there = secret_file(tmp_path / "other", ANOTHER)
        async with serving(tmp_path / "mx1", cluster_secret_file=here) as (first, _):
            address = f"http://127.0.0.1:{first.port}"
            settings = {"cluster_secret_file": there, "peers": (address,)}
            async with serving(tmp_path / "mx2", **settings) as (second, _):
                await until(lambda: second.node.gossip.refusals.faults > 0, "the caller has noticed")
                assert {each[:2] for each in counted(second.node.gossip.refusals)} == {
                    (address, Refusal.FALSE_SIGNATURE)
                }
                assert {peer for peer, _, _ in first.node.gossip.refusals} == {None}

    run(story())


@pytest.mark.parametrize(
    ("path", "headers", "size", "peer", "reason"),
    [
        ("/gossip/v3/exchange", {SENDER: f"{STRANGER:016x}"}, 1, f"{STRANGER:016x}", Refusal.PROTOCOL),
        ("/gossip/v2/nothing", {SENDER: f"{STRANGER:016x}"}, 1, f"{STRANGER:016x}", Refusal.VERSION),
        (EXCHANGE, {SENDER: f"{STRANGER:016x}"}, 2**40, f"{STRANGER:016x}", Refusal.OVER_LIMIT),
        (EXCHANGE, {SENDER: "me"}, 1, OTHERS, Refusal.MALFORMED),
        (EXCHANGE, {}, 1, OTHERS, Refusal.MALFORMED),
    ],
)
def test_what_http_refuses_of_a_peer_is_counted_too(
    tmp_path: Path, path: str, headers: dict[str, str], size: int, peer: str, reason: Refusal
) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            given = {**headers, "Content-Length": str(size)}
            url = f"http://127.0.0.1:{service.port}{path}"
            async with http.post(url, data=b"x", headers=given) as response:
                assert response.status in (400, 404, 413)
            assert counted(service.node.gossip.refusals) == [(peer, reason, 1)]

    run(story())


def test_a_wrong_path_of_a_client_is_no_refusal(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            async with http.get(f"http://127.0.0.1:{service.port}/v2/status") as response:
                assert response.status == 404
            assert counted(service.node.gossip.refusals) == []

    run(story())


def test_two_nodes_of_which_one_sends_damaged_answers_count_them_and_agree_in_the_end(tmp_path: Path) -> None:
    """The name in every position is changed on its way, so that the checksum is wrong."""
    is_bad = True

    def forge(data: bytes) -> bytes:
        return data.replace(b"mx1", b"mxX") if is_bad else data

    async def story() -> None:
        nonlocal is_bad
        async with (
            serving(tmp_path / "mx1") as (first, _),
            in_the_middle(lambda: first.port, same, forge) as address,
            serving(tmp_path / "mx2", peers=(address,)) as (second, http),
        ):
            await first.node.write(lambda replica, txn: replica.create_mailbox(txn, "alice", "INBOX"))
            await until(lambda: second.node.gossip.refusals.faults > 0, "it is noticed")
            is_bad = False
            await until(lambda: first.node.head.clock == second.node.head.clock, "they agree")
            async with http.get(f"http://127.0.0.1:{second.port}/v1/status") as response:
                status = await response.json()
            (refusal,) = status["refusals"]
            assert refusal["count"] == status["refusedFromPeers"] > 0
            assert refusal["lastSeconds"] >= 0
            assert {key: refusal[key] for key in ("peer", "name", "reason", "last")} == {
                "peer": address,
                "name": "mx1",
                "reason": "checksum",
                "last": "a checksum is wrong: the message was damaged on its way",
            }

    run(story())


def test_the_command_line_shows_who_was_refused_why_how_often_and_what_was_said_last(tmp_path: Path) -> None:
    """In a process, which runs on another event loop than these tests."""

    async def push(address: str) -> None:
        async with aiohttp.ClientSession() as http:
            for _ in range(2):
                body = encode_push([delta()[:-1] + b"\0"])
                url, headers = f"{address}/gossip/v1/push", {SENDER: CALLER}
                async with http.post(url, data=body, headers=headers) as response:
                    assert response.status == 400

    with node_process(tmp_path / "mx1") as node:
        run(push(node.address))
        shown = " ".join(crdtmail("status", "--node", node.address).stdout.split())
    assert f"refused 2 times (checksum) of {CALLER}, the last" in shown
    assert "a checksum is wrong: the message was damaged on its way" in shown
