"""Where a node refuses to start, what it takes at SIGHUP, and where secrets never show."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from crdtmail import config as configuration
from crdtmail import daemon
from crdtmail.client import Client, Credentials, Refused
from crdtmail.config import Certificates, Config
from crdtmail.errors import ConfigError
from crdtmail.security import access, tokens
from crdtmail.security.access import SECRET as VARIABLE
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.web.gossip_server import SENDER
from crdtmail.web.server import Service
from tests.nodes import NodeProcess, node_process, run, until
from tests.secured import SECRET, ask, certified, config, secret_file, serving, signed, time_of, token
from tests.test_security_tokens import crdtmail

# Where it listens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "mx1.example.org", "::ffff:127.0.0.1"])
def test_beyond_loopback_a_node_says_step_by_step_what_must_be_done_first(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        access.load(config(tmp_path / "mx1", host=host), {})
    said = str(refusal.value)
    assert host in said
    for command in ("crdtmail certs FOLDER mx1", "cluster_secret_file =", "crdtmail token create"):
        assert command in said


def test_it_asks_for_what_is_missing_only(tmp_path: Path) -> None:
    data = tmp_path / "mx1"
    public = config(data, host="10.0.0.1", cluster_secret_file=secret_file(tmp_path))
    with pytest.raises(ConfigError) as refusal:
        access.load(public, {})
    assert "certs" not in str(refusal.value)
    token(data, "read")
    assert access.load(public, {}).tokens is not None
    with pytest.raises(ConfigError) as refusal:
        access.load(config(data, host="10.0.0.1"), {})
    assert "token create" not in str(refusal.value)
    tokens.revoke(data, "test")
    with pytest.raises(ConfigError, match="token create"):
        access.load(public, {})


def test_certificates_let_it_listen_only_with_an_authority_that_peers_must_have(tmp_path: Path) -> None:
    data = tmp_path / "mx1"
    token(data, "read")
    files = certified(tmp_path / "ca", "mx1")
    assert access.load(config(data, host="10.0.0.1", tls=files), {}).tls is not None
    without = Certificates(files.certificate, files.key, None)
    with pytest.raises(ConfigError, match="certs"):
        access.load(config(data, host="10.0.0.1", tls=without), {})


def test_once_there_are_tokens_nobody_gossips_without_showing_who_they_are(tmp_path: Path) -> None:
    """On loopback too: everybody on the machine could else read and write all mail as a peer."""

    async def story() -> None:
        data = tmp_path / "mx1"
        token(data, "read")
        async with serving(data) as (service, http):
            status, _, problem = await ask(http, service.port, {SENDER: "1" * 16})
            assert status == 401
            assert "cluster_secret_file or tls.ca" in problem.decode()
            assert not service.node.gossip.peers.heard

    run(story())


def test_a_node_with_tokens_and_peers_does_not_start_without_a_way_to_know_them(tmp_path: Path) -> None:
    data = tmp_path / "mx1"
    peered = config(data, peers=("http://127.0.0.1:9",))
    assert access.load(peered, {}).tokens is None
    token(data, "read")
    with pytest.raises(ConfigError) as refusal:
        access.load(peered, {})
    for command in ("crdtmail certs FOLDER mx1", "cluster_secret_file ="):
        assert command in str(refusal.value)
    assert access.load(peered, {VARIABLE: SECRET}).knows_peers
    assert access.load(
        config(data, peers=peered.peers, tls=certified(tmp_path / "ca", "mx1")), {}
    ).knows_peers


def test_the_commands_that_it_names_are_the_way_to_start_it(tmp_path: Path) -> None:
    node = ("node", "--data", str(tmp_path / "mx1"), "--listen", "0.0.0.0:0")
    refused = crdtmail(*node)
    assert refused.returncode == 2
    words = next(line for line in refused.stderr.splitlines() if "token create" in line).split()
    assert crdtmail(*(word.strip("'") for word in words[1:])).returncode == 0
    with node_process(tmp_path / "mx1", "--listen", "127.0.0.1:0") as started, pytest.raises(Refused):
        started.client().status()


# Secrets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = secret_file(tmp_path, mode=mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {file}"):
        access.load(config(tmp_path / "mx1", cluster_secret_file=file), {})


@pytest.mark.parametrize("secret", ["", "too short"])
def test_a_secret_that_can_be_guessed_is_refused_and_not_repeated(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigError, match="at least 32 are needed") as refusal:
        access.load(config(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path, secret)), {})
    assert not secret or secret not in str(refusal.value)


def test_a_secret_in_the_environment_is_that_in_a_file(tmp_path: Path) -> None:
    told = access.load(config(tmp_path / "mx1"), {VARIABLE: SECRET})
    file = secret_file(tmp_path)
    assert told.secret == access.load(config(tmp_path / "mx1", cluster_secret_file=file), {}).secret
    with pytest.raises(ConfigError, match="given twice"):
        access.load(config(tmp_path / "mx1", cluster_secret_file=file), {VARIABLE: SECRET})


def test_no_secret_is_in_a_representation_in_the_log_in_the_status_or_in_the_command_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = config(tmp_path / "mx1", cluster_secret_file=secret_file(tmp_path))
    assert SECRET not in repr(access.load(settings, {}))
    assert SECRET not in repr(settings)
    text = token(tmp_path / "mx1", "read")

    async def story() -> str:
        async with (
            daemon.in_service(settings) as service,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {text}"}) as http,
        ):
            assert (await ask(http, service.port, signed("")))[0] == 401
            async with http.get(f"http://127.0.0.1:{service.port}/v1/status") as response:
                return await response.text()

    status = run(story())
    for secret in (SECRET, text):
        assert secret not in status
        assert secret not in caplog.text
    assert "--cluster-secret" not in crdtmail("node", "--help").stdout


# SIGHUP ---------------------------------------------------------------------------------------------------


def test_peers_are_added_and_removed_without_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (first, _), serving(tmp_path / "mx2") as (second, _):
            alone = config(tmp_path / "mx1")
            address = f"http://127.0.0.1:{second.port}"
            both = config(tmp_path / "mx1", peers=(address,))
            await create(first, "alice")
            daemon.reload(first, alone, lambda: both)
            await until(lambda: second.node.head.clock == first.node.head.clock, "the new peer has it")
            session = first.node.gossip.peers.sessions[address]
            daemon.reload(first, alone, lambda: both)
            assert first.node.gossip.peers.sessions[address] is session, "one that stays goes on"
            daemon.reload(first, alone, lambda: alone)
            assert not first.node.gossip.peers.sessions
            assert not [task for task in asyncio.all_tasks() if task.get_name() == f"peer {address}"
                        and not task.cancelling()]  # fmt: skip
            await create(first, "bob")
            assert second.node.head.lsn == 1

    run(story())


def test_another_secret_holds_from_the_next_request_on(tmp_path: Path) -> None:
    async def story() -> None:
        file = secret_file(tmp_path)
        settings = config(tmp_path / "mx1", cluster_secret_file=file)
        async with serving(tmp_path / "mx1", cluster_secret_file=file) as (service, http):
            time = await time_of(http, service.port)
            assert (await ask(http, service.port, signed(time)))[0] == 200
            other = "the secret that comes after the first one"
            secret_file(tmp_path, other)
            daemon.reload(service, settings, lambda: settings)
            assert (await ask(http, service.port, signed(time)))[0] == 401
            assert (await ask(http, service.port, signed(time, secret=other)))[0] == 200

    run(story())


def test_other_certificates_hold_at_once_also_for_connections_that_there_are(tmp_path: Path) -> None:
    async def story() -> None:
        old, new = certified(tmp_path / "old", "mx1"), certified(tmp_path / "new", "mx1")
        async with serving(tmp_path / "mx1", tls=old) as (service, http):

            async def asked(by: Certificates) -> int:
                trusting = contexts.setdefault(by, ssl.create_default_context(cafile=str(by.ca)))
                url = f"https://127.0.0.1:{service.port}/v1/status"
                async with http.get(url, ssl=trusting) as response:
                    return response.status

            contexts: dict[Certificates, ssl.SSLContext] = {}
            assert await asked(old) == 200
            before = config(tmp_path / "mx1", tls=old)
            daemon.reload(service, before, lambda: config(tmp_path / "mx1", tls=new))
            assert await asked(new) == 200
            with pytest.raises(aiohttp.ClientError):
                await asked(old)

    run(story())


def test_a_configuration_that_cannot_be_used_is_logged_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        secret = secret_file(tmp_path)
        good = config(tmp_path / "mx1", cluster_secret_file=secret)

        def no_toml() -> Config:
            raise ConfigError("that is not TOML")

        def others_can_read() -> Config:
            secret.chmod(0o644)
            return config(tmp_path / "mx1", cluster_secret_file=secret, peers=("http://127.0.0.1:9",))

        broken: list[tuple[Callable[[], Config], str]] = [
            (no_toml, "not TOML"),
            (others_can_read, "chmod 600"),
        ]
        async with serving(tmp_path / "mx1", cluster_secret_file=secret) as (service, http):
            for load, said in broken:
                caplog.clear()
                daemon.reload(service, good, load)
                assert said in caplog.text
                assert not service.node.gossip.peers.sessions
                assert (await ask(http, service.port, signed(await time_of(http, service.port))))[0] == 200

    run(story())


def test_a_file_that_can_have_no_such_name_is_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    """Whatever lets it through before: at SIGHUP anything else would end the node."""
    no_file = tmp_path / "a\0b"
    good = certified(tmp_path / "ca", "mx1")
    for settings in (
        {"cluster_secret_file": no_file},
        {"tls": Certificates(no_file, good.key, good.ca)},
        {"tls": Certificates(good.certificate, no_file, good.ca)},
        {"tls": Certificates(good.certificate, good.key, no_file)},
        {"tls": Certificates(good.certificate, good.key, good.key)},
    ):
        with pytest.raises(ConfigError):
            access.load(config(tmp_path / "mx1", **settings), {})


def test_what_takes_a_restart_is_said_and_not_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, _):
            elsewhere = replace(config(tmp_path / "elsewhere"), cluster="prod")
            daemon.reload(service, config(tmp_path / "mx1"), lambda: elsewhere)
            assert "changed, but taken at the next start only: name, data, cluster" in caplog.text

    run(story())


def test_the_signal_makes_a_node_read_its_configuration_again(tmp_path: Path) -> None:
    file, data = tmp_path / "node.toml", tmp_path / "mx1"
    file.write_text("")
    with node_process(data, "--config", str(file)) as node:
        client = node.client()
        assert client.status()["peers"] == []
        secret = secret_file(tmp_path)
        file.write_text(f'peers = ["http://127.0.0.1:9"]\ncluster_secret_file = "{secret}"')
        text = token(data, "read")
        knowing = Client(node.address, Credentials(text))
        node.clients.append(knowing)
        hang_up(
            node, lambda: [peer["address"] for peer in knowing.status()["peers"]] == ["http://127.0.0.1:9"]
        )
        with pytest.raises(Refused):
            client.status()
        file.write_text("peers = 1")
        hang_up(node, lambda: "nothing is changed" in data.with_suffix(".log").read_text())
        assert len(knowing.status()["peers"]) == 1
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(timeout=30) == 0


def hang_up(node: NodeProcess, true: Callable[[], bool]) -> None:
    node.process.send_signal(signal.SIGHUP)
    run(until(true, "the node has read its configuration"))


# The configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allow_unauthenticated = true", "unknown setting"),
        ("[tls]\ncertificate = 'a'", "needs certificate and key"),
        ("tls = 1", "[tls] knows"),
        ("[tls]\ncertificate = 'a'\nkey = 'b'\npassword = 'c'", "[tls] knows"),
        ("cluster_secret_file = 1", "cluster_secret_file must be text"),
        ("cluster_secret = 'abc'", "unknown setting"),
        ('data = "/a\\u0000b"', "NUL"),
        ('cluster_secret_file = "/a\\u0000b"', "NUL"),
        ('[tls]\ncertificate = "/a\\u0000b"\nkey = "/b"', "NUL"),
        ("peers = ['http://mx2']\n[tls]\ncertificate = 'a'\nkey = 'b'", "use https"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        configuration.load(file, {})
    assert said in str(refusal.value)


def test_with_certificates_peers_are_called_with_https(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("peers = ['mx2', 'https://mx3:1']\n[tls]\ncertificate = 'a'\nkey = 'b'\nca = 'c'")
    loaded = configuration.load(file, {})
    assert loaded.peers == ("https://mx2:7420", "https://mx3:1")
    assert loaded.tls == Certificates(Path("a"), Path("b"), Path("c"))


async def create(service: Service, account: str) -> None:
    await service.node.write(lambda replica, txn: replica.create_mailbox(txn, account, "INBOX"))


def test_a_node_with_certificates_says_https(tmp_path: Path) -> None:
    files = certified(tmp_path / "ca", "mx1")
    file = tmp_path / "node.toml"
    file.write_text(f"[tls]\ncertificate = '{files.certificate}'\nkey = '{files.key}'\nca = '{files.ca}'\n")
    with node_process(tmp_path / "mx1", "--config", str(file)) as node:
        address = node.address
        ca = ("--ca", str(files.ca))
        result: subprocess.CompletedProcess[str] = crdtmail("status", "--node", address, *ca)
        assert result.returncode == 0, result.stderr
        assert "one node alone" in crdtmail("verify", address, CRDTMAIL_CA=str(files.ca)).stdout
        assert crdtmail("status", "--node", address).returncode == 3


# What others can read -------------------------------------------------------------------------------------


def test_what_a_node_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        LmdbStore(tmp_path / "folders" / "mx1").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folders" / "mx1").stat().st_mode) == 0o700
    for file in (tmp_path / "folders" / "mx1").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
