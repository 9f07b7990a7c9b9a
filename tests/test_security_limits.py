"""Who connects too often, too slowly or asks for too much costs the node little, and others nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from crdtmail.client import Client
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.message import MessageId
from crdtmail.effects import Kind
from crdtmail.errors import Overloaded
from crdtmail.gossip.codec import encode_position
from crdtmail.gossip.messages import Position
from crdtmail.limits import (
    MAX_GOSSIP_BODY,
    MAX_JSON_BODY,
    MAX_PEER_BODIES,
    MAX_POSITION,
    MAX_QUESTION,
    MAX_REQUESTS_PER_ADDRESS,
    MIB,
)
from crdtmail.node import Node
from crdtmail.replica import IncomingMessage, Replica
from crdtmail.store.interface import Transaction
from crdtmail.web import api, connections, listener, load, server
from crdtmail.web.gossip_server import SENDER, path
from tests.nodes import NodeProcess, node_process, run, until
from tests.secured import (
    EXCHANGE,
    POSITION,
    STRANGER,
    certified,
    secret_file,
    serving,
    token,
)

PUSH = path(Kind.PUSH)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(port: int, sent: bytes = b"") -> AsyncIterator[Connection]:
    """A bare connection on which this was sent, and nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def ends(reader: asyncio.StreamReader, patience_s: float = 30.0) -> bytes:
    """What came before the node hung up."""
    received = b""
    async with asyncio.timeout(patience_s):
        try:
            while data := await reader.read(1 << 16):
                received += data
        except ConnectionError:
            return received
    return received


def head(size: int, sender: int = 1, path: str = EXCHANGE) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", f"{SENDER}: {sender:016x}"]
    return "\r\n".join([*lines, "", ""]).encode()


def page(limit: int) -> bytes:
    """A request for so many messages."""
    return f"GET /v1/accounts/alice/mailboxes/name:INBOX?limit={limit} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def status(http: aiohttp.ClientSession, port: int) -> int:
    async with http.get(f"http://127.0.0.1:{port}/v1/status") as response:
        return response.status


# Slow clients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/status HTTP/1.1\r\nHost: x\r\nDrip: "], ids=["nothing", "half"]
)
def test_a_request_head_that_does_not_come_to_its_end_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async def story() -> None:
        monkeypatch.setattr(server, "MAX_IDLE_S", 0.2)
        async with serving(tmp_path / "mx1") as (service, _), connected(service.port, sent) as (reader, _):
            assert await ends(reader) == b""

    run(story())


def test_a_body_that_drips_in_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(load, "SILENCE_S", 0.2)
        async with serving(tmp_path / "mx1") as (service, _):
            async with connected(service.port, head(100) + b"half") as (reader, _):
                answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 408")

    run(story())


def test_who_does_not_read_the_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            await fill(service.node, 50_000)  # more than the kernel takes off our hands
            monkeypatch.setattr(load, "SILENCE_S", 0.5)
            monkeypatch.setattr(load, "MIN_RATE", 1e12)
            async with connected(service.port, page(50_000)) as (reader, _):
                answers = service._guard._load.answers
                await until(lambda: answers.taken > MIB, "the answer is under way")
                await until(lambda: answers.taken == 0, "the node gave it up")
                head, _, body = (await ends(reader)).partition(b"\r\n\r\n")
                said = re.search(rb"Content-Length: (\d+)", head)
                assert said is not None
                assert len(body) < int(said[1])

    run(story())


def test_a_body_must_keep_coming_however_large_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(load, "SILENCE_S", 0.3)
        async with serving(tmp_path / "mx1") as (service, _):
            begun = head(MAX_JSON_BODY, path="/v1/accounts/alice/mailboxes") + bytes(1000)
            async with connected(service.port, begun) as (reader, _), asyncio.timeout(5):
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")

    run(story())


def test_an_answer_must_be_read_all_the_time_however_large_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            await fill(service.node, 50_000)
            monkeypatch.setattr(load, "SILENCE_S", 0.5)
            async with connected(service.port, page(50_000)):
                answers = service._guard._load.answers
                await until(lambda: answers.taken > MIB, "the answer is under way")
                async with asyncio.timeout(10):  # at the least rate alone it would be minutes
                    await until(lambda: answers.taken == 0, "the node gave it up")

    run(story())


def test_an_answer_of_which_some_is_read_now_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            await fill(service.node, 50_000)
            monkeypatch.setattr(load, "SILENCE_S", 0.5)
            monkeypatch.setattr(load, "MIN_RATE", MIB)
            monkeypatch.setattr(load, "_LOOK_EVERY_S", 0.1)
            async with connected(service.port, page(50_000)) as (reader, _):
                received = b""
                while not received.endswith(b'"hasMore":false}'):
                    data = await reader.read(MIB)
                    assert data, "the node has not hung up"
                    received += data
                    await asyncio.sleep(0.02)

    run(story())


