"""What a node says of a peer with which nothing is exchanged, and whose trouble that is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crdtmail import journal
from crdtmail.gossip.filling import Filling
from crdtmail.node import Node
from crdtmail.store.interface import Table
from crdtmail.web import housekeeping
from crdtmail.web import status as status_module
from crdtmail.web.gossip_server import SENDER
from tests.nodes import MESH, Running, cluster, run, single, until
from tests.secured import certified, secret_file, serving
from tests.small_disk import small_disk
from tests.test_api import ALICE, INBOX, add, prepared
from tests.test_backup import damage

PAIR = {"mx1": ["mx2"], "mx2": ["mx1"]}


async def peers(it: Running) -> dict[str | None, dict[str, Any]]:
    status = (await it.ask("GET", "/v1/status")).body
    return {peer["name"]: peer for peer in status["peers"]}


@contextmanager
def taking_over(it: Running, peer: str) -> Iterator[None]:
    """It takes over a snapshot of this peer, of which nothing comes."""
    filling = Filling(peer, it.node.now())
    it.node.gossip.filling, it.node.replica._filling = filling, filling.attempt
    yield
    it.node.gossip.filling, filling.attempt.is_on = None, False


async def alarms(it: Running) -> str:
    return "\n".join(a["text"] for a in (await it.ask("GET", "/v1/status")).body["alarms"])


def test_while_a_node_takes_over_a_snapshot_its_other_peers_wait_and_do_not_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(two)
            await nodes.converged()
            with taking_over(one, nodes.links["mx1", "mx3"].address):
                await add(two, "m1")

                async def waits() -> bool:
                    return bool((await peers(one))["mx2"]["waits"] == "filling from mx3")

                await until(waits, "mx1 says what mx2 waits for")
                shown = (await peers(one))["mx2"]
                assert (shown["error"], shown["failingSeconds"], shown["reachable"]) == (None, None, True)

                async def is_waited_for() -> bool:
                    return str((await peers(two))["mx1"]["waits"]).startswith("it takes no changes just now")

                await until(is_waited_for, "mx2 says what mx1 waits for")
                for link in nodes.links.values():
                    assert f"peer {link.address}" not in caplog.text, "nobody is at fault"
            await nodes.converged()

            async def waits_no_more() -> bool:
                return (await peers(one))["mx2"]["waits"] is None

            await until(waits_no_more, "mx1 has what it lacked")

    run(test())


def test_a_damaged_record_is_an_alarm_as_soon_as_somebody_comes_upon_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2")
        damage(tmp_path, Table.MESSAGES)
        async with single(tmp_path) as it:
            assert await alarms(it) == ""
            for _ in range(3):
                answer = await it.ask("GET", INBOX)
                assert (answer.status, answer.problem) == (500, "store-failed")
            (alarm,) = (await it.ask("GET", "/v1/status")).body["alarms"]
            assert alarm["kind"] == "damaged"
            assert "this node's store is damaged (table messages: the record under" in alarm["text"]
            assert [r.message for r in caplog.records if "wrong checksum" in r.message] == [
                f"{it.node.damage}: stop this node and run crdtmail check"
            ]

    run(test())


def test_what_a_peer_sends_meets_a_damaged_record_and_the_node_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, PAIR) as nodes:
            await prepared(nodes.nodes["mx1"], "m1")
            await nodes.converged()
        damage(tmp_path / "mx2", Table.MESSAGES)
        async with cluster(tmp_path, PAIR) as nodes:
            one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
            patch = {"ids": ["m1"], "patch": {"keywords/$seen": True}}
            assert (await one.ask("PATCH", f"{INBOX}/messages", patch)).status == 200
            await until(lambda: two.node.damage is not None, "mx2 comes upon it")
            assert "this node's store is damaged" in await alarms(two)

    run(test())


def test_a_bug_ends_neither_what_calls_a_peer_nor_what_keeps_house(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise AssertionError("a bug that nobody knows")

    async def kept_house(node: Node) -> None:
        done.append(node.name)
        bug()

    def critical() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.levelno == logging.CRITICAL]

    done: list[str] = []
    monkeypatch.setattr(housekeeping, "HOUSE_S", 0.05)
    monkeypatch.setattr(Node, "keep_house", kept_house)

    async def test() -> None:
        async with cluster(tmp_path, PAIR) as nodes:
            one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(one)
            await nodes.converged()
            with monkeypatch.context() as patch:
                patch.setattr(one.node.gossip, "_check_cluster", bug)
                await until(lambda: any("peer http" in text for text in critical()), "mx1 meets its bug")
            await add(one, "m1")
            await nodes.converged()
            await until(lambda: done.count("mx2") > 1, "mx2 keeps house once more")
            assert two.node.failure is None

    run(test())
    assert all("this node has a bug: a bug that nobody knows" in text for text in critical())
    assert all(it.exc_info for it in caplog.records if it.levelno == logging.CRITICAL)


def test_a_node_that_is_full_says_so_of_itself_and_its_peer_that_it_takes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        with small_disk(tmp_path / "mx2") as disk:
            async with cluster(tmp_path, PAIR) as nodes:
                one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
                await prepared(one)
                await nodes.converged()
                disk.fill()
                caplog.clear()
                await add(one, *(f"m{n}" for n in range(4000)))
                await until(lambda: two.node.is_full, "mx2 is full")

                async def says(it: Running, name: str, key: str, text: str) -> bool:
                    return text in str((await peers(it))[name][key])

                await until(
                    lambda: says(two, "mx1", "waits", "this node is full: nothing is taken from mx1"),
                    "mx2 says that it is its own trouble",
                )
                await until(lambda: says(one, "mx2", "waits", "it is full: it takes nothing"), "mx1 is told")
                session = one.node.gossip.peers.sessions[mine := nodes.links["mx1", "mx2"].address]

                def told_meanwhile() -> bool:
                    heard, since = session.heard_at, session.failing_since
                    return heard is not None and since is not None and heard > since + 2

                await until(told_meanwhile, "mx2 has told what it has, again and again")
                assert await says(one, "mx2", "waits", "it is full: it takes nothing")
                assert f"peer {mine}" not in caplog.text
                assert f"peer {nodes.links['mx2', 'mx1'].address}" not in caplog.text
                assert caplog.text.count("there is no room left for the store") == 1
                monkeypatch.setattr(journal, "_ROOM_AGAIN_S", 0.5)
                disk.remount("size=64m")
                await nodes.converged()
                await until(lambda: "there is room for the store again" in caplog.text, "mx2 has room")
                await until(lambda: says(one, "mx2", "failingSeconds", "None"), "mx2 takes again")

    run(test())


def test_a_node_whose_only_peer_takes_nothing_or_only_calls_is_not_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "ALONE_S", 1.0)

    async def test() -> None:
        async with cluster(tmp_path, PAIR) as nodes:
            one, two = nodes.nodes["mx1"], nodes.nodes["mx2"]
            await prepared(one)
            await nodes.converged()
            session = one.node.gossip.peers.sessions[nodes.links["mx1", "mx2"].address]

            def fails_for_long() -> bool:
                return session.failing_since is not None and one.node.now() - session.failing_since > 2.0

            with taking_over(two, "http://elsewhere"):
                await add(one, "m1")
                await until(fails_for_long, "mx2 takes nothing")
                assert await alarms(one) == ""
            await nodes.converged()
            nodes.links["mx1", "mx2"].cut()
            await until(fails_for_long, "mx2 cannot be called")
            assert await alarms(one) == ""

    run(test())


def test_a_node_that_reaches_no_peer_for_some_time_raises_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "ALONE_S", 0.3)

    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            one = nodes.nodes["mx1"]
            await nodes.converged()
            assert await alarms(one) == ""
            nodes.cut("mx1")

            async def says_so() -> bool:
                return "nothing was exchanged with any peer for" in await alarms(one)

            await until(says_so, "mx1 says that it is alone")
            assert "nothing was exchanged" not in await alarms(nodes.nodes["mx2"])
            nodes.heal()

            async def is_well() -> bool:
                return await alarms(one) == ""

            await until(is_well, "the alarm is over")

    run(test())


@pytest.mark.parametrize("by", ["secret", "certificate", "cluster"])
def test_peers_that_do_not_let_each_other_in_are_an_alarm_at_once(tmp_path: Path, by: str) -> None:
    def access(name: str) -> dict[str, Any]:
        if by == "secret":
            return {
                "cluster_secret_file": secret_file(tmp_path / f"of {name}", f"the secret of {name} alone" * 2)
            }
        if by == "cluster":
            return {"cluster": "" if name == "mx1" else "example"}
        return {"tls": certified(tmp_path / f"ca of {name}", name)}

    scheme = "https" if by == "certificate" else "http"

    async def test() -> None:
        async with serving(tmp_path / "mx1", **access("mx1")) as (first, _):
            address = f"{scheme}://127.0.0.1:{first.port}"
            async with serving(tmp_path / "mx2", peers=(address,), **access("mx2")) as (second, _):
                node = second.node
                await until(lambda: bool(node.troubles), "the call fails")
                (said,) = (await status_module.node_status(node, second.listener))["alarms"]
                assert said["kind"] == "mistrust"
                assert said["text"].startswith(f"{address} and this node do not let each other in: ")
                if by == "cluster":
                    assert "mx2 belongs to cluster 'example', mx1 to no cluster" in said["text"]

    run(test())


def test_a_new_node_shows_no_mailboxes_before_it_has_taken_over_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            assert (await it.ask("GET", ALICE)).body["mailboxes"] == []
            it.node.gossip.lacks_snapshot = True
            delivery = {"messages": [{"id": "m1", "size": 1}]}
            for method, path, body in (
                ("GET", ALICE, None),
                ("GET", INBOX, None),
                ("GET", f"{INBOX}/changes?since=x", None),
                ("GET", "/v1/accounts/alice/scripts", None),
                ("POST", f"{INBOX}/messages", delivery),
            ):
                answer = await it.ask(method, path, body)
                assert (answer.status, answer.problem) == (503, "not-yet"), path
                assert answer.headers["Retry-After"]
            assert (await it.ask("GET", "/v1/accounts/alice/digests")).status == 200
            assert (await it.ask("POST", ALICE, {"name": "INBOX"})).status == 201
            assert (await it.ask("POST", f"{INBOX}/messages", delivery)).status == 201
            assert (await it.ask("GET", INBOX)).status == 503, "one message is not all"
            it.node.gossip.lacks_snapshot = False
            assert (await it.ask("GET", INBOX)).body["totalEmails"] == 1

    run(test())


def test_a_new_node_that_nobody_gives_its_mailboxes_raises_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows none for so long, and nothing else may be wrong with it: perhaps it calls nobody."""
    said = "shows no mailboxes before it has taken over those of another one, and nobody has given it any"

    async def test() -> None:
        async with single(tmp_path) as it:
            it.node.gossip.lacks_snapshot = True
            assert await alarms(it) == ""
            monkeypatch.setattr(status_module, "ALONE_S", 0.0)
            assert said in await alarms(it)
            it.node.gossip.filling = Filling("http://mx2:7420", it.node.now())
            assert await alarms(it) == "", "it comes"
            it.node.gossip.filling = None
        async with single(tmp_path) as it:  # what the alarm says to do where they are gone for good
            assert await alarms(it) == ""
            assert (await it.ask("GET", ALICE)).status == 200

    run(test())


