"""One task a peer: performs the conversations that its session wants, one at a time, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import ssl
from collections.abc import Awaitable, Iterable
from types import TracebackType
from typing import TypeVar

import aiohttp

from crdtmail.crdt.names import printable
from crdtmail.effects import Call, Reply
from crdtmail.errors import PeerError, PeerUnreachable, Refusal, UnknownProtocol
from crdtmail.gossip.filling import Filling
from crdtmail.limits import GOSSIP_TIMEOUT_S, MAX_GOSSIP_BODY, MIN_RATE
from crdtmail.node import Node, Trouble
from crdtmail.security.access import Access
from crdtmail.security.signing import Caller, digest, sign_request
from crdtmail.web.gossip_server import CBOR, DIGEST, NONCE, SENDER, SIGNATURE, TIME, path, sender_of
from crdtmail.web.housekeeping import keep_house

log = logging.getLogger(__name__)
T = TypeVar("T")


class Talks:
    """The tasks: one for each peer that the node calls, and one that keeps house."""

    def __init__(self, node: Node, access: Access) -> None:
        self.access = access
        self._node = node
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Talks:
        self._http = await aiohttp.ClientSession(auto_decompress=False).__aenter__()
        self._house = asyncio.create_task(keep_house(self._node), name="housekeeping")
        self._house.add_done_callback(_end_with)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [self._house, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.__aexit__(kind, error, trace)

    def change(self, addresses: Iterable[str], access: Access) -> None:
        """Call these peers from now on, and no others."""
        self.access = access
        wanted = list(addresses)
        for address in self._tasks.keys() - set(wanted):
            self._tasks.pop(address).cancel()
            self._node.troubles.pop(address, None)
        self._node.gossip.change_peers(wanted)
        for address in wanted:
            if address not in self._tasks:
                task = asyncio.create_task(_Talk(self, self._node, address, self._http).go_on())
                task.set_name(f"peer {address}")
                task.add_done_callback(_end_with)
                self._tasks[address] = task


class _Talk:
    """What is said to one peer."""

    def __init__(self, talks: Talks, node: Node, address: str, http: aiohttp.ClientSession) -> None:
        self._talks = talks
        self._node = node
        self._address = address
        self._http = http
        self._caller = Caller(node.now)
        self._is_answered = False
        self._is_mistrusted = False
        self._waits: str | None = None

    async def go_on(self) -> None:
        """Keep the peer up to date, until cancelled."""
        node, address = self._node, self._address
        session = node.gossip.peers.sessions[address]
        told, is_named = 0, False
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
            filling, failures = node.gossip.filling, session.failures
            try:
                await node.converse(steps, self._post)
            except Exception as error:
                # A bug, and the session has backed off.  The next answer may be another one.
                log.critical("peer %s: this node has a bug: %s", address, error, exc_info=error)
            if session.failing_since is None:
                node.troubles.pop(address, None)
                if is_named:
                    is_named = False
                    log.info("peer %s: in touch again", address)
            else:
                trouble = node.troubles.get(address)
                # Whoever could take nothing does not fail by telling what it has meanwhile.
                if trouble is None or trouble.waits is None or session.failures > failures:
                    trouble = node.troubles[address] = self._trouble(filling or node.gossip.filling)
                if trouble.waits is None and not is_named:
                    is_named = True
                    log.warning("peer %s: %s", address, session.last_error)
            if session.divergences > told:
                told = session.divergences
                log.error(
                    "peer %s: equal clocks but different digests: one of the stores is damaged", address
                )

    def _trouble(self, filling: Filling | None) -> Trouble:
        """Why the conversation that has just ended came to nothing."""
        node = self._node
        session = node.gossip.peers.sessions[self._address]
        if (waits := self._waits or session.waits) is not None:
            return Trouble(waits)
        if not self._is_answered:
            return Trouble(is_mistrust=self._is_mistrusted)
        if node.is_full:
            return Trouble(
                f"this node is full: nothing is taken from {session.peer.name if session.peer else 'it'}"
            )
        if filling is not None:
            return Trouble(f"filling from {node.journal.source(filling.peer)}")
        return Trouble()

    async def _post(self, call: Call) -> Reply:
        """The status (2xx or 409) and body of the answer.

        Raises PeerError with the peer's reason otherwise, or ours if it cannot be believed; PeerUnreachable
        if there is no answer.
        """
        self._is_answered = self._is_mistrusted = False
        self._waits = None
        try:
            sender = f"{self._node.replica.id:016x}"  # as in the body, also if this node takes another id
            reply = await self._posted(call, sender)
            if reply is None:
                reply = await self._posted(call, sender, is_last=True)
        except aiohttp.ClientConnectorCertificateError as error:
            self._is_mistrusted = True
            raise PeerError(_cause(error), Refusal.FALSE_CERTIFICATE) from error
        except (aiohttp.ClientError, OSError) as error:
            causes = (error, error.__cause__, error.__context__)
            self._is_mistrusted = any(isinstance(it, aiohttp.ClientSSLError | ssl.SSLError) for it in causes)
            raise PeerUnreachable(_cause(error)) from error
        self._is_answered = True
        assert reply is not None, "the last attempt has a reply or raises"
        return reply

    async def _posted(self, call: Call, sender: str, *, is_last: bool = False) -> Reply | None:
        """None if the signature was refused, and may be good now that the peer has told its time."""
        access = self._talks.access
        where = path(call.kind, call.protocol)
        nonce = secrets.token_hex(16)
        headers = {"Content-Type": CBOR, SENDER: sender}
        if access.secret is not None:
            time, body = self._caller.time(), digest(call.body)
            sign = sign_request(access.secret, "POST", where, time, nonce, sender, body)
            headers |= {TIME: time, NONCE: nonce, DIGEST: body, SIGNATURE: sign}
        asking = self._http.post(
            call.address + where,
            data=call.body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=GOSSIP_TIMEOUT_S, sock_read=GOSSIP_TIMEOUT_S
            ),
            ssl=True if access.tls is None else access.tls.client,
            allow_redirects=False,  # what is signed is for this peer
        )
        async with await _in_time(asking, len(call.body)) as response:
            answer = await _read(response)
            if access.secret is not None:
                given = [response.headers.get(name, "") for name in (TIME, SENDER, SIGNATURE)]
                self._is_mistrusted = True
                self._caller.check(
                    access.secret, nonce, response.status, given[0], given[1], answer, given[2]
                )
                self._is_mistrusted = False
                if response.status == 401 and not is_last:
                    return None
            if response.status == 409 or 200 <= response.status < 300:
                return Reply(response.status, sender_of(response.headers), answer)
            detail, reason = _told(answer)
            self._is_mistrusted = response.status == 401 or reason == Refusal.ANOTHER_CLUSTER
            if response.status == 507:
                self._waits = "it is full: it takes nothing"
            elif reason == Refusal.FILLING:
                self._waits = "it takes over a snapshot of another node"
            refusal = UnknownProtocol if response.status == 404 else PeerError
            raise refusal(f"the peer answered {response.status}: {detail}", None)


async def _in_time(asking: Awaitable[T], size: int) -> T:
    """The head of the answer: after a connection, a body of this size on its way, and silence."""
    try:
        async with asyncio.timeout(3 * GOSSIP_TIMEOUT_S + size / MIN_RATE):
            return await asking
    except TimeoutError as error:
        raise PeerUnreachable(str(error) or "the peer takes its time to read or to answer") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body.  Who drips it would hold us, and perhaps a snapshot of ours, for ever."""
    answer = bytearray()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        while not response.content.at_eof():
            async with asyncio.timeout_at(began + GOSSIP_TIMEOUT_S + len(answer) / MIN_RATE):
                answer += await response.content.readany()
            if len(answer) > MAX_GOSSIP_BODY:
                raise PeerError("the answer is over the limit", Refusal.OVER_LIMIT)
    except TimeoutError as error:
        raise PeerUnreachable("the answer comes too slowly") from error
    return bytes(answer)


def _cause(error: Exception) -> str:
    """What happened, without aiohttp's words for where."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return printable(str(error) or type(error).__name__)


def _told(answer: bytes) -> tuple[str, object]:
    """The detail of a problem (RFC 9457) and the reason, if the peer is new enough to give one; of whatever
    else it is the beginning."""
    try:
        problem = json.loads(answer)
        said, reason = str(problem["detail"]), problem.get("reason")
    except (ValueError, TypeError, KeyError, RecursionError):
        said, reason = answer[:300].decode(errors="replace"), None
    return printable(said[:300]), reason


def _end_with(task: asyncio.Task[None]) -> None:
    """A peer's task ends only when it is cancelled; anything else is a bug, and must not pass in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s: its task has ended: %s", task.get_name(), error, exc_info=error)
