"""Takes connections on the node's port: no more than it can serve, and whatever happens, it goes on."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence

from aiohttp import web

from crdtmail.errors import ConfigError, Refusal
from crdtmail.gossip.refusals import Refusals
from crdtmail.limits import ACCEPT_PAUSE_S, BACKLOG, HANDSHAKE_S, MAX_CONNECTIONS, SHUTDOWN_S
from crdtmail.web.connections import Places
from crdtmail.web.seldom import Seldom

log = logging.getLogger(__name__)

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """Takes connections in TLS if `tls` is set; it may be set anew, for the connections that come.

    Counts connections from the moment they are taken, so that unfinished handshakes are among them.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None, refusals: Refusals
    ) -> None:
        self.tls = tls
        self._places = Places()
        self._sockets = sockets
        self._refusals = refusals
        self._tasks: set[asyncio.Task[None]] = set()
        self._seldom = Seldom(lambda: asyncio.get_running_loop().time())

    def serve(
        self, server: web.Server, connection: Callable[[Callable[[], None]], web.RequestHandler]
    ) -> None:
        """Have `server` answer on the connections that come from now on.

        `connection` makes one, and is told what to call when it has ended.
        """
        self._server = server
        self._connection = connection
        self._accepting = [asyncio.create_task(self._accept(each), name="listener") for each in self._sockets]

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are open, with those that are being made."""
        return self._places.taken

    async def close(self) -> None:
        """Take no more connections; those that there are stay."""
        tasks = [*self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self._sockets:
            each.close()

    def close_connections(self) -> None:
        """Let every connection end once what it asks is answered: it was made under other certificates."""
        self._keep(_end(self._server.connections), "end of connections")

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                # Others mean that this one connection was gone before we took it.
                if error.errno in _EXHAUSTED:
                    self._complain(f"connections wait, because of: {error.strerror}")
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            ended = self._places.take(address[0])
            if ended is None:
                self._complain(
                    f"connections are refused: of {MAX_CONNECTIONS}, one address has as many as are free"
                )
                connection.close()
                continue
            self._keep(self._begin(connection, ended), "handshake")

    async def _begin(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(ended),
                connection,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else HANDSHAKE_S,
            )
        except BaseException as error:
            ended()
            if not isinstance(error, OSError):
                raise
            if isinstance(error, ssl.SSLCertVerificationError):
                text = f"a certificate was shown that does not hold: {error.verify_message}"
                self._refusals.count(None, Refusal.FALSE_CERTIFICATE, text)
            log.debug("a connection has not come about, and is closed: %s", error)

    def _keep(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _complain(self, complaint: str) -> None:
        if self._seldom.is_due(complaint):
            log.error("%s", complaint)


async def _end(connections: Sequence[web.RequestHandler]) -> None:
    for connection in connections:
        connection.close()
    await asyncio.gather(*(connection.shutdown(SHUTDOWN_S) for connection in connections))


def bind(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, all with one port.  Raises ConfigError."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            chosen = port or (bound[0].getsockname()[1] if bound else 0)
            made = socket.create_server((address[0], chosen), family=family, backlog=BACKLOG)
            made.setblocking(False)
            bound.append(made)
    except OSError as error:
        for each in bound:
            each.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound
