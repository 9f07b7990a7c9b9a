"""Requests that are almost right, to every endpoint of a node on a real HTTP server.

The law: no answer from 500 on but those that are documented for what the client cannot help (503, 507); and
what was refused has changed nothing: clock and digest are what they were.  Of a push of several deltas, those
before the one that is refused are taken.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import aiohttp

from crdtmail.crdt.delta import MailboxId
from crdtmail.gossip import codec as gossip
from crdtmail.gossip import snapshot
from crdtmail.gossip.messages import Position
from crdtmail.node import Node
from crdtmail.web import api, gossip_server
from tests import fuzz, mutation
from tests.nodes import Running, single

ROUTES = [(route.method, route.path) for route in api.routes(cast(Node, None))]
GOSSIP = [(route.method, route.path) for route in gossip_server.routes(cast(Node, None))]
VALUES = {
    "{account}": ["alice", "b\u00f6b"],
    "{mailbox}": ["name:INBOX", "name:Work", "name:Old", "0" * 32],
    "{script}": ["main", "other"],
}
QUERIES = {
    "limit": ["1", "0", "100000"],
    "after": ["0", "3", "alice"],
    "since": ["0-0-0-0"],
    "ack": ["0", "1"],
    "token": ["oA", fuzz.TOKEN[:4]],
    "wait": ["0"],
}
SCRIPTS: list[dict[str, Any]] = [{"content": "keep;\n\u00e9", "isActive": True}, {"isActive": False}]
_ADD, _PATCH, _UPDATE, _PATCH_UIDS, _MOVE, _DESCRIBE = fuzz.BODIES
FITTING: dict[str, list[dict[str, Any]]] = {
    "POST /v1/accounts/{account}/mailboxes/{mailbox}/messages": [_ADD],
    "PATCH /v1/accounts/{account}/mailboxes/{mailbox}/messages": [_PATCH, _UPDATE, _PATCH_UIDS],
    "expunge": [{"deleted": True}, {"uids": "1:3"}, {"ids": ["m1"]}],
    "move": [{**_MOVE, "to": "name:Work"}, {"ids": ["m1"], "to": "name:INBOX"}],
    "copy": [{**_MOVE, "to": "name:Work"}, {"ids": ["m1"], "to": "name:INBOX"}],
    "scripts": SCRIPTS,
    "mailboxes": [{"name": "Old"}, _DESCRIBE, {"name": "Work"}],
}
ANY = [body for bodies in FITTING.values() for body in bodies]
MAY_FAIL = {503, 507}


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


QUESTIONS: list[snapshot.Request] = [
    snapshot.Begin(),
    snapshot.AskAccounts(1, "alice"),
    snapshot.AskDetails(1, (("alice", 0),)),
    snapshot.AskBlocks(1, (("alice", MailboxId(bytes(16))),)),
    snapshot.AskMessages(1, (("alice", MailboxId(bytes(16)), ((1, 5),)),)),
    snapshot.End(1),
]


def api_request(chance: random.Random) -> Request:
    """A request of the JSON API with something wrong in it, or with luck nothing."""
    method, route = chance.choice(ROUTES)
    path = route
    for field, values in VALUES.items():
        value = chance.choice(values)
        if chance.randrange(8) == 0:
            value = mutation.text_like(chance, value)
        path = path.replace(field, quote(value.encode("utf-8", "replace"), safe=""))
    query = {"tokenWait": "0", "ackWait": "0"}
    for name in chance.sample(list(QUERIES), k=chance.choice([0, 0, 1, 2])):
        query[name] = chance.choice(QUERIES[name])
        if chance.randrange(3) == 0:
            query[name] = mutation.text_like(chance, query[name])
        if name == "wait":
            query[name] = "0" if query[name].isdigit() else query[name]
    told = "&".join(
        f"{name}={quote(value.encode('utf-8', 'replace'), safe='')}" for name, value in query.items()
    )
    fitting = next((bodies for key, bodies in FITTING.items() if key in f"{method} {route}"), ANY)
    body = json.dumps(chance.choice(fitting if chance.randrange(5) else ANY)).encode()
    if chance.randrange(3):
        body = fuzz.TARGETS["body"].change(chance, body)
    return Request(method, f"{path}?{told}", {}, b"" if method in ("GET", "DELETE") else body)


def gossip_request(chance: random.Random, node: Node) -> Request:
    """What a peer would send, with something wrong in it."""
    method, path = chance.choice(GOSSIP)
    stranger = Position(fuzz.TWO, "mx2", node.head.clock, node.head.digest)
    seeds = {
        "exchange": [gossip.encode_position(stranger), gossip.encode_position(fuzz.POSITION)],
        "push": [fuzz.PUSH, gossip.encode_push(fuzz.ENCODED[1:2])],
        "snapshot": [snapshot.encode_request(each) for each in QUESTIONS],
        "offer": [snapshot.encode_numbered(1, snapshot.encode_accounts(snapshot.Accounts((), False)))],
    }
    body = chance.choice(seeds[path.rpartition("/")[2]])
    body = chance.choice([mutation.bytes_like, fuzz.TARGETS["position"].change])(chance, body)
    sender = chance.choice(["0000000000000002", "0000000000000002", "2", "", "\u00b2" * 16, "f" * 17])
    return Request(method, path, {gossip_server.SENDER: sender}, body)


async def send(it: Running, request: Request) -> int:
    """The status that answers.  Raises AssertionError if the law is broken."""
    before = it.node.head
    try:
        async with it.http.request(
            request.method, it.address + request.target, headers=request.headers, data=request.body
        ) as response:
            await response.read()
            status = response.status
    except (ValueError, aiohttp.InvalidURL):
        return 0  # nothing that this client could send
    assert status < 500 or status in MAY_FAIL, f"{status} answers {request}"
    after = it.node.head
    if status >= 400 and not (request.target.endswith("/push") and after.clock != before.clock):
        assert (after.clock, after.digest) == (before.clock, before.digest), (
            f"{request} is refused, yet changes"
        )
    if after.clock != before.clock:
        assert after.clock.includes(before.clock), f"{request} takes something back"
    return status


async def prepare(it: Running) -> None:
    for name in ("INBOX", "Work"):
        await it.ask("POST", "/v1/accounts/alice/mailboxes", {"name": name})


async def send_some(folder: Path, seed: int, requests: int) -> dict[int, int]:
    """So many of both kinds; how often each status answered."""
    chance, statuses = random.Random(seed), Counter[int]()
    async with single(folder) as it:
        await prepare(it)
        for _ in range(requests):
            made: Any = gossip_request(chance, it.node) if chance.randrange(4) == 0 else api_request(chance)
            statuses[await send(it, made)] += 1
    return dict(sorted(statuses.items()))
