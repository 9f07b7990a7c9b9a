"""Nodes that differ from a real one in one thing, as processes: `python -m benchmarks.variants KIND FOLDER`.

`slow` commits 5 ms slower, as on a disk without a safe write cache.  `unwritten` does all that a node does for a
request (the same server, middlewares, routes, parsing and answer), but a command comes to nothing: the
ceiling of the HTTP server.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from crdtmail.gossip.session import Timing
from crdtmail.node import Node, Written
from crdtmail.replica import Replica
from crdtmail.store.interface import T, Transaction
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.web.server import serving

EXTRA_S = 0.005


class SlowStore(LmdbStore):
    """Each commit takes `EXTRA_S` longer, once for all the writes in it."""

    def transact(self, work: Callable[[Transaction], T]) -> T:
        result = super().transact(work)
        time.sleep(EXTRA_S)
        return result


class UnwrittenNode(Node):
    """Answers every command at once, as if it had been run."""

    async def write(self, work: Callable[[Replica, Transaction], T]) -> tuple[T, Written]:
        done: T = {"updated": ["message"]}  # type: ignore[assignment]
        return done, Written(None, self.head.clock)


async def _serve(kind: str, folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = SlowStore(folder) if kind == "slow" else LmdbStore(folder)
    made = UnwrittenNode if kind == "unwritten" else Node
    node = made(store, kind, [], timing=Timing(), chance=random.SystemRandom())
    try:
        async with serving(node, "127.0.0.1", 0) as port:
            print(f"{kind} node listening on http://127.0.0.1:{port}, until SIGTERM", flush=True)
            await stop.wait()
    finally:
        node.close()


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1], Path(sys.argv[2])))


if __name__ == "__main__":
    main()
