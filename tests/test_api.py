"""The JSON API of a running node, as a client sees it."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from crdtmail import daemon, limits
from crdtmail.config import Config
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.limits import MAX_SIZE, MAX_UID
from crdtmail.replica import KEEP_ALL, Keep
from crdtmail.web import api
from crdtmail.web.requests import encode_token, uid_set
from tests.nodes import CHAIN, MESH, QUICK, Running, cluster, run, single, until

ALICE = "/v1/accounts/alice/mailboxes"
INBOX = f"{ALICE}/name:INBOX"
TOKEN = "Crdtmail-Token"
PROBLEMS = {"invalid-request", "forbidden", "not-found", "method-not-allowed", "already-exists", "not-yet"}
PROBLEMS |= {"cannot-calculate-changes", "too-large", "request-entity-too-large"}


CHANGES: list[tuple[str, str, Any]] = [
    ("POST", ALICE, {"name": "Work"}),
    ("PATCH", f"{ALICE}/name:Work", {"name": "Play"}),
    ("DELETE", f"{ALICE}/name:Play", None),
    ("PATCH", INBOX, {"isSubscribed": True}),
    ("PATCH", INBOX, {"isSubscribed": False, "role": "archive"}),
    ("PATCH", INBOX, {"annotations": {"/private/comment": "x"}}),
    ("PATCH", INBOX, {"annotations": {"/private/comment": None}}),
    ("PUT", "/v1/accounts/alice/scripts/main", {"content": "keep;"}),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "m1", "size": 1}, {"id": "m2", "size": 1}]}),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "m3", "size": 1, "keywords": {"$seen": True}}]}),
    ("PATCH", f"{INBOX}/messages", {"uids": "1:*", "patch": {"keywords/$seen": True}}),
    ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {"keywords/$seen": None}}),
    ("PATCH", f"{INBOX}/messages", {"ids": ["m2"], "patch": {"keywords/$deleted": True}}),
    ("POST", f"{INBOX}/expunge", {"deleted": True}),
    ("POST", f"{INBOX}/expunge", {"ids": ["m3"]}),
    ("POST", f"{INBOX}/move", {"ids": ["m1", "m2"], "to": "name:Work"}),
    ("POST", f"{ALICE}/name:Work/copy", {"ids": ["m1"], "to": "name:INBOX"}),
]
"""Requests that are sound wherever their mailboxes and messages are there."""


async def prepared(it: Running, *ids: str) -> None:
    """An INBOX with these messages."""
    answer = await it.ask("POST", ALICE, {"name": "INBOX"})
    assert answer.status == 201
    if ids:
        await add(it, *ids)


async def add(it: Running, *ids: str, mailbox: str = INBOX, **more: Any) -> Any:
    new = [{"id": id, "size": 10, "receivedAt": "2026-01-02T03:04:05Z"} for id in ids]
    answer = await it.ask("POST", f"{mailbox}/messages", {"messages": new, **more})
    assert answer.status == 201, answer.body
    return answer.body


async def shown(it: Running, mailbox: str = INBOX) -> dict[str, set[str]]:
    answer = await it.ask("GET", mailbox)
    return {message["id"]: set(message["keywords"]) for message in answer.body["messages"]}


def test_a_mailbox_shows_its_merged_state_in_jmaps_words(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            new = {
                "id": "m1",
                "size": 1234,
                "receivedAt": "2026-11-24T06:51:41+01:00",
                "keywords": {"$Seen": True},
            }
            await it.ask("POST", f"{INBOX}/messages", {"messages": [new, {"size": 1}]})
            document = (await it.ask("GET", INBOX)).body
            first, second = document.pop("messages")
            assert first == {
                "uid": 1,
                "id": "m1",
                "keywords": {"$seen": True},
                "receivedAt": "2026-11-24T05:51:41Z",
                "size": 1234,
            }
            assert second["uid"] == 2
            assert len(second["id"]) == 32, "an id is made where none is given"
            assert document["name"] == "INBOX"
            assert document["role"] == "inbox"
            assert document["isSubscribed"] is False
            assert document["totalEmails"] == 2
            assert document["unreadEmails"] == 1
            assert document["uidNext"] == 3
            assert 0 < document["uidValidity"] < 2**32
            assert document["hasMore"] is False

    run(test())


def test_mailboxes_are_created_renamed_with_what_is_below_subscribed_annotated_and_deleted(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            for name in ("Work", "Work/2026", "Workers"):
                assert (await it.ask("POST", ALICE, {"name": name})).status == 201
            changed = {
                "name": "Play",
                "isSubscribed": True,
                "role": "archive",
                "annotations": {"/comment": "x"},
            }
            answer = await it.ask("PATCH", f"{ALICE}/name:Work", changed)
            assert answer.body["isSubscribed"] is True
            assert answer.body["role"] == "archive"
            assert answer.body["annotations"] == {"/comment": "x"}
            answer = await it.ask(
                "PATCH", f"{ALICE}/name:Play", {"annotations": {"/comment": None}, "role": None}
            )
            assert answer.body["annotations"] == {}
            assert answer.body["role"] is None
            names = [box["name"] for box in (await it.ask("GET", ALICE)).body["mailboxes"]]
            assert names == ["INBOX", "Play", "Play/2026", "Workers"]
            assert (await it.ask("DELETE", f"{ALICE}/name:Play")).status == 200
            assert (await it.ask("GET", f"{ALICE}/name:Play")).problem == "not-found"

    run(test())


def test_keywords_are_patched_in_the_spirit_of_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2", "m3")
            patch = {"keywords/$flagged": True, "keywords/a~1b": True}
            await it.ask("PATCH", f"{INBOX}/messages", {"uids": "1:2", "patch": patch})
            update = {
                "m1": {"keywords/$flagged": None},
                "m3": {"keywords/$SEEN": True},
                "absent": {"keywords/x": True},
            }
            answer = await it.ask("PATCH", f"{INBOX}/messages", {"update": update})
            assert sorted(answer.body["updated"]) == ["m1", "m3"]
            assert await shown(it) == {"m1": {"a/b"}, "m2": {"$flagged", "a/b"}, "m3": {"$seen"}}

    run(test())


def test_messages_are_moved_copied_and_expunged(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2", "m3", "m4")
            await it.ask("POST", ALICE, {"name": "Archive"})
            await it.ask("PATCH", f"{INBOX}/messages", {"ids": ["m4"], "patch": {"keywords/$deleted": True}})
            moved = await it.ask(
                "POST", f"{INBOX}/move", {"ids": ["m1"], "to": "name:Archive", "wantUids": True}
            )
            assert moved.body["moved"] == [{"id": "m1", "uid": 1}]
            copied = await it.ask("POST", f"{INBOX}/copy", {"uids": "2", "to": "name:Archive"})
            assert copied.body["copied"] == [{"id": "m2"}]
            expunged = await it.ask("POST", f"{INBOX}/expunge", {"deleted": True})
            assert expunged.body["expunged"] == ["m4"]
            await it.ask("POST", f"{INBOX}/expunge", {"ids": ["m3"]})
            assert set(await shown(it)) == {"m2"}
            assert set(await shown(it, f"{ALICE}/name:Archive")) == {"m1", "m2"}

    run(test())


def test_adding_if_absent_leaves_what_is_there_as_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            before = it.digest()
            assert (await add(it, "m1", ifAbsent=True))["messages"] == []
            assert it.digest() == before
            assert (await add(it, "m1", "m2", ifAbsent=True))["messages"] == [{"id": "m2"}]

    run(test())


def test_pages_follow_the_uids(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, *(f"m{n}" for n in range(7)))
            uids: list[int] = []
            more = True
            while more:
                after = uids[-1] if uids else 0
                page = (await it.ask("GET", f"{INBOX}?limit=3&after={after}")).body
                uids += [message["uid"] for message in page["messages"]]
                more = page["hasMore"]
            assert uids == [1, 2, 3, 4, 5, 6, 7]

    run(test())


def test_an_etag_stands_for_all_that_a_mailbox_shows(tmp_path: Path) -> None:
    changes: list[tuple[str, str, Any]] = [
        ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {"keywords/$seen": True}}),
        ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {"keywords/$seen": True}}),
        ("POST", f"{INBOX}/messages", {"messages": [{"id": "m3", "size": 1}]}),
        ("POST", f"{INBOX}/expunge", {"ids": ["m3"]}),
        ("PATCH", INBOX, {"isSubscribed": True}),
        ("PATCH", INBOX, {"annotations": {"/private/comment": "x"}}),
    ]

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2")
            for method, path, body in changes:
                answer = await it.ask("GET", INBOX)
                etag = answer.headers["ETag"]
                again = await it.ask("GET", INBOX, headers={"If-None-Match": f'"other", W/{etag}'})
                assert (again.status, again.body) == (304, b"")
                assert again.headers["ETag"] == etag
                assert (await it.ask(method, path, body)).status < 300
                changed = await it.ask("GET", INBOX, headers={"If-None-Match": etag})
                assert changed.status == 200, f"{method} {path} {body} changes what is shown"

    run(test())


def test_whatever_happens_equal_etags_mean_equal_documents_and_changes_lead_from_one_to_the_next(
    tmp_path: Path,
) -> None:
    """On two nodes that write at the same time, each followed by a client that reads changes alone."""
    programs: list[list[tuple[str, tuple[str, str, Any]]]] = []

    @settings(max_examples=4, phases=[Phase.generate])
    @given(
        st.lists(
            st.tuples(st.sampled_from(["mx1", "mx2"]), st.sampled_from(CHANGES)), min_size=30, max_size=60
        )
    )
    def collect(program: list[tuple[str, tuple[str, str, Any]]]) -> None:
        programs.append(program)

    collect()

    async def test(folder: Path, program: list[tuple[str, tuple[str, str, Any]]]) -> None:
        async with cluster(folder, {"mx1": ["mx2"], "mx2": ["mx1"]}) as nodes:
            await prepared(nodes.nodes["mx1"], "m0")
            await nodes.converged()
            followers = [Follower(it) for it in nodes.nodes.values()]
            for follower in followers:
                await follower.begin()
            for name, change in program:
                answer = await nodes.nodes[name].ask(*change)
                assert answer.status < 300 or answer.problem in {"not-found", "already-exists"}
                for follower in followers:
                    await follower.look()
            await nodes.converged()
            for follower in followers:
                await follower.look()

    for number, program in enumerate(programs):
        run(test(tmp_path / str(number), program))


class Follower:
    """A client of one node that keeps its copy of INBOX up to date by changes, a few at a time."""

    def __init__(self, it: Running) -> None:
        self._it = it
        self._documents: dict[str, Any] = {}
        self._state = ""
        self._copy: dict[int, Any] = {}

    async def begin(self) -> None:
        document = (await self._it.ask("GET", INBOX)).body
        self._state = document["state"]
        self._copy = {message["uid"]: message for message in document["messages"]}

    async def look(self) -> None:
        """Read the mailbox between two looks at what changed, and hold them against each other."""
        await self._follow()
        highest = max(self._copy, default=0)
        answer = await self._it.ask("GET", INBOX)
        assert self._documents.setdefault(answer.headers["ETag"], answer.body) == answer.body
        again = await self._it.ask("GET", INBOX, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status == 304) == (again.headers["ETag"] == answer.headers["ETag"])
        if answer.body["state"] == self._state:
            assert list(self._copy.values()) == answer.body["messages"]
        seen = self._copy.keys() & {message["uid"] for message in answer.body["messages"]}
        assert all(m["uid"] in seen or m["uid"] > highest for m in answer.body["messages"]), "UIDs ascend"

    async def _follow(self) -> None:
        more = True
        while more:
            page = (await self._it.ask("GET", f"{INBOX}/changes?since={self._state}&limit=2")).body
            for uid in page["vanished"]:
                self._copy.pop(uid, None)
            self._copy |= {message["uid"]: message for message in page["changed"]}
            self._state, more = page["state"], page["hasMore"]
        self._copy = dict(sorted(self._copy.items()))


def test_changes_since_a_state_name_what_changed_and_what_vanished(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2", "m3")
            state = (await it.ask("GET", INBOX)).body["state"]
            assert (await it.ask("GET", f"{INBOX}/changes?since={state}")).body["changed"] == []
            await it.ask("PATCH", f"{INBOX}/messages", {"ids": ["m2"], "patch": {"keywords/$seen": True}})
            await it.ask("POST", f"{INBOX}/expunge", {"ids": ["m1"]})
            await add(it, "m4")
            answer = (await it.ask("GET", f"{INBOX}/changes?since={state}")).body
            assert [message["id"] for message in answer["changed"]] == ["m2", "m4"]
            assert answer["vanished"] == [1]
            one = (await it.ask("GET", f"{INBOX}/changes?since={state}&limit=1")).body
            assert one["hasMore"] is True
            rest = (await it.ask("GET", f"{INBOX}/changes?since={one['state']}")).body
            assert len(rest["changed"]) + len(rest["vanished"]) == 2
            assert rest["state"] == answer["state"]

    run(test())


def test_a_state_of_another_node_cannot_be_continued(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            for state in ("0123456789abcdef-1-1", "nonsense", "1-2", "-1--1-0", "f" * 400):
                answer = await it.ask("GET", f"{INBOX}/changes?since={state}")
                assert (answer.status, answer.problem) == (409, "cannot-calculate-changes")

    run(test())


def test_a_long_poll_wakes_on_a_change_and_ends_without_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            state = (await it.ask("GET", INBOX)).body["state"]
            started = it.node.now()
            nothing = await it.ask("GET", f"{INBOX}/changes?since={state}&wait=0.2")
            assert nothing.body["changed"] == []
            assert it.node.now() - started >= 0.2
            waiting = asyncio.create_task(it.ask("GET", f"{INBOX}/changes?since={state}&wait=30"))
            await it.ask("POST", ALICE, {"name": "Other"})
            assert not waiting.done(), "another mailbox is no news"
            await add(it, "m2")
            answer = await asyncio.wait_for(waiting, 10)
            assert [message["id"] for message in answer.body["changed"]] == ["m2"]

    run(test())


def test_a_long_poll_hears_that_its_mailbox_was_deleted(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await it.ask("POST", ALICE, {"name": "Work"})
            work = f"{ALICE}/name:Work"
            state = (await it.ask("GET", work)).body["state"]
            waiting = asyncio.create_task(it.ask("GET", f"{work}/changes?since={state}&wait=60"))
            await until(lambda: "alice" in it.node._watched, "the poll waits")
            await it.ask("DELETE", work)
            assert (await asyncio.wait_for(waiting, 10)).problem == "not-found"

    run(test())


def test_a_long_poll_whose_client_has_gone_shows_nobody_a_uid(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            state = (await it.ask("GET", INBOX)).body["state"]
            waiting = asyncio.create_task(it.ask("GET", f"{INBOX}/changes?since={state}&wait=60"))
            await until(lambda: "alice" in it.node._watched, "the poll waits")
            waiting.cancel()
            await until(lambda: "alice" not in it.node._watched, "the node has noticed that it left")

    run(test())


@pytest.mark.parametrize("wait", ["long poll", "token", "acknowledgement"])
def test_a_node_that_stops_answers_at_once_whoever_waits_for_something(tmp_path: Path, wait: str) -> None:
    unseen = encode_token(Clock({ReplicaId(1): 1}))

    async def test() -> None:
        async with aiohttp.ClientSession() as http:
            async with daemon.running(Config("mx1", tmp_path, "127.0.0.1", 0, (), QUICK)) as (node, port):
                it = Running("mx1", node, port, http)
                await prepared(it, "m1")
                state = (await it.ask("GET", INBOX)).body["state"]
                new = {"messages": [{"id": "m2", "size": 1}]}
                requests = {
                    "long poll": ("GET", f"{INBOX}/changes?since={state}&wait=60", None),
                    "token": ("GET", f"{INBOX}?token={unseen}&tokenWait=60", None),
                    "acknowledgement": ("POST", f"{INBOX}/messages?ack=1&ackWait=60", new),
                }
                waiters = node._watched if wait == "long poll" else node.progress._waiting
                waiting = asyncio.create_task(it.ask(*requests[wait]))
                await until(lambda: len(waiters) > 0, "it waits")
                stopping_at = time.monotonic()
            assert time.monotonic() - stopping_at < limits.SHUTDOWN_S / 2
            answer = await waiting
            if wait == "long poll":
                assert (answer.status, answer.body["changed"], answer.body["state"]) == (200, [], state)
            elif wait == "token":
                assert (answer.status, answer.problem) == (503, "not-yet")
            else:
                assert (answer.status, answer.body["ack"]["reached"]) == (201, False)

    run(test())


def test_a_client_that_carries_its_token_reads_its_own_writes_on_any_node(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, CHAIN) as nodes:
            first, last = nodes.nodes["mx1"], nodes.nodes["mx3"]
            await prepared(first)
            for n in range(5):
                token = (await add(first, f"m{n}"))["token"]
                answer = await last.ask("GET", INBOX, headers={TOKEN: token})
                assert f"m{n}" in {message["id"] for message in answer.body["messages"]}
            nodes.cut("mx1")
            token = (await add(first, "late"))["token"]
            answer = await last.ask("GET", f"{INBOX}?tokenWait=0.1&token={token}")
            assert (answer.status, answer.problem) == (503, "not-yet")
            assert int(answer.headers["Retry-After"]) >= 1
            nodes.heal()
            answer = await last.ask("GET", f"{INBOX}?tokenWait=30&token={token}")
            assert "late" in {message["id"] for message in answer.body["messages"]}

    run(test())


def test_an_acknowledged_write_is_on_so_many_other_nodes_or_says_that_it_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            first = nodes.nodes["mx1"]
            await prepared(first)
            new = {"messages": [{"id": "m1", "size": 1}]}
            answer = await first.ask("POST", f"{INBOX}/messages?ack=2&ackWait=30", new)
            assert answer.body["ack"] == {"wanted": 2, "replicas": 2, "reached": True}
            for name in ("mx2", "mx3"):
                assert "m1" in await shown(nodes.nodes[name])
            nodes.cut("mx1")
            new = {"messages": [{"id": "m2", "size": 1}]}
            answer = await first.ask("POST", f"{INBOX}/messages?ack=1&ackWait=0.2", new)
            assert answer.status == 201
            assert answer.body["ack"] == {"wanted": 1, "replicas": 0, "reached": False}
            assert "m2" in await shown(first), "the write stands"

    run(test())


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", ALICE, {"name": ""}, 400, "invalid-request"),
    ("POST", ALICE, {"name": "a//b"}, 400, "invalid-request"),
    ("POST", ALICE, {"name": "x" * 2000}, 400, "invalid-request"),
    ("POST", ALICE, {"name": "inbox"}, 409, "already-exists"),
    ("POST", ALICE, {"name": "x", "colour": "red"}, 400, "invalid-request"),
    ("POST", ALICE, {"name": "\ud800"}, 400, "invalid-request"),
    ("POST", "/v1/accounts/a%00b/mailboxes", {"name": "x"}, 400, "invalid-request"),
    ("PATCH", INBOX, {}, 400, "invalid-request"),
    ("PATCH", INBOX, {"name": "Other"}, 403, "forbidden"),
    ("PATCH", INBOX, {"isSubscribed": 1}, 400, "invalid-request"),
    ("DELETE", INBOX, None, 403, "forbidden"),
    ("DELETE", f"{ALICE}/name:Nowhere", None, 404, "not-found"),
    ("GET", f"{ALICE}/{'0' * 32}", None, 404, "not-found"),
    ("GET", f"{ALICE}/nonsense", None, 404, "not-found"),
    ("GET", f"{INBOX}?limit=-1", None, 400, "invalid-request"),
    ("GET", f"{INBOX}?limit=1000000000", None, 400, "invalid-request"),
    ("GET", f"{INBOX}/changes", None, 400, "invalid-request"),
    ("GET", f"{INBOX}?token=garbage", None, 400, "invalid-request"),
    ("GET", f"{INBOX}?token={'A' * 7000}", None, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": []}, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "x"}]}, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "x", "size": MAX_SIZE + 1}]}, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "x", "size": True}]}, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "x" * 256, "size": 1}]}, 400, "invalid-request"),
    ("POST", f"{INBOX}/messages", {"messages": [{"id": "x", "size": 1}] * 2}, 400, "invalid-request"),
    (
        "POST",
        f"{INBOX}/messages",
        {"messages": [{"id": "x", "size": 1, "receivedAt": "yesterday"}]},
        400,
        "invalid-request",
    ),
    (
        "POST",
        f"{INBOX}/messages",
        {"messages": [{"id": "x", "size": 1, "keywords": {"a b": True}}]},
        400,
        "invalid-request",
    ),
    ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {}}, 400, "invalid-request"),
    ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {"size": 1}}, 400, "invalid-request"),
    (
        "PATCH",
        f"{INBOX}/messages",
        {"ids": ["m1"], "patch": {"keywords/(undeleted)": True}},
        400,
        "invalid-request",
    ),
    ("PATCH", f"{INBOX}/messages", {"ids": ["m1"], "patch": {"keywords/x": False}}, 400, "invalid-request"),
    (
        "PATCH",
        f"{INBOX}/messages",
        {"ids": ["m1"], "patch": {"keywords/x": True, "keywords/X": None}},
        400,
        "invalid-request",
    ),
    (
        "PATCH",
        f"{INBOX}/messages",
        {"ids": ["m1"], "uids": "1", "patch": {"keywords/x": True}},
        400,
        "invalid-request",
    ),
    ("PATCH", f"{INBOX}/messages", {"uids": "0", "patch": {"keywords/x": True}}, 400, "invalid-request"),
    ("POST", f"{INBOX}/expunge", {}, 400, "invalid-request"),
    ("POST", f"{INBOX}/expunge", {"deleted": True, "uids": "1"}, 400, "invalid-request"),
    ("POST", f"{INBOX}/move", {"ids": ["m1"], "to": "name:INBOX"}, 403, "forbidden"),
    ("POST", f"{INBOX}/move", {"ids": ["m1"], "to": "name:Nowhere"}, 404, "not-found"),
    ("POST", f"{INBOX}/copy", {"ids": ["m1"]}, 404, "not-found"),
    ("PUT", "/v1/accounts/alice/scripts/main", {"isActive": True}, 404, "not-found"),
    ("GET", "/v1/nowhere", None, 404, "not-found"),
    ("PUT", INBOX, None, 405, "method-not-allowed"),
    ("DELETE", "/v1/accounts/alice/mailboxes", {}, 405, "method-not-allowed"),
    ("GET", f"{INBOX}/move", {}, 405, "method-not-allowed"),
    ("GET", INBOX, {}, 400, "invalid-request"),
    ("GET", "/v1/nowhere", {}, 404, "not-found"),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, bool]]:
    """What each of the bad requests was answered, and whether the state is as it was."""
    answers = []

    async def test() -> None:
        async with single(tmp_path_factory.mktemp("node")) as it:
            await prepared(it, "m1")
            for method, path, body, _, _ in REFUSED:
                before = it.state
                data = None if body is None else json.dumps(body).encode()
                answer = await it.ask(method, path, data=data)
                answers.append((answer.status, answer.problem, it.state == before))

    run(test())
    return answers


@pytest.mark.parametrize(
    "number", range(len(REFUSED)), ids=lambda n: f"{REFUSED[n][0]} {REFUSED[n][1][:60]} {n}"
)
def test_a_bad_request_is_refused_with_its_reason_and_changes_nothing(
    number: int, refusals: list[tuple[int, str, bool]]
) -> None:
    _, _, _, status, problem = REFUSED[number]
    assert refusals[number] == (status, problem, True)


@pytest.mark.parametrize("id", ["", False, [], 0, None])
def test_an_id_that_is_none_is_refused_and_no_other_one_is_made(tmp_path: Path, id: object) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            answer = await it.ask("POST", f"{INBOX}/messages", {"messages": [{"id": id, "size": 1}]})
            assert (answer.status, answer.problem) == (400, "invalid-request")
            assert await shown(it) == {}

    run(test())


def test_a_property_that_stands_twice_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            answer = await it.ask("POST", ALICE, data=b'{"name": "a", "name": "b"}')
            assert (answer.status, answer.problem) == (400, "invalid-request")
            assert "twice" in answer.body["detail"]

    run(test())


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "a\x7f", "a\x9bb"])
def test_what_is_shown_in_a_line_holds_no_control_characters(tmp_path: Path, text: str) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            for method, path, body in (
                ("POST", ALICE, {"name": "Work", "role": text}),
                ("PATCH", INBOX, {"role": text}),
                ("PATCH", INBOX, {"annotations": {text: "x"}}),
            ):
                answer = await it.ask(method, path, body)
                assert (answer.status, answer.problem) == (400, "invalid-request")
            answer = await it.ask("PATCH", INBOX, {"annotations": {"/private/comment": "two\nlines"}})
            assert answer.status == 200

    run(test())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"ids": 1' + b"0" * 5000 + b"}"]
)
def test_a_body_that_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            answer = await it.ask("POST", f"{INBOX}/expunge", data=body)
            assert (answer.status, answer.problem) == (400, "invalid-request")

    run(test())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)
KNOWN = (
    *("ids", "uids", "patch", "update", "messages", "to", "deleted", "name", "role", "isSubscribed"),
    *("annotations", "wantUids", "ifAbsent", "content", "isActive"),
)
SOUND = st.sampled_from(
    [
        "1:*",
        "name:Work",
        ["m1"],
        {"keywords/$seen": True},
        {"m1": {"keywords/x": None}},
        [{"id": "m9", "size": 1}],
        {"/private/comment": "x"},
    ]
)
BODIES = st.dictionaries(st.sampled_from(KNOWN), JSON | SOUND, max_size=3)
SEGMENTS = st.sampled_from(
    (
        *("alice", "name:INBOX", "name:Work", "main") * 3,
        *("bob", "name:Nowhere", "name:", "0" * 32, "~", "'"),
        *(".", "..", "%00", "%ff", "%ed%a0%80", "a%2Fb", "name:%F0%9F%98%80", "%25zz"),
        *("x" * 300, "name:" + "y" * 3000),
    )
)
VALUES = st.sampled_from(
    [
        "",
        "0",
        "1",
        "2",
        "-1",
        "1e3",
        "nan",
        "%ff",
        "%ed%a0%80",
        "AA",
        "oA",
        "oQEC",
        "1-1-1",
        "9" * 12,
        "x" * 900,
    ]
)
WAITS = ("wait", "tokenWait", "ackWait")
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "after", "since", "token", "ack", "other"]), VALUES, max_size=2
).map(lambda query: "&".join([*(f"{name}=0" for name in WAITS), *(f"{n}={v}" for n, v in query.items())]))
Request = tuple[str, str, bytes | None]


def requests_to(routes: Sequence[tuple[str, str]]) -> st.SearchStrategy[Request]:
    """Requests to all routes of the API: sound, half sound and nonsense, with a method that fits or not."""
    sound = st.sampled_from([(method, path, json.dumps(body).encode()) for method, path, body in CHANGES])
    some_body = BODIES | st.sampled_from([body for _, _, body in CHANGES])
    bodies = some_body.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40) | st.none()

    def to(route: tuple[str, str]) -> st.SearchStrategy[Request]:
        method, path = route
        blanks = st.lists(SEGMENTS, min_size=path.count("{"), max_size=path.count("{"))
        paths = st.tuples(blanks, QUERIES).map(
            lambda drawn: re.sub(r"{\w+}", "{}", path).format(*drawn[0]) + "?" + drawn[1]
        )
        methods = st.sampled_from([method] * 8 + ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        return st.tuples(methods, paths, bodies)

    half_sound = st.sampled_from(routes).flatmap(to)
    return half_sound | half_sound | half_sound | sound


def replicated(it: Running) -> tuple[int, Clock, int]:
    """What of the head no housekeeping changes."""
    return it.node.head.lsn, it.node.head.clock, it.node.head.digest


def test_whatever_a_client_sends_is_no_error_of_the_node(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            await it.ask("POST", ALICE, {"name": "Work"})
            await it.ask("PUT", "/v1/accounts/alice/scripts/main", {"content": "keep;"})
            requests: list[Request] = []
            counts: Counter[int] = Counter()

            @settings(max_examples=1500, phases=[Phase.generate])
            @given(requests_to([(route.method, route.path) for route in api.routes(it.node)]))
            def collect(request: Request) -> None:
                requests.append(request)

            collect()
            for method, path, data in requests:
                before = replicated(it)
                answer = await it.ask(method, path, data=data)
                counts[answer.status] += 1
                assert answer.status in {200, 201, 304, 400, 403, 404, 405, 409, 413, 503}, (
                    method,
                    path,
                    data,
                )
                if answer.status >= 400:
                    assert method == "HEAD" or answer.problem in PROBLEMS, (method, path, data, answer)
                    assert replicated(it) == before, (method, path, data)
                if answer.status == 503:
                    assert answer.headers["Retry-After"]
            assert counts.keys() >= {200, 201, 400, 404, 405}, "the requests reach what they are to test"

    run(test())


def test_what_is_over_a_limit_is_refused_whole(tmp_path: Path) -> None:
    too_many = [f"m{n}" for n in range(limits.MAX_MESSAGES_PER_OPERATION + 1)]
    requests = [
        ("POST", f"{INBOX}/expunge", b" " * (limits.MAX_GOSSIP_BODY + 1), "request-entity-too-large"),
        ("POST", f"{INBOX}/expunge", json.dumps({"ids": too_many}).encode(), "too-large"),
        ("POST", f"{INBOX}/expunge", json.dumps({"uids": "1," * 100_000 + "1"}).encode(), "too-large"),
        (
            "PATCH",
            f"{INBOX}/messages",
            json.dumps({"ids": ["m1"], "patch": {f"keywords/k{n}": True for n in range(129)}}).encode(),
            "too-large",
        ),
    ]

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            before = it.state
            for method, path, data, problem in requests:
                answer = await it.ask(method, path, data=io.BytesIO(data))
                assert (answer.status, answer.problem) == (413, problem)
                assert it.state == before

    run(test())


def test_a_token_of_unknown_writes_is_waited_for_and_one_that_no_node_gave_is_refused(tmp_path: Path) -> None:
    forged = encode_token(Clock({ReplicaId(1): 2**63 - 1}))
    endless = encode_token(Clock({ReplicaId(n): 1 for n in range(limits.MAX_REPLICAS + 1)}))

    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            answer = await it.ask("GET", f"{INBOX}?token={forged}&tokenWait=0")
            assert (answer.status, answer.problem) == (503, "not-yet")
            for garbage in ("AA", "oQ", "%ff", "oQECAA", forged[:-1], "A" * 9000, endless):
                # In the query: headers of more than 8 KiB never reach the node's own code.
                answer = await it.ask("GET", f"{INBOX}?token={garbage}&tokenWait=0")
                assert answer.status == 400, garbage

    run(test())


def test_a_method_that_a_path_does_not_know_is_answered_with_those_that_it_knows(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            answer = await it.ask("PUT", ALICE)
            assert (answer.status, answer.problem) == (405, "method-not-allowed")
            assert "POST" in answer.headers["Allow"]

    run(test())


def test_accounts_come_in_pages_with_digests_that_nodes_can_compare(tmp_path: Path) -> None:
    accounts = ["alice", "bob/b", "carol", "dörte", ".."]

    async def digests(it: Running) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        more = True
        while more:
            after = quote(found[-1][0], safe="") if found else ""
            page = (await it.ask("GET", f"/v1/accounts?limit=2&after={after}")).body
            found += [(each["account"], each["digest"]) for each in page["accounts"]]
            more = page["hasMore"]
        return found

    async def test() -> None:
        async with cluster(tmp_path, {"mx1": ["mx2"], "mx2": []}) as nodes:
            first, second = nodes.nodes["mx1"], nodes.nodes["mx2"]
            # An account can only be named by one segment of a path, and ".." is none.
            for account in accounts[:-1]:
                path = f"/v1/accounts/{quote(account, safe='')}/mailboxes"
                assert (await first.ask("POST", path, {"name": "INBOX"})).status == 201
            await nodes.converged()
            assert [account for account, _ in await digests(first)] == sorted(accounts[:-1])
            assert await digests(second) == await digests(first)
            (alice, one), *_ = await digests(first)
            await add(first, "m1")
            assert (await digests(first))[0] != (alice, one)
            detail = (await first.ask("GET", "/v1/accounts/alice/digests")).body
            assert detail["digest"] == (await digests(first))[0][1]
            assert [box["name"] for box in detail["mailboxes"]] == ["INBOX"]
            assert (await first.ask("GET", "/v1/accounts/nobody/digests")).body["mailboxes"] == []

    run(test())


def test_scripts_are_put_listed_read_activated_and_deleted(tmp_path: Path) -> None:
    scripts = "/v1/accounts/alice/scripts"

    async def test() -> None:
        async with single(tmp_path) as it:
            for name in ("main", "zw%C3%B6lf%2F12"):
                answer = await it.ask("PUT", f"{scripts}/{name}", {"content": f"# {name}\nkeep;\n"})
                assert answer.status == 200
            await it.ask("PUT", f"{scripts}/main", {"isActive": True})
            listed = (await it.ask("GET", scripts)).body["scripts"]
            assert [(each["name"], each["isActive"]) for each in listed] == [
                ("main", True),
                ("zwölf/12", False),
            ]
            assert (await it.ask("GET", f"{scripts}/main")).body["content"] == "# main\nkeep;\n"
            assert (await it.ask("DELETE", f"{scripts}/main")).problem == "forbidden"
            assert (await it.ask("DELETE", f"{scripts}/zw%C3%B6lf%2F12")).status == 200
            assert (await it.ask("GET", f"{scripts}/zw%C3%B6lf%2F12")).problem == "not-found"
            too_long = {"content": "é" * (limits.MAX_SCRIPT // 2 + 1)}
            before = it.state
            assert (await it.ask("PUT", f"{scripts}/main", too_long)).problem == "too-large"
            for bad in ({"content": 1}, {"isActive": None}, {"content": "\ud800"}, {"text": ""}):
                answer = await it.ask("PUT", f"{scripts}/main", data=json.dumps(bad).encode())
                assert (answer.status, answer.problem) == (400, "invalid-request"), bad
            assert it.state == before

    run(test())


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"\0" * 100,
        b"GET /" + b"x" * 20_000,
        b"\x16\x03\x01\x02",
    ],
    ids=["text", "version", "zeros", "endless line", "TLS"],
)
def test_what_is_no_http_ends_its_own_connection_alone(tmp_path: Path, sent: bytes) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            writer.write(sent)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer == b"" or b" 400 " in answer.splitlines()[0]
            writer.close()
            assert (await it.ask("GET", "/v1/status")).status == 200

    run(test())


def test_uid_sets_read_as_imap_writes_them() -> None:
    assert uid_set("1:5,9,7:3,20:*") == ((1, 5), (9, 9), (3, 7), (20, MAX_UID))


def test_status_tells_how_far_each_peer_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path, MESH) as nodes:
            first = nodes.nodes["mx1"]

            async def peers_are(true: Callable[[dict[str, Any]], bool]) -> bool:
                return all(true(peer) for peer in (await first.ask("GET", "/v1/status")).body["peers"])

            await prepared(first)
            in_step = partial(
                peers_are, lambda peer: peer["reachable"] and peer["lag"] == {"deltas": 0, "seconds": 0.0}
            )
            await until(in_step, "both peers are known to have everything")
            nodes.cut("mx1")
            await add(first, "m1")
            await add(first, "m2")
            failing = partial(
                peers_are, lambda peer: peer["failingSeconds"] is not None and not peer["reachable"]
            )
            await until(failing, "both peers are seen to be out of reach")
            peers = (await first.ask("GET", "/v1/status")).body["peers"]
            assert {peer["name"] for peer in peers} == {"mx2", "mx3"}
            assert all(peer["lag"]["deltas"] == 2 and peer["error"] for peer in peers)
            assert all(peer["lag"]["seconds"] > 0 for peer in peers)
            first.node.keep = Keep(bytes=0, age_ms=0)
            await first.node.keep_house()  # from now on nobody knows how long they lack the first of these
            peers = (await first.ask("GET", "/v1/status")).body["peers"]
            assert [peer["lag"] for peer in peers] == [{"deltas": 2, "seconds": None}] * 2
            first.node.keep = KEEP_ALL
            nodes.heal()
            await until(in_step, "both peers are known to have everything again")
            status = (await first.ask("GET", "/v1/status")).body
            assert status["alarms"] == []
            assert status["log"]["deltas"] == 0

    run(test())
