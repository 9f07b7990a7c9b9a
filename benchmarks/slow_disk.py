"""A node in this process whose commits take longer, as on a slower disk."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from crdtmail.gossip.session import Timing
from crdtmail.node import Node
from crdtmail.security.access import Access
from crdtmail.store.interface import T, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.web.server import serving


class SlowStore(LmdbStore):
    """Each commit takes `extra_s` longer, once for all the writes in it."""

    def __init__(self, folder: Path, extra_s: float) -> None:
        super().__init__(folder)
        self._extra_s = extra_s

    def transact(self, work: Callable[[Transaction], T]) -> T:
        result = super().transact(work)
        time.sleep(self._extra_s)
        return result


@contextmanager
def slow_node(data: Path, *, extra_s: float) -> Iterator[int]:
    """The port of a node that runs in a thread, to the end of the block."""
    listening: list[int] = []
    ready = threading.Event()
    loop = uvloop.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        store = SlowStore(data, extra_s)
        it = Node(store, "slow", [], timing=Timing(), chance=random.SystemRandom())
        try:
            async with serving(it, "127.0.0.1", 0, Access()) as service:
                listening.append(service.port)
                ready.set()
                await stop.wait()
        finally:
            it.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="slow node")
    thread.start()
    assert ready.wait(20), "the node starts"
    try:
        yield listening[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
