"""Gossip that is signed with the cluster's secret: who is let in, who is not, and whom a caller believes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from yarl import URL

from crdtmail.errors import Overloaded, PeerError, Unauthenticated
from crdtmail.limits import SIGNATURE_LIFE_S
from crdtmail.node import Node
from crdtmail.security import signing
from crdtmail.security.signing import Caller, Receiver, digest, sign_answer, sign_request
from crdtmail.web.gossip_server import NONCE, SENDER, SIGNATURE, TIME
from tests.nodes import run, until
from tests.secured import (
    EXCHANGE,
    POSITION,
    SECRET,
    ask,
    in_the_middle,
    same,
    secret_file,
    serving,
    signed,
    time_of,
)

KEY = SECRET.encode()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pair:
    """A receiver and one who signs for it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.receiver = Receiver("0123456789abcdef", self.clock)

    def check(
        self, nonce: str, *, time: str | None = None, path: str = EXCHANGE, sent: str = EXCHANGE
    ) -> None:
        said = self.receiver.time() if time is None else time
        sign = sign_request(KEY, "POST", path, said, nonce, "ab", "digest")
        self.receiver.check(KEY, "POST", sent, said, nonce, "ab", "digest", sign)


def nonce(number: int) -> str:
    return f"{number:032x}"


def refused_because(said: str) -> pytest.RaisesExc[Unauthenticated]:
    return pytest.raises(Unauthenticated, match=said)


# Signatures, without a network ----------------------------------------------------------------------------


def test_a_request_is_taken_once_and_never_again() -> None:
    pair = Pair()
    time = pair.receiver.time()
    pair.check(nonce(1), time=time)
    for later in (0.0, SIGNATURE_LIFE_S - 1, 2 * SIGNATURE_LIFE_S, 1e9):
        pair.clock.now = 1000.0 + later
        with pytest.raises(Unauthenticated):
            pair.check(nonce(1), time=time)


def test_one_that_was_signed_ahead_of_time_is_not_taken_again_either() -> None:
    pair = Pair()
    ahead = f"0123456789abcdef-{SIGNATURE_LIFE_S:.3f}"
    pair.check(nonce(1), time=ahead)
    for later in range(int(2 * SIGNATURE_LIFE_S) + 3):
        pair.clock.now = 1000.0 + later
        pair.check(nonce(100 + later))
        with pytest.raises(Unauthenticated):
            pair.check(nonce(1), time=ahead)


@pytest.mark.parametrize("seconds", [-SIGNATURE_LIFE_S - 1, SIGNATURE_LIFE_S + 1])
def test_a_time_too_far_from_the_receivers_is_refused(seconds: float) -> None:
    pair = Pair()
    pair.clock.now += 1000
    with refused_because("was signed"):
        pair.check(nonce(1), time=f"0123456789abcdef-{1000 + seconds:.3f}")


def test_what_was_signed_for_another_path_is_refused() -> None:
    with refused_because("another secret, or was changed"):
        Pair().check(nonce(1), path="/gossip/v2/push")


def test_a_request_for_an_earlier_life_is_refused_as_a_greeting() -> None:
    with pytest.raises(Unauthenticated) as refusal:
        Pair().check(nonce(1), time="fedcba9876543210-0.000")
    assert refusal.value.is_greeting


def test_what_is_remembered_is_bounded_in_number_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MAX_NONCES", 3)
    pair = Pair()
    for number in range(3):
        pair.check(nonce(number))
    with pytest.raises(Overloaded):
        pair.check(nonce(3))
    pair.clock.now += SIGNATURE_LIFE_S + 1
    pair.check(nonce(4))
    assert len(pair.receiver._seen) == 1


