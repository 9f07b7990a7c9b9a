"""One task a peer: performs the conversations that its session wants, one at a time, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Iterable
from types import TracebackType

import aiohttp

from crdtmail.effects import Call, Reply
from crdtmail.errors import PeerError, PeerUnreachable, Refusal, UnknownProtocol
from crdtmail.limits import GOSSIP_TIMEOUT_S, MAX_GOSSIP_BODY
from crdtmail.node import Node
from crdtmail.security.access import Access
from crdtmail.security.signing import Caller, digest, sign_request
from crdtmail.web.gossip_server import CBOR, DIGEST, NONCE, SENDER, SIGNATURE, TIME, path, sender_of
from crdtmail.web.housekeeping import keep_house

log = logging.getLogger(__name__)


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

    async def go_on(self) -> None:
        """Keep the peer up to date, until cancelled."""
        node, address = self._node, self._address
        session = node.gossip.peers.sessions[address]
        told = 0
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
            was_failing = session.failing_since is not None
            await node.converse(steps, self._post)
            if session.failing_since is not None and not was_failing:
                log.warning("peer %s: %s", address, session.last_error)
            if was_failing and session.failing_since is None:
                log.info("peer %s: in touch again", address)
            if session.divergences > told:
                told = session.divergences
                log.error(
                    "peer %s: equal clocks but different digests: one of the stores is damaged", address
                )

    async def _post(self, call: Call) -> Reply:
        """The status (2xx or 409) and body of the answer.

        Raises PeerError with the peer's reason otherwise, or ours if it cannot be believed; PeerUnreachable
        if there is no answer.
        """
        try:
            reply = await self._posted(call)
            if reply is None:
                reply = await self._posted(call, is_last=True)
        except aiohttp.ClientConnectorCertificateError as error:
            raise PeerError(_cause(error), Refusal.FALSE_CERTIFICATE) from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnreachable(_cause(error)) from error
        assert reply is not None, "the last attempt has a reply or raises"
        return reply

    async def _posted(self, call: Call, *, is_last: bool = False) -> Reply | None:
        """None if the signature was refused, and may be good now that the peer has told its time."""
        access = self._talks.access
        where = path(call.kind, call.protocol)
        sender, nonce = f"{self._node.replica.id:016x}", secrets.token_hex(16)
        headers = {"Content-Type": CBOR, SENDER: sender}
        if access.secret is not None:
            time, body = self._caller.time(), digest(call.body)
            sign = sign_request(access.secret, "POST", where, time, nonce, sender, body)
            headers |= {TIME: time, NONCE: nonce, DIGEST: body, SIGNATURE: sign}
        async with self._http.post(
            call.address + where,
            data=call.body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=GOSSIP_TIMEOUT_S, sock_read=GOSSIP_TIMEOUT_S
            ),
            ssl=True if access.tls is None else access.tls.client,
            allow_redirects=False,  # what is signed is for this peer
        ) as response:
            answer = await _read(response)
            if access.secret is not None:
                given = [response.headers.get(name, "") for name in (TIME, SENDER, SIGNATURE)]
                self._caller.check(
                    access.secret, nonce, response.status, given[0], given[1], answer, given[2]
                )
                if response.status == 401 and not is_last:
                    return None
            if response.status == 409 or 200 <= response.status < 300:
                return Reply(response.status, sender_of(response.headers), answer)
            refusal = UnknownProtocol if response.status == 404 else PeerError
            raise refusal(f"the peer answered {response.status}: {_reason(answer)}", None)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    answer = await response.content.read(MAX_GOSSIP_BODY + 1)
    while not response.content.at_eof() and len(answer) <= MAX_GOSSIP_BODY:
        answer += await response.content.read(MAX_GOSSIP_BODY + 1 - len(answer))
    if len(answer) > MAX_GOSSIP_BODY:
        raise PeerError("the answer is over the limit", Refusal.OVER_LIMIT)
    return answer


def _cause(error: Exception) -> str:
    """What happened, without aiohttp's words for where."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return str(error) or type(error).__name__


def _reason(answer: bytes) -> str:
    """The detail of a problem (RFC 9457), or the beginning of whatever else it is."""
    try:
        return str(json.loads(answer)["detail"])[:300]
    except (ValueError, TypeError, KeyError, RecursionError):
        return answer[:300].decode(errors="replace")


def _end_with(task: asyncio.Task[None]) -> None:
    """A peer's task ends only when it is cancelled; anything else is a bug, and must not pass in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s: its task has ended: %s", task.get_name(), error, exc_info=error)
