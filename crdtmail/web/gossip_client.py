"""One task a peer: performs what its session wants, one action at a time, and reports what came of it."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp

from crdtmail.crdt.clock import Clock
from crdtmail.errors import PeerError, RequestError, StoreError
from crdtmail.gossip.codec import decode_answer, decode_clock, encode_position, encode_push
from crdtmail.gossip.session import Exchange, Push, Session
from crdtmail.limits import GOSSIP_TIMEOUT_S, MAX_GOSSIP_BODY
from crdtmail.node import Node
from crdtmail.web.gossip_server import CBOR, EXCHANGE, PUSH, SENDER

log = logging.getLogger(__name__)


async def talk(node: Node, address: str, session: Session, http: aiohttp.ClientSession) -> None:
    """Keep the peer at `address` up to date, until cancelled."""
    while True:
        changed = node.progress.next()
        action = session.next(node.now(), node.head.clock)
        if action is None:
            wait_s = session.wait_s(node.now(), node.head.clock)
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                pass
            continue
        was_failing, had_diverged = session.failing_since is not None, session.diverged
        try:
            await _perform(node, address, session, http, action)
        except (aiohttp.ClientError, TimeoutError, PeerError, RequestError, StoreError, OSError) as error:
            session.failed(node.now(), str(error) or type(error).__name__)
            if not was_failing:
                log.warning("peer %s: %s", address, session.last_error)
        else:
            if was_failing and session.failing_since is None:
                log.info("peer %s: in touch again", address)
        if session.diverged and not had_diverged:
            log.error("peer %s: equal clocks but different digests: one of the stores is damaged", address)


async def _perform(
    node: Node, address: str, session: Session, http: aiohttp.ClientSession, action: Exchange | Push
) -> None:
    match action:
        case Exchange():
            await _exchange(node, address, session, http)
        case Push(after, only):
            entries = await node.deltas_after(after, only)
            headers = {"Content-Type": CBOR, SENDER: f"{node.replica.id:016x}"}
            body = encode_push([entry.delta for entry in entries])
            status, answer = await _post(http, address + PUSH, body, headers)
            if status == 409:
                session.missed(node.now(), decode_clock(answer))
                return
            sent = [entry.dot for entry in entries]
            session.pushed(node.now(), sent)
            if session.peer is not None:
                node.peers.hear_dots(node.now(), session.peer.replica, sent)
            node.peer_progress.fire()


async def _exchange(node: Node, address: str, session: Session, http: aiohttp.ClientSession) -> None:
    ours = node.position()
    _, body = await _post(http, address + EXCHANGE, encode_position(ours), {"Content-Type": CBOR})
    answer = decode_answer(body)
    theirs = answer.position
    if theirs.replica == ours.replica:
        raise PeerError("this is the node itself, or a copy of its data folder")
    await node.hear(theirs)
    after: Clock = ours.clock
    if answer.deltas:
        reception = await node.receive(answer.deltas)
        if reception.refusal is not None:
            raise PeerError(reception.refusal)
        after = reception.clock
    session.exchanged(node.now(), ours, theirs, after)


async def _post(
    http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    """The status (2xx or 409) and body of the answer.  Raises PeerError with the peer's reason otherwise."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=GOSSIP_TIMEOUT_S, sock_read=GOSSIP_TIMEOUT_S)
    async with http.post(url, data=body, headers=headers, timeout=timeout) as response:
        answer = await response.content.read(MAX_GOSSIP_BODY + 1)
        while not response.content.at_eof() and len(answer) <= MAX_GOSSIP_BODY:
            answer += await response.content.read(MAX_GOSSIP_BODY + 1 - len(answer))
        if len(answer) > MAX_GOSSIP_BODY:
            raise PeerError("the answer is over the limit")
        if response.status == 409 or 200 <= response.status < 300:
            return response.status, answer
        raise PeerError(f"the peer answered {response.status}: {_reason(answer)}")


def _reason(answer: bytes) -> str:
    """The detail of a problem (RFC 9457), or the beginning of whatever else it is."""
    try:
        return str(json.loads(answer)["detail"])[:300]
    except (ValueError, TypeError, KeyError, RecursionError):
        return answer[:300].decode(errors="replace")
