"""Mutual TLS on the node's one port: peers show certificates, clients their tokens."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization

from crdtmail.client import Client, Credentials, Unreachable
from crdtmail.config import Certificates
from crdtmail.errors import ConfigError
from crdtmail.security import tls
from crdtmail.verify import verify
from crdtmail.web.gossip_server import SENDER
from crdtmail.web.server import Service
from tests.nodes import node_process, run, until
from tests.secured import EXCHANGE, POSITION, STRANGER, bearer, certified, secret_file, serving, token

HEADERS = {SENDER: f"{STRANGER:016x}"}


async def exchange(http: aiohttp.ClientSession, service: Service, shown: ssl.SSLContext) -> int:
    url = f"https://127.0.0.1:{service.port}{EXCHANGE}"
    async with http.post(url, data=POSITION, headers=HEADERS, ssl=shown) as response:
        assert response.status == 200 or "a certificate" in await response.text()
        return response.status


def context(files: Certificates, *, show: bool = True) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(files.ca))
    if show:
        made.load_cert_chain(files.certificate, files.key)
    return made


def test_nodes_with_certificates_of_one_authority_converge(tmp_path: Path) -> None:
    async def story() -> None:
        mx1, mx2 = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "ca", "mx2")
        async with serving(tmp_path / "mx1", tls=mx1) as (first, _):
            peers = (f"https://127.0.0.1:{first.port}",)
            async with serving(tmp_path / "mx2", tls=mx2, peers=peers) as (second, _):
                await first.node.write(lambda replica, txn: replica.create_mailbox(txn, "alice", "INBOX"))
                await until(lambda: first.node.head.clock == second.node.head.clock, "mx2 has it")

    run(story())


def test_so_do_nodes_that_are_processes(tmp_path: Path) -> None:
    """Which run on another event loop than these tests."""
    with ExitStack() as stack:
        ports: list[int] = []
        for name in ("mx1", "mx2"):
            files = certified(tmp_path / "ca", name)
            file = tmp_path / f"{name}.toml"
            file.write_text(
                f"peers = {[f'https://127.0.0.1:{port}' for port in ports]}\n[tls]\n"
                f"certificate = '{files.certificate}'\nkey = '{files.key}'\nca = '{files.ca}'\n"
            )
            ports.append(stack.enter_context(node_process(tmp_path / name, "--config", str(file))).port)
        addresses = [f"https://127.0.0.1:{port}" for port in ports]
        shown = Credentials(ca=files.ca)
        clients = [Client(address, shown) for address in addresses]
        for client in clients:
            stack.callback(client.close)
        written = clients[0].create_mailbox("alice", "INBOX")
        clients[1].request("GET", "/v1/accounts", query={"token": written["token"], "tokenWait": "30"})
        assert verify(addresses, shown, timeout_s=30).agrees


def test_certificates_and_a_secret_may_be_asked_for_together(tmp_path: Path) -> None:
    async def story() -> None:
        mx1, mx2 = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "ca", "mx2")
        secret = secret_file(tmp_path)
        async with serving(tmp_path / "mx1", tls=mx1, cluster_secret_file=secret) as (first, http):
            peers = (f"https://127.0.0.1:{first.port}",)
            settings = {"tls": mx2, "cluster_secret_file": secret, "peers": peers}
            async with serving(tmp_path / "mx2", **settings) as (second, _):
                await second.node.write(lambda replica, txn: replica.create_mailbox(txn, "alice", "INBOX"))
                await until(lambda: first.node.head.clock == second.node.head.clock, "mx1 has it")
            url = f"https://127.0.0.1:{first.port}{EXCHANGE}"
            async with http.post(url, data=POSITION, headers=HEADERS, ssl=context(mx2)) as response:
                assert response.status == 401
                assert "is not signed" in await response.text()

    run(story())


def test_gossip_wants_a_certificate_of_this_authority(tmp_path: Path) -> None:
    async def story() -> None:
        mx1, mx2 = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "ca", "mx2")
        foreign = certified(tmp_path / "another ca", "mx2")
        of_another = ssl.create_default_context(cafile=str(mx1.ca))
        of_another.load_cert_chain(foreign.certificate, foreign.key)
        async with serving(tmp_path / "mx1", tls=mx1) as (service, http):
            assert await exchange(http, service, context(mx2)) == 200
            assert len(service.node.gossip.peers.heard) == 1
            assert await exchange(http, service, context(mx2, show=False)) == 401
            with pytest.raises(aiohttp.ClientError):
                await exchange(http, service, of_another)

    run(story())


def test_a_node_does_not_speak_to_a_peer_with_a_certificate_of_another_authority(tmp_path: Path) -> None:
    async def story() -> None:
        mx1, mx2 = certified(tmp_path / "ca", "mx1"), certified(tmp_path / "another ca", "mx2")
        async with serving(tmp_path / "mx1", tls=mx1) as (first, _):
            address = f"https://127.0.0.1:{first.port}"
            async with serving(tmp_path / "mx2", tls=mx2, peers=(address,)) as (second, _):
                session = second.node.gossip.peers.sessions[address]
                await until(lambda: session.last_error is not None, "the call fails")
                assert "certificate" in str(session.last_error).lower()
                assert not first.node.gossip.peers.heard

    run(story())


def test_clients_need_no_certificate_but_their_token(tmp_path: Path) -> None:
    async def story() -> None:
        files = certified(tmp_path / "ca", "mx1")
        data = tmp_path / "mx1"
        text = token(data, "read", "write")
        async with serving(data, tls=files) as (service, _):
            address = f"https://127.0.0.1:{service.port}"

            def asks() -> None:
                client = Client(address, Credentials(text, files.ca))
                client.create_mailbox("alice", "INBOX")
                assert [box["name"] for box in client.mailboxes("alice")] == ["INBOX"]
                client.close()
                assert verify([address], Credentials(text, files.ca), timeout_s=10).agrees
                trusting_others = Client(address, Credentials(text))
                with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    trusting_others.status()
                trusting_others.close()

            await asyncio.to_thread(asks)

    run(story())


def test_without_an_authority_of_their_own_peers_are_known_by_the_secret(tmp_path: Path) -> None:
    async def story() -> None:
        files = certified(tmp_path / "ca", "mx1")
        public = Certificates(files.certificate, files.key, None)
        async with serving(tmp_path / "mx1", tls=public, cluster_secret_file=secret_file(tmp_path)) as (
            service,
            http,
        ):
            url = f"https://127.0.0.1:{service.port}{EXCHANGE}"
            shown = context(files, show=False)
            async with http.post(url, data=POSITION, headers=HEADERS, ssl=shown) as response:
                assert response.status == 401
            async with http.get(f"https://127.0.0.1:{service.port}/v1/status", ssl=shown) as response:
                assert response.status == 200

    run(story())


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    files = certified(tmp_path, "mx1")
    files.key.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read or changed by others: chmod 600"):
        tls.load(files.certificate, files.key, files.ca)


def test_a_key_with_a_passphrase_or_of_another_certificate_is_refused(tmp_path: Path) -> None:
    files, other = certified(tmp_path, "mx1"), certified(tmp_path, "mx2")
    with pytest.raises(ConfigError, match="no certificate and its key"):
        tls.load(files.certificate, other.key, files.ca)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a passphrase"),
        )
    )
    with pytest.raises(ConfigError, match="no certificate and its key"):
        tls.load(files.certificate, files.key, files.ca)


@pytest.mark.parametrize("broken", ["certificate", "key", "ca"])
def test_files_that_hold_something_else_are_refused_in_one_sentence(tmp_path: Path, broken: str) -> None:
    files = certified(tmp_path, "mx1")
    getattr(files, broken).write_text("nothing of the kind\n")
    with pytest.raises(ConfigError) as refusal:
        tls.load(files.certificate, files.key, files.ca)
    assert "\n" not in str(refusal.value)


def test_a_token_is_not_in_what_is_shown_of_credentials() -> None:
    assert "abc" not in repr(Credentials("abc"))
    assert bearer("abc") == {"Authorization": "Bearer abc"}