def test_a_handshake_that_does_not_come_to_its_end_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(listener, "HANDSHAKE_S", 0.2)
        async with (
            serving(tmp_path / "mx1", tls=certified(tmp_path / "ca", "mx1")) as (service, _),
            connected(service.port, b"\x16\x03\x01") as (reader, _),
        ):
            assert await ends(reader) == b""

    run(story())


# Many clients ---------------------------------------------------------------------------------------------


def test_connections_beyond_the_most_are_refused_until_some_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
        async with serving(tmp_path / "mx1") as (service, http):
            server = service.listener._server
            async with connected(service.port), connected(service.port):
                await until(lambda: len(server.connections) == 2, "two are open")
                for _ in range(3):
                    async with connected(service.port) as (reader, _):
                        assert await ends(reader) == b""
            await until(lambda: not server.connections, "both have ended")
            assert await status(http, service.port) == 200
            assert caplog.text.count("connections are refused") == 1

    run(story())


def test_one_address_never_has_more_connections_than_are_left_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 100)
    places = connections.Places()
    taken = dict.fromkeys(("10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.4"), 0)
    for address in taken:
        while places.take(address) is not None:
            taken[address] += 1
    assert list(taken.values()) == [50, 25, 13, 6]
    assert places.take("10.0.0.1") is None
    assert places.take("2001:db8::ffff:2") is None, "it is of the same network"
    assert places.take("::ffff:10.0.0.2") is None, "it is the same address"
    back = places.take("2001:db8:0:1::1")
    assert back is not None
    back()
    back()
    assert places.taken == sum(taken.values())


# What is not HTTP -----------------------------------------------------------------------------------------


def test_what_is_not_http_is_counted_and_logged_once_and_answered_with_a_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = [
        b"GET / HTTP/1.1\r\nX\x1b[31m: y\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02",
    ]

    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            for sent in heads * 3:
                async with connected(service.port, sent) as (reader, _):
                    answer = await ends(reader)
                assert b" 400 Bad Request\r\n" in answer
                assert b"application/problem+json" in answer
                assert b"/problems/invalid-request" in answer
            refused = service.node.gossip.refusals.unauthenticated
            assert refused is not None
            assert refused.count == len(heads) * 3
            assert refused.text.startswith("what came is not HTTP: ")
            assert caplog.text.count("is not HTTP") == 1
            assert "Traceback" not in caplog.text
            assert "\x1b" not in caplog.text

    run(story())


def test_http_before_its_first_version_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            serving(tmp_path / "mx1") as (service, _),
            connected(service.port, b"GET /v1/status\r\n\r\n") as (reader, _),
        ):
            assert re.match(rb"HTTP/\S+ (400|505) ", await ends(reader))

    run(story())


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n{}", b"2\r\n{"])
def test_a_body_that_is_not_as_announced_is_no_error_of_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    asked = b"POST /v1/accounts/alice/mailboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            async with connected(service.port, asked + body) as (reader, writer):
                writer.write_eof()
                answer = await ends(reader)
            assert not answer or b" 400 " in answer.partition(b"\r\n")[0]
            assert await status(http, service.port) == 200
            assert "Traceback" not in caplog.text

    run(story())


def test_running_out_of_file_descriptors_does_not_end_the_node(tmp_path: Path) -> None:
    async def story(node: NodeProcess) -> None:
        client = node.client()
        await asyncio.to_thread(client.status)
        few = len(os.listdir(f"/proc/{node.process.pid}/fd")) + 3
        limits = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (few, limits[1]))
        opened = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(10)]
        log = (tmp_path / "mx1").with_suffix(".log")
        await until(lambda: "connections wait" in log.read_text(), "it has noticed")
        assert (await asyncio.to_thread(client.status))["name"]
        for _, writer in opened:
            writer.transport.abort()
        later = Client(node.address)
        node.clients.append(later)
        assert (await asyncio.to_thread(later.status))["name"]
        assert log.read_text().count("connections wait") <= 10
        assert "Traceback" not in log.read_text()

    with node_process(tmp_path / "mx1") as node:
        run(story(node))


