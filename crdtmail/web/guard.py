"""The way of every request: how much there is already, who asks, its body in time; and of its answer back.

What is refused here has changed nothing, and its body has not been read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import HttpVersion10, web
from aiohttp.typedefs import Handler

from crdtmail.crdt.clock import ReplicaId
from crdtmail.effects import Kind
from crdtmail.errors import NotPermitted, Overloaded, Refusal, RequestError, Unauthenticated
from crdtmail.gossip.refusals import Refusals
from crdtmail.limits import MAX_GOSSIP_BODY, MAX_JSON_BODY, MAX_POSITION, MAX_QUESTION
from crdtmail.security.access import Access
from crdtmail.security.signing import Receiver, digest, sign_answer
from crdtmail.security.tokens import Scope, Token
from crdtmail.web.gossip_server import DIGEST, NONCE, PREFIX, SENDER, SIGNATURE, TIME, asker
from crdtmail.web.load import BODY, SHARE, Load, Share, body_of, receive, send, size_of
from crdtmail.web.problems import problems
from crdtmail.web.seldom import Seldom

log = logging.getLogger(__name__)

_BODYLESS = {"GET", "HEAD", "DELETE"}
_HARMLESS = {"GET", "HEAD"}
_LARGEST = {
    Kind.EXCHANGE.value: MAX_POSITION,
    Kind.PUSH.value: MAX_GOSSIP_BODY,
    Kind.SNAPSHOT.value: MAX_QUESTION,
    Kind.OFFER.value: MAX_GOSSIP_BODY,
}
"""What a peer can have to say."""
_REFUSALS = {404: Refusal.VERSION, 408: Refusal.TOO_SLOW, 413: Refusal.OVER_LIMIT}
"""What HTTP's own errors are when it is a peer that asks.  Paths have versions: a later one is not found."""
BEARER = web.RequestKey("BEARER", Token)
"""The token of a client's request, if the node has tokens."""
SIGNED = web.RequestKey("SIGNED", bool)
"""Whether a member has signed the request."""


class Guard:
    """Lets requests in.  `access` may be set anew at any time, and holds from the next request on."""

    def __init__(
        self,
        access: Access,
        life: str,
        refusals: Refusals,
        now: Callable[[], float],
        replica: Callable[[], ReplicaId],
    ) -> None:
        self.access = access
        self._refusals = refusals
        self._replica = replica
        self._seldom = Seldom(now)
        self._receiver = Receiver(life, now)
        self._load = Load()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Outermost of all: everything that goes out passes here, problems too."""
        is_gossip = _route(request).startswith(PREFIX)
        access = self.access
        load = self._load
        with ExitStack() as held:
            share = held.enter_context((load.peers if is_gossip else load.answers).share())

            async def admitted(request: web.Request) -> web.StreamResponse:
                if request.version < HttpVersion10:
                    raise web.HTTPVersionNotSupported(text="HTTP/1.1 is spoken here")
                with self._counted(request, is_gossip):
                    if is_gossip:
                        self._check_peer(request, access)
                        held.enter_context(self._load.asking((request.remote, request.headers.get(SENDER))))
                    elif access.tokens is not None:
                        self._check_client(request, access)
                    with (load.peers if is_gossip else load.bodies).share() as coming:
                        request[BODY] = body = await _body(request, coming)
                        if is_gossip and access.secret is not None:
                            self._receiver.check_body(request.headers.get(DIGEST, ""), body)
                        request[SHARE] = share
                        return await handler(request)

            answer = await problems(request, admitted)
            try:
                share.be(0)
                share.be(size_of(answer))
            except Overloaded as error:
                answer = await problems(request, _raising(error))
                if not (is_gossip or request.method in _HARMLESS) and request.transport is not None:
                    request.transport.abort()  # it is done, so no refusal can be the answer
            if access.secret is not None and SIGNED in request:
                self._sign(request, answer, access.secret)
            await send(request, answer)
        return answer

    def _check_peer(self, request: web.Request, access: Access) -> None:
        if access.tokens is not None and not access.knows_peers:
            raise Unauthenticated(
                "clients need tokens here, and peers something too: set cluster_secret_file or tls.ca",
                "Crdtmail-HMAC",
                Refusal.NOT_SIGNED,
            )
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
            request[SIGNED] = True
            self._receiver.take(headers.get(TIME, ""), headers.get(NONCE, ""))

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
                if self._seldom.is_due("refused"):
                    log.warning("a request was refused: %s (`crdtmail status` has how many)", error)
            raise
        except web.HTTPException as error:
            if is_gossip and error.status in _REFUSALS:
                reason = _REFUSALS[error.status]
                text = f"{error.reason}: {request.method} {request.path}"
                self._refusals.count(asker(request.headers), reason, text)
            raise

    def _sign(self, request: web.Request, answer: web.StreamResponse, secret: bytes) -> None:
        """Refusals too: a caller must be able to believe the time that a 401 tells, and whose it is.

        But only a member is answered so: else anybody could have any nonce signed, and tell one member this
        node's time as another's.
        """
        nonce, time, body = request.headers[NONCE], self._receiver.time(), digest(body_of(answer))
        sender = answer.headers.setdefault(SENDER, f"{self._replica():016x}")
        answer.headers[TIME] = time
        answer.headers[SIGNATURE] = sign_answer(secret, nonce, answer.status, time, sender, body)


def _scopes(request: web.Request) -> set[Scope]:
    """Any of these suffices.  What is not known here is for operators."""
    route = _route(request)
    if route in ("/v1/status", "/metrics"):
        return {Scope.READ, Scope.ADMIN}
    if route.startswith("/v1/accounts"):
        return {Scope.READ if request.method in _HARMLESS else Scope.WRITE}
    return {Scope.ADMIN}


def _route(request: web.Request) -> str:
    """The path as the route that will answer has it: however it was spelled, it is judged by who answers."""
    resource = request.match_info.route.resource
    return request.path if resource is None else resource.canonical


async def _body(request: web.Request, share: Share) -> bytes:
    if request.method in _BODYLESS:
        if request.body_exists:
            # Where nobody answers that method, or at all, that is what is wrong.
            raise request.match_info.http_exception or RequestError(f"a {request.method} has no body")
        return b""
    route = _route(request)
    if not route.startswith(PREFIX):
        return await receive(request, MAX_JSON_BODY, share)
    kind = route.rpartition("/")[2]
    return await receive(request, _LARGEST.get(kind, MAX_GOSSIP_BODY), share)


def _raising(error: Exception) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return handler
