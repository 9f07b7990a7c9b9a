"""The way of every request: how much there is already, who asks, its body in time; and of its answer back.

What is refused here has changed nothing, and its body has not been read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from crdtmail.errors import NotPermitted, Overloaded, Refusal, Unauthenticated
from crdtmail.gossip.refusals import Refusals
from crdtmail.limits import (
    MAX_BODIES,
    MAX_GOSSIP_BODY,
    MAX_GOSSIP_REQUESTS,
    MAX_REQUESTS_PER_PEER,
    MIN_RATE,
    SILENCE_S,
)
from crdtmail.security.access import Access
from crdtmail.security.signing import Receiver, digest, is_nonce, sign_answer
from crdtmail.security.tokens import Scope, Token
from crdtmail.web.gossip_server import DIGEST, NONCE, PREFIX, SENDER, SIGNATURE, TIME, asker
from crdtmail.web.problems import problems

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0  # whoever may not come in must not fill the disk either
_REFUSALS = {404: Refusal.VERSION, 408: Refusal.TOO_SLOW, 413: Refusal.OVER_LIMIT}
"""What HTTP's own errors are when it is a peer that asks.  Paths have versions: a later one is not found."""
_Peer = tuple[str | None, str | None]
BEARER = web.RequestKey("BEARER", Token)
"""The token of a client's request, if the node has tokens."""