def test_a_peer_has_few_requests_under_way_and_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(load, "MAX_REQUESTS_PER_PEER", 2)
        monkeypatch.setattr(load, "MAX_GOSSIP_REQUESTS", 3)
        async with serving(tmp_path / "mx1") as (service, http):
            under_way = service._guard._load
            position = position_of(1)
            begun = head(len(position)) + position[:-1]
            async with connected(service.port, begun) as first, connected(service.port, begun) as second:
                await until(lambda: under_way._gossip.total() == 2, "two are under way")
                assert await exchange(http, service.port, sender=1) == 503
                assert await exchange(http, service.port, sender=2) == 200
                async with connected(service.port, head(100, sender=2)):
                    await until(lambda: under_way._gossip.total() == 3, "three are under way")
                    assert await exchange(http, service.port, sender=3) == 503
                    assert await status(http, service.port) == 200
                for reader, writer in (first, second):
                    writer.write(position[-1:])
                    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            await until(lambda: not under_way._gossip, "nobody is remembered for whom nothing is under way")
            assert await exchange(http, service.port, sender=1) == 200

    run(story())


def test_who_has_many_names_at_one_address_leaves_room_for_others() -> None:
    under_way = load.Load()
    with ExitStack() as stack:
        for number in range(MAX_REQUESTS_PER_ADDRESS):
            stack.enter_context(under_way.asking(("198.51.100.1", f"{number:016x}")))
        with pytest.raises(Overloaded):
            stack.enter_context(under_way.asking(("198.51.100.1", "ff" * 8)))
        stack.enter_context(under_way.asking(("198.51.100.2", "ff" * 8)))
    with under_way.asking(("198.51.100.1", "ff" * 8)):
        pass


# Much memory ----------------------------------------------------------------------------------------------


def test_bodies_of_peers_that_send_as_fast_as_they_can_take_bounded_memory(tmp_path: Path) -> None:
    """Sixteen at once, each with nearly the largest body and never its end: of 530 MiB, 128 are let in."""

    async def story(node: NodeProcess) -> None:
        before = resident(node)
        answers: list[bytes] = []

        async def flood(sender: int) -> None:
            async with connected(node.port, head(MAX_GOSSIP_BODY, sender, PUSH)) as (reader, writer):
                sending = asyncio.create_task(send(writer, MAX_GOSSIP_BODY - 1))
                answered = asyncio.create_task(ends(reader, 1 << 16))
                over = asyncio.create_task(finished.wait())
                await asyncio.wait({over, answered}, return_when=asyncio.FIRST_COMPLETED)
                if answered.done():
                    answers.append(answered.result()[:12])
                await over
                for task in (sending, answered):
                    task.cancel()
                await asyncio.gather(sending, answered, return_exceptions=True)

        finished = asyncio.Event()
        most = MAX_PEER_BODIES // MAX_GOSSIP_BODY
        floods = [asyncio.create_task(flood(sender)) for sender in range(16)]
        await until(lambda: len(answers) == 16 - most, "all but those that fit are refused")
        finished.set()
        await asyncio.gather(*floods)
        assert set(answers) <= {b"HTTP/1.1 503", b""}, "of those that were hung up on, some did not hear why"
        assert resident(node) - before < 2 * MAX_PEER_BODIES  # a body is in pieces and then in one

    with node_process(tmp_path / "mx1") as node:
        run(story(node))


def test_a_page_is_refused_before_it_is_made_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http), AsyncExitStack() as silent:
            await fill(service.node, 50_000)
            answers = service._guard._load.answers
            for _ in range(8):  # who read nothing
                await silent.enter_async_context(connected(service.port, page(50_000)))
            await until(lambda: answers.taken > answers.most / 2, "the budget is used")
            url = f"http://127.0.0.1:{service.port}/v1/accounts/alice/mailboxes/name:INBOX?limit="
            async with http.get(url + "100000") as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "1"
            async with http.get(url + "10") as response:
                assert len((await response.json())["messages"]) == 10
            assert answers.taken <= answers.most
            assert await status(http, service.port) == 200
            assert await exchange(http, service.port, sender=1) == 200

    run(story())


