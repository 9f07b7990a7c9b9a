"""The JSON API of a running node, as a client sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmail.limits import MAX_SIZE, MAX_UID
from crdtmail.web.requests import uid_set
from tests.nodes import CHAIN, MESH, Running, cluster, run, single, until

ALICE = "/v1/accounts/alice/mailboxes"
INBOX = f"{ALICE}/name:INBOX"
TOKEN = "Crdtmail-Token"


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
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, bool]]:
    """What each of the bad requests was answered, and whether the state is as it was."""
    answers = []

    async def test() -> None:
        async with single(tmp_path_factory.mktemp("node")) as it:
            await prepared(it, "m1")
            for method, path, body, _, _ in REFUSED:
                before = it.node.head
                data = None if body is None else json.dumps(body).encode()
                answer = await it.ask(method, path, data=data)
                answers.append((answer.status, answer.problem, it.node.head == before))

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
KNOWN = st.sampled_from(
    [
        "ids",
        "uids",
        "patch",
        "update",
        "messages",
        "to",
        "deleted",
        "name",
        "role",
        "isSubscribed",
        "wantUids",
    ]
)
BODIES = st.dictionaries(KNOWN, JSON | st.just("1:*") | st.just(["m1"]), max_size=4)
REQUESTS = st.tuples(
    st.sampled_from(["POST", "PATCH", "PUT"]),
    st.sampled_from(
        [
            ALICE,
            INBOX,
            f"{INBOX}/messages",
            f"{INBOX}/expunge",
            f"{INBOX}/move",
            "/v1/accounts/alice/scripts/x",
        ]
    ),
    BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40),
)


def test_whatever_a_client_sends_is_no_error_of_the_node(tmp_path: Path) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")

            async def send(method: str, path: str, data: bytes) -> None:
                before = it.node.head
                answer = await it.ask(method, path, data=data)
                assert answer.status < 500, (method, path, data, answer.body)
                if answer.status >= 400:
                    assert answer.problem
                    assert it.node.head == before

            requests: list[tuple[str, str, bytes]] = []

            @settings(max_examples=400)
            @given(REQUESTS)
            def collect(request: tuple[str, str, bytes]) -> None:
                requests.append(request)

            collect()
            for request in requests:
                await send(*request)

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
            nodes.heal()
            await until(in_step, "both peers are known to have everything again")
            status = (await first.ask("GET", "/v1/status")).body
            assert status["alarms"] == []
            assert status["log"]["deltas"] == 3

    run(test())