class Guard:
    """Lets requests in.  `access` may be set anew at any time, and holds from the next request on."""

    def __init__(self, access: Access, life: str, refusals: Refusals, now: Callable[[], float]) -> None:
        self.access = access
        self._refusals = refusals
        self._now = now
        self._log_again_at = now()
        self._receiver = Receiver(life, now)
        self._load = _Load()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Outermost of all: everything that goes out passes here, problems too."""
        is_gossip = _route(request).startswith(PREFIX)
        access = self.access
        with ExitStack() as held:

            async def admitted(request: web.Request) -> web.StreamResponse:
                with self._counted(request, is_gossip):
                    if is_gossip:
                        self._check_peer(request, access)
                        held.enter_context(self._load.asking((request.remote, request.headers.get(SENDER))))
                    elif access.tokens is not None:
                        self._check_client(request, access)
                    size = _content_length(request)
                    with self._load.expected(size):
                        body = await _read(request, size)
                    held.enter_context(self._load.held(len(body)))
                    if is_gossip and access.secret is not None:
                        self._receiver.check_body(request.headers.get(DIGEST, ""), body)
                    return await handler(request)

            answer = await problems(request, admitted)
            if is_gossip and access.secret is not None:
                self._sign(request, answer, access.secret)
            held.enter_context(self._load.held(_size(answer)))
            await _send(request, answer)
        return answer

    def _check_peer(self, request: web.Request, access: Access) -> None:
        if access.tls is not None and access.tls.knows_peers:
            transport = request.transport
            if transport is None or not transport.get_extra_info("peercert"):
                raise Unauthenticated(
                    "a peer shows a certificate that the cluster's CA has signed",
                    "TLS",
                    Refusal.NO_CERTIFICATE,
                )
        if access.secret is not None:
            headers = request.headers
            self._receiver.check(
                access.secret,
                request.method,
                request.raw_path,
                headers.get(TIME, ""),
                headers.get(NONCE, ""),
                headers.get(SENDER, ""),
                headers.get(DIGEST, ""),
                headers.get(SIGNATURE, ""),
            )

    def _check_client(self, request: web.Request, access: Access) -> None:
        assert access.tokens is not None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(
                "a token is needed: Authorization: Bearer TOKEN", "Bearer", Refusal.NO_TOKEN
            )
        token = access.tokens.find(given.strip())
        if token is None:
            raise Unauthenticated(
                "the token is not known here", 'Bearer error="invalid_token"', Refusal.FALSE_TOKEN
            )
        wanted = _scopes(request)
        if wanted.isdisjoint(token.scopes):
            names = " or ".join(sorted(scope.value for scope in wanted))
            challenge = f'Bearer error="insufficient_scope", scope="{min(s.value for s in wanted)}"'
            raise NotPermitted(f"the token has not the scope {names}", challenge)
        account = request.match_info.get("account")
        if account is not None and not token.sees(account):
            raise NotPermitted("the token is not for this account", 'Bearer error="insufficient_scope"')
        request[BEARER] = token

    @contextmanager
    def _counted(self, request: web.Request, is_gossip: bool) -> Iterator[None]:
        """Count what is refused before the node sees it; what it refuses of a peer it counts itself."""
        try:
            yield
        except Unauthenticated as error:
            if not error.is_greeting:
                self._refusals.count(None, error.reason, str(error))
                if self._now() >= self._log_again_at:
                    self._log_again_at = self._now() + _LOG_EVERY_S
                    log.warning("a request was refused: %s (`crdtmail status` has how many)", error)
            raise
        except web.HTTPException as error:
            if is_gossip and error.status in _REFUSALS:
                reason = _REFUSALS[error.status]
                text = f"{error.reason}: {request.method} {request.path}"
                self._refusals.count(asker(request.headers), reason, text)
            raise

    def _sign(self, request: web.Request, answer: web.StreamResponse, secret: bytes) -> None:
        """Refusals too: a caller must be able to believe the time that it is told with a 401."""
        nonce = request.headers.get(NONCE, "")
        if not is_nonce(nonce):
            return
        time, sender = self._receiver.time(), answer.headers.get(SENDER, "")
        body = digest(_body(answer))
        answer.headers[TIME] = time
        answer.headers[SIGNATURE] = sign_answer(secret, nonce, answer.status, time, sender, body)


def _scopes(request: web.Request) -> set[Scope]:
    """Any of these suffices.  What is not known here is for operators."""
    route = _route(request)
    if route in ("/v1/status", "/metrics"):
        return {Scope.READ, Scope.ADMIN}
    if route.startswith("/v1/accounts"):
        return {Scope.READ if request.method in ("GET", "HEAD") else Scope.WRITE}
    return {Scope.ADMIN}


def _route(request: web.Request) -> str:
    """The path as the route that will answer has it: however it was spelled, it is judged by who answers."""
    resource = request.match_info.route.resource
    return request.path if resource is None else resource.canonical


class _Load:
    """What is under way.  Raises Overloaded rather than take more than memory was meant for."""

    def __init__(self) -> None:
        self._bytes = 0
        self._gossip: Counter[_Peer] = Counter()

    @contextmanager
    def expected(self, size: int) -> Iterator[None]:
        """A body that is to come.  What was read is held by its true size: one may not have told it."""
        if self._bytes + size > MAX_BODIES:
            raise Overloaded("the node has too many bodies in memory")
        with self.held(size):
            yield

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """A body or an answer that is there."""
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    @contextmanager
    def asking(self, peer: _Peer) -> Iterator[None]:
        """A request of a peer."""
        if self._gossip[peer] >= MAX_REQUESTS_PER_PEER or self._gossip.total() >= MAX_GOSSIP_REQUESTS:
            raise Overloaded("too many requests of peers are under way")
        self._gossip[peer] += 1
        try:
            yield
        finally:
            self._gossip[peer] -= 1
            if not self._gossip[peer]:
                del self._gossip[peer]


def _content_length(request: web.Request) -> int:
    """The size that the body will have; of one that does not say, the largest."""
    if not request.body_exists:
        return 0
    size = request.content_length
    if size is not None and size > MAX_GOSSIP_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_GOSSIP_BODY, actual_size=size)
    return MAX_GOSSIP_BODY if size is None else size


async def _read(request: web.Request, size: int) -> bytes:
    """The body, which the request keeps.  Raises HTTPRequestTimeout for one that drips."""
    try:
        async with asyncio.timeout(_patience_s(size)):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None


async def _send(request: web.Request, answer: web.StreamResponse) -> None:
    """Send the answer here, where what it takes is counted; hang up on who does not read it in time."""
    try:
        async with asyncio.timeout(_patience_s(_size(answer))):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError as error:
        log.debug("the client has gone: %s", error)


def _patience_s(size: int) -> float:
    return SILENCE_S + size / MIN_RATE


def _body(answer: web.StreamResponse) -> bytes:
    body = answer.body if isinstance(answer, web.Response) else None
    return body if isinstance(body, bytes) else b""


def _size(answer: web.StreamResponse) -> int:
    return len(_body(answer))
