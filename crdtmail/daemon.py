"""One node as a process: opens the store, serves until it is told to stop, lets go of everything."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvloop

from crdtmail.config import Config
from crdtmail.errors import StoreError
from crdtmail.node import Node
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.web.server import serving

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[Node, int]]:
    """A node in service, and the port that it listens on, to the end of the block."""
    store = LmdbStore(config.data)
    try:
        node = Node(
            store,
            config.name,
            config.peers,
            timing=config.timing,
            chance=random.SystemRandom(),
            keep=config.keep,
        )
    except BaseException:
        store.close()
        raise
    try:
        async with serving(node, config.host, config.port) as port:
            yield node, port
    finally:
        node.close()


def run(config: Config, ready: Callable[[Node, int], None]) -> None:
    """Run a node until SIGTERM or SIGINT.  Raises ConfigError, StoreError."""
    # Whatever comes in is made of many small tuples, which the collector would look through again and again.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    # uvloop answers a third more requests a second than asyncio's own loop (`python -m benchmarks`).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config, ready))


async def _run(config: Config, ready: Callable[[Node, int], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as (node, port):
        ready(node, port)
        stopped = asyncio.create_task(stop.wait())
        failed = asyncio.create_task(node.failed.wait())
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        failed.cancel()
        if node.failure is not None:
            raise StoreError(f"stopped, because {node.failure}")