def test_a_node_that_has_mail_goes_on_showing_it_while_it_takes_over_a_snapshot(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
        async with single(tmp_path) as it:
            it.node.gossip.lacks_snapshot = True
            assert (await it.ask("GET", INBOX)).body["totalEmails"] == 1

    run(test())


@pytest.mark.parametrize(
    ("status", "reason", "waits"),
    [
        (400, {"reason": "filling"}, "it takes over a snapshot of another node"),
        (507, {}, "it is full: it takes nothing"),
        (400, {"reason": "not-now"}, None),
        (400, {"reason": "of a later version"}, None),
        (400, {"reason": ["filling"]}, None),
        (400, {}, None),  # an earlier version
    ],
)
def test_a_peer_that_cannot_take_anything_just_now_waits_and_does_not_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, reason: dict[str, Any], waits: str | None
) -> None:
    detail = "not that now"

    async def busy(request: web.Request) -> web.Response:
        return web.json_response(
            {"detail": detail} | reason, status=status, headers={SENDER: "00000000000000ff"}
        )

    async def test() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", busy)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with serving(tmp_path / "mx2", peers=(address,)) as (second, _):
                node = second.node
                await until(lambda: bool(node.troubles), "the call comes to nothing")
                shown = await status_module.node_status(node, second.listener)
                (peer,) = shown["peers"]
                assert peer["waits"] == waits
                if waits:
                    assert (peer["error"], peer["failingSeconds"]) == (None, None)
                else:
                    assert peer["error"] == f"the peer answered {status}: {detail}"
                assert (address in caplog.text) is not bool(waits)
        finally:
            await runner.cleanup()

    run(test())
