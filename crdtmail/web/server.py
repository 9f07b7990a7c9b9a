"""A node on the network: its HTTP server, and its calls to its peers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from crdtmail.limits import MAX_GOSSIP_BODY, MAX_IDLE_S, MAX_JSON_BODY, SHUTDOWN_S
from crdtmail.node import Node
from crdtmail.security.access import Access
from crdtmail.web import api, gossip_server
from crdtmail.web.gossip_client import Talks
from crdtmail.web.guard import Guard
from crdtmail.web.listener import Listener, bind


def application(node: Node, guard: Guard, listener: Listener) -> web.Application:
    """The HTTP application of a node: JSON under /v1, figures at /metrics, gossip under /gossip."""
    app = web.Application(
        middlewares=[guard.middleware, api.token_middleware(node)],
        client_max_size=max(MAX_GOSSIP_BODY, MAX_JSON_BODY),
    )
    app[api.LISTENER] = listener
    app.add_routes(api.routes(node))
    app.add_routes(gossip_server.routes(node))
    return app


class Service:
    """A node in service on `port`."""

    def __init__(self, node: Node, listener: Listener, guard: Guard, talks: Talks) -> None:
        self.node = node
        self.port = listener.port
        self._listener = listener
        self._guard = guard
        self._talks = talks

    def change(self, addresses: Sequence[str], access: Access) -> None:
        """Go on with these peers, and let in whom `access` lets in."""
        before, self._guard.access = self._guard.access, access
        self._talks.change(addresses, access)
        if _digest(before) != _digest(access):
            self._listener.tls = None if access.tls is None else access.tls.server
            self._listener.close_connections()


@asynccontextmanager
async def serving(node: Node, host: str, port: int, access: Access) -> AsyncIterator[Service]:
    """Serve clients and peers, and talk to the node's own peers, to the end of the block.

    Raises ConfigError if the address cannot be listened on.
    """
    refusals = node.gossip.refusals
    guard = Guard(access, secrets.token_hex(8), refusals, node.now)
    listener = Listener(bind(host, port), None if access.tls is None else access.tls.server, refusals)
    # A client that has gone waits for nothing more, and no UID is shown to it.  Nothing is decompressed: a
    # small body must not become a large one.
    runner = web.AppRunner(
        application(node, guard, listener),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        handler_cancellation=True,
        keepalive_timeout=MAX_IDLE_S,
        auto_decompress=False,
    )
    await runner.setup()
    assert runner.server is not None
    listener.serve(runner.server)
    try:
        async with Talks(node, access) as talks:
            talks.change(list(node.gossip.peers.sessions), access)
            try:
                yield Service(node, listener, guard, talks)
            finally:
                node.stop_waiting()
    finally:
        await listener.close()
        await runner.cleanup()


def _digest(access: Access) -> bytes | None:
    return None if access.tls is None else access.tls.digest