def test_a_caller_goes_on_with_the_receivers_time() -> None:
    clock = Clock()
    caller = Caller(clock)
    assert caller.time() == ""
    sign = sign_answer(KEY, nonce(1), 200, "0123456789abcdef-5.000", "ab", digest(b"answer"))
    caller.check(KEY, nonce(1), 200, "0123456789abcdef-5.000", "ab", b"answer", sign)
    clock.now += 7
    assert caller.time() == "0123456789abcdef-12.000"


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": nonce(2)},
        {"status": 204},
        {"time": "0123456789abcdef-6.000"},
        {"sender": "cd"},
        {"body": b"anSwer"},
        {"sign": "0" * 64},
        {"sign": ""},
        {"secret": b"another"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_caller_believes_no_answer_of_which_anything_was_changed(changed: dict[str, object]) -> None:
    time = "0123456789abcdef-5.000"
    answer = {
        "secret": KEY,
        "nonce": nonce(1),
        "status": 200,
        "time": time,
        "sender": "ab",
        "body": b"answer",
        "sign": sign_answer(KEY, nonce(1), 200, time, "ab", digest(b"answer")),
    }
    caller = Caller(Clock())
    with pytest.raises(PeerError, match="is not signed with this cluster's secret"):
        caller.check(**(answer | changed))  # type: ignore[arg-type]
    assert caller.time() == ""


# Over HTTP ------------------------------------------------------------------------------------------------


def test_a_member_is_answered_with_a_signature(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path)) as (service, http):
            headers = signed(await time_of(http, service.port))
            status, answered, body = await ask(http, service.port, headers)
            assert status == 200
            expected = sign_answer(
                KEY, headers[NONCE], 200, answered[TIME], f"{service.node.replica.id:016x}", digest(body)
            )
            assert answered[SIGNATURE] == expected
            assert answered[SENDER] == f"{service.node.replica.id:016x}"

    run(story())


def test_who_does_not_show_the_secret_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path)) as (service, http):
            port = service.port
            time = await time_of(http, port)
            good = signed(time)
            attempts = [
                ({SENDER: good[SENDER]}, POSITION, "is not signed"),
                (signed(time, secret="some other secret of the same kind"), POSITION, "another secret"),
                (signed(time, path="/gossip/v2/push"), POSITION, "another secret, or was changed"),
                (good | {SENDER: "1" * 16}, POSITION, "another secret, or was changed"),
                (good, POSITION + b"\0", "the body is not the one that was signed"),
                (good, POSITION, "was made once already"),
                (signed(time.replace("-", "-9999")), POSITION, "was signed"),
            ]
            for headers, body, reason in attempts:
                status, answered, problem = await ask(http, port, headers, body)
                assert status == 401
                assert "/problems/unauthenticated" in problem.decode()
                assert reason in problem.decode()
                assert answered["WWW-Authenticate"] == "Crdtmail-HMAC"
            async with http.get(f"http://127.0.0.1:{port}/v1/status") as response:
                counted = (await response.json())["unauthenticated"]
            assert counted["requests"] == len(attempts)
            assert "was signed" in counted["last"]
            assert not service.node.gossip.peers.heard

    run(story())


@pytest.mark.parametrize(
    "path", ["/%67ossip/v1/exchange", "//gossip/v2/exchange", "/v1/../gossip/v2/exchange"]
)
def test_no_other_spelling_of_the_path_is_a_way_in(tmp_path: Path, path: str) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path)) as (service, http):
            url = URL(f"http://127.0.0.1:{service.port}{path}", encoded=True)
            async with http.post(url, data=POSITION, headers={SENDER: "1" * 16}) as response:
                assert response.status in (401, 404)
            assert not service.node.gossip.peers.heard

    run(story())


def test_a_request_of_before_a_restart_is_not_taken_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        settings = {"cluster_secret_file": secret_file(tmp_path)}
        async with serving(tmp_path / "mx1", **settings) as (service, http):
            recorded = signed(await time_of(http, service.port))
            assert (await ask(http, service.port, recorded))[0] == 200
        async with serving(tmp_path / "mx1", **settings) as (service, http):
            assert (await ask(http, service.port, recorded))[0] == 401

    run(story())


