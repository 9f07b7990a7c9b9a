"""What requests take of the node's memory: their bodies as they come in, their answers until they are read.

Peers, clients' bodies and clients' answers have a budget each, so that none of them can shut out the others.
Who stops sending or reading is let go soon; what is small always finds room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from crdtmail.errors import Overloaded, RequestError
from crdtmail.limits import (
    MAX_CLIENT_ANSWERS,
    MAX_CLIENT_BODIES,
    MAX_GOSSIP_REQUESTS,
    MAX_PEER_BODIES,
    MAX_REQUESTS_PER_ADDRESS,
    MAX_REQUESTS_PER_PEER,
    MIN_RATE,
    SILENCE_S,
    SMALL,
)

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_Peer = tuple[str | None, str | None]


class Load:
    """All that is under way."""

    def __init__(self) -> None:
        self.peers = Budget(MAX_PEER_BODIES)
        self.bodies = Budget(MAX_CLIENT_BODIES)
        self.answers = Budget(MAX_CLIENT_ANSWERS)
        self._gossip: Counter[_Peer] = Counter()

    @contextmanager
    def asking(self, peer: _Peer) -> Iterator[None]:
        """A request of a peer.  Raises Overloaded if there are enough of them."""
        there = sum(count for (address, _), count in self._gossip.items() if address == peer[0])
        if (
            self._gossip[peer] >= MAX_REQUESTS_PER_PEER
            or there >= MAX_REQUESTS_PER_ADDRESS
            or self._gossip.total() >= MAX_GOSSIP_REQUESTS
        ):
            raise Overloaded("too many requests of peers are under way")
        self._gossip[peer] += 1
        try:
            yield
        finally:
            self._gossip[peer] -= 1
            if not self._gossip[peer]:
                del self._gossip[peer]


class Budget:
    """Bytes of one kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """What one request takes, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.size


class Share:
    """What one request has of a budget."""

    def __init__(self, budget: Budget) -> None:
        self.size = 0
        self._budget = budget

    def be(self, size: int) -> None:
        """Raises Overloaded if there is no room to grow so far, and stays as it is."""
        more = size - self.size
        if more > 0 and size > SMALL and self._budget.taken + more > self._budget.most:
            raise Overloaded("the node has too many bodies in memory")
        self.size = size
        self._budget.taken += more


SHARE = web.RequestKey("SHARE", Share)
"""What the answer may take: whoever makes a large one says so before."""
BODY = web.RequestKey("BODY", bytes)
"""The body, whole."""


async def receive(request: web.Request, limit: int, share: Share) -> bytes:
    """The body of at most `limit` bytes.

    Raises HTTPRequestEntityTooLarge, Overloaded, HTTPRequestTimeout for one that drips.
    """
    told = request.content_length or 0
    if told > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=told)
    body = bytearray()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        while not request.content.at_eof():
            async with asyncio.timeout_at(began + _patience_s(len(body))):
                body += await request.content.readany()
            if len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(body))
            share.be(len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None
    except web.RequestPayloadError:
        raise RequestError("the body is not as its head announces it") from None
    except ConnectionError:
        raise RequestError("the body broke off") from None
    return bytes(body)


async def send(request: web.Request, answer: web.StreamResponse) -> None:
    """Send the answer here, where what it takes is counted; hang up on who does not read it in time."""
    loop = asyncio.get_running_loop()
    transport, size, began = request.transport, size_of(answer), loop.time()
    looks: list[asyncio.TimerHandle] = []

    def look() -> None:
        """Give as much time as what has left our hands has earned."""
        looks[:] = [loop.call_later(_LOOK_EVERY_S, look)]
        if transport is not None and not patience.expired():
            gone = max(0, size - transport.get_write_buffer_size())
            patience.reschedule(began + _patience_s(gone))

    try:
        async with asyncio.timeout(_patience_s(0)) as patience:
            if size > SMALL:
                looks.append(loop.call_later(_LOOK_EVERY_S, look))
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        if transport is not None:
            transport.abort()
    except ConnectionError as error:
        log.debug("the client has gone: %s", error)
    finally:
        for each in looks:
            each.cancel()


def _patience_s(size: int) -> float:
    """How long so many bytes may take."""
    return SILENCE_S + size / MIN_RATE


def body_of(answer: web.StreamResponse) -> bytes:
    body = answer.body if isinstance(answer, web.Response) else None
    return body if isinstance(body, bytes) else b""


def size_of(answer: web.StreamResponse) -> int:
    return len(body_of(answer))
