"""A relay between two nodes that is slow and breaks connections, for machines whose kernel has no netem."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class RoughLink:
    """Relays to a port of loopback: every piece late, and now and then the connection gone in the middle."""

    def __init__(self, target: int, *, delay_s: float, loss: float, seed: int) -> None:
        self._target = target
        self._delay_s = delay_s
        self._loss = loss
        self._chance = random.Random(seed)
        self.port = 0
        self.carried = 0
        self.broken = 0
        self.is_cut = False
        """While it is, connections break at their next word, and no new ones are made."""

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, back, writer), self._pump(onward, writer, back))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(4096):
                await asyncio.sleep(self._delay_s * self._chance.uniform(0.5, 1.5))
                if self.is_cut or self._chance.random() < self._loss:
                    self.broken += 1
                    writer.write(data[: self._chance.randrange(len(data))])
                    with suppress(OSError):
                        await asyncio.wait_for(writer.drain(), 1)
                    other.transport.abort()
                    break
                self.carried += 1
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def rough_links(*links: RoughLink) -> Iterator[None]:
    """The links in an event loop of their own, to the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = [asyncio.run_coroutine_threadsafe(link.open(), loop).result() for link in links]
    try:
        yield
    finally:

        async def end() -> None:
            for server in servers:
                server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