def test_nodes_with_one_secret_converge_also_after_a_restart_of_one(tmp_path: Path) -> None:
    async def story() -> None:
        secret = secret_file(tmp_path)
        async with serving(tmp_path / "mx1", cluster_secret_file=secret) as (first, _):
            peers = (f"http://127.0.0.1:{first.port}",)
            async with serving(tmp_path / "mx2", cluster_secret_file=secret, peers=peers) as (second, _):
                await create(first.node, "alice")
                await create(second.node, "bob")
                await until(lambda: first.node.head.clock == second.node.head.clock, "mx2 has all of mx1")
            await create(first.node, "carol")
            async with serving(tmp_path / "mx2", cluster_secret_file=secret, peers=peers) as (second, _):
                await until(lambda: first.node.head.clock == second.node.head.clock, "and again")
                assert first.node.gossip.refusals.faults == 0

    run(story())


def test_a_peer_that_restarts_is_signed_for_anew(tmp_path: Path) -> None:
    """The caller stays, and knows the time of a life that is over; nobody counts that as an attack."""

    async def story() -> None:
        secret, port = secret_file(tmp_path), [0]
        async with AsyncExitStack() as stack:
            first, _ = await stack.enter_async_context(serving(tmp_path / "mx1", cluster_secret_file=secret))
            port[0] = first.port
            async with (
                in_the_middle(lambda: port[0], same, same) as address,
                serving(tmp_path / "mx2", cluster_secret_file=secret, peers=(address,)) as (second, http),
            ):
                session = second.node.gossip.peers.sessions[address]
                await until(lambda: session.peer is not None, "they have met")
                await stack.aclose()
                again = serving(tmp_path / "mx1", cluster_secret_file=secret)
                async with again as (first, _):
                    port[0] = first.port
                    await create(second.node, "alice")
                    await until(lambda: first.node.head.lsn == 1, "the new life has it")
                    async with http.get(f"http://127.0.0.1:{first.port}/v1/status") as response:
                        assert (await response.json())["unauthenticated"]["requests"] == 0

    run(story())


def test_a_peer_with_another_secret_gets_nothing_and_is_not_believed(tmp_path: Path) -> None:
    async def story() -> None:
        here, there = (
            secret_file(tmp_path),
            secret_file(tmp_path / "other", "a secret of another cluster, far away"),
        )
        async with serving(tmp_path / "mx1", cluster_secret_file=here) as (first, _):
            await create(first.node, "alice")
            address = f"http://127.0.0.1:{first.port}"
            async with serving(tmp_path / "mx2", cluster_secret_file=there, peers=(address,)) as (second, _):
                session = second.node.gossip.peers.sessions[address]
                await until(lambda: session.last_error is not None, "the caller has noticed")
                assert "is not signed with this cluster's secret" in str(session.last_error)
                assert second.node.head.lsn == 0

    run(story())


@pytest.mark.parametrize("direction", ["there", "back"])
def test_somebody_in_the_middle_can_change_nothing(tmp_path: Path, direction: str) -> None:
    """Here the name of whoever speaks, which is in every position."""

    def forge(data: bytes) -> bytes:
        return data.replace(b"mx1", b"mxX").replace(b"mx2", b"mxX")

    async def story() -> None:
        secret = secret_file(tmp_path)
        async with (
            serving(tmp_path / "mx1", cluster_secret_file=secret) as (first, _),
            in_the_middle(
                lambda: first.port,
                forge if direction == "there" else same,
                forge if direction == "back" else same,
            ) as address,
            serving(tmp_path / "mx2", cluster_secret_file=secret, peers=(address,)) as (second, _),
        ):
            session = second.node.gossip.peers.sessions[address]
            await until(lambda: session.failures > 1, "the exchange fails")
            said = "not the one that was signed" if direction == "there" else "is not signed with this"
            assert said in str(session.last_error)
            assert session.peer is None
            if direction == "there":
                assert not first.node.gossip.peers.heard

    run(story())


async def create(node: Node, account: str) -> None:
    await node.write(lambda replica, txn: replica.create_mailbox(txn, account, "INBOX"))
