"""What other nodes ask of this one.  Bodies are CBOR; `docs/protocol.md` has them byte by byte."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from crdtmail.crdt.clock import ReplicaId
from crdtmail.effects import PROTOCOL, Kind
from crdtmail.errors import PeerError
from crdtmail.gossip.refusals import OTHERS
from crdtmail.node import Node

CBOR = "application/cbor"
SENDER = "Crdtmail-Replica"
"""The header of a request or an answer that names its sender: 16 hexadecimal digits."""
TIME, NONCE, DIGEST, SIGNATURE = "Crdtmail-Time", "Crdtmail-Nonce", "Content-Digest", "Crdtmail-Signature"
"""The headers of what is signed with the cluster's secret; `security.signing` says with what in them."""
PREFIX = "/gossip/"
"""All below it is for peers."""


def path(kind: Kind, protocol: int = PROTOCOL) -> str:
    return f"{PREFIX}v{protocol}/{kind.value}"


def routes(node: Node) -> list[web.RouteDef]:
    return [
        web.post(f"{PREFIX}v{{protocol:[0-9]{{1,9}}}}/{kind.value}", _handler(node, kind)) for kind in Kind
    ]


def _handler(node: Node, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        """The node's reply; a refusal is 400 with the reason (`problems`)."""
        try:
            sender = sender_of(request.headers)
        except PeerError as error:
            node.gossip.refusals.refuse(OTHERS, error)
            raise
        protocol = int(request.match_info["protocol"])
        reply = await node.answer(kind, sender, await request.read(), protocol)
        headers = {SENDER: f"{reply.replica:016x}"}
        if not reply.body:
            return web.Response(status=reply.status, headers=headers)
        return web.Response(status=reply.status, body=reply.body, content_type=CBOR, headers=headers)

    return handle


def asker(headers: Mapping[str, str]) -> str:
    """Who sent a request, as refusals name it."""
    try:
        return f"{sender_of(headers):016x}"
    except PeerError:
        return OTHERS


def sender_of(headers: Mapping[str, str]) -> ReplicaId:
    """The replica that sent a request or an answer.  Raises PeerError if it does not say."""
    sender = headers.get(SENDER, "")
    if not re.fullmatch("[0-9a-f]{16}", sender, re.ASCII):
        raise PeerError(f"requests and answers name their sender in {SENDER}, in 16 hexadecimal digits")
    return ReplicaId(int(sender, 16))
