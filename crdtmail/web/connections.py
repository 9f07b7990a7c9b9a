"""Connections: how many an address may have, and what becomes of what comes on one and is not HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from crdtmail.crdt.names import printable
from crdtmail.errors import Refusal
from crdtmail.gossip.refusals import Refusals
from crdtmail.limits import MAX_CONNECTIONS
from crdtmail.web.problems import problem
from crdtmail.web.seldom import Seldom

log = logging.getLogger(__name__)

_NETWORK_BITS = 64  # of an IPv6 address: who has one has all of its network


class Places:
    """The connections that there may be.

    Nobody may have more of them than are free, so half of them stay free of whoever takes the most, half of
    the rest of the next one, and so on.  A proxy in front of the node is one address, and has enough.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._by: Counter[str] = Counter()

    def take(self, address: str) -> Callable[[], None] | None:
        """How the place is given back, which may be done more than once; None if there is none."""
        who = _network(address)
        if self._by[who] >= MAX_CONNECTIONS - self.taken:
            return None
        self.taken += 1
        self._by[who] += 1
        is_free = False

        def give_back() -> None:
            nonlocal is_free
            if is_free:
                return
            is_free = True
            self.taken -= 1
            self._by[who] -= 1
            if not self._by[who]:
                del self._by[who]

        return give_back


class Malformed:
    """Counts what was not HTTP, and says so in the log now and then: it must not fill the disk."""

    def __init__(self, refusals: Refusals, now: Callable[[], float]) -> None:
        self._refusals = refusals
        self._seldom = Seldom(now)

    def note(self, remote: str | None, why: str) -> None:
        text = f"what came is not HTTP: {printable(why.partition(chr(10))[0][:100])}"
        self._refusals.count(None, Refusal.MALFORMED, text)
        if self._seldom.is_due("malformed"):
            log.warning("%s: %s (`crdtmail status` has how many)", remote, text)


class Connection(web.RequestHandler):
    """One connection; `ended` is called when it is over."""

    def __init__(
        self, server: web.Server, malformed: Malformed, ended: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._malformed = malformed
        self._ended = ended

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._ended()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be read; anything else is a bug, which aiohttp logs."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        self._malformed.note(request.remote, message or type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        answer = problem(
            400, "invalid-request", "The request is not valid", "this is not HTTP as it is read here"
        )
        answer.force_close()
        return answer


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _NETWORK_BITS), strict=False))
    return str(found)