def test_an_answer_that_turned_out_too_large_is_refused_or_never_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been done cannot be refused any more: then the connection ends."""

    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            await fill(service.node, 1000)
            service._guard._load.answers.most = 100_000
            box = f"http://127.0.0.1:{service.port}/v1/accounts/alice/mailboxes/name:INBOX"
            async with http.get(f"{box}?limit=166") as response:
                assert response.status == 200
            monkeypatch.setattr(api, "ROOM_PER_ROW", 1)
            async with http.get(f"{box}?limit=1000") as response:
                assert (await response.json())["type"] == "/problems/overloaded"
            patch = {"uids": "1:*", "patch": {"keywords/$seen": True}}
            with pytest.raises(aiohttp.ClientError):
                async with http.patch(f"{box}/messages", json=patch):
                    pass
            assert service._guard._load.answers.taken == 0

    run(story())


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("how", [b"Transfer-Encoding: chunked", b"Content-Length: 1000000"])
def test_what_takes_no_body_is_refused_with_one_and_holds_nothing(
    tmp_path: Path, method: str, how: bytes
) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            asked = f"{method} /v1/accounts/alice/mailboxes/name:INBOX HTTP/1.1\r\nHost: x\r\n".encode()
            async with connected(service.port, asked + how + b"\r\n\r\n") as (reader, _):
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")
            assert service._guard._load.bodies.taken == 0

    run(story())


def test_bodies_of_clients_that_are_under_way_keep_no_peer_out_and_no_small_write(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http), AsyncExitStack() as slow:
            bodies = service._guard._load.bodies
            bodies.most = MIB
            begun = head(MAX_JSON_BODY, path="/v1/accounts/alice/mailboxes") + bytes(MIB - 1000)
            await slow.enter_async_context(connected(service.port, begun))
            await until(lambda: bodies.taken > bodies.most - 2000, "it is nearly used up")
            box = f"http://127.0.0.1:{service.port}/v1/accounts/alice/mailboxes"
            async with http.post(box, json={"name": "x" * 100_000}) as response:
                assert response.status == 503
            async with http.post(box, json={"name": "INBOX"}) as response:
                assert response.status == 201
            assert await exchange(http, service.port, sender=1) == 200

    run(story())


def test_bodies_that_do_not_tell_their_size_do_not_keep_others_out_once_they_are_there(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            box = f"http://127.0.0.1:{service.port}/v1/accounts/alice/mailboxes"

            async def chunks(name: str) -> AsyncIterator[bytes]:
                yield json.dumps({"name": name}).encode()

            async def create(name: str) -> int:
                url = f"{box}?ack=1&ackWait=1"  # so it lasts
                async with http.post(url, data=chunks(name)) as response:
                    return response.status

            assert set(await asyncio.gather(*(create(f"Work {n}") for n in range(16)))) == {201}

    run(story())


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (Kind.EXCHANGE, MAX_POSITION),
        (Kind.SNAPSHOT, MAX_QUESTION),
        (Kind.PUSH, MAX_GOSSIP_BODY),
        (Kind.OFFER, MAX_GOSSIP_BODY),
        (None, MAX_JSON_BODY),
    ],
)
def test_a_body_over_the_limit_of_its_kind_is_refused_unread(
    tmp_path: Path, kind: Kind | None, size: int
) -> None:
    where = "/v1/accounts/alice/mailboxes" if kind is None else path(kind)

    async def story() -> None:
        async with (
            serving(tmp_path / "mx1") as (service, _),
            connected(service.port, head(size + 1, path=where)) as (reader, _),
        ):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")

    run(story())


def test_a_small_body_is_never_unpacked_into_a_large_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            headers = {"Content-Encoding": "gzip", SENDER: f"{STRANGER:016x}"}
            url = f"http://127.0.0.1:{service.port}{EXCHANGE}"
            async with http.post(url, data=POSITION, headers=headers) as response:
                assert response.status == 200, "it is taken as it came"

    run(story())


def test_who_does_not_show_who_they_are_is_refused_before_the_body(tmp_path: Path) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        token(data, "read")
        async with serving(data, cluster_secret_file=secret_file(tmp_path)) as (service, _):
            for where in (PUSH, "/v1/accounts/alice/mailboxes"):
                async with connected(service.port, head(MAX_JSON_BODY, path=where)) as (reader, _):
                    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")

    run(story())


# ----------------------------------------------------------------------------------------------------------


async def exchange(http: aiohttp.ClientSession, port: int, sender: int) -> int:
    headers, url = {SENDER: f"{sender:016x}"}, f"http://127.0.0.1:{port}{EXCHANGE}"
    async with http.post(url, data=position_of(sender), headers=headers) as response:
        return response.status


def position_of(sender: int) -> bytes:
    return encode_position(Position(ReplicaId(sender), "stranger", Clock(), 0))


async def send(writer: asyncio.StreamWriter, size: int) -> None:
    block = bytes(1 << 16)
    try:
        for at in range(0, size, len(block)):
            writer.write(block[: size - at])
            await writer.drain()
    except ConnectionError:
        return


def resident(node: NodeProcess) -> int:
    """The most memory that the node has had, in bytes."""
    lines: Iterator[str] = iter(Path(f"/proc/{node.process.pid}/status").read_text().splitlines())
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def fill(node: Node, messages: int) -> None:
    incoming = [IncomingMessage(MessageId(f"{n:0250}"), 1, 0, frozenset()) for n in range(messages)]

    def add(replica: Replica, txn: Transaction) -> None:
        replica.add(txn, "alice", replica.create_mailbox(txn, "alice", "INBOX"), incoming)

    await node.write(add)
