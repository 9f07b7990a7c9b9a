"""Nodes that ask who asks, for tests: secrets, certificates, signed requests, and somebody in the middle."""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from crdtmail import daemon
from crdtmail.config import Certificates, Config
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.effects import Kind
from crdtmail.gossip.codec import encode_position
from crdtmail.gossip.messages import Position
from crdtmail.security import certificates, tokens
from crdtmail.security.signing import digest, sign_request
from crdtmail.security.tokens import Scope
from crdtmail.web.gossip_server import CBOR, DIGEST, NONCE, SENDER, SIGNATURE, TIME, path
from crdtmail.web.server import Service
from tests.nodes import QUICK

SECRET = "a secret that all nodes of the cluster share"
EXCHANGE = path(Kind.EXCHANGE)
STRANGER = ReplicaId(0x2222222222222222)
POSITION = encode_position(Position(STRANGER, "stranger", Clock(), 0))


def secret_file(folder: Path, secret: str = SECRET, mode: int = 0o600) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "secret"
    file.touch(0o600)
    file.write_text(secret + "\n")
    file.chmod(mode)
    return file


def certified(folder: Path, name: str) -> Certificates:
    """The files of a node's certificate, by the authority in `folder`, made if it is not there."""
    certificates.make(folder, [name], [], datetime.datetime.now(datetime.UTC))
    node = folder / name
    return Certificates(node / "node.crt", node / "node.key", node / "ca.crt")


def token(data: Path, *scopes: str, accounts: tuple[str, ...] = ("*",), name: str = "test") -> str:
    """A token of the node with this data folder."""
    return tokens.create(
        data, name, [Scope(each) for each in scopes], list(accounts), secrets.token_bytes(32)
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def config(data: Path, **settings: object) -> Config:
    made = Config(data.name, data, "127.0.0.1", 0, (), QUICK)
    return replace(made, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(data: Path, **settings: object) -> AsyncIterator[tuple[Service, aiohttp.ClientSession]]:
    """A node with such a configuration, and a client that has nothing to show."""
    async with daemon.in_service(config(data, **settings)) as service, aiohttp.ClientSession() as http:
        yield service, http


def signed(
    told: str, *, secret: str = SECRET, body: bytes = POSITION, path: str = EXCHANGE
) -> dict[str, str]:
    """The headers of a request to a node that has told this time."""
    sender, nonce, of_body = f"{STRANGER:016x}", secrets.token_hex(16), digest(body)
    sign = sign_request(secret.encode(), "POST", path, told, nonce, sender, of_body)
    return {
        "Content-Type": CBOR,
        SENDER: sender,
        TIME: told,
        NONCE: nonce,
        DIGEST: of_body,
        SIGNATURE: sign,
    }


async def ask(
    http: aiohttp.ClientSession, port: int, headers: Mapping[str, str], body: bytes = POSITION
) -> tuple[int, Mapping[str, str], bytes]:
    """An exchange as somebody asks for it."""
    async with http.post(f"http://127.0.0.1:{port}{EXCHANGE}", data=body, headers=headers) as response:
        return response.status, response.headers, await response.read()


async def time_of(http: aiohttp.ClientSession, port: int) -> str:
    """The node's time, as it tells it to a member who does not know it yet."""
    status, headers, _ = await ask(http, port, signed(""))
    assert status == 401
    return headers[TIME]


@asynccontextmanager
async def in_the_middle(
    target: Callable[[], int], there: Callable[[bytes], bytes], back: Callable[[bytes], bytes]
) -> AsyncIterator[str]:
    """An address at which somebody passes on what comes, as `there` and `back` change it."""
    writers: list[asyncio.StreamWriter] = []

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(change(data))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target())
        writers.extend((writer, far_writer))
        await asyncio.gather(carry(reader, far_writer, there), carry(far_reader, writer, back))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


def same(data: bytes) -> bytes:
    return data
