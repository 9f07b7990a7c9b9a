"""The tokens of clients: scopes, accounts, the file that keeps them, and the commands that change it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crdtmail import daemon
from crdtmail.client import Credentials
from crdtmail.errors import ConfigError
from crdtmail.security import tokens
from tests.nodes import run
from tests.secured import bearer, config, serving, token

ALICE, BOB = "alice@example.org", "bob@example.com"


async def request(
    http: aiohttp.ClientSession, port: int, method: str, path: str, headers: dict[str, str], body: Any = None
) -> tuple[int, dict[str, Any], str]:
    url = f"http://127.0.0.1:{port}/v1/{path}"
    async with http.request(method, url, json=body, headers=headers) as response:
        return (
            response.status,
            await response.json(content_type=None),
            response.headers.get("WWW-Authenticate", ""),
        )


def crdtmail(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crdtmail", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )


def test_each_scope_permits_its_own_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        shown = {scope: bearer(token(data, scope, name=scope)) for scope in ("read", "write", "admin")}
        mailboxes = f"accounts/{ALICE}/mailboxes"
        permitted = [
            ("GET", "status", None, {"read", "admin"}),
            ("GET", "accounts", None, {"read"}),
            ("GET", mailboxes, None, {"read"}),
            ("POST", mailboxes, {"name": "Work"}, {"write"}),
            ("GET", "something/for/operators", None, {"admin"}),
        ]
        async with serving(data) as (service, http):
            for method, path, body, scopes in permitted:
                for scope, headers in shown.items():
                    status, problem, challenge = await request(
                        http, service.port, method, path, headers, body
                    )
                    assert (status != 403) == (scope in scopes), f"{scope}: {method} {path}"
                    if status == 403:
                        assert problem["type"] == "/problems/not-permitted"
                        assert challenge.startswith('Bearer error="insufficient_scope"')

    run(story())


def test_a_token_sees_only_accounts_that_match_its_patterns(tmp_path: Path) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        everything = bearer(token(data, "read", "write", name="all"))
        of_org = bearer(token(data, "read", "write", accounts=("*@example.org", "*@*.org"), name="org"))
        async with serving(data) as (service, http):
            for account in (ALICE, BOB, "zoe@sub.example.org", "Alice@EXAMPLE.ORG"):
                path = f"accounts/{account}/mailboxes"
                assert (await request(http, service.port, "POST", path, everything, {"name": "INBOX"}))[
                    0
                ] == 201
            _, listed, _ = await request(http, service.port, "GET", "accounts?limit=1", of_org)
            assert [each["account"] for each in listed["accounts"]] == [ALICE]
            assert listed["hasMore"]
            _, listed, _ = await request(http, service.port, "GET", f"accounts?after={ALICE}", of_org)
            assert [each["account"] for each in listed["accounts"]] == ["zoe@sub.example.org"]
            assert not listed["hasMore"]
            for path in (
                f"accounts/{BOB}/mailboxes",
                f"accounts/{BOB}/digests",
                "accounts/bob%40example.com/scripts",
            ):
                status, problem, _ = await request(http, service.port, "GET", path, of_org)
                assert (status, problem["type"]) == (403, "/problems/not-permitted")
            expunge = f"accounts/{BOB}/mailboxes/name:INBOX/expunge"
            assert (await request(http, service.port, "POST", expunge, of_org, {"deleted": True}))[0] == 403

    run(story())


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "a token is needed"),
        ({"Authorization": "Basic YTpi"}, "a token is needed"),
        ({"Authorization": "Bearer"}, "the token is not known here"),
        ({"Authorization": "Bearer crdtmail_guessed"}, "the token is not known here"),
        ({"Authorization": "Bearer \xff"}, "the token is not known here"),
    ],
)
def test_who_shows_no_token_of_this_node_is_refused_and_counted(
    tmp_path: Path, headers: dict[str, str], said: str
) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        good = bearer(token(data, "read", "write"))
        async with serving(data) as (service, http):
            path = f"accounts/{ALICE}/mailboxes"
            status, problem, challenge = await request(
                http, service.port, "POST", path, headers, {"name": "INBOX"}
            )
            assert (status, problem["type"]) == (401, "/problems/unauthenticated")
            assert said in problem["detail"]
            assert challenge.startswith("Bearer")
            _, shown, _ = await request(http, service.port, "GET", "status", good)
            assert shown["unauthenticated"] == {"requests": 1, "last": problem["detail"]}
            assert shown["clock"] == {}

    run(story())


def test_on_loopback_without_any_token_everybody_is_let_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "mx1") as (service, http):
            assert (await request(http, service.port, "GET", "accounts", {}))[0] == 200

    run(story())


def test_a_new_token_and_a_revoked_one_are_taken_note_of_at_a_reload(tmp_path: Path) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        old = bearer(token(data, "read", name="old"))
        async with serving(data) as (service, http):
            new = bearer(token(data, "read", name="new"))
            tokens.revoke(data, "old")
            assert (await request(http, service.port, "GET", "accounts", new))[0] == 401
            daemon.reload(service, config(data), lambda: config(data))
            assert (await request(http, service.port, "GET", "accounts", new))[0] == 200
            assert (await request(http, service.port, "GET", "accounts", old))[0] == 401

    run(story())


def test_when_the_last_token_is_revoked_nobody_is_let_in(tmp_path: Path) -> None:
    async def story() -> None:
        data = tmp_path / "mx1"
        last = bearer(token(data, "read"))
        tokens.revoke(data, "test")
        async with serving(data) as (service, http):
            for headers in (last, {}):
                assert (await request(http, service.port, "GET", "accounts", headers))[0] == 401

    run(story())


# The file -------------------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone_and_holds_no_token(tmp_path: Path) -> None:
    text = token(tmp_path, "read")
    file = tmp_path / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text not in file.read_text()
    known = tokens.load(tmp_path)
    assert known is not None
    assert known.find(text) == known.all[0]
    assert known.find(text + "x") is None


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token(tmp_path, "read")
    (tmp_path / "tokens.json").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"tokens": [{"name": "a"}]}', '{"tokens": [], "more": 1}', "\xff"]
)
def test_a_damaged_file_is_an_error_and_lets_nobody_in(tmp_path: Path, content: str) -> None:
    token(tmp_path, "read")
    (tmp_path / "tokens.json").write_text(content, "latin-1")
    with pytest.raises(ConfigError, match="is damaged"):
        tokens.load(tmp_path)


def test_tokens_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    async def story() -> None:
        await asyncio.gather(
            *(asyncio.to_thread(token, tmp_path, "read", name=f"client {n}") for n in range(20))
        )

    run(story())
    known = tokens.load(tmp_path)
    assert known is not None
    assert {each.name for each in known.all} == {f"client {n}" for n in range(20)}


# The commands ---------------------------------------------------------------------------------------------


def test_the_token_that_the_command_prints_lets_the_commands_in(tmp_path: Path) -> None:
    data = tmp_path / "mx1"
    made = crdtmail(
        *("token", "create", "imap", "--scope", "read", "--scope", "write"),
        *("--account", "*@example.org", "--data", str(data)),
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert text not in made.stderr
    kept = tmp_path / "token"
    kept.write_text(made.stdout)
    kept.chmod(0o600)

    async def story() -> None:
        async with serving(data) as (service, _):
            node = f"http://127.0.0.1:{service.port}"

            async def asks(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
                return await asyncio.to_thread(crdtmail, *arguments, CRDTMAIL_NODE=node, **environment)

            refused = await asks("status")
            assert (refused.returncode, "a token is needed" in refused.stderr) == (5, True)
            assert (await asks("mailbox", "create", ALICE, "INBOX", CRDTMAIL_TOKEN=text)).returncode == 0
            assert "one node alone" in (await asks("verify", CRDTMAIL_TOKEN_FILE=str(kept))).stdout
            assert (await asks("status", "--token-file", str(kept))).returncode == 0
            elsewhere = await asks("mailbox", "list", BOB, CRDTMAIL_TOKEN=text)
            assert (elsewhere.returncode, "not for this account" in elsewhere.stderr) == (1, True)
            kept.chmod(0o644)
            readable = await asks("status", "--token-file", str(kept))
            assert readable.returncode == 2
            assert f"the file {kept} can be read or changed by others" in readable.stderr

    run(story())


def test_tokens_are_listed_without_what_they_are_and_revoked_by_name(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    text = token(tmp_path, "read", "admin", accounts=("*@example.org",), name="imap")
    listed = crdtmail("token", "list", *data)
    assert "imap" in listed.stdout
    assert "read admin" in listed.stdout
    assert text not in listed.stdout
    again = crdtmail("token", "create", "imap", "--scope", "admin", *data)
    assert (again.returncode, "already" in again.stderr) == (2, True)
    assert crdtmail("token", "create", "mail", "--scope", "read", *data).returncode == 2
    assert crdtmail("token", "revoke", "imap", *data).returncode == 0
    assert "imap" not in crdtmail("token", "list", *data).stdout
    unknown = crdtmail("token", "revoke", "imap", *data)
    assert (unknown.returncode, "no token named" in unknown.stderr) == (2, True)


# What cannot be done is said in a sentence ----------------------------------------------------------------


def said_in_a_sentence(done: subprocess.CompletedProcess[str], what: str) -> bool:
    assert "Traceback" not in done.stderr
    return done.returncode == 2 and what in done.stderr


@pytest.mark.parametrize("given", ["a\nb", "\udcff", "grün", " "])
def test_a_token_in_the_environment_that_is_none_is_refused(given: str) -> None:
    asked = crdtmail("status", "--node", "http://127.0.0.1:1", CRDTMAIL_TOKEN=given)
    assert said_in_a_sentence(asked, "$CRDTMAIL_TOKEN does not hold a token")


def test_a_token_in_the_environment_may_end_with_a_line() -> None:
    assert Credentials.find({"CRDTMAIL_TOKEN": "abc\n"}).token == "abc"


@pytest.mark.parametrize("command", [("list",), ("revoke", "x")])
def test_tokens_of_a_folder_that_is_not_there_are_not_looked_for(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder = tmp_path / "typo"
    asked = crdtmail("token", *command, "--data", str(folder))
    assert said_in_a_sentence(asked, f"there is no data folder {folder}")
    assert not folder.exists()


@pytest.mark.parametrize("pattern", ["", "a\nb", "\x07"])
def test_a_token_for_nobody_is_not_made(tmp_path: Path, pattern: str) -> None:
    data = str(tmp_path)
    asked = crdtmail("token", "create", "x", "--scope", "read", "--account", pattern, "--data", data)
    assert said_in_a_sentence(asked, "fits no account")
    assert tokens.load(tmp_path) is None


def test_a_token_that_finds_no_room_on_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        token(tmp_path, "read")
    monkeypatch.undo()
    assert tokens.load(tmp_path) is None
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.lock"]
