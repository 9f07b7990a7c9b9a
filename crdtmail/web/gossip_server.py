"""What other nodes ask of this one.  Bodies are CBOR; `docs/protocol.md` has them byte by byte."""

from __future__ import annotations

import re

from aiohttp import web

from crdtmail.crdt.clock import ReplicaId
from crdtmail.errors import PeerError
from crdtmail.gossip.codec import decode_position, decode_push, encode_answer, encode_clock
from crdtmail.node import Node

EXCHANGE = "/gossip/v1/exchange"
PUSH = "/gossip/v1/push"
CBOR = "application/cbor"
SENDER = "Crdtmail-Replica"
"""The header of a push that names its sender: 16 hexadecimal digits."""


def routes(node: Node) -> list[web.RouteDef]:
    return [web.post(EXCHANGE, _Server(node).exchange), web.post(PUSH, _Server(node).push)]


class _Server:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def exchange(self, request: web.Request) -> web.Response:
        """200 with our position and what the asker lacks."""
        theirs = decode_position(await request.read())
        if theirs.replica == self._node.replica.id:
            raise PeerError("a node's peers must not name the node itself")
        answer = await self._node.answer_exchange(theirs)
        return web.Response(body=encode_answer(answer), content_type=CBOR)

    async def push(self, request: web.Request) -> web.Response:
        """204 when all is durable here; 409 with our clock at a gap; 400 with the reason for a refusal."""
        sender = _sender(request)
        encoded = decode_push(await request.read())
        reception = await self._node.receive(encoded)
        if reception.gap:
            return web.Response(status=409, body=encode_clock(reception.clock), content_type=CBOR)
        if reception.refusal is not None:
            raise PeerError(reception.refusal)
        self._node.heard_push(sender, reception.dots)
        return web.Response(status=204)


def _sender(request: web.Request) -> ReplicaId:
    sender = request.headers.get(SENDER, "")
    if not re.fullmatch("[0-9a-f]{16}", sender, re.ASCII):
        raise PeerError(f"a push names its sender in {SENDER}, in 16 hexadecimal digits")
    return ReplicaId(int(sender, 16))
