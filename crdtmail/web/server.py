"""A node on the network: its HTTP server and one task for each peer that it calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from crdtmail.errors import ConfigError, RequestError, StoreError
from crdtmail.limits import HOUSE_S, MAX_GOSSIP_BODY, MAX_JSON_BODY, SHUTDOWN_S, SILENT_S
from crdtmail.node import Node
from crdtmail.web import api, gossip_server
from crdtmail.web.gossip_client import talk
from crdtmail.web.problems import problems

log = logging.getLogger(__name__)


def application(node: Node) -> web.Application:
    """The HTTP application of a node: JSON under /v1, gossip under /gossip/v1."""
    app = web.Application(
        middlewares=[problems, api.token_middleware(node)],
        client_max_size=max(MAX_GOSSIP_BODY, MAX_JSON_BODY),
    )
    app.add_routes(api.routes(node))
    app.add_routes(gossip_server.routes(node))
    return app


@asynccontextmanager
async def serving(node: Node, host: str, port: int) -> AsyncIterator[int]:
    """Serve clients and peers, and talk to the node's own peers, to the end of the block; gives the port.

    Raises ConfigError if the address cannot be listened on.
    """
    # A client that has gone waits for nothing more, and no UID is shown to it.
    runner = web.AppRunner(
        application(node), access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    async with aiohttp.ClientSession() as http:
        talks = [
            asyncio.create_task(talk(node, address, http), name=f"peer {address}")
            for address in node.gossip.peers.sessions
        ]
        talks.append(asyncio.create_task(_keep_house(node), name="housekeeping"))
        for task in talks:
            task.add_done_callback(_end_with)
        try:
            yield int(runner.addresses[0][1])
        finally:
            node.stop_waiting()
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks, return_exceptions=True)
            await runner.cleanup()


async def _keep_house(node: Node) -> None:
    """Prune the log, give up old snapshots, name members that are silent for long: until cancelled."""
    named: set[str] = set()
    while True:
        try:
            await node.keep_house()
        except (StoreError, RequestError) as error:
            log.warning("housekeeping is put off: %s", error)
        silent = {member.name: member for member in node.gossip.silent_members(SILENT_S)}
        for name in silent.keys() - named:
            days = (node.now() - silent[name].at) / 86_400
            log.warning(
                "member %s is silent for %.1f days; the log is kept for it.  Mend it, or: crdtmail retire %s",
                name,
                days,
                name,
            )
        named = set(silent)
        await asyncio.sleep(HOUSE_S)


def _end_with(task: asyncio.Task[None]) -> None:
    """A task of the node ends only when it is cancelled; all else is a bug, and must not pass in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s: its task has ended: %s", task.get_name(), error, exc_info=error)
