"""What a hostile peer says or does not say holds nobody up, and shows on no screen but as text."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crdtmail import cli, screen
from crdtmail.crdt.clock import Clock
from crdtmail.crdt.names import printable
from crdtmail.errors import PeerError
from crdtmail.gossip.codec import decode_position, encode_position
from crdtmail.gossip.messages import Position
from crdtmail.web import gossip_client
from crdtmail.web.gossip_server import SENDER
from tests.nodes import run, until
from tests.secured import STRANGER, serving

EVIL = "x\n2026-11-25 00:00:00,000 CRITICAL crdtmail.daemon: forged\x1b[31m\x1b]0;pwned\x07"
TAME = r"x\n2026-11-25 00:00:00,000 CRITICAL crdtmail.daemon: forged\x1b[31m\x1b]0;pwned\x07"
Writing = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(answer: Writing) -> AsyncIterator[str]:
    """The address of a peer that answers whatever it is asked like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("said", ["head", "body"])
def test_a_peer_that_drips_its_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        if said == "body":
            head = f"{SENDER}: {STRANGER:016x}\r\nContent-Length: 34000000\r\n\r\n"
            writer.write(head.encode())
        while True:
            writer.write(b"X" if said == "body" else b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def story() -> None:
        monkeypatch.setattr(gossip_client, "GOSSIP_TIMEOUT_S", 0.3)
        async with (
            peer(drip) as address,
            serving(tmp_path / "mx1", peers=(address,)) as (service, _),
            asyncio.timeout(10),
        ):
            session = service.node.gossip.peers.sessions[address]
            await until(lambda: session.failures > 0, "the node gave it up")
            assert "slow" in str(session.last_error) or "takes its time" in str(session.last_error)

    run(story())


def test_the_reason_of_a_peer_is_one_line_of_text_wherever_it_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"detail": EVIL}).encode()
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def story() -> None:
        async with peer(refuse) as address, serving(tmp_path / "mx1", peers=(address,)) as (service, http):
            session = service.node.gossip.peers.sessions[address]
            await until(lambda: session.last_error is not None, "it was refused")
            async with http.get(f"http://127.0.0.1:{service.port}/v1/status") as response:
                assert (await response.json())["peers"][0]["error"] == f"the peer answered 500: {TAME}"
            assert TAME in caplog.text
            assert "\x1b" not in caplog.text

    run(story())


def test_a_name_that_cannot_be_printed_is_no_name_of_a_peer() -> None:
    with pytest.raises(PeerError):
        decode_position(encode_position(Position(STRANGER, EVIL, Clock(), 0)))
    assert decode_position(encode_position(Position(STRANGER, "mx é 2", Clock(), 0))).name == "mx é 2"


def test_a_message_of_the_log_is_one_line_whoever_has_a_word_in_it() -> None:
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "GET %s failed", (f"/{EVIL}",), None)
    assert cli._OneLine("%(levelname)s %(message)s").format(record) == f"ERROR GET /{TAME} failed"


def test_what_others_wrote_shows_on_a_screen_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = screen.table("name")
    table.add_row(f"[red]{EVIL}[/bold]")
    screen.out.print(table)
    screen.out.print(f"two\nlines {EVIL[2:]}", markup=False)
    shown = capsys.readouterr().out
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert f"[red]{TAME}[/bold]" in shown
    assert f"two\nlines {TAME[3:]}" in shown


def test_text_that_can_be_printed_stays_as_it_is() -> None:
    assert printable("Grüße, 日本") == "Grüße, 日本"
    assert printable("a\u202eb\ud800\u00a0") == "a\\u202eb\\ud800\\xa0"
