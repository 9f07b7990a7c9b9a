"""One node as a process: opens the store, serves until it is told to stop, lets go of everything.

SIGHUP: reads the configuration again, and goes on with what of it can change while the node runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import uvloop

from crdtmail import __version__
from crdtmail.config import Config
from crdtmail.errors import ConfigError, StoreError
from crdtmail.node import Node
from crdtmail.security import access
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.tables import FORMAT, Tables
from crdtmail.web.server import Service, serving

log = logging.getLogger(__name__)


@asynccontextmanager
async def in_service(config: Config) -> AsyncIterator[Service]:
    """A node in service to the end of the block.  Raises ConfigError, StoreError."""
    let_in = access.load(config, os.environ)
    store = LmdbStore(config.data)
    try:
        _announce_upgrade(store)
        node = Node(
            store,
            config.name,
            config.peers,
            timing=config.timing,
            chance=random.SystemRandom(),
            keep=config.keep,
            cluster=config.cluster,
        )
    except BaseException:
        store.close()
        raise
    try:
        async with serving(node, config.host, config.port, let_in) as service:
            yield service
    finally:
        node.close()


def _announce_upgrade(store: LmdbStore) -> None:
    """Say what takes long."""
    with store.snapshot() as snapshot:
        found = Tables(snapshot).format()
    if found is not None and found < FORMAT:
        log.info("the store has format %d and is brought to %d: this may take a minute", found, FORMAT)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[Node, int]]:
    """A node in service, and the port that it listens on, to the end of the block."""
    async with in_service(config) as service:
        yield service.node, service.port


_AT_START = {
    "name": ("name",),
    "data": ("data",),
    "listen": ("host", "port"),
    "cluster": ("cluster",),
    "[gossip]": ("timing",),
    "[log]": ("keep",),
}
"""The settings that a node which runs does not take, with where they are in its configuration."""


def _differs(fields: Iterable[str], one: Config, other: Config) -> bool:
    return any(getattr(one, field) != getattr(other, field) for field in fields)


def reload(service: Service, config: Config, load: Callable[[], Config]) -> None:
    """Go on with the peers, tokens, secret and certificates that the configuration has now.

    If any of it cannot be used, all stays as it is, and the log says why.
    """
    try:
        new = load()
        changed = replace(config, peers=new.peers, tls=new.tls, cluster_secret_file=new.cluster_secret_file)
        let_in = access.load(changed, os.environ)
    except ConfigError as error:
        log.error("the configuration is not taken, and nothing is changed: %s", error)
        return
    if waiting := [name for name, setting in _AT_START.items() if _differs(setting, new, changed)]:
        log.warning("changed, but taken at the next start only: %s", ", ".join(waiting))
    service.change(changed.peers, let_in)
    log.info("the configuration is read again: %d peer(s)", len(changed.peers))


def run(load: Callable[[], Config], ready: Callable[[Node, int], None]) -> None:
    """Run a node until SIGTERM or SIGINT.  Raises ConfigError, StoreError."""
    # Whatever comes in is made of many small tuples, which the collector would look through again and again.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    # uvloop answers a third more requests a second than asyncio's own loop (`python -m benchmarks`).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(load, ready))


async def _run(load: Callable[[], Config], ready: Callable[[Node, int], None]) -> None:
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    config = load()
    async with in_service(config) as service:
        node = service.node
        ready(node, service.port)
        log.info("started: crdtmail %s, node %s, replica %016x", __version__, node.name, node.replica.id)
        if service.lets_in_everybody:
            log.info("no tokens: every user of this machine may read and change all mailboxes")
        stopped = asyncio.create_task(stop.wait())
        failed = asyncio.create_task(node.failed.wait())
        while not (stopped.done() or failed.done()):
            told = asyncio.create_task(hangup.wait())
            await asyncio.wait({stopped, failed, told}, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                hangup.clear()
                reload(service, config, load)
            told.cancel()
        stopped.cancel()
        failed.cancel()
        if node.failure is not None:
            raise StoreError(f"stopped, because {node.failure}")
        log.info("stopping: what was begun is brought to its end")
    log.info("stopped")
