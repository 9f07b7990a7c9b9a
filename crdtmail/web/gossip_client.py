"""One task a peer: performs the conversations that its session wants, one at a time, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp

from crdtmail.effects import Call, Reply
from crdtmail.errors import PeerError, PeerUnreachable
from crdtmail.limits import GOSSIP_TIMEOUT_S, MAX_GOSSIP_BODY
from crdtmail.node import Node
from crdtmail.web.gossip_server import CBOR, SENDER, path, sender_of

log = logging.getLogger(__name__)


async def talk(node: Node, address: str, http: aiohttp.ClientSession) -> None:
    """Keep the peer at `address` up to date, until cancelled."""
    session = node.gossip.peers.sessions[address]

    async def post(call: Call) -> Reply:
        return await _post(http, call, {"Content-Type": CBOR, SENDER: f"{node.replica.id:016x}"})

    while True:
        changed = node.progress.next()
        steps = node.gossip.converse(address)
        if steps is None:
            wait_s = node.gossip.wait_s(address)
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                pass
            continue
        was_failing, had_diverged = session.failing_since is not None, session.diverged
        await node.converse(steps, post)
        if session.failing_since is not None and not was_failing:
            log.warning("peer %s: %s", address, session.last_error)
        if was_failing and session.failing_since is None:
            log.info("peer %s: in touch again", address)
        if session.diverged and not had_diverged:
            log.error("peer %s: equal clocks but different digests: one of the stores is damaged", address)


async def _post(http: aiohttp.ClientSession, call: Call, headers: dict[str, str]) -> Reply:
    """The status (2xx or 409) and body of the answer.

    Raises PeerError with the peer's reason otherwise, PeerUnreachable if there is no answer.
    """
    try:
        return await _posted(http, call, headers)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PeerUnreachable(str(error) or type(error).__name__) from error


async def _posted(http: aiohttp.ClientSession, call: Call, headers: dict[str, str]) -> Reply:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=GOSSIP_TIMEOUT_S, sock_read=GOSSIP_TIMEOUT_S)
    url = call.address + path(call.kind)
    async with http.post(url, data=call.body, headers=headers, timeout=timeout) as response:
        answer = await response.content.read(MAX_GOSSIP_BODY + 1)
        while not response.content.at_eof() and len(answer) <= MAX_GOSSIP_BODY:
            answer += await response.content.read(MAX_GOSSIP_BODY + 1 - len(answer))
        if len(answer) > MAX_GOSSIP_BODY:
            raise PeerError("the answer is over the limit")
        if response.status == 409 or 200 <= response.status < 300:
            return Reply(response.status, sender_of(response.headers), answer)
        raise PeerError(f"the peer answered {response.status}: {_reason(answer)}")


def _reason(answer: bytes) -> str:
    """The detail of a problem (RFC 9457), or the beginning of whatever else it is."""
    try:
        return str(json.loads(answer)["detail"])[:300]
    except (ValueError, TypeError, KeyError, RecursionError):
        return answer[:300].decode(errors="replace")
